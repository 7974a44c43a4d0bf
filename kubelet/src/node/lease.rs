//! The node's heartbeat: its Lease in `kube-node-lease`, renewed four times within its duration.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};

use crate::context::Context;

const NAMESPACE: &str = "kube-node-lease";

/// Renews for ever.
pub async fn run(ctx: Arc<Context>) {
    let Some(client) = ctx.client.clone() else { return };
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let seconds = ctx.config.node_lease_duration_seconds.max(4);
    let mut ticker = tokio::time::interval(Duration::from_secs(seconds as u64) / 4);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut owned = false;
    loop {
        ticker.tick().await;
        if let Err(e) = renew(&ctx, &api, seconds, &mut owned).await {
            tracing::warn!(error = %e, "cannot renew the node lease");
        }
    }
}

fn owner(ctx: &Context) -> Option<Vec<OwnerReference>> {
    let node = ctx.node.read().clone()?;
    Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: ctx.node_name.clone(),
        uid: node.metadata.uid.clone()?,
        ..OwnerReference::default()
    }])
}

async fn renew(ctx: &Context, api: &Api<Lease>, seconds: i32, owned: &mut bool) -> Result<(), kube::Error> {
    let now = MicroTime(Timestamp::now());
    let mut patch = serde_json::json!({"spec": {
        "holderIdentity": ctx.node_name, "leaseDurationSeconds": seconds, "renewTime": now}});
    let owner = owner(ctx);
    if !*owned && let Some(owner) = &owner {
        patch["metadata"] = serde_json::json!({"ownerReferences": owner});
    }
    match api.patch(&ctx.node_name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => {
            *owned |= owner.is_some();
            Ok(())
        }
        Err(kube::Error::Api(e)) if e.code == 404 => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(ctx.node_name.clone()),
                    namespace: Some(NAMESPACE.into()),
                    owner_references: owner.clone(),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(ctx.node_name.clone()),
                    lease_duration_seconds: Some(seconds),
                    renew_time: Some(now),
                    ..LeaseSpec::default()
                }),
            };
            api.create(&PostParams::default(), &lease).await?;
            *owned = owner.is_some();
            Ok(())
        }
        Err(e) => Err(e),
    }
}

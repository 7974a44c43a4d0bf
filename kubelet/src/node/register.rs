//! Registration: makes the Node object, or takes over the one that is there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, NodeSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};

use super::status;
use crate::context::Context;

/// The labels that every node carries, then the operator's.
pub fn labels(ctx: &Context, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let arch = component_base::version::ARCHITECTURE;
    let mut out = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), ctx.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), arch.to_owned()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), arch.to_owned()),
    ]);
    out.extend(own.iter().map(|(k, v)| (k.clone(), v.clone())));
    out
}

/// Tries until the node is registered; the object is then in `ctx.node`.
pub async fn run(ctx: &Arc<Context>, own_labels: &BTreeMap<String, String>) {
    let Some(client) = ctx.client.clone() else { return };
    let api: Api<Node> = Api::all(client);
    let mut delay = Duration::from_millis(100);
    loop {
        match register(ctx, &api, own_labels).await {
            Ok(node) => {
                tracing::info!(node = ctx.node_name, "registered the node");
                *ctx.node.write() = Some(Arc::new(node));
                return;
            }
            Err(e) => {
                tracing::warn!(node = ctx.node_name, error = %e, "cannot register the node, trying again")
            }
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(7));
    }
}

async fn register(
    ctx: &Context,
    api: &Api<Node>,
    own: &BTreeMap<String, String>,
) -> Result<Node, kube::Error> {
    if !ctx.config.register_node {
        return api.get(&ctx.node_name).await;
    }
    let labels = labels(ctx, own);
    let taints = &ctx.config.register_with_taints;
    let node = Node {
        metadata: ObjectMeta {
            name: Some(ctx.node_name.clone()),
            labels: Some(labels.clone()),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!taints.is_empty()).then(|| taints.clone()),
            provider_id: (!ctx.config.provider_id.is_empty()).then(|| ctx.config.provider_id.clone()),
            ..NodeSpec::default()
        }),
        status: Some(status::generate(ctx, None).await),
    };
    match api.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(e)) if e.code == 409 => {}
        other => return other,
    }
    let known = api.get(&ctx.node_name).await?;
    let missing: BTreeMap<&String, &String> = labels
        .iter()
        .filter(|(k, v)| known.metadata.labels.as_ref().and_then(|l| l.get(*k)) != Some(v))
        .collect();
    if missing.is_empty() {
        return Ok(known);
    }
    let patch = serde_json::json!({"metadata": {"labels": missing}});
    api.patch(&ctx.node_name, &PatchParams::default(), &Patch::Strategic(patch)).await
}

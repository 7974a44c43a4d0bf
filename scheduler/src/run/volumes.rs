//! Binding of volumes once a node is chosen: reserve or ask for volumes, then wait until the claims are bound.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::json;

use crate::plugins::volumes::Plan;

/// Carries out plans for the claims of a pod that goes to `node`, for as long as `timeout`.
///
/// # Errors
/// A message for the pod: the API refused, or a claim was not bound in time.
pub async fn bind(client: &Client, plans: &[Plan], node: &str, timeout: Duration) -> Result<(), String> {
    for plan in plans {
        match plan {
            Plan::Bind { volume, claim: (ns, name), claim_uid } => {
                let api: Api<PersistentVolume> = Api::all(client.clone());
                let patch = json!({
                    "metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
                    "spec": {"claimRef": {
                        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                        "namespace": ns.as_ref(), "name": name.as_ref(), "uid": claim_uid.as_ref(),
                    }},
                });
                api.patch(volume, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(|e| {
                    format!("binding volumes: reserving volume {volume} for {ns}/{name}: {e}")
                })?;
            }
            Plan::Provision { claim: (ns, name) } => {
                let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), ns);
                let patch =
                    json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
                api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(|e| {
                    format!("binding volumes: selecting node {node} for claim {ns}/{name}: {e}")
                })?;
            }
        }
    }
    let waiting = async {
        for plan in plans {
            let (Plan::Bind { claim, .. } | Plan::Provision { claim }) = plan;
            let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &claim.0);
            await_condition(api, &claim.1, |c: Option<&PersistentVolumeClaim>| {
                let bound = |c: &PersistentVolumeClaim| {
                    let by = c.metadata.annotations.as_ref();
                    let volume = c.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or("");
                    !volume.is_empty()
                        && by.is_some_and(|a| a.contains_key("pv.kubernetes.io/bind-completed"))
                };
                c.is_none_or(bound)
            })
            .await
            .map_err(|e| format!("binding volumes: watching claim {}/{}: {e}", claim.0, claim.1))?;
        }
        Ok(())
    };
    match tokio::time::timeout(timeout, waiting).await {
        Ok(done) => done,
        Err(_) => Err("binding volumes: timed out waiting for the claims to be bound".into()),
    }
}

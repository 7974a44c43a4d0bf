//! Evicting a pod from where it may not stay: it is told why, then deleted.

use anyhow::Context as _;
use component_base::controller::informer::split_key;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};

use super::errors;

/// Writes the condition that says why, and deletes the pod (of this uid only).
///
/// # Errors
/// A write failed, for another reason than that the pod is gone.
pub async fn evict(client: &Client, key: &str, pod: &Pod, why: PodCondition) -> anyhow::Result<()> {
    let (namespace, name) = split_key(key);
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace.unwrap_or_default());
    let patch = serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [why]}});
    match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Err(e) if errors::not_found(&e) => return Ok(()),
        other => drop(other.with_context(|| format!("noting the eviction on pod {key}"))?),
    }
    let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    match api.delete(name, &DeleteParams::default().preconditions(same)).await {
        Err(e) if errors::not_found(&e) => Ok(()),
        other => other.map(drop).with_context(|| format!("evicting pod {key}")),
    }
}

//! Questions about claims, volumes, and the pods that use them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use proto::quantity::Quantity;

use super::meta;

/// Name of the index of pods by the claims they use (`namespace/name`).
pub const PODS_BY_CLAIM: &str = "pod-pvc-index";

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Name of the claim made for an ephemeral volume of a pod.
pub fn ephemeral_claim_name(pod: &Pod, volume: &Volume) -> String {
    format!("{}-{}", meta::name(&pod.metadata), volume.name)
}

/// Name of the claim that a pod's volume uses, if it is one that uses a claim.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(ephemeral_claim_name(pod, volume)),
        (None, None) => None,
    }
}

/// All volumes of a pod.
pub fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten())
}

/// Index function of [`PODS_BY_CLAIM`].
pub fn index_pods_by_claim(pod: &Pod) -> Vec<String> {
    let namespace = meta::namespace(&pod.metadata);
    volumes(pod).filter_map(|v| claim_name(pod, v)).map(|name| format!("{namespace}/{name}")).collect()
}

/// Whether a claim was made for an ephemeral volume of this pod; otherwise why not, in upstream's words.
pub fn is_for_pod(pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let (ours, theirs) = (&pod.metadata, &claim.metadata);
    if ours.namespace == theirs.namespace && meta::is_controlled_by(theirs, meta::uid(ours)) {
        return Ok(());
    }
    let (ns, pvc, pod_ns, name) =
        (meta::namespace(theirs), meta::name(theirs), meta::namespace(ours), meta::name(ours));
    Err(format!("PVC {ns}/{pvc} was not created for pod {pod_ns}/{name} (pod is not owner)"))
}

/// The storage class a claim asks for; empty if none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    meta::annotation(&claim.metadata, BETA_CLASS).or(spec).unwrap_or_default()
}

/// Whether a claim says anything about its class, be it that it wants none.
pub fn claim_has_class(claim: &PersistentVolumeClaim) -> bool {
    meta::annotation(&claim.metadata, BETA_CLASS).is_some()
        || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some())
}

/// The storage class of a volume; empty if none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    meta::annotation(&volume.metadata, BETA_CLASS).or(spec).unwrap_or_default()
}

/// The name of the volume a claim is bound to, or asks for; empty if none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

/// The phase of a claim; empty if none was reported.
pub fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The phase of a volume; empty if none was reported.
pub fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// How much storage a list of resources holds; nothing counts as zero.
pub fn storage(resources: Option<&BTreeMap<String, ApiQuantity>>) -> Quantity {
    let text = resources.and_then(|r| r.get("storage"));
    text.and_then(|q| q.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// How much storage a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    storage(resources.and_then(|r| r.requests.as_ref()))
}

/// How large a volume is.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()))
}

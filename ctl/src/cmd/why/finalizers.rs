//! Finalizers: who has to remove them, and when that happens.

use serde_json::Value;

use crate::api::resources::{array, text};

/// Finalizers of Kubernetes itself: who removes it, and when.
const KNOWN: &[(&str, &str)] = &[
    (
        "kubernetes.io/pvc-protection",
        "kube-controller-manager (pvc-protection-controller), once no pod uses the claim",
    ),
    (
        "kubernetes.io/pv-protection",
        "kube-controller-manager (pv-protection-controller), once no claim is bound to it",
    ),
    ("kubernetes.io/vac-protection", "kube-controller-manager, once no claim or volume uses the class"),
    ("foregroundDeletion", "kube-controller-manager (garbage collector), once all objects it owns are gone"),
    ("orphan", "kube-controller-manager (garbage collector), once the objects it owns are released"),
    (
        "batch.kubernetes.io/job-tracking",
        "kube-controller-manager (job controller), once the pod is counted in its Job",
    ),
    (
        "service.kubernetes.io/load-balancer-cleanup",
        "the service controller, once the load balancer is removed",
    ),
    ("external-attacher/", "the CSI driver's external-attacher, once the volume is detached"),
    (
        "external-provisioner.volume.kubernetes.io/finalizer",
        "the CSI driver's external-provisioner, once the storage is deleted",
    ),
    (
        "kubernetes.io/service-cidr-finalizer",
        "kube-controller-manager, once no address of the range is in use",
    ),
    (
        "customresourcecleanup.apiextensions.k8s.io",
        "kube-apiserver, once all objects of the custom kind are gone",
    ),
    (
        "resource.kubernetes.io/delete-protection",
        "kube-controller-manager (resourceclaim controller), once the claim is free",
    ),
];

/// Who wrote a finalizer, as the object's managed fields tell.
fn writer(object: &Value, finalizer: &str) -> Option<String> {
    let field = format!("v:{}", Value::from(finalizer));
    let wrote = |m: &&Value| m["fieldsV1"]["f:metadata"]["f:finalizers"].get(&field).is_some();
    array(&object["metadata"]["managedFields"]).iter().find(wrote).map(|m| text(&m["manager"]))
}

/// A line per finalizer of an object.
pub fn lines(object: &Value) -> Vec<String> {
    array(&object["metadata"]["finalizers"])
        .iter()
        .map(|f| {
            let name = text(f);
            let known = KNOWN.iter().find(|(k, _)| name == *k || (k.ends_with('/') && name.starts_with(k)));
            match (known, writer(object, &name)) {
                (Some((_, who)), _) => format!("finalizer {name}: removed by {who}"),
                (None, Some(w)) => format!("finalizer {name}: set by {w}, which has to remove it"),
                (None, None) => {
                    let domain = name.split('/').next().unwrap_or_default();
                    format!("finalizer {name}: the controller of {domain} has to remove it")
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finalizer_is_told_with_its_owner() {
        let o = json!({"metadata": {
            "finalizers": ["kubernetes.io/pvc-protection", "example.com/mine", "example.org/other"],
            "managedFields": [{"manager": "my-operator",
                "fieldsV1": {"f:metadata": {"f:finalizers": {"v:\"example.com/mine\"": {}}}}}]}});
        assert_eq!(
            lines(&o),
            [
                "finalizer kubernetes.io/pvc-protection: removed by kube-controller-manager (pvc-protection-controller), once no pod uses the claim",
                "finalizer example.com/mine: set by my-operator, which has to remove it",
                "finalizer example.org/other: the controller of example.org has to remove it",
            ]
        );
    }
}

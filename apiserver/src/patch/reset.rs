//! Which fields an endpoint takes no changes of, so that nobody can come to own them through it.

use super::fields::Set;

/// The fields that a write to this endpoint leaves as they are. `subresource` is empty for the main one;
/// `has_status` tells whether the resource has a status of its own.
pub fn reset_fields(group: &str, resource: &str, subresource: &str, has_status: bool) -> Set {
    match (group, resource, subresource) {
        ("certificates.k8s.io", "certificatesigningrequests", "") => Set::of(&["spec", "status"]),
        ("certificates.k8s.io", "certificatesigningrequests", "status") => {
            Set::of(&["spec", "status.conditions"])
        }
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => {
            Set::of(&["spec", "status.certificate"])
        }
        ("", "pods", "status") => {
            Set::of(&["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"])
        }
        ("apps", "deployments", "status") => Set::of(&["spec", "metadata.labels"]),
        (
            "admissionregistration.k8s.io"
            | "apiextensions.k8s.io"
            | "apiregistration.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "internal.apiserver.k8s.io"
            | "resource.k8s.io"
            | "scheduling.k8s.io"
            | "storage.k8s.io"
            | "storagemigration.k8s.io",
            _,
            "status",
        )
        | ("networking.k8s.io", "servicecidrs", "status") => Set::of(&["spec", "metadata"]),
        (_, _, "status") => Set::of(&["spec"]),
        (_, "namespaces", "finalize") => Set::of(&["status"]),
        (_, _, "") if has_status => Set::of(&["status"]),
        _ => Set::default(),
    }
}

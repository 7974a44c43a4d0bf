//! Which writes can take from a quota.

use crate::admission::{Attributes, Operation};

/// Whether a write of this kind can take from a quota.
pub fn handles(attrs: &Attributes<'_>) -> bool {
    let create = attrs.operation == Operation::Create;
    let update = attrs.operation == Operation::Update;
    match (attrs.group, attrs.resource, attrs.subresource) {
        ("", "events", _) | ("events.k8s.io", "events", _) => false,
        ("", "pods", "resize") => update,
        ("", "services" | "persistentvolumeclaims", "") => create || update,
        ("resource.k8s.io", "resourceclaims", "") => create || update,
        (_, _, "") => create,
        _ => false,
    }
}

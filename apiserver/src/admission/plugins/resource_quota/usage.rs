//! Which writes can take from a quota.

use component_base::quota::scope::is_terminating;
use serde_json::Value;

use crate::admission::{Attributes, Operation};

/// Whether a write of this kind, which leaves `object`, can take from a quota.
pub fn handles(attrs: &Attributes<'_>, object: &Value) -> bool {
    let create = attrs.operation == Operation::Create;
    let update = attrs.operation == Operation::Update;
    match (attrs.group, attrs.resource, attrs.subresource) {
        ("", "events", _) | ("events.k8s.io", "events", _) => false,
        ("", "pods", "resize") => update,
        // It comes under other quotas.
        ("", "pods", "") if update => attrs.old.is_some_and(|o| is_terminating(o) != is_terminating(object)),
        ("", "services" | "persistentvolumeclaims", "") => create || update,
        ("resource.k8s.io", "resourceclaims", "") => create || update,
        (_, _, "") => create,
        _ => false,
    }
}

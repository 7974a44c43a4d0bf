//! Which writes can take from a quota, and what a namespace uses in all.

use component_base::quota::pods::{Amounts, add};
use component_base::quota::{Tracked, hard, scope};
use jiff::Timestamp;
use serde_json::Value;

use crate::admission::{Attributes, Operation};
use crate::kinds::quantity::Amount;
use crate::lookup::{self, ObjectLookup, Resource};
use crate::status::ApiResult;

/// Resources that can be counted anew; quotas on others keep the stored figure.
const COUNTABLE: [Resource; 13] = [
    lookup::PODS,
    lookup::SERVICES,
    lookup::PERSISTENT_VOLUME_CLAIMS,
    lookup::SECRETS,
    lookup::RESOURCE_CLAIMS,
    lookup::RESOURCE_QUOTAS,
    Resource { group: "", version: "v1", resource: "configmaps", kind: "ConfigMap" },
    Resource { group: "", version: "v1", resource: "replicationcontrollers", kind: "ReplicationController" },
    Resource { group: "apps", version: "v1", resource: "deployments", kind: "Deployment" },
    Resource { group: "apps", version: "v1", resource: "replicasets", kind: "ReplicaSet" },
    Resource { group: "apps", version: "v1", resource: "statefulsets", kind: "StatefulSet" },
    Resource { group: "batch", version: "v1", resource: "jobs", kind: "Job" },
    Resource { group: "batch", version: "v1", resource: "cronjobs", kind: "CronJob" },
];

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

/// Counts what the namespace uses of the quota's resources, as far as they can be counted.
pub async fn count(
    objects: &(impl ObjectLookup + ?Sized),
    namespace: &str,
    quota: &Value,
) -> ApiResult<Amounts> {
    let hard = hard(quota);
    let mut out = Amounts::new();
    for r in COUNTABLE {
        let tracked = Tracked::of(r.group, r.resource);
        let names: Vec<&String> = hard.keys().filter(|k| tracked.counts(k)).collect();
        if names.is_empty() {
            continue;
        }
        for n in names {
            out.insert(n.clone(), Amount::ZERO);
        }
        for object in objects.list(r, namespace).await? {
            if scope::matches(quota, &tracked, &object) {
                let mut used = tracked.usage(&object, Timestamp::now());
                used.retain(|k, _| hard.contains_key(k));
                add(&mut out, &used);
            }
        }
    }
    Ok(out)
}

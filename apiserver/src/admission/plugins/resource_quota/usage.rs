//! What one object uses, under the names that quotas give it, and what a namespace uses in all.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::pod_resources::{Amounts, add, amounts, pod_total};
use super::{hard, scope};
use crate::admission::{Attributes, Operation};
use crate::kinds::quantity::Amount;
use crate::lookup::{self, ObjectLookup, Resource, items, text};
use crate::status::ApiResult;

const CLASS_ANNOTATION: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";
const CLASS_INFIX: &str = ".storageclass.storage.k8s.io/";

/// Resources that can be counted anew; quotas on others keep the stored figure.
const COUNTABLE: [Resource; 12] = [
    lookup::PODS,
    lookup::SERVICES,
    lookup::PERSISTENT_VOLUME_CLAIMS,
    lookup::SECRETS,
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
        (_, _, "") => create,
        _ => false,
    }
}

/// A kind of object and its names in quotas.
pub struct Tracked {
    /// `count/RESOURCE.GROUP`.
    count: String,
    kind: Kind,
}

enum Kind {
    Pod,
    Service,
    Claim,
    /// Counted only, also under this older name.
    Plain(&'static str),
}

fn one() -> Amount {
    whole(1)
}

fn whole(n: usize) -> Amount {
    Amount::parse(&n.to_string()).unwrap_or(Amount::ZERO)
}

impl Tracked {
    pub fn of(group: &str, resource: &str) -> Self {
        let count =
            if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") };
        let kind = match (group, resource) {
            ("", "pods") => Kind::Pod,
            ("", "services") => Kind::Service,
            ("", "persistentvolumeclaims") => Kind::Claim,
            ("", "configmaps") => Kind::Plain("configmaps"),
            ("", "resourcequotas") => Kind::Plain("resourcequotas"),
            ("", "replicationcontrollers") => Kind::Plain("replicationcontrollers"),
            ("", "secrets") => Kind::Plain("secrets"),
            _ => Kind::Plain(""),
        };
        Self { count, kind }
    }

    pub fn is_pod(&self) -> bool {
        matches!(self.kind, Kind::Pod)
    }

    /// Whether a quota's resource is about this kind.
    pub fn counts(&self, name: &str) -> bool {
        if name == self.count {
            return true;
        }
        match self.kind {
            Kind::Pod => {
                let bare = name.strip_prefix("requests.").or(name.strip_prefix("limits.")).unwrap_or(name);
                let extended = name.strip_prefix("requests.").is_some_and(is_extended);
                name == "pods"
                    || matches!(bare, "cpu" | "memory" | "ephemeral-storage")
                    || name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-")
                    || extended
            }
            Kind::Service => matches!(name, "services" | "services.loadbalancers" | "services.nodeports"),
            Kind::Claim => {
                matches!(name, "persistentvolumeclaims" | "requests.storage") || name.contains(CLASS_INFIX)
            }
            Kind::Plain(alias) => !alias.is_empty() && name == alias,
        }
    }

    /// Containers that leave out what the quota bounds: `cpu for: a,b; memory for: a`.
    pub fn missing(&self, bounded: &[&String], pod: &Value) -> Option<String> {
        if !self.is_pod()
            || !amounts(&pod["spec"]["resources"]["requests"]).is_empty()
            || !amounts(&pod["spec"]["resources"]["limits"]).is_empty()
        {
            return None;
        }
        let mut out: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for list in ["/spec/containers", "/spec/initContainers"] {
            for c in items(pod, list) {
                let has = |field: &str, r: &str| c["resources"][field].get(r).is_some();
                for name in bounded {
                    let set = match name.as_str() {
                        "cpu" | "memory" => has("requests", name),
                        "requests.cpu" | "requests.memory" => has("requests", &name["requests.".len()..]),
                        "limits.cpu" | "limits.memory" => has("limits", &name["limits.".len()..]),
                        _ => true,
                    };
                    if !set {
                        out.entry(name).or_default().insert(text(c, "/name"));
                    }
                }
            }
        }
        if out.is_empty() {
            return None;
        }
        let parts: Vec<String> = out
            .into_iter()
            .map(|(r, names)| format!("{r} for: {}", names.into_iter().collect::<Vec<_>>().join(",")))
            .collect();
        Some(parts.join("; "))
    }

    /// What the object uses.
    pub fn usage(&self, object: &Value) -> Amounts {
        let mut out = Amounts::from([(self.count.clone(), one())]);
        match self.kind {
            Kind::Pod => pod_usage(object, &mut out),
            Kind::Service => service_usage(object, &mut out),
            Kind::Claim => claim_usage(object, &mut out),
            Kind::Plain("") => {}
            Kind::Plain(alias) => {
                out.insert(alias.to_owned(), one());
            }
        }
        out
    }
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

fn pod_usage(pod: &Value, out: &mut Amounts) {
    // A pod that ended uses nothing but its place in the store.
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return;
    }
    out.insert("pods".to_owned(), one());
    let overhead = amounts(&pod["spec"]["overhead"]);
    let mut requests = pod_total(pod, "requests");
    add(&mut requests, &overhead);
    let mut limits = pod_total(pod, "limits");
    for (k, v) in &overhead {
        if let Some(l) = limits.get_mut(k) {
            *l = l.plus(*v);
        }
    }
    for (k, v) in requests {
        let basic =
            matches!(k.as_str(), "cpu" | "memory" | "ephemeral-storage") || k.starts_with("hugepages-");
        if basic {
            out.insert(k.clone(), v);
        }
        if basic || is_extended(&k) {
            out.insert(format!("requests.{k}"), v);
        }
    }
    for k in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(v) = limits.get(k) {
            out.insert(format!("limits.{k}"), *v);
        }
    }
}

fn service_usage(service: &Value, out: &mut Amounts) {
    out.insert("services".to_owned(), one());
    let ports = items(service, "/spec/ports");
    let mut node_ports = 0;
    match text(service, "/spec/type") {
        "NodePort" => node_ports = ports.len(),
        "LoadBalancer" => {
            out.insert("services.loadbalancers".to_owned(), one());
            let allocates = service["spec"]["allocateLoadBalancerNodePorts"].as_bool() != Some(false);
            node_ports =
                ports.iter().filter(|p| allocates || p["nodePort"].as_i64().unwrap_or(0) != 0).count();
        }
        _ => {}
    }
    out.insert("services.nodeports".to_owned(), whole(node_ports));
}

fn claim_usage(claim: &Value, out: &mut Amounts) {
    out.insert("persistentvolumeclaims".to_owned(), one());
    let annotated = text(claim, CLASS_ANNOTATION);
    let class = if annotated.is_empty() { text(claim, "/spec/storageClassName") } else { annotated };
    let storage = amounts(&claim["spec"]["resources"]["requests"]).get("storage").copied();
    if !class.is_empty() {
        out.insert(format!("{class}{CLASS_INFIX}persistentvolumeclaims"), one());
    }
    if let Some(s) = storage {
        out.insert("requests.storage".to_owned(), s);
        if !class.is_empty() {
            out.insert(format!("{class}{CLASS_INFIX}requests.storage"), s);
        }
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
                let mut used = tracked.usage(&object);
                used.retain(|k, _| hard.contains_key(k));
                add(&mut out, &used);
            }
        }
    }
    Ok(out)
}

//! What one object uses, under the names that quotas give it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::pods::{Amounts, add, amounts, pod_in_use};
use crate::json::{items, text};
use crate::quantity::Amount;

const CLASS_ANNOTATION: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";
const CLASS_INFIX: &str = ".storageclass.storage.k8s.io/";
/// Suffix of quotas on the devices of a class, after the class.
const DEVICES_OF_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// The same by the name of the extended resource that a class stands for (KEP-5004).
const EXTENDED_OF_CLASS: &str = "requests.deviceclass.resource.kubernetes.io/";
/// Most devices that one claim can get: what a request for all of them counts as.
const ALL_DEVICES: i64 = 32;

/// A kind of object and its names in quotas.
pub struct Tracked {
    /// `count/RESOURCE.GROUP`.
    count: String,
    kind: Kind,
}

enum Kind {
    Pod,
    Service,
    VolumeClaim,
    DeviceClaim,
    /// Counted only, also under this older name.
    Plain(&'static str),
}

const ONE: Amount = Amount::whole(1);

impl Tracked {
    /// The kind of that group and resource name.
    pub fn of(group: &str, resource: &str) -> Self {
        let count =
            if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") };
        let kind = match (group, resource) {
            ("", "pods") => Kind::Pod,
            ("", "services") => Kind::Service,
            ("", "persistentvolumeclaims") => Kind::VolumeClaim,
            ("resource.k8s.io", "resourceclaims") => Kind::DeviceClaim,
            ("", "configmaps") => Kind::Plain("configmaps"),
            ("", "resourcequotas") => Kind::Plain("resourcequotas"),
            ("", "replicationcontrollers") => Kind::Plain("replicationcontrollers"),
            ("", "secrets") => Kind::Plain("secrets"),
            _ => Kind::Plain(""),
        };
        Self { count, kind }
    }

    /// Whether objects of the kind are pods.
    pub fn is_pod(&self) -> bool {
        matches!(self.kind, Kind::Pod)
    }

    /// Whether objects of the kind are claims of volumes.
    pub fn is_volume_claim(&self) -> bool {
        matches!(self.kind, Kind::VolumeClaim)
    }

    /// Whether nothing but the number of objects counts.
    pub fn is_plain(&self) -> bool {
        matches!(self.kind, Kind::Plain(_))
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
            Kind::VolumeClaim => {
                let bare = name.split_once(CLASS_INFIX).map_or(name, |(_, of_class)| of_class);
                matches!(bare, "persistentvolumeclaims" | "requests.storage")
            }
            Kind::DeviceClaim => name.ends_with(DEVICES_OF_CLASS) || name.starts_with(EXTENDED_OF_CLASS),
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

    /// What the object uses at a time (pods that are overdue to be gone use nothing).
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        let mut out = Amounts::from([(self.count.clone(), ONE)]);
        match self.kind {
            Kind::Pod => pod_usage(object, now, &mut out),
            Kind::Service => service_usage(object, &mut out),
            Kind::VolumeClaim => volume_claim_usage(object, &mut out),
            Kind::DeviceClaim => device_claim_usage(object, &mut out),
            Kind::Plain("") => {}
            Kind::Plain(alias) => {
                out.insert(alias.to_owned(), ONE);
            }
        }
        out
    }
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// Whether the pod still counts: it has not ended, and the time it was given to end is not over.
fn pod_counts(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return false;
    }
    let deleted: Option<Timestamp> = text(pod, "/metadata/deletionTimestamp").parse().ok();
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    match deleted.zip(grace) {
        Some((at, grace)) => at.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now <= end),
        None => true,
    }
}

fn pod_usage(pod: &Value, now: Timestamp, out: &mut Amounts) {
    // Otherwise it uses nothing but its place in the store.
    if !pod_counts(pod, now) {
        return;
    }
    out.insert("pods".to_owned(), ONE);
    let overhead = amounts(&pod["spec"]["overhead"]);
    let mut requests = pod_in_use(pod, "requests");
    add(&mut requests, &overhead);
    let mut limits = pod_in_use(pod, "limits");
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
    out.insert("services".to_owned(), ONE);
    let ports = items(service, "/spec/ports");
    let mut node_ports = 0;
    match text(service, "/spec/type") {
        "NodePort" => node_ports = ports.len(),
        "LoadBalancer" => {
            out.insert("services.loadbalancers".to_owned(), ONE);
            let allocates = service["spec"]["allocateLoadBalancerNodePorts"].as_bool() != Some(false);
            node_ports =
                ports.iter().filter(|p| allocates || p["nodePort"].as_i64().unwrap_or(0) != 0).count();
        }
        _ => {}
    }
    out.insert("services.nodeports".to_owned(), Amount::whole(node_ports as i64));
}

fn volume_claim_usage(claim: &Value, out: &mut Amounts) {
    out.insert("persistentvolumeclaims".to_owned(), ONE);
    let annotated = text(claim, CLASS_ANNOTATION);
    let class = if annotated.is_empty() { text(claim, "/spec/storageClassName") } else { annotated };
    let of = |list: &Value| amounts(list).get("storage").map(|s| s.round_up());
    let storage = of(&claim["spec"]["resources"]["requests"]).map(|asked| {
        of(&claim["status"]["allocatedResources"]).map_or(asked, |allocated| allocated.max(asked))
    });
    if !class.is_empty() {
        out.insert(format!("{class}{CLASS_INFIX}persistentvolumeclaims"), ONE);
    }
    if let Some(s) = storage {
        out.insert("requests.storage".to_owned(), s);
        if !class.is_empty() {
            out.insert(format!("{class}{CLASS_INFIX}requests.storage"), s);
        }
    }
}

/// The devices asked for, by class; of alternatives the greediest counts.
fn device_claim_usage(claim: &Value, out: &mut Amounts) {
    let class = |request: &Value| format!("{}{DEVICES_OF_CLASS}", text(request, "/deviceClassName"));
    let devices = |request: &Value| {
        Amount::whole(match text(request, "/allocationMode") {
            "ExactCount" => request["count"].as_i64().unwrap_or(1),
            "All" => ALL_DEVICES,
            // Modes of the future are not counted.
            _ => 0,
        })
    };
    for request in items(claim, "/spec/devices/requests") {
        let mut of_request = Amounts::new();
        for alternative in items(request, "/firstAvailable") {
            let most = of_request.entry(class(alternative)).or_insert(Amount::ZERO);
            *most = (*most).max(devices(alternative));
        }
        if let Some(exactly) = request.get("exactly") {
            of_request.insert(class(exactly), devices(exactly));
        }
        add(out, &of_request);
    }
    // The same, under the names of classes that stand for extended resources of pods.
    let by_class: Vec<(String, Amount)> =
        out.iter().filter_map(|(k, v)| Some((k.strip_suffix(DEVICES_OF_CLASS)?.to_owned(), *v))).collect();
    for (class, amount) in by_class.into_iter().filter(|(class, _)| !class.is_empty()) {
        out.insert(format!("{EXTENDED_OF_CLASS}{class}"), amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn used(group: &str, resource: &str, object: Value) -> BTreeMap<String, String> {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let usage = Tracked::of(group, resource).usage(&object, now);
        usage.into_iter().map(|(k, v)| (k, v.to_string())).collect()
    }

    #[test]
    fn pods_count_until_they_ended_or_are_overdue() {
        let mut pod =
            json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(used("", "pods", pod.clone())["requests.cpu"], "1");
        pod["metadata"] =
            json!({"deletionTimestamp": "2025-12-31T23:59:50Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(used("", "pods", pod.clone())["pods"], "1");
        pod["metadata"]["deletionGracePeriodSeconds"] = 5.into();
        assert_eq!(used("", "pods", pod.clone()), [("count/pods".to_owned(), "1".to_owned())].into());
        pod["metadata"] = json!({});
        pod["status"] = json!({"phase": "Failed"});
        assert_eq!(used("", "pods", pod).len(), 1);
    }

    #[test]
    fn a_resized_pod_counts_with_the_most_it_has_or_wants() {
        let mut pod = json!({
            "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"containerStatuses": [{"name": "a", "resources": {"requests": {"cpu": "2"}}, "allocatedResources": {"cpu": "2"}}]}
        });
        assert_eq!(used("", "pods", pod.clone())["requests.cpu"], "2");
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "3".into();
        assert_eq!(used("", "pods", pod.clone())["requests.cpu"], "3");
        pod["status"]["conditions"] = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
        assert_eq!(used("", "pods", pod)["requests.cpu"], "2");
    }

    #[test]
    fn claims_count_in_whole_bytes_and_by_class() {
        let mut claim =
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1500m"}}}});
        let usage = used("", "persistentvolumeclaims", claim.clone());
        assert_eq!(usage["requests.storage"], "2");
        assert_eq!(usage["gold.storageclass.storage.k8s.io/requests.storage"], "2");
        assert_eq!(usage["gold.storageclass.storage.k8s.io/persistentvolumeclaims"], "1");
        claim["status"] = json!({"allocatedResources": {"storage": "10"}});
        assert_eq!(used("", "persistentvolumeclaims", claim)["requests.storage"], "10");
    }

    #[test]
    fn devices_count_by_class() {
        let claim = json!({"spec": {"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
            {"name": "b", "firstAvailable": [
                {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1},
                {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 3},
                {"deviceClassName": "nic", "allocationMode": "All"}]}
        ]}}});
        let usage = used("resource.k8s.io", "resourceclaims", claim);
        assert_eq!(usage["gpu.deviceclass.resource.k8s.io/devices"], "5");
        assert_eq!(usage["nic.deviceclass.resource.k8s.io/devices"], "32");
        assert_eq!(usage["count/resourceclaims.resource.k8s.io"], "1");
    }
}

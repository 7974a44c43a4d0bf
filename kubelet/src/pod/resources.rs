//! Resource arithmetic of pods: requests, QoS class, and what a container's numbers become in the kernel.

use std::collections::BTreeMap;

use k8s_cri::v1::{HugepageLimit, LinuxContainerResources};
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::spec::{Role, init_containers};
use crate::util::quantity::{milli, value};

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA: i64 = 1000;

fn amount<'a>(list: Option<&'a BTreeMap<String, Quantity>>, name: &str) -> Option<&'a Quantity> {
    list?.get(name)
}

pub fn request<'a>(r: Option<&'a ResourceRequirements>, name: &str) -> Option<&'a Quantity> {
    r.and_then(|r| amount(r.requests.as_ref(), name))
}

pub fn limit<'a>(r: Option<&'a ResourceRequirements>, name: &str) -> Option<&'a Quantity> {
    r.and_then(|r| amount(r.limits.as_ref(), name))
}

/// A container's own limit, or else that of its pod as a whole (KEP-2837).
pub fn limit_within<'a>(
    pod_level: Option<&'a ResourceRequirements>,
    r: Option<&'a ResourceRequirements>,
    name: &str,
) -> Option<&'a Quantity> {
    limit(r, name).filter(|q| number(name, q) != 0).or_else(|| limit(pod_level, name))
}

/// The number the kubelet compares: thousandths for CPU, whole units otherwise.
pub fn number(name: &str, q: &Quantity) -> i64 {
    if name == "cpu" { milli(q) } else { value(q) }
}

/// A pod's effective amount of one resource: regular containers and sidecars together, or the largest init
/// step, whichever is more; overridden by pod-level resources; plus overhead.
fn effective(
    spec: &PodSpec,
    name: &str,
    of: impl Fn(Option<&ResourceRequirements>) -> Option<i64>,
    overhead: bool,
) -> Option<i64> {
    let mut seen = false;
    let mut get = |c: &Container| {
        let v = of(c.resources.as_ref());
        seen |= v.is_some();
        v.unwrap_or(0)
    };
    let mut total: i64 = spec.containers.iter().map(&mut get).sum();
    let (mut sidecars, mut peak) = (0, 0);
    for (role, c) in init_containers(spec) {
        let v = get(c);
        if role == Role::Sidecar {
            sidecars += v;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + v);
        }
    }
    total = (total + sidecars).max(peak);
    if let Some(v) = of(spec.resources.as_ref()) {
        total = v;
        seen = true;
    }
    if overhead && let Some(q) = amount(spec.overhead.as_ref(), name) {
        total += number(name, q);
        seen = true;
    }
    seen.then_some(total)
}

/// Requests of the whole pod, for admission and cgroups.
pub fn pod_request(spec: &PodSpec, name: &str) -> i64 {
    effective(spec, name, |r| request(r, name).map(|q| number(name, q)), true).unwrap_or(0)
}

/// Limit of the whole pod; `None` unless every container has one.
pub fn pod_limit(spec: &PodSpec, name: &str) -> Option<i64> {
    if let Some(q) = limit(spec.resources.as_ref(), name) {
        let overhead = amount(spec.overhead.as_ref(), name).map_or(0, |q| number(name, q));
        return Some(number(name, q) + overhead);
    }
    let all = spec
        .containers
        .iter()
        .chain(init_containers(spec).map(|(_, c)| c))
        .all(|c| limit(c.resources.as_ref(), name).is_some_and(|q| number(name, q) > 0));
    if all { given_limit(spec, name) } else { None }
}

/// What the limits of the containers come to that have one; `None` where none has.
pub fn given_limit(spec: &PodSpec, name: &str) -> Option<i64> {
    effective(spec, name, |r| limit(r, name).map(|q| number(name, q)), true)
}

/// Resource names that any container requests.
pub fn requested_names(spec: &PodSpec) -> Vec<String> {
    let mut names: Vec<String> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .filter_map(|c| c.resources.as_ref())
        .chain(spec.resources.as_ref())
        .filter_map(|r| r.requests.as_ref())
        .flat_map(|m| m.keys().cloned())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Upstream's QoS rules over CPU and memory.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let positive = |q: Option<&Quantity>, n: &str| q.is_some_and(|q| number(n, q) > 0);
    if let Some(r) = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some()) {
        let guaranteed = ["cpu", "memory"].iter().all(|n| {
            let lim = limit(Some(r), n);
            positive(lim, n) && request(Some(r), n).or(lim).map(|q| number(n, q)) == lim.map(|q| number(n, q))
        });
        return if guaranteed { "Guaranteed" } else { "Burstable" };
    }
    let any = all().any(|c| {
        ["cpu", "memory"].iter().any(|n| {
            positive(request(c.resources.as_ref(), n), n) || positive(limit(c.resources.as_ref(), n), n)
        })
    });
    if !any {
        return "BestEffort";
    }
    let guaranteed = all().all(|c| {
        ["cpu", "memory"].iter().all(|n| {
            let lim = limit(c.resources.as_ref(), n);
            let req = request(c.resources.as_ref(), n).or(lim);
            positive(lim, n) && req.map(|q| number(n, q)) == lim.map(|q| number(n, q))
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// `cpu.shares` for a request in thousandths of a CPU.
pub fn cpu_shares(milli_cpu: i64) -> i64 {
    (milli_cpu * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// `cpu.cfs_quota_us` for a limit in thousandths of a CPU and a period in microseconds; 0 is no limit.
pub fn cpu_quota(milli_cpu: i64, period: i64) -> i64 {
    if milli_cpu <= 0 { 0 } else { (milli_cpu * period / 1000).max(MIN_QUOTA) }
}

/// Upstream's `oom_score_adj`: guaranteed pods go last, best-effort first, others by their share of memory.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let critical = super::spec::spec(pod).priority.is_some_and(|p| p >= 2_000_000_000);
    let qos = super::spec::qos_class(pod);
    if critical || qos == "Guaranteed" {
        return -997;
    }
    if qos == "BestEffort" {
        return 1000;
    }
    let s = super::spec::spec(pod);
    let of = |c: &Container| request(c.resources.as_ref(), "memory").map_or(0, value);
    // What the pod as a whole requests beyond its containers is shared among them (KEP-2837).
    let share = request(s.resources.as_ref(), "memory").map_or(0, |whole| {
        let plain = PodSpec { resources: None, overhead: None, ..s.clone() };
        let count = s.containers.len() + s.init_containers.as_ref().map_or(0, Vec::len);
        (value(whole) - pod_request(&plain, "memory")) / count.max(1) as i64
    });
    let mut counted = of(container) + share;
    if init_containers(s).any(|(role, c)| role == Role::Sidecar && c.name == container.name) {
        // A sidecar goes no earlier than the containers that need it.
        counted = counted.max(s.containers.iter().map(of).min().unwrap_or(0) + share);
    }
    let adj = 1000 - 1000 * counted / node_memory.max(1);
    match adj {
        1000.. => 999,
        a if a < 3 => 3,
        a => a,
    }
}

/// The CRI resources of one container.
pub fn linux_resources(
    pod: &Pod,
    container: &Container,
    node_memory: i64,
    quota_period: Option<i64>,
) -> LinuxContainerResources {
    let r = container.resources.as_ref();
    let pod_level = super::spec::spec(pod).resources.as_ref();
    let cpu_limit = limit_within(pod_level, r, "cpu").map(milli);
    let cpu_request = request(r, "cpu").map(milli).or(cpu_limit).unwrap_or(0);
    let mut out = LinuxContainerResources {
        cpu_shares: cpu_shares(cpu_request),
        memory_limit_in_bytes: limit_within(pod_level, r, "memory").map_or(0, value),
        oom_score_adj: oom_score_adj(pod, container, node_memory),
        hugepage_limits: hugepages(r),
        ..Default::default()
    };
    if let Some(period) = quota_period {
        out.cpu_period = period;
        out.cpu_quota = cpu_quota(cpu_limit.unwrap_or(0), period);
    }
    out
}

fn hugepages(r: Option<&ResourceRequirements>) -> Vec<HugepageLimit> {
    let mut limits: Vec<HugepageLimit> = r
        .and_then(|r| r.limits.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|(name, q)| {
            let size = name.strip_prefix("hugepages-")?;
            // The runtime wants the kernel's unit names: 2Mi is 2MB there.
            let page_size = format!("{}B", size.trim_end_matches('i'));
            Some(HugepageLimit { page_size, limit: value(q).max(0) as u64 })
        })
        .collect();
    limits.sort_by(|a, b| a.page_size.cmp(&b.page_size));
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> PodSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn qos_classes() {
        let c =
            |r: serde_json::Value| spec(serde_json::json!({"containers": [{"name": "a", "resources": r}]}));
        assert_eq!(qos_class(&c(serde_json::json!({}))), "BestEffort");
        assert_eq!(qos_class(&c(serde_json::json!({"requests": {"cpu": "1"}}))), "Burstable");
        assert_eq!(qos_class(&c(serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}}))), "Guaranteed");
        assert_eq!(
            qos_class(&c(
                serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})
            )),
            "Burstable"
        );
    }

    #[test]
    fn init_steps_count_at_their_peak() {
        let s = spec(serde_json::json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "900m"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "500m"}}}],
            "overhead": {"cpu": "10m"}}));
        assert_eq!(pod_request(&s, "cpu"), 1010);
        assert_eq!(pod_request(&s, "memory"), 0);
        assert_eq!(pod_limit(&s, "cpu"), None);
    }

    #[test]
    fn kernel_numbers() {
        assert_eq!(cpu_shares(0), 2);
        assert_eq!(cpu_shares(500), 512);
        assert_eq!(cpu_quota(500, 100_000), 50_000);
        assert_eq!(cpu_quota(1, 100_000), 1000);
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"memory": "100Mi"}, "limits": {"hugepages-2Mi": "4Mi"}}}]}}))
        .unwrap();
        let c = &pod.spec.as_ref().unwrap().containers[0];
        let r = linux_resources(&pod, c, 1000 << 20, Some(100_000));
        assert_eq!(r.oom_score_adj, 900);
        assert_eq!(r.hugepage_limits[0].page_size, "2MB");
        assert_eq!(r.hugepage_limits[0].limit, 4 << 20);
    }
}

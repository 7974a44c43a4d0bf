//! What a pod asks for, summed over its containers as the scheduler and the kubelet both count it.
//!
//! Regular containers add up; init containers run one after the other, so only the largest counts, on top of
//! the restartable ones (sidecars) started before it; overhead is added; pod-level resources replace the sum.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::resources::Resources;

type List<'a> = Option<&'a BTreeMap<String, Quantity>>;

/// CPU assumed, for scoring only, of a container that asks for none (millicores).
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Memory assumed, for scoring only, of a container that asks for none (bytes).
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Requests of one pod: as asked, and with defaults filled in for scoring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub asked: Resources,
    /// CPU and memory with a default for containers that ask for none.
    pub nonzero: (i64, i64),
}

/// Computes the requests of `pod`.
#[must_use]
pub fn of(pod: &Pod) -> Requests {
    let Some(spec) = &pod.spec else { return Requests::default() };
    let status = pod.status.as_ref();
    let infeasible = resize_is_infeasible(pod);
    let plain = total(pod, |c, s| container(c, s, infeasible));
    let filled = total(pod, |c, s| {
        let mut r = container(c, s, infeasible);
        if r.cpu == 0 && !asks(c, "cpu") {
            r.cpu = DEFAULT_MILLI_CPU;
        }
        if r.memory == 0 && !asks(c, "memory") {
            r.memory = DEFAULT_MEMORY;
        }
        r
    });
    let mut out = Requests { asked: plain, nonzero: (filled.cpu, filled.memory) };
    let pod_level = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    if let Some(list) = pod_level {
        override_with(&mut out, list);
        if let Some((status, actual)) = status.and_then(|s| Some((s, s.resources.as_ref()?))) {
            let (granted, actual) = (status.allocated_resources.as_ref(), actual.requests.as_ref());
            let level = counted(Some(list), granted, actual, resize_is_infeasible(pod));
            for name in list.keys() {
                out.asked.set(name, level.get(name));
            }
            if list.contains_key("cpu") {
                out.nonzero.0 = level.cpu;
            }
            if list.contains_key("memory") {
                out.nonzero.1 = level.memory;
            }
        }
    }
    let overhead = Resources::new(spec.overhead.as_ref());
    out.asked.add(&overhead);
    out.nonzero.0 += overhead.cpu;
    out.nonzero.1 += overhead.memory;
    out
}

fn override_with(out: &mut Requests, list: &BTreeMap<String, Quantity>) {
    let level = Resources::new(Some(list));
    for name in list.keys() {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            out.asked.set(name, level.get(name));
        }
    }
    if list.contains_key("cpu") {
        out.nonzero.0 = level.cpu;
    }
    if list.contains_key("memory") {
        out.nonzero.1 = level.memory;
    }
}

fn asks(c: &Container, name: &str) -> bool {
    c.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|m| m.contains_key(name))
}

/// What a resize that the node can never give asks for does not count.
fn resize_is_infeasible(pod: &Pod) -> bool {
    let all = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let pending = all.into_iter().flatten().find(|c| c.type_ == "PodResizePending");
    pending.is_some_and(|c| c.reason.as_deref() == Some("Infeasible"))
}

/// While a resize is under way the largest of wanted, granted and actual counts.
fn counted(wanted: List<'_>, granted: List<'_>, actual: List<'_>, infeasible: bool) -> Resources {
    let mut r = Resources::new(granted);
    r.max(&Resources::new(actual));
    if !infeasible {
        r.max(&Resources::new(wanted));
    }
    r
}

fn container(c: &Container, status: Option<&ContainerStatus>, infeasible: bool) -> Resources {
    let wanted = c.resources.as_ref().and_then(|r| r.requests.as_ref());
    match status.and_then(|s| Some((s, s.resources.as_ref()?))) {
        Some((s, actual)) => {
            counted(wanted, s.allocated_resources.as_ref(), actual.requests.as_ref(), infeasible)
        }
        None => Resources::new(wanted),
    }
}

fn total(pod: &Pod, mut one: impl FnMut(&Container, Option<&ContainerStatus>) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let statuses = pod.status.as_ref();
    let find = |list: Option<&Vec<ContainerStatus>>, name: &str| {
        list.and_then(|l| l.iter().position(|s| s.name == name)).map(|i| (i, name.to_owned()))
    };
    let mut sum = Resources::default();
    for c in &spec.containers {
        let list = statuses.and_then(|s| s.container_statuses.as_ref());
        let status = find(list, &c.name).and_then(|(i, _)| list.and_then(|l| l.get(i)));
        sum.add(&one(c, status));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for c in spec.init_containers.iter().flatten() {
        let list = statuses.and_then(|s| s.init_container_statuses.as_ref());
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        // Of the other init containers only the spec counts: they end.
        let status = find(list, &c.name).filter(|_| sidecar).and_then(|(i, _)| list.and_then(|l| l.get(i)));
        let r = one(c, status);
        if sidecar {
            sum.add(&r);
            sidecars.add(&r);
            peak.max(&sidecars);
        } else {
            let mut with_sidecars = r;
            with_sidecars.add(&sidecars);
            peak.max(&with_sidecars);
        }
    }
    sum.max(&peak);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(v: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": v})).expect("pod")
    }

    #[test]
    fn containers_add_and_init_peaks() {
        let r = of(&pod(json!({
            "initContainers": [
                {"name": "a", "resources": {"requests": {"cpu": "2"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
                {"name": "b", "resources": {"requests": {"cpu": "1700m", "example.com/gpu": "1"}}}],
            "containers": [
                {"name": "x", "resources": {"requests": {"cpu": "300m", "memory": "1Gi"}}},
                {"name": "y"}],
            "overhead": {"cpu": "10m"}
        })));
        // sidecar + b = 2200m beats x + sidecar = 800m and a = 2000m; overhead on top
        assert_eq!(r.asked.cpu, 2210);
        assert_eq!(r.asked.memory, 1 << 30);
        assert_eq!(r.asked.get("example.com/gpu"), 1);
        // y and s have no memory request, so scoring assumes the default for each
        assert_eq!(r.nonzero.1, (1 << 30) + 2 * DEFAULT_MEMORY);
    }

    #[test]
    fn pod_level_resources_replace_the_sum() {
        let r = of(&pod(json!({
            "resources": {"requests": {"cpu": "1"}},
            "containers": [{"name": "x", "resources": {"requests": {"cpu": "300m", "memory": "1Mi"}}}]
        })));
        assert_eq!((r.asked.cpu, r.asked.memory, r.nonzero.0), (1000, 1 << 20, 1000));
    }

    #[test]
    fn a_resize_counts_the_larger_amount() {
        let mut p = pod(json!({"containers": [{"name": "x", "resources": {"requests": {"cpu": "1"}}}]}));
        p.status = serde_json::from_value(json!({"containerStatuses": [{
            "name": "x", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "3"}}}]}))
        .expect("status");
        assert_eq!(of(&p).asked.cpu, 3000);
        let list = p.spec.as_mut().and_then(|s| s.containers[0].resources.as_mut()).expect("resources");
        list.requests = serde_json::from_value(json!({"cpu": "9"})).expect("requests");
        assert_eq!(of(&p).asked.cpu, 9000);
        let status = p.status.as_mut().expect("status");
        status.conditions = serde_json::from_value(
            json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]),
        )
        .expect("conditions");
        assert_eq!(of(&p).asked.cpu, 3000, "the node can never give it");
    }

    #[test]
    fn a_resize_of_the_whole_pod_counts_the_larger_amount() {
        let mut p = pod(json!({"resources": {"requests": {"cpu": "1"}}, "containers": [{"name": "x"}]}));
        p.status = serde_json::from_value(json!({
            "allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "3"}}}))
        .expect("status");
        let r = of(&p);
        assert_eq!((r.asked.cpu, r.nonzero.0), (3000, 3000));
    }
}

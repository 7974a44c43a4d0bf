//! The resources that a pod's status shows: what was allocated, and what is in force.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    pod::{
        allocation::model::{PodResources, RESIZABLE, copy},
        resources::{pod_limit, pod_request, requested_names},
        spec,
    },
    util::quantity::{from_bytes, from_milli},
};

type List = BTreeMap<String, Quantity>;

fn quantity(name: &str, amount: i64) -> Quantity {
    match name {
        "cpu" => from_milli(amount),
        "memory" => from_bytes(amount),
        _ if name.starts_with("hugepages-") => from_bytes(amount),
        _ => Quantity(amount.to_string()),
    }
}

fn non_empty(list: List) -> Option<List> {
    (!list.is_empty()).then_some(list)
}

/// `status.allocatedResources`: what the pod as a whole was allocated (its spec).
pub fn allocated_to_pod(pod: &Pod) -> Option<List> {
    let s = spec::spec(pod);
    let overhead = s.overhead.iter().flatten().map(|(name, _)| name.clone());
    let names = requested_names(s).into_iter().chain(overhead);
    non_empty(names.map(|name| (name.clone(), quantity(&name, pod_request(s, &name)))).collect())
}

/// `status.resources`: what is in force for the pod as a whole. CPU and memory are those of its cgroup, which has
/// limits only if every container has.
pub fn of_pod(pod: &Pod, actuated: Option<&PodResources>) -> ResourceRequirements {
    let allocated = spec::spec(pod);
    let mut out = allocated.resources.clone().unwrap_or_default();
    let mut in_force = allocated.clone();
    if let Some(a) = actuated {
        if in_force.resources.is_some() && a.pod.is_some() {
            in_force.resources.clone_from(&a.pod);
        }
        for c in spec::containers_mut(&mut in_force) {
            if let (Some(r), Some(have)) = (&mut c.resources, a.containers.get(&c.name)) {
                show_actuated(r, have);
            }
        }
    }
    for name in RESIZABLE {
        let set = |list: &mut Option<List>, amount: i64| {
            let list = list.get_or_insert_default();
            if amount > 0 {
                list.insert(name.to_owned(), quantity(name, amount));
            }
        };
        set(&mut out.requests, pod_request(&in_force, name));
        set(&mut out.limits, pod_limit(&in_force, name).unwrap_or(0));
    }
    out.requests = out.requests.and_then(non_empty);
    out.limits = out.limits.and_then(non_empty);
    out
}

/// Shows the CPU and memory in force in place of those allocated.
pub fn show_actuated(shown: &mut ResourceRequirements, actuated: &ResourceRequirements) {
    for name in RESIZABLE {
        copy(name, actuated, shown);
    }
    for list in [&mut shown.requests, &mut shown.limits] {
        *list = list.take().and_then(non_empty);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_shows_what_is_allocated_and_what_is_in_force() {
        let pod = |cpu: &str, level: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {"resources": level, "containers": [
                {"name": "a", "resources": {"requests": {"cpu": cpu, "example.com/x": "1"}, "limits": {"cpu": "2"}}},
                {"name": "b", "resources": {"requests": {"memory": "1Gi"}}}]}}))
            .unwrap()
        };
        let none = serde_json::Value::Null;
        let actuated = PodResources::of(&pod("500m", none.clone()));
        let now = pod("1", none);
        let list = allocated_to_pod(&now).unwrap();
        assert_eq!((list["cpu"].0.as_str(), list["example.com/x"].0.as_str()), ("1", "1"));
        let shown = of_pod(&now, Some(&actuated));
        assert_eq!(shown.requests.unwrap()["cpu"].0, "500m");
        assert_eq!(shown.limits, None, "one container has no limit");
        let shown = of_pod(&now, None);
        assert_eq!(shown.requests.unwrap()["memory"].0, "1048576Ki");
        let level = serde_json::json!({"requests": {"cpu": "3", "memory": "2Gi"}, "limits": {"cpu": "4"}});
        let shown = of_pod(&pod("1", level.clone()), None);
        assert_eq!(shown.limits.unwrap()["cpu"].0, "4");
        let old = PodResources::of(&pod("1", serde_json::json!({"requests": {"cpu": "2"}})));
        let shown = of_pod(&pod("1", level), Some(&old));
        assert_eq!(shown.requests.unwrap()["cpu"].0, "2");
        let nothing: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": []}})).unwrap();
        assert_eq!(
            (allocated_to_pod(&nothing), of_pod(&nothing, None)),
            (None, ResourceRequirements::default())
        );
    }
}

//! Resources of a whole pod: pod-level requests and limits, and the quality-of-service class.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::kinds::quantity::{Amount, amount};
use crate::kinds::semantic::items;

type List = BTreeMap<String, Amount>;

/// Resources that may be set for the pod as a whole.
pub fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

fn amounts(list: Option<&BTreeMap<String, Quantity>>) -> List {
    list.into_iter().flatten().map(|(k, q)| (k.clone(), amount(q))).collect()
}

fn add(into: &mut List, from: &List) {
    for (k, v) in from {
        let e = into.entry(k.clone()).or_insert(Amount::ZERO);
        *e = e.plus(*v);
    }
}

fn raise(into: &mut List, from: &List) {
    for (k, v) in from {
        let e = into.entry(k.clone()).or_insert(*v);
        *e = (*e).max(*v);
    }
}

/// What the containers need together: the running ones summed, or the hungriest moment of initialisation.
pub fn of_containers(
    spec: &PodSpec,
    pick: impl Fn(&Container) -> Option<&BTreeMap<String, Quantity>>,
) -> BTreeMap<String, Amount> {
    let mut sum = List::new();
    for c in &spec.containers {
        add(&mut sum, &amounts(pick(c)));
    }
    let mut sidecars = List::new();
    let mut peak = List::new();
    for c in items(&spec.init_containers) {
        let own = amounts(pick(c));
        if is_sidecar(c) {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut moment = own;
            add(&mut moment, &sidecars);
            raise(&mut peak, &moment);
        }
    }
    raise(&mut sum, &peak);
    sum
}

fn shown(a: Amount) -> Quantity {
    Quantity(a.to_string())
}

/// Requests of the pod as a whole, where it has limits; limits of huge pages, where containers have them.
pub fn default_pod_level(spec: &mut PodSpec) {
    let Some(r) = &spec.resources else { return };
    let none = |l: &Option<BTreeMap<String, Quantity>>| l.as_ref().is_none_or(BTreeMap::is_empty);
    if none(&r.limits) && none(&r.requests) {
        return;
    }
    let mut limits = r.limits.clone().unwrap_or_default();
    let mut requests = r.requests.clone().unwrap_or_default();
    let container_limits = of_containers(spec, |c| c.resources.as_ref()?.limits.as_ref());
    for (k, a) in container_limits {
        if k.starts_with("hugepages-") && !requests.contains_key(&k) {
            limits.entry(k).or_insert_with(|| shown(a));
        }
    }
    if !limits.is_empty() {
        for (k, a) in of_containers(spec, |c| c.resources.as_ref()?.requests.as_ref()) {
            if k == "cpu" || k == "memory" {
                requests.entry(k).or_insert_with(|| shown(a));
            }
        }
        for (k, q) in &limits {
            if is_pod_level(k) {
                requests.entry(k.clone()).or_insert_with(|| q.clone());
            }
        }
    }
    if let Some(r) = &mut spec.resources {
        r.limits = Some(limits).filter(|l| !l.is_empty());
        r.requests = Some(requests).filter(|l| !l.is_empty());
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by cpu and memory.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let counted = |k: &str| k == "cpu" || k == "memory";
    let positive = |l: Option<&BTreeMap<String, Quantity>>| -> List {
        amounts(l).into_iter().filter(|(k, a)| counted(k) && *a > Amount::ZERO).collect()
    };
    let mut requests = List::new();
    let mut limits = List::new();
    let mut guaranteed = true;
    let pod_level = spec.resources.as_ref().filter(|r| {
        [&r.requests, &r.limits].into_iter().flatten().any(|l| l.keys().any(|k| is_pod_level(k)))
    });
    if let Some(r) = pod_level {
        requests = positive(r.requests.as_ref());
        limits = positive(r.limits.as_ref());
        guaranteed = ["cpu", "memory"].iter().all(|k| limits.contains_key(*k));
    } else {
        for c in spec.containers.iter().chain(items(&spec.init_containers)) {
            let r = c.resources.as_ref();
            add(&mut requests, &positive(r.and_then(|r| r.requests.as_ref())));
            let own = positive(r.and_then(|r| r.limits.as_ref()));
            guaranteed &= ["cpu", "memory"].iter().all(|k| own.contains_key(*k));
            add(&mut limits, &own);
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests.len() == limits.len() && requests.iter().all(|(k, v)| limits.get(k) == Some(v));
    if guaranteed && equal { "Guaranteed" } else { "Burstable" }
}

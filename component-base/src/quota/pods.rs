//! What a pod asks for in total, as quotas and limit ranges count it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::json::{items, text};
use crate::quantity::Amount;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Amount>;

/// A resource list of an object.
pub fn amounts(list: &Value) -> Amounts {
    list.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| {
            let shown = v.as_str().map(str::to_owned).unwrap_or_else(|| v.to_string());
            Some((k.clone(), Amount::parse(&shown)?))
        })
        .collect()
}

/// Adds amount by amount.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (k, v) in more {
        let sum = to.get(k).map_or(*v, |old| old.plus(*v));
        to.insert(k.clone(), sum);
    }
}

fn max(to: &mut Amounts, other: &Amounts) {
    for (k, v) in other {
        if to.get(k).is_none_or(|old| old < v) {
            to.insert(k.clone(), *v);
        }
    }
}

/// The pod's `requests` or `limits`: those of all containers together, or of the greediest init container with the
/// sidecars started before it, whichever is more; then what the pod sets as a whole.
pub fn pod_total(pod: &Value, field: &str) -> Amounts {
    total(pod, field, |c| amounts(&c["resources"][field]))
}

/// As [`pod_total`], but a container that is being resized counts with the most of what it is to get, was promised
/// and has; one whose resize can't be done with what it has.
pub fn pod_in_use(pod: &Value, field: &str) -> Amounts {
    let infeasible = items(pod, "/status/conditions")
        .iter()
        .find(|c| text(c, "/type") == "PodResizePending")
        .is_some_and(|c| text(c, "/reason") == "Infeasible");
    let statuses =
        || items(pod, "/status/containerStatuses").iter().chain(items(pod, "/status/initContainerStatuses"));
    let init = items(pod, "/spec/initContainers");
    total(pod, field, |c| {
        let asked = amounts(&c["resources"][field]);
        let ends = text(c, "/restartPolicy") != "Always" && init.iter().any(|i| std::ptr::eq(i, c));
        let status = statuses().find(|s| s["name"] == c["name"] && s["resources"].is_object());
        let Some(status) = status.filter(|_| !ends) else { return asked };
        let mut most = amounts(&status["resources"][field]);
        if field == "requests" {
            max(&mut most, &amounts(&status["allocatedResources"]));
        }
        if !infeasible {
            max(&mut most, &asked);
        }
        most
    })
}

fn total(pod: &Value, field: &str, of: impl Fn(&Value) -> Amounts) -> Amounts {
    let mut total = Amounts::new();
    for c in items(pod, "/spec/containers") {
        add(&mut total, &of(c));
    }
    let (mut sidecars, mut init) = (Amounts::new(), Amounts::new());
    for c in items(pod, "/spec/initContainers") {
        let own = of(c);
        if text(c, "/restartPolicy") == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            max(&mut init, &sidecars);
        } else {
            let mut peak = own;
            add(&mut peak, &sidecars);
            max(&mut init, &peak);
        }
    }
    max(&mut total, &init);
    for (k, v) in amounts(&pod["spec"]["resources"][field]) {
        if matches!(k.as_str(), "cpu" | "memory") || k.starts_with("hugepages-") {
            total.insert(k, v);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn totals() {
        let c =
            |cpu: &str, policy: &str| json!({"restartPolicy":policy,"resources":{"requests":{"cpu":cpu}}});
        let cpu = |spec: Value| pod_total(&json!({"spec":spec}), "requests")["cpu"].to_string();
        assert_eq!(cpu(json!({"containers":[c("100m",""),c("200m","")]})), "300m");
        assert_eq!(cpu(json!({"containers":[c("100m","")],"initContainers":[c("1","")]})), "1");
        assert_eq!(
            cpu(json!({"containers":[c("100m","")],"initContainers":[c("50m","Always"),c("1","")]})),
            "1050m"
        );
        assert_eq!(
            cpu(json!({"containers":[c("100m","")],"initContainers":[c("10m",""),c("50m","Always")]})),
            "150m"
        );
        assert_eq!(cpu(json!({"containers":[c("100m","")],"resources":{"requests":{"cpu":"2"}}})), "2");
    }
}

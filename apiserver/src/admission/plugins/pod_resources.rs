//! What a pod asks for in total, as quotas and limit ranges count it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kinds::quantity::Amount;
use crate::lookup::{items, text};

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
    let of = |c: &Value| amounts(&c["resources"][field]);
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

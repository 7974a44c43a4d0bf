//! What a quota is about, and what its status must say.

use std::collections::{BTreeMap, BTreeSet};

use component_base::quantity::{Amount, amount};
use component_base::quota::pods::Amounts;
use component_base::quota::{Tracked, counted_kind};
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Kind;

/// The kinds that have names of their own in quotas, beside `count/…`.
const NAMED: [(&str, &str); 8] = [
    ("", "pods"),
    ("", "services"),
    ("", "persistentvolumeclaims"),
    ("", "configmaps"),
    ("", "resourcequotas"),
    ("", "replicationcontrollers"),
    ("", "secrets"),
    ("resource.k8s.io", "resourceclaims"),
];

type List = BTreeMap<String, Quantity>;

/// The resources that the quota bounds.
pub fn hard_names(quota: &ResourceQuota) -> impl Iterator<Item = &str> {
    quota.spec.iter().flat_map(|s| s.hard.iter().flatten()).map(|(name, _)| name.as_str())
}

/// The kinds to be counted for the quota.
pub fn kinds(quota: &ResourceQuota) -> BTreeSet<Kind> {
    let mut out = BTreeSet::new();
    for name in hard_names(quota) {
        if let Some((group, resource)) = counted_kind(name) {
            // Events come and go too fast to be counted.
            if !(resource == "events" && matches!(group, "" | "events.k8s.io")) {
                out.insert((group.to_owned(), resource.to_owned()));
            }
        }
        for (group, resource) in NAMED {
            if Tracked::of(group, resource).counts(name) {
                out.insert((group.to_owned(), resource.to_owned()));
            }
        }
    }
    out
}

fn same(a: Option<&List>, b: &List) -> bool {
    let Some(a) = a else { return false };
    a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| amount(v) == amount(w)))
}

/// The status that the quota must get; `None` if it has it. What was not counted keeps its last figure.
pub fn status(quota: &ResourceQuota, counted: &Amounts) -> Option<ResourceQuotaStatus> {
    let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
    let now = quota.status.as_ref();
    let mut used: BTreeMap<String, Amount> = now
        .and_then(|s| s.used.as_ref())
        .into_iter()
        .flatten()
        .map(|(name, quantity)| (name.clone(), amount(quantity)))
        .collect();
    used.extend(counted.iter().map(|(name, amount)| (name.clone(), *amount)));
    used.retain(|name, _| hard.contains_key(name));
    let used: List = used.into_iter().map(|(name, amount)| (name, Quantity(amount.to_string()))).collect();
    if same(now.and_then(|s| s.hard.as_ref()), &hard) && same(now.and_then(|s| s.used.as_ref()), &used) {
        return None;
    }
    Some(ResourceQuotaStatus { hard: Some(hard), used: Some(used) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn quota(hard: serde_json::Value, status: serde_json::Value) -> ResourceQuota {
        serde_json::from_value(json!({"spec": {"hard": hard}, "status": status})).unwrap()
    }

    fn counted(list: &[(&str, &str)]) -> Amounts {
        list.iter().map(|(k, v)| ((*k).to_owned(), Amount::parse(v).unwrap())).collect()
    }

    #[test]
    fn names_lead_to_kinds() {
        let q = quota(
            json!({"requests.cpu": "1", "count/widgets.example.com": "2", "configmaps": "1", "count/events": "1",
                "gold.storageclass.storage.k8s.io/requests.storage": "1", "requests.example.com/gpu": "1"}),
            json!({}),
        );
        let found: Vec<_> = kinds(&q).into_iter().map(|(g, r)| format!("{r}.{g}")).collect();
        assert_eq!(found, ["configmaps.", "persistentvolumeclaims.", "pods.", "widgets.example.com"]);
    }

    #[test]
    fn a_first_count_fills_the_status_and_a_second_leaves_it() {
        let hard = json!({"pods": "5", "requests.cpu": "1"});
        let mut q = quota(hard, json!({}));
        let counted = counted(&[("pods", "0"), ("requests.cpu", "500m"), ("services", "3")]);
        let status = super::status(&q, &counted).unwrap();
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            json!({"hard": {"pods": "5", "requests.cpu": "1"}, "used": {"pods": "0", "requests.cpu": "500m"}})
        );
        q.status = Some(status);
        assert_eq!(super::status(&q, &counted), None);
    }

    #[test]
    fn figures_that_were_not_counted_stand_and_those_of_old_bounds_go() {
        let q = quota(
            json!({"count/widgets.example.com": "5"}),
            json!({"hard": {"pods": "1", "count/widgets.example.com": "5"}, "used": {"pods": "1", "count/widgets.example.com": "2"}}),
        );
        let status = super::status(&q, &Amounts::new()).unwrap();
        assert_eq!(serde_json::to_value(status.used).unwrap(), json!({"count/widgets.example.com": "2"}));
    }
}

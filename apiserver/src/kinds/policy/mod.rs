//! Pod disruption budgets.

use k8s_openapi::api::policy::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::one_of_if_given;
use crate::kinds::semantic::spec_and_status;
use crate::kinds::validate::{conditions, numbers, selector};
use crate::registry::strategy::{Context, Strategy};

/// Rules of disruption budgets.
pub struct PodDisruptionBudget;

fn zero_counts(s: &mut api::PodDisruptionBudgetStatus) {
    for n in
        [&mut s.current_healthy, &mut s.desired_healthy, &mut s.disruptions_allowed, &mut s.expected_pods]
    {
        n.get_or_insert(0);
    }
}

fn blank_status() -> Option<api::PodDisruptionBudgetStatus> {
    let mut s = api::PodDisruptionBudgetStatus::default();
    zero_counts(&mut s);
    Some(s)
}

impl Strategy for PodDisruptionBudget {
    type Object = api::PodDisruptionBudget;

    fn default(&self, b: &mut api::PodDisruptionBudget) {
        b.spec.get_or_insert_with(Default::default);
        zero_counts(b.status.get_or_insert_with(Default::default));
    }

    spec_and_status!(blank_status());

    fn validate(&self, _cx: &mut Context, b: &api::PodDisruptionBudget) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &b.spec else { return errors };
        let path = Path::new("spec");
        if s.min_available.is_some() && s.max_unavailable.is_some() {
            let why = "minAvailable and maxUnavailable cannot be both set";
            let mut e = Error::invalid(&path, "", why);
            // Upstream shows its internal form.
            e.value = format!(
                "{{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
                serde_json::json!(s.min_available),
                serde_json::json!(s.selector),
                serde_json::json!(s.max_unavailable),
                serde_json::json!(s.unhealthy_pod_eviction_policy)
            );
            errors.push(e);
        }
        for (field, v) in [("minAvailable", &s.min_available), ("maxUnavailable", &s.max_unavailable)] {
            if let Some(v) = v {
                errors.extend(numbers::positive_int_or_percent(v, &path.child(field)));
                errors.extend(numbers::not_more_than_100_percent(v, &path.child(field)));
            }
        }
        errors.extend(selector::label_selector(s.selector.as_ref(), &path.child("selector")));
        one_of_if_given(
            &s.unhealthy_pod_eviction_policy,
            &["AlwaysAllow", "IfHealthyBudget"],
            &path.child("unhealthyPodEvictionPolicy"),
            &mut errors,
        );
        errors
    }

    fn validate_update(
        &self,
        cx: &mut Context,
        b: &api::PodDisruptionBudget,
        _old: &api::PodDisruptionBudget,
    ) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = b.status.as_ref().filter(|_| cx.is_status()) else { return errors };
        let path = Path::new("status");
        errors.extend(conditions(s.conditions.as_deref().unwrap_or_default(), &path.child("conditions")));
        for (field, n) in [
            ("disruptionsAllowed", s.disruptions_allowed),
            ("currentHealthy", s.current_healthy),
            ("desiredHealthy", s.desired_healthy),
            ("expectedPods", s.expected_pods),
        ] {
            errors.extend(numbers::non_negative(i64::from(n.unwrap_or(0)), &path.child(field)));
        }
        errors
    }
}

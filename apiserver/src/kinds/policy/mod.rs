//! Pod disruption budgets.

use k8s_openapi::api::policy::v1 as api;

use crate::kinds::semantic::spec_and_status;
use crate::registry::strategy::Strategy;

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
}

//! Priority classes.

use k8s_openapi::api::scheduling::v1 as api;

use crate::kinds::semantic::{first_generation, next_generation};
use crate::registry::strategy::{Context, Strategy};

/// Rules of priority classes.
pub struct PriorityClass;

impl Strategy for PriorityClass {
    type Object = api::PriorityClass;

    fn default(&self, c: &mut api::PriorityClass) {
        c.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
        c.value.get_or_insert(0);
    }

    fn prepare_create(&self, _cx: &mut Context, c: &mut api::PriorityClass) {
        first_generation(&mut c.metadata);
    }

    fn prepare_update(&self, _cx: &mut Context, c: &mut api::PriorityClass, old: &api::PriorityClass) {
        next_generation(&mut c.metadata, &old.metadata, false);
    }
}

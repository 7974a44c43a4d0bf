//! Flow schemas and priority levels.

use k8s_openapi::api::flowcontrol::v1 as api;

use crate::kinds::semantic::{fill_zero, spec_and_status};
use crate::registry::strategy::Strategy;

/// Rules of flow schemas.
pub struct FlowSchema;

/// Rules of priority levels.
pub struct PriorityLevelConfiguration;

impl Strategy for FlowSchema {
    type Object = api::FlowSchema;

    fn default(&self, s: &mut Self::Object) {
        fill_zero(&mut s.spec.get_or_insert_with(Default::default).matching_precedence, 1000);
        s.status.get_or_insert_with(Default::default);
    }

    spec_and_status!(Some(Default::default()));
}

impl Strategy for PriorityLevelConfiguration {
    type Object = api::PriorityLevelConfiguration;

    fn default(&self, p: &mut Self::Object) {
        let spec = p.spec.get_or_insert_with(Default::default);
        if let Some(e) = &mut spec.exempt {
            e.nominal_concurrency_shares.get_or_insert(0);
            e.lendable_percent.get_or_insert(0);
        }
        if let Some(l) = &mut spec.limited {
            l.nominal_concurrency_shares.get_or_insert(30);
            l.lendable_percent.get_or_insert(0);
            let response = l.limit_response.get_or_insert_with(Default::default);
            if let Some(q) = &mut response.queuing {
                fill_zero(&mut q.hand_size, 8);
                fill_zero(&mut q.queues, 64);
                fill_zero(&mut q.queue_length_limit, 50);
            }
        }
        p.status.get_or_insert_with(Default::default);
    }

    spec_and_status!(Some(Default::default()));
}

//! Events, in the form of the core group and in the newer one.

use k8s_openapi::api::{core::v1 as core, events::v1 as events};

use crate::registry::strategy::Strategy;

/// Rules of events of the core group.
pub struct Event;

/// Rules of events of `events.k8s.io`.
pub struct NewEvent;

impl Strategy for Event {
    type Object = core::Event;

    fn default(&self, e: &mut core::Event) {
        e.source.get_or_insert_with(Default::default);
        e.reporting_component.get_or_insert_with(String::new);
        e.reporting_instance.get_or_insert_with(String::new);
    }
}

impl Strategy for NewEvent {
    type Object = events::Event;
}

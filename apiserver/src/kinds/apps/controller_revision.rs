//! Controller revisions: snapshots of a workload's template. They never change but in their number.

use k8s_openapi::api::apps::v1 as api;

use crate::registry::strategy::Strategy;

/// Rules of controller revisions.
pub struct ControllerRevision;

impl Strategy for ControllerRevision {
    type Object = api::ControllerRevision;
}

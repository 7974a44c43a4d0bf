//! SchedulingGates: a pod with gates waits until all are removed.

use crate::cache::Cache;
use crate::framework::{Action, Cycle, Plugin, Resource};
use crate::model::PodInfo;

/// The plugin.
pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn may_score(&self, _cx: Cycle<'_>) -> bool {
        false
    }

    fn pre_enqueue(&self, pod: &PodInfo, _cache: &Cache) -> Result<(), String> {
        let gates = &pod.want().gates;
        if gates.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = gates.iter().map(AsRef::as_ref).collect();
        Err(format!("waiting for scheduling gates: [{}]", names.join(" ")))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const { &[(Resource::UnscheduledPod, Action::GATES)] }
    }
}

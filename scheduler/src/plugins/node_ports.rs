//! NodePorts: two pods can't hold the same host port of a node.

use crate::framework::{Action, ClusterEvent, Cycle, Filter, Plugin, Rejection, Resource};
use crate::model::PodInfo;

/// The plugin.
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn may_score(&self, _cx: Cycle<'_>) -> bool {
        false
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        if cx.pod.ports.is_empty() {
            return Ok(Filter::Skip);
        }
        Ok(Filter::Check(Box::new(move |n| {
            if n.ports().any(|used| cx.pod.ports.iter().any(|p| p.conflicts(used))) {
                return Err(Rejection::unschedulable(
                    "NodePorts",
                    "node(s) didn't have free ports for the requested pod ports",
                ));
            }
            Ok(())
        })))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const { &[(Resource::AssignedPod, Action::DELETE), (Resource::Node, Action::ADD)] }
    }

    fn hint(&self, pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        match e.pod {
            Some(gone) => gone.ports.iter().any(|used| pod.ports.iter().any(|p| p.conflicts(used))),
            None => true,
        }
    }
}

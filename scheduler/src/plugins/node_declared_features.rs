//! NodeDeclaredFeatures: a pod that needs a feature of the kubelet goes to nodes that say they have it (KEP-5328).

use crate::framework::{Action, ClusterEvent, Cycle, Filter, Plugin, Rejection, Resource};
use crate::model::{NodeFacts, PodInfo};

const NAME: &str = "NodeDeclaredFeatures";

/// The plugin.
pub struct NodeDeclaredFeatures;

fn has_all(n: &NodeFacts, pod: &PodInfo) -> bool {
    pod.want().features.iter().all(|f| n.features.contains(f))
}

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_local(&self) -> bool {
        true
    }

    fn may_score(&self, _cx: Cycle<'_>) -> bool {
        false
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        if cx.pod.want().features.is_empty() {
            return Ok(Filter::Skip);
        }
        Ok(Filter::Check(Box::new(move |n| {
            if has_all(n.facts(), cx.pod) {
                return Ok(());
            }
            Err(Rejection::unresolvable(NAME, "node(s) didn't match Pod's required features"))
        })))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const { &[(Resource::Node, Action::ADD.or(Action::FEATURES)), (Resource::UnscheduledPod, Action::UPDATE)] }
    }

    fn hint(&self, pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        e.node.is_none_or(|n| has_all(n, pod))
    }
}

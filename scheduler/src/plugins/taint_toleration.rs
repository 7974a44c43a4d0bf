//! TaintToleration: taints keep pods away or make a node less attractive.

use crate::cache::NodeInfo;
use crate::framework::{Action, ClusterEvent, Cycle, Filter, Plugin, Rejection, Resource, Scorer, scale};
use crate::model::{Effect, PodInfo, Toleration};

/// The plugin.
pub struct TaintToleration;

const HARD: &[Effect] = &[Effect::NoSchedule, Effect::NoExecute];

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn may_score(&self, cx: Cycle<'_>) -> bool {
        // Without any soft taint all nodes would get the full score alike.
        cx.cache.has_soft_taints()
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        Ok(Filter::Check(Box::new(move |n| match cx.pod.untolerated(&n.facts().taints, HARD) {
            None => Ok(()),
            Some(_) => Err(Rejection::unresolvable("TaintToleration", "node(s) had untolerated taint(s)")),
        })))
    }

    fn score<'a>(&'a self, cx: Cycle<'a>, _feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        let soft = |t: &&Toleration| t.effect.is_none_or(|e| e == Effect::PreferNoSchedule);
        Some(Box::new(Intolerable(cx.pod.want().tolerations.iter().filter(soft).collect())))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::Node, Action::ADD.or(Action::TAINTS)),
                (Resource::UnscheduledPod, Action::TOLERATIONS),
            ]
        }
    }

    fn hint(&self, pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        e.node.is_none_or(|n| pod.untolerated(&n.taints, HARD).is_none())
    }
}

struct Intolerable<'a>(Vec<&'a Toleration>);

impl Scorer for Intolerable<'_> {
    fn score(&self, n: &NodeInfo) -> i64 {
        n.facts()
            .taints
            .iter()
            .filter(|t| t.effect == Effect::PreferNoSchedule && !self.0.iter().any(|x| x.tolerates(t)))
            .count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, true);
    }
}

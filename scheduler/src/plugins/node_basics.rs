//! Plugins that compare a pod with a node's name, labels and cordon: NodeName, NodeUnschedulable, NodeAffinity.

use std::collections::BTreeSet;

use crate::cache::NodeInfo;
use crate::config::args;
use crate::framework::{Action, ClusterEvent, Cycle, Filter, Plugin, Rejection, Resource, Scorer, scale};
use crate::model::{Effect, NodeSelector, NodeTerm, PodInfo, Str, Taint, convert};

const NODE_ADDED_OR_LABELLED: &[(Resource, Action)] = &[(Resource::Node, Action::ADD.or(Action::LABELS))];

/// A pod whose `spec.nodeName` is set fits that node only. Such pods bypass the scheduler, so this only speaks
/// for pods that are evaluated against a cluster after the fact.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn may_score(&self, _cx: Cycle<'_>) -> bool {
        false
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let Some(name) = &cx.pod.node else { return Ok(Filter::Skip) };
        Ok(Filter::Check(Box::new(move |n| {
            if n.name == *name {
                return Ok(());
            }
            Err(Rejection::unresolvable("NodeName", "node(s) didn't match the requested node name"))
        })))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const { &[(Resource::Node, Action::ADD)] }
    }
}

/// Cordoned nodes take only pods that tolerate being there.
pub struct NodeUnschedulable;

fn cordon() -> Taint {
    Taint { key: "node.kubernetes.io/unschedulable".into(), value: "".into(), effect: Effect::NoSchedule }
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn may_score(&self, _cx: Cycle<'_>) -> bool {
        false
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let taint = cordon();
        if cx.pod.want().tolerations.iter().any(|t| t.tolerates(&taint)) {
            return Ok(Filter::Skip);
        }
        Ok(Filter::Check(Box::new(|n| {
            if n.facts().unschedulable {
                return Err(Rejection::unresolvable("NodeUnschedulable", "node(s) were unschedulable"));
            }
            Ok(())
        })))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::Node, Action::ADD.or(Action::TAINTS)),
                (Resource::UnscheduledPod, Action::TOLERATIONS),
            ]
        }
    }

    fn hint(&self, _pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        e.node.is_none_or(|n| !n.unschedulable)
    }
}

/// Node selectors and node affinity, and affinity added to every pod by the configuration.
pub struct NodeAffinity {
    added_required: Option<NodeSelector>,
    added_preferred: Box<[(i32, NodeTerm)]>,
}

impl NodeAffinity {
    pub fn new(args: &args::NodeAffinity) -> Self {
        let added = args.added_affinity.as_ref();
        let parsed = added.map(|a| {
            let pod = k8s_openapi::api::core::v1::Pod {
                spec: Some(k8s_openapi::api::core::v1::PodSpec {
                    affinity: Some(k8s_openapi::api::core::v1::Affinity {
                        node_affinity: Some(a.clone()),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            };
            convert::pod(&pod).want.map(|w| *w).unwrap_or_default()
        });
        let parsed = parsed.unwrap_or_default();
        Self { added_required: parsed.required_nodes, added_preferred: parsed.preferred_nodes }
    }
}

/// Nodes the required affinity names, when every alternative names some.
fn named(s: Option<&NodeSelector>) -> Option<BTreeSet<Str>> {
    let mut out = BTreeSet::new();
    for t in &s?.0 {
        out.extend(t.names()?.iter().cloned());
    }
    Some(out)
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn may_score(&self, cx: Cycle<'_>) -> bool {
        !cx.pod.want().preferred_nodes.is_empty() || !self.added_preferred.is_empty()
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let w = cx.pod.want();
        if self.added_required.is_none() && w.required_nodes.is_none() && w.node_selector.is_empty() {
            return Ok(Filter::Skip);
        }
        let check = Box::new(move |n: &NodeInfo| {
            let f = n.facts();
            if self.added_required.as_ref().is_some_and(|s| !s.matches(&n.name, &f.labels)) {
                return Err(Rejection::unresolvable(
                    "NodeAffinity",
                    "node(s) didn't match scheduler-enforced node affinity",
                ));
            }
            if !cx.pod.node_matches(&n.name, &f.labels) {
                return Err(Rejection::unresolvable(
                    "NodeAffinity",
                    "node(s) didn't match Pod's node affinity/selector",
                ));
            }
            Ok(())
        });
        Ok(match named(w.required_nodes.as_ref()) {
            Some(names) if names.is_empty() => {
                return Err(Rejection::unresolvable("NodeAffinity", "pod affinity terms conflict"));
            }
            Some(names) => Filter::Narrow(names, check),
            None => Filter::Check(check),
        })
    }

    fn score<'a>(&'a self, cx: Cycle<'a>, _feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        let preferred: Vec<&(i32, NodeTerm)> =
            cx.pod.want().preferred_nodes.iter().chain(&self.added_preferred).collect();
        (!preferred.is_empty()).then(|| Box::new(Preferred(preferred)) as Box<dyn Scorer>)
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        NODE_ADDED_OR_LABELLED
    }

    fn hint(&self, pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        e.node.is_none_or(|n| {
            self.added_required.as_ref().is_none_or(|s| s.matches(&n.name, &n.labels))
                && pod.node_matches(&n.name, &n.labels)
        })
    }
}

struct Preferred<'a>(Vec<&'a (i32, NodeTerm)>);

impl Scorer for Preferred<'_> {
    fn score(&self, n: &NodeInfo) -> i64 {
        let labels = &n.facts().labels;
        self.0.iter().filter(|(_, t)| t.matches(&n.name, labels)).map(|(w, _)| i64::from(*w)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, false);
    }
}

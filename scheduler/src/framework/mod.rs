//! The scheduling framework: what a plugin is, what it may answer, and profiles made of plugins.
//!
//! A plugin *compiles* a pod against the cluster once per decision: [`Plugin::filter`] gives a check that is then
//! run per node, [`Plugin::score`] a scorer. Plugins are pure; all I/O happens after the decision.

pub mod event;
pub mod profile;

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::cache::{Cache, NodeInfo};
use crate::model::{PodInfo, Str};

pub use event::{Action, ClusterEvent, Resource};
pub use profile::Profile;

/// The largest score a plugin may give.
pub const MAX_SCORE: i64 = 100;

/// What one decision is about.
#[derive(Clone, Copy, Debug)]
pub struct Cycle<'a> {
    pub cache: &'a Cache,
    pub pod: &'a PodInfo,
}

/// Why a pod can't be on a node (or anywhere).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub plugin: &'static str,
    pub reasons: Vec<Cow<'static, str>>,
    /// Evicting other pods might help.
    pub resolvable: bool,
    /// Nothing is known about nodes: the plugin failed, and the pod is tried again later.
    pub failed: bool,
}

impl Rejection {
    /// Preempting pods could help.
    #[must_use]
    pub fn unschedulable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { plugin, reasons: vec![reason.into()], resolvable: true, failed: false }
    }

    /// Preempting pods would not help.
    #[must_use]
    pub fn unresolvable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { plugin, reasons: vec![reason.into()], resolvable: false, failed: false }
    }

    /// The plugin failed: the attempt ends.
    #[must_use]
    pub fn error(plugin: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { failed: true, ..Self::unresolvable(plugin, text) }
    }
}

/// A compiled per-node check.
pub type Check<'a> = Box<dyn Fn(&NodeInfo) -> Result<(), Rejection> + 'a>;

/// What a plugin has to say about a pod before nodes are looked at.
pub enum Filter<'a> {
    /// The plugin does not restrict this pod.
    Skip,
    /// Nodes must pass a check.
    Check(Check<'a>),
    /// Nodes must pass a check, and only these can.
    Narrow(BTreeSet<Str>, Check<'a>),
}

/// A compiled scorer.
pub trait Scorer {
    /// The raw score of a node.
    fn score(&self, node: &NodeInfo) -> i64;
    /// Whether [`Self::normalize`] does something. If not, raw scores are in 0..=100.
    fn normalizes(&self) -> bool {
        true
    }
    /// Brings the raw scores, in the order the nodes were scored, into 0..=100.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// A scheduling plugin. Every method has a default: a plugin takes part only where it has something to say.
pub trait Plugin: Send + Sync {
    /// The name in configuration, diagnosis and metrics.
    fn name(&self) -> &'static str;

    /// Whether a pod may enter the queue of pods to schedule; otherwise why not.
    ///
    /// # Errors
    /// The reason the pod is held back.
    fn pre_enqueue(&self, _pod: &PodInfo, _cache: &Cache) -> Result<(), String> {
        Ok(())
    }

    /// Compiles the pod into a node check.
    ///
    /// # Errors
    /// The pod fits nowhere, whatever the node.
    fn filter<'a>(&'a self, _cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        Ok(Filter::Skip)
    }

    /// Whether checks and scores of this plugin depend on nothing but the pod's own spec, the node and the pods on
    /// it. What is local is computed again only for nodes that changed.
    fn is_local(&self) -> bool {
        false
    }

    /// Whether [`Self::score`] may have something to say about the pod; cheaper than asking it.
    fn may_score(&self, _cx: Cycle<'_>) -> bool {
        true
    }

    /// Compiles the pod into a scorer of the feasible nodes; `None` when all nodes are equal. Local plugins are not
    /// told which nodes are feasible.
    fn score<'a>(&'a self, _cx: Cycle<'a>, _feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        None
    }

    /// Cluster events that may make a pod schedulable that this plugin rejected.
    fn events(&self) -> &'static [(Resource, Action)] {
        &[]
    }

    /// Whether this event, one of [`Self::events`], may help this pod. When in doubt, yes.
    fn hint(&self, _pod: &PodInfo, _event: &ClusterEvent<'_>) -> bool {
        true
    }
}

/// Scales scores so that the largest becomes 100; reversed when a small raw score is good.
pub fn scale(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for s in scores {
        *s = match (max, reverse) {
            (0, true) => MAX_SCORE,
            (0, false) => 0,
            (m, r) => {
                let v = MAX_SCORE * *s / m;
                if r { MAX_SCORE - v } else { v }
            }
        };
    }
}

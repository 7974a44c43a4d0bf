//! InterPodAffinity: pods that want to be near, or away from, other pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cache::{CountKey, NodeInfo, Slot, TermKind, TermSelector, Topology};
use crate::config::args;
use crate::framework::{Action, ClusterEvent, Cycle, Filter, MAX_SCORE, Plugin, Rejection, Resource, Scorer};
use crate::model::{AffinityTerm, PodInfo, Selector, Str};

const NAME: &str = "InterPodAffinity";

/// The plugin.
pub struct InterPodAffinity {
    hard_weight: i64,
    ignore_existing_preferences: bool,
}

impl InterPodAffinity {
    pub fn new(a: &args::InterPodAffinity) -> Result<Self, String> {
        let w = a.hard_pod_affinity_weight.unwrap_or(1);
        if !(0..=100).contains(&w) {
            return Err(format!("{NAME}: hardPodAffinityWeight is {w}; it must be between 0 and 100"));
        }
        Ok(Self {
            hard_weight: i64::from(w),
            ignore_existing_preferences: a.ignore_preferred_terms_of_existing_pods,
        })
    }
}

/// The pods a term of the incoming pod is about, with its namespace selector resolved.
fn pods_of(cx: Cycle<'_>, t: &AffinityTerm) -> TermSelector {
    let namespaces = match &t.namespace_selector {
        Selector::Nothing => Some(t.namespaces.clone()),
        s if s.is_empty() => None,
        s => {
            let mut ns: Vec<Str> = t.namespaces.to_vec();
            ns.extend(cx.cache.namespaces_matching(s).cloned());
            ns.sort();
            ns.dedup();
            Some(ns.into())
        }
    };
    TermSelector { namespaces, selector: t.selector.clone() }
}

fn count(cx: Cycle<'_>, terms: &[&AffinityTerm]) -> Arc<Vec<u32>> {
    cx.cache.count(CountKey { terms: terms.iter().map(|t| pods_of(cx, t)).collect(), skip_deleting: false })
}

/// Values of a topology key, as a set.
struct Values {
    topology: Arc<Topology>,
    set: Vec<bool>,
}

impl Values {
    fn new(cx: Cycle<'_>, key: &Str) -> Self {
        let topology = cx.cache.topology(key);
        Self { set: vec![false; topology.len()], topology }
    }

    /// The values on nodes with a positive count.
    fn counted(cx: Cycle<'_>, key: &Str, counts: &[u32]) -> Self {
        let mut out = Self::new(cx, key);
        counts.iter().enumerate().filter(|(_, c)| **c > 0).for_each(|(slot, _)| out.insert(slot));
        out
    }

    fn insert(&mut self, slot: Slot) {
        if let Some(d) = self.topology.index(slot) {
            self.set[d] = true;
        }
    }

    fn is_empty(&self) -> bool {
        !self.set.contains(&true)
    }

    /// Whether the value of the node in `slot` is among them; `None` when it has none.
    fn has(&self, slot: Slot) -> Option<bool> {
        self.topology.index(slot).map(|d| self.set[d])
    }
}

fn includes(ts: &TermSelector, pod: &PodInfo) -> bool {
    ts.namespaces.as_ref().is_none_or(|n| n.contains(&pod.namespace)) && ts.selector.matches(&pod.labels)
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let pod = cx.pod;
        let t = pod.terms();
        let ns_labels = cx.cache.namespaces.get(&pod.namespace);
        // Per label key, values where some running pod refuses the incoming one.
        let mut refused: BTreeMap<&Str, Values> = BTreeMap::new();
        for (existing, slots) in cx.cache.terms().iter() {
            if existing.kind != TermKind::RequiredAnti
                || !existing.term.matches(&pod.namespace, &pod.labels, ns_labels)
            {
                continue;
            }
            let key = &existing.term.topology_key;
            let values = refused.entry(key).or_insert_with(|| Values::new(cx, key));
            slots.iter().for_each(|(slot, _)| values.insert(slot));
        }
        refused.retain(|_, v| !v.is_empty());
        if refused.is_empty() && t.required.is_empty() && t.required_anti.is_empty() {
            return Ok(Filter::Skip);
        }
        let near: Vec<Values> = if t.required.is_empty() {
            Vec::new()
        } else {
            // A pod counts for affinity only when it matches all terms.
            let counts = count(cx, &t.required.iter().collect::<Vec<_>>());
            t.required.iter().map(|x| Values::counted(cx, &x.topology_key, &counts)).collect()
        };
        let away: Vec<Values> =
            t.required_anti.iter().map(|x| Values::counted(cx, &x.topology_key, &count(cx, &[x]))).collect();
        // The first of a group of pods that want to be together has nobody to be near to.
        let first = !near.is_empty()
            && near.iter().all(Values::is_empty)
            && t.required.iter().all(|x| includes(&pods_of(cx, x), pod));
        Ok(Filter::Check(Box::new(move |n| {
            let mut satisfied = true;
            for values in &near {
                match values.has(n.slot) {
                    None => {
                        return Err(Rejection::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
                    }
                    Some(there) => satisfied &= there,
                }
            }
            if !satisfied && !first {
                return Err(Rejection::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
            }
            let hit = |values: &Values| values.has(n.slot) == Some(true);
            if away.iter().any(hit) {
                return Err(Rejection::unschedulable(NAME, "node(s) didn't match pod anti-affinity rules"));
            }
            if refused.values().any(hit) {
                return Err(Rejection::unschedulable(
                    NAME,
                    "node(s) didn't satisfy existing pods anti-affinity rules",
                ));
            }
            Ok(())
        })))
    }

    fn may_score(&self, cx: Cycle<'_>) -> bool {
        let t = cx.pod.terms();
        !t.preferred.is_empty()
            || !t.preferred_anti.is_empty()
            || (!self.ignore_existing_preferences && !cx.cache.terms().is_empty())
    }

    fn score<'a>(&'a self, cx: Cycle<'a>, _feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        let t = cx.pod.terms();
        let prefers = !t.preferred.is_empty() || !t.preferred_anti.is_empty();
        if !prefers && self.ignore_existing_preferences {
            return None;
        }
        let mut scores: BTreeMap<&Str, Points> = BTreeMap::new();
        let mut give = |key: &'a Str, slot: Slot, points: i64| {
            let p = scores.entry(key).or_insert_with(|| Points::new(cx, key));
            if let Some(d) = p.topology.index(slot) {
                p.points[d] += points;
                p.given = true;
            }
        };
        let mine = t.preferred.iter().map(|(w, x)| (i64::from(*w), x));
        let mine_anti = t.preferred_anti.iter().map(|(w, x)| (-i64::from(*w), x));
        for (weight, term) in mine.chain(mine_anti) {
            for (slot, c) in count(cx, &[term]).iter().enumerate().filter(|(_, c)| **c > 0) {
                give(&term.topology_key, slot, weight * i64::from(*c));
            }
        }
        let ns_labels = cx.cache.namespaces.get(&cx.pod.namespace);
        for (existing, slots) in cx.cache.terms().iter() {
            let weight = match existing.kind {
                TermKind::RequiredAnti => continue,
                TermKind::Required => self.hard_weight,
                TermKind::Preferred(w) => i64::from(w),
            };
            if weight == 0 || !existing.term.matches(&cx.pod.namespace, &cx.pod.labels, ns_labels) {
                continue;
            }
            for (slot, c) in slots.iter() {
                give(&existing.term.topology_key, slot, weight * i64::from(c));
            }
        }
        let scores: Vec<Points> = scores.into_values().filter(|p| p.given).collect();
        (!scores.is_empty()).then(|| Box::new(Affinity(scores)) as Box<dyn Scorer>)
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::AssignedPod, Action::ADD.or(Action::DELETE).or(Action::LABELS)),
                (Resource::Node, Action::ADD.or(Action::LABELS)),
                (Resource::UnscheduledPod, Action::LABELS),
                (Resource::Namespace, Action::LABELS),
            ]
        }
    }

    fn hint(&self, pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        let t = pod.terms();
        match (e.resource, e.pod, e.node) {
            (Resource::AssignedPod, Some(p), _) => {
                let mine = |terms: &[AffinityTerm]| terms.iter().any(|x| picks(x, p));
                let theirs = p.terms().required_anti.iter().any(|x| picks(x, pod));
                // A change of labels can go either way.
                e.action.meets(Action::LABELS)
                    || (e.action.meets(Action::ADD) && mine(&t.required))
                    || (e.action.meets(Action::DELETE) && (mine(&t.required_anti) || theirs))
            }
            (Resource::Node, _, Some(n)) => {
                t.required.iter().all(|x| n.labels.get(&x.topology_key).is_some())
            }
            _ => true,
        }
    }
}

/// Whether a term may pick a pod; namespace selectors are taken to match.
fn picks(t: &AffinityTerm, p: &PodInfo) -> bool {
    (t.namespace_selector != Selector::Nothing || t.namespaces.contains(&p.namespace))
        && t.selector.matches(&p.labels)
}

/// Points per value of a topology key.
struct Points {
    topology: Arc<Topology>,
    points: Vec<i64>,
    given: bool,
}

impl Points {
    fn new(cx: Cycle<'_>, key: &Str) -> Self {
        let topology = cx.cache.topology(key);
        Self { points: vec![0; topology.len()], topology, given: false }
    }
}

struct Affinity(Vec<Points>);

impl Scorer for Affinity {
    fn score(&self, n: &NodeInfo) -> i64 {
        self.0.iter().filter_map(|p| p.topology.index(n.slot).map(|d| p.points[d])).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let min = scores.iter().copied().min().unwrap_or(0);
        let spread = scores.iter().copied().max().unwrap_or(0) - min;
        for s in scores {
            *s = if spread > 0 { (MAX_SCORE as f64 * ((*s - min) as f64 / spread as f64)) as i64 } else { 0 };
        }
    }
}

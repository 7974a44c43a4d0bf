//! InterPodAffinity: pods that want to be near, or away from, other pods.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::cache::{CountKey, NodeInfo, TermKind, TermSelector};
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

/// Values of `key` on nodes with a positive count.
fn values<'a>(cx: Cycle<'a>, counts: &[u32], key: &str) -> HashSet<&'a Str> {
    let with_pods = counts.iter().enumerate().filter(|(_, c)| **c > 0);
    with_pods.filter_map(|(slot, _)| cx.cache.node_at(slot)?.label(key)).collect()
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
        // Label key → values where some running pod refuses the incoming one.
        let mut refused: HashMap<&Str, HashSet<&Str>> = HashMap::new();
        for (existing, slots) in cx.cache.terms().iter() {
            if existing.kind != TermKind::RequiredAnti
                || !existing.term.matches(&pod.namespace, &pod.labels, ns_labels)
            {
                continue;
            }
            let key = &existing.term.topology_key;
            let on = slots.keys().filter_map(|s| cx.cache.node_at(*s)?.label(key));
            refused.entry(key).or_default().extend(on);
        }
        refused.retain(|_, v| !v.is_empty());
        if refused.is_empty() && t.required.is_empty() && t.required_anti.is_empty() {
            return Ok(Filter::Skip);
        }
        let near: Vec<(&Str, HashSet<&Str>)> = if t.required.is_empty() {
            Vec::new()
        } else {
            // A pod counts for affinity only when it matches all terms.
            let counts = count(cx, &t.required.iter().collect::<Vec<_>>());
            t.required.iter().map(|x| (&x.topology_key, values(cx, &counts, &x.topology_key))).collect()
        };
        let away: Vec<(&Str, HashSet<&Str>)> = t
            .required_anti
            .iter()
            .map(|x| (&x.topology_key, values(cx, &count(cx, &[x]), &x.topology_key)))
            .collect();
        // The first of a group of pods that want to be together has nobody to be near to.
        let first = !near.is_empty()
            && near.iter().all(|(_, v)| v.is_empty())
            && t.required.iter().all(|x| includes(&pods_of(cx, x), pod));
        Ok(Filter::Check(Box::new(move |n| {
            let mut satisfied = true;
            for (key, values) in &near {
                match n.label(key) {
                    None => {
                        return Err(Rejection::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
                    }
                    Some(v) => satisfied &= values.contains(v),
                }
            }
            if !satisfied && !first {
                return Err(Rejection::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
            }
            let hit = |key: &Str, values: &HashSet<&Str>| n.label(key).is_some_and(|v| values.contains(v));
            if away.iter().any(|(k, v)| hit(k, v)) {
                return Err(Rejection::unschedulable(NAME, "node(s) didn't match pod anti-affinity rules"));
            }
            if refused.iter().any(|(k, v)| hit(k, v)) {
                return Err(Rejection::unschedulable(
                    NAME,
                    "node(s) didn't satisfy existing pods anti-affinity rules",
                ));
            }
            Ok(())
        })))
    }

    fn score<'a>(&'a self, cx: Cycle<'a>, _feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        let t = cx.pod.terms();
        let prefers = !t.preferred.is_empty() || !t.preferred_anti.is_empty();
        if !prefers && (self.ignore_existing_preferences || cx.cache.terms().is_empty()) {
            return None;
        }
        let mut scores: HashMap<&Str, HashMap<&Str, i64>> = HashMap::new();
        let mut give = |key: &'a Str, n: &'a NodeInfo, points: i64| {
            if let Some(v) = n.label(key) {
                *scores.entry(key).or_default().entry(v).or_default() += points;
            }
        };
        let mine = t.preferred.iter().map(|(w, x)| (i64::from(*w), x));
        let mine_anti = t.preferred_anti.iter().map(|(w, x)| (-i64::from(*w), x));
        for (weight, term) in mine.chain(mine_anti) {
            for (slot, c) in count(cx, &[term]).iter().enumerate().filter(|(_, c)| **c > 0) {
                if let Some(n) = cx.cache.node_at(slot) {
                    give(&term.topology_key, n, weight * i64::from(*c));
                }
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
            for (slot, c) in slots {
                if let Some(n) = cx.cache.node_at(*slot) {
                    give(&existing.term.topology_key, n, weight * i64::from(*c));
                }
            }
        }
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

struct Affinity<'a>(HashMap<&'a Str, HashMap<&'a Str, i64>>);

impl Scorer for Affinity<'_> {
    fn score(&self, n: &NodeInfo) -> i64 {
        self.0.iter().filter_map(|(key, values)| values.get(n.label(key)?)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let min = scores.iter().copied().min().unwrap_or(0);
        let spread = scores.iter().copied().max().unwrap_or(0) - min;
        for s in scores {
            *s = if spread > 0 { (MAX_SCORE as f64 * ((*s - min) as f64 / spread as f64)) as i64 } else { 0 };
        }
    }
}

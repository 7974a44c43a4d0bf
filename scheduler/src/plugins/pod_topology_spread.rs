//! PodTopologySpread: pods of a workload spread over zones, nodes, or whatever a node label says.
//!
//! Pods without constraints of their own get soft ones over nodes and zones, counted by the services and
//! controllers that select them.

use std::sync::Arc;

use crate::cache::{CountKey, NOWHERE, NodeInfo, Slot, TermSelector, Topology};
use crate::config::args;
use crate::framework::{Action, ClusterEvent, Cycle, Filter, MAX_SCORE, Plugin, Rejection, Resource, Scorer};
use crate::model::{Effect, Labels, PodInfo, Selector, SpreadConstraint, convert};

const NAME: &str = "PodTopologySpread";
const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The plugin.
pub struct PodTopologySpread {
    defaults: Vec<SpreadConstraint>,
    system_defaults: bool,
}

impl PodTopologySpread {
    pub fn new(a: &args::PodTopologySpread) -> Result<Self, String> {
        let list = match a.defaulting_type.as_deref() {
            None | Some("System") if !a.default_constraints.is_empty() => {
                return Err(format!("{NAME}: defaultConstraints need defaultingType: List"));
            }
            None | Some("System") => false,
            Some("List") => true,
            Some(o) => return Err(format!("{NAME}: defaultingType {o:?} is not System or List")),
        };
        let soft = |key: &str, skew| SpreadConstraint {
            max_skew: skew,
            topology_key: key.into(),
            hard: false,
            selector: Selector::Nothing,
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        };
        let defaults = if list {
            if a.default_constraints.iter().any(|c| c.label_selector.is_some()) {
                return Err(format!("{NAME}: defaultConstraints can't have a labelSelector"));
            }
            a.default_constraints.iter().map(|c| convert::spread(c, &Labels::default())).collect()
        } else {
            vec![soft(HOSTNAME, 3), soft(ZONE, 5)]
        };
        Ok(Self { defaults, system_defaults: !list })
    }

    /// The pod's constraints of one kind, its own or the defaults.
    fn constraints(&self, cx: Cycle<'_>, hard: bool) -> Vec<SpreadConstraint> {
        let own = &cx.pod.want().spread;
        if !own.is_empty() {
            return own.iter().filter(|c| c.hard == hard).cloned().collect();
        }
        let defaults: Vec<_> = self.defaults.iter().filter(|c| c.hard == hard).cloned().collect();
        if defaults.is_empty() {
            return defaults;
        }
        let selector = default_selector(cx);
        if selector.is_empty() {
            return Vec::new();
        }
        defaults.into_iter().map(|c| SpreadConstraint { selector: selector.clone(), ..c }).collect()
    }
}

/// Selectors of all services over the pod, and of the controller that owns it.
fn default_selector(cx: Cycle<'_>) -> Selector {
    let (pod, s) = (cx.pod, &cx.cache.selectors);
    let mut out = Selector::everything();
    for svc in s.services.get(&pod.namespace).into_iter().flat_map(|m| m.values()) {
        if !svc.is_empty() && svc.matches(&pod.labels) {
            out = out.and(svc);
        }
    }
    if let Some(o) = &pod.want().owner
        && let Some(sel) = s.owners.get(&(o.kind.clone(), pod.namespace.clone(), o.name.clone()))
    {
        out = out.and(sel);
    }
    out
}

fn counted(cx: Cycle<'_>, c: &SpreadConstraint) -> Arc<Vec<u32>> {
    if c.selector.is_empty() {
        return Arc::new(Vec::new());
    }
    cx.cache.count(CountKey {
        terms: Box::new([TermSelector {
            namespaces: Some(Box::new([cx.pod.namespace.clone()])),
            selector: c.selector.clone(),
        }]),
        skip_deleting: true,
    })
}

/// Whether a node takes part in the constraint's counting.
fn included(pod: &PodInfo, c: &SpreadConstraint, n: &NodeInfo) -> bool {
    let f = n.facts();
    (!c.honor_affinity || pod.node_matches(&n.name, &f.labels))
        && (!c.honor_taints || pod.untolerated(&f.taints, &[Effect::NoSchedule, Effect::NoExecute]).is_none())
}

/// Whether all nodes take part, whatever they are.
fn includes_all(pod: &PodInfo, c: &SpreadConstraint) -> bool {
    let w = pod.want();
    (!c.honor_affinity || (w.node_selector.is_empty() && w.required_nodes.is_none())) && !c.honor_taints
}

/// A constraint with its topology and the pods it counts per slot.
struct Counted {
    c: SpreadConstraint,
    topology: Arc<Topology>,
    counts: Arc<Vec<u32>>,
    all: bool,
}

impl Counted {
    fn new(cx: Cycle<'_>, c: SpreadConstraint) -> Self {
        Self {
            topology: cx.cache.topology(&c.topology_key),
            counts: counted(cx, &c),
            all: includes_all(cx.pod, &c),
            c,
        }
    }

    fn count(&self, slot: Slot) -> i64 {
        self.counts.get(slot).copied().map_or(0, i64::from)
    }

    fn includes(&self, cx: Cycle<'_>, slot: Slot) -> bool {
        self.all || cx.cache.node_at(slot).is_some_and(|n| included(cx.pod, &self.c, n))
    }
}

/// A hard constraint with its counts per topology value; `None` for values no node that takes part has.
struct Hard {
    counted: Counted,
    domains: Vec<Option<i64>>,
    least: i64,
    own: i64,
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let constraints = self.constraints(cx, true);
        if constraints.is_empty() {
            return Ok(Filter::Skip);
        }
        let mut hard: Vec<Hard> = constraints
            .into_iter()
            .map(|c| {
                let own = i64::from(c.selector.matches(&cx.pod.labels));
                let counted = Counted::new(cx, c);
                Hard { own, domains: vec![None; counted.topology.len()], least: 0, counted }
            })
            .collect();
        for &slot in cx.cache.order() {
            if hard.iter().any(|h| h.counted.topology.at(slot) == NOWHERE) {
                continue;
            }
            for h in &mut hard {
                if let Some(d) = h.counted.topology.index(slot)
                    && h.counted.includes(cx, slot)
                {
                    let count = h.counted.count(slot);
                    *h.domains[d].get_or_insert(0) += count;
                }
            }
        }
        for h in &mut hard {
            let there = || h.domains.iter().flatten();
            let enough = there().count() as i64 >= i64::from(h.counted.c.min_domains);
            // With no domain at all nothing bounds the skew from below.
            h.least = match there().min() {
                Some(m) if enough => *m,
                None if enough => i64::from(i32::MAX),
                _ => 0,
            };
        }
        Ok(Filter::Check(Box::new(move |n| {
            for h in &hard {
                let Some(d) = h.counted.topology.index(n.slot) else {
                    return Err(Rejection::unresolvable(
                        NAME,
                        "node(s) didn't match pod topology spread constraints (missing required label)",
                    ));
                };
                let here = h.domains[d].unwrap_or(0);
                if here + h.own - h.least > i64::from(h.counted.c.max_skew) {
                    return Err(Rejection::unschedulable(
                        NAME,
                        "node(s) didn't match pod topology spread constraints",
                    ));
                }
            }
            Ok(())
        })))
    }

    fn may_score(&self, cx: Cycle<'_>) -> bool {
        // The defaults are for pods of a service or a controller.
        !self.constraints(cx, false).is_empty()
    }

    fn score<'a>(&'a self, cx: Cycle<'a>, feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        let constraints = self.constraints(cx, false);
        if constraints.is_empty() {
            return None;
        }
        // Default spreading works on nodes without a zone label, too.
        let strict = !cx.pod.want().spread.is_empty() || !self.system_defaults;
        let all: Vec<Counted> = constraints.into_iter().map(|c| Counted::new(cx, c)).collect();
        let has_all = |slot: Slot| all.iter().all(|c| c.topology.at(slot) != NOWHERE);
        let ignored: Vec<bool> = feasible.iter().map(|n| strict && !has_all(n.slot)).collect();
        let scored = ignored.iter().filter(|i| !**i).count();
        let domains: Vec<Vec<Option<i64>>> =
            all.iter().map(|c| domains(cx, c, feasible, &ignored, &|s| !strict || has_all(s))).collect();
        let soft: Vec<Soft> = all
            .into_iter()
            .zip(domains)
            .map(|(counted, domains)| {
                let per_node = counted.c.topology_key.as_ref() == HOSTNAME;
                let size = if per_node { scored } else { domains.iter().flatten().count() };
                Soft { weight: ((size + 2) as f64).ln(), per_node, domains, counted }
            })
            .collect();
        Some(Box::new(SoftScore { soft, ignored, strict }))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::AssignedPod, Action::ADD.or(Action::DELETE).or(Action::LABELS)),
                (Resource::Node, Action::ADD.or(Action::DELETE).or(Action::LABELS).or(Action::TAINTS)),
                (Resource::UnscheduledPod, Action::LABELS),
            ]
        }
    }

    fn hint(&self, pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        match (e.resource, e.pod) {
            // Only pods that are counted change the skew.
            (Resource::AssignedPod, Some(p)) if e.action.meets(Action::ADD.or(Action::DELETE)) => {
                p.namespace == pod.namespace
                    && (pod.want().spread.is_empty()
                        || pod.want().spread.iter().any(|c| c.selector.matches(&p.labels)))
            }
            _ => true,
        }
    }
}

/// Counts per topology value of the feasible nodes. A host is its own value: nothing is to be added up.
fn domains(
    cx: Cycle<'_>,
    c: &Counted,
    feasible: &[&NodeInfo],
    ignored: &[bool],
    takes_part: &dyn Fn(Slot) -> bool,
) -> Vec<Option<i64>> {
    if c.c.topology_key.as_ref() == HOSTNAME {
        return Vec::new();
    }
    let mut out = vec![None; c.topology.len()];
    for (n, _) in feasible.iter().zip(ignored).filter(|(_, i)| !**i) {
        if let Some(d) = c.topology.index(n.slot) {
            out[d] = Some(0);
        }
    }
    for &slot in cx.cache.order() {
        let count = c.count(slot);
        if count > 0
            && takes_part(slot)
            && let Some(d) = c.topology.index(slot)
            && let Some(x) = &mut out[d]
            && c.includes(cx, slot)
        {
            *x += count;
        }
    }
    out
}

struct Soft {
    counted: Counted,
    per_node: bool,
    weight: f64,
    domains: Vec<Option<i64>>,
}

struct SoftScore {
    soft: Vec<Soft>,
    ignored: Vec<bool>,
    strict: bool,
}

impl Scorer for SoftScore {
    fn score(&self, n: &NodeInfo) -> i64 {
        if self.strict && self.soft.iter().any(|s| s.counted.topology.at(n.slot) == NOWHERE) {
            return 0;
        }
        let mut sum = 0.0;
        for s in &self.soft {
            if let Some(d) = s.counted.topology.index(n.slot) {
                let count = if s.per_node {
                    s.counted.count(n.slot)
                } else {
                    s.domains.get(d).copied().flatten().unwrap_or(0)
                };
                sum += count as f64 * s.weight + f64::from(s.counted.c.max_skew - 1);
            }
        }
        sum.round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let counted = || scores.iter().zip(&self.ignored).filter(|(_, i)| !**i).map(|(s, _)| *s);
        let (min, max) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0));
        for (s, ignored) in scores.iter_mut().zip(&self.ignored) {
            *s = match (*ignored, max) {
                (true, _) => 0,
                (false, 0) => MAX_SCORE,
                (false, _) => MAX_SCORE * (max + min - *s) / max,
            };
        }
    }
}

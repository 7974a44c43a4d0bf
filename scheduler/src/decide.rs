//! The decision: which node a pod goes to, or why it goes nowhere. Pure: it reads the cache and nothing else.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use crate::cache::{Cache, NodeInfo, Slot};
use crate::framework::{Check, Cycle, Filter, Profile, Rejection};
use crate::model::{PodInfo, Str};

/// Up to this many nodes all are looked at.
const MIN_NODES: usize = 100;
/// At least this percentage of a large cluster is looked at.
const MIN_PERCENT: i64 = 5;

/// Why a pod fits nowhere.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    pub total: usize,
    /// Set when a plugin refused the pod before looking at nodes.
    pub everywhere: Option<Rejection>,
    pub nodes: Vec<(Slot, Rejection)>,
    /// Nodes that were not looked at because the pod restricts itself to others.
    pub excluded: Option<(Rejection, usize)>,
    /// Names of the plugins that refused.
    pub plugins: BTreeSet<&'static str>,
}

impl Diagnosis {
    /// The message of events and conditions, in upstream's form.
    #[must_use]
    pub fn message(&self) -> String {
        if let Some(r) = &self.everywhere {
            return format!("0/{} nodes are available: {}.", self.total, r.reasons.join(", "));
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.nodes.iter().flat_map(|(_, r)| &r.reasons) {
            *counts.entry(reason).or_default() += 1;
        }
        if let Some((r, n)) = &self.excluded {
            for reason in &r.reasons {
                *counts.entry(reason).or_default() += n;
            }
        }
        histogram(self.total, counts.iter().map(|(r, n)| (Cow::Borrowed(*r), *n)))
    }
}

/// `0/N nodes are available: 1 reason, 2 other reason.`
#[must_use]
pub fn histogram<'a>(total: usize, counts: impl Iterator<Item = (Cow<'a, str>, usize)>) -> String {
    let mut parts: Vec<String> = counts.map(|(r, n)| format!("{n} {r}")).collect();
    parts.sort();
    let sep = if parts.is_empty() { "" } else { " " };
    let end = if parts.is_empty() { "" } else { "." };
    format!("0/{total} nodes are available:{sep}{}{end}", parts.join(", "))
}

/// The outcome of a decision.
#[derive(Debug)]
pub enum Decision {
    /// The node, and how many nodes were looked at and found feasible.
    Node {
        slot: Slot,
        evaluated: usize,
        feasible: usize,
    },
    Unschedulable(Box<Diagnosis>),
    /// There are no nodes at all.
    NoNodes,
}

/// Compiled checks of a pod.
pub struct Compiled<'a> {
    checks: Vec<Check<'a>>,
    /// The only nodes that can do, when the pod restricts itself.
    pub only: Option<BTreeSet<Str>>,
}

impl Compiled<'_> {
    /// The first objection to a node.
    ///
    /// # Errors
    /// The objection.
    pub fn check(&self, n: &NodeInfo) -> Result<(), Rejection> {
        self.checks.iter().try_for_each(|c| c(n))
    }
}

/// Compiles the filters of a profile for a pod.
///
/// # Errors
/// A plugin refuses the pod on any node.
pub fn compile<'a>(profile: &'a Profile, cx: Cycle<'a>) -> Result<Compiled<'a>, Rejection> {
    let mut out = Compiled { checks: Vec::new(), only: None };
    for p in profile.filters() {
        match p.filter(cx)? {
            Filter::Skip => {}
            Filter::Check(c) => out.checks.push(c),
            Filter::Narrow(names, c) => {
                out.checks.push(c);
                out.only = Some(match out.only.take() {
                    Some(old) => old.intersection(&names).cloned().collect(),
                    None => names,
                });
            }
        }
    }
    Ok(out)
}

/// How many feasible nodes are enough in a cluster of `total`.
#[must_use]
pub fn enough(percentage: i64, total: usize) -> usize {
    if total < MIN_NODES {
        return total;
    }
    let percent = match percentage {
        0 => (50 - total as i64 / 125).max(MIN_PERCENT),
        p => p,
    };
    (total * percent as usize / 100).max(MIN_NODES)
}

/// Where the search for nodes begins, so that all nodes get their turn; and the dice for equal scores.
#[derive(Debug)]
pub struct Turn<R> {
    pub start: usize,
    pub rng: R,
}

/// Checks a node as it is, and as it will be when pods of at least the same priority that wait for room on it
/// have arrived.
fn check_with_nominated(
    cache: &Cache,
    pod: &PodInfo,
    compiled: &Compiled<'_>,
    n: &NodeInfo,
) -> Result<(), Rejection> {
    let waiting = cache.nominated(&n.name).iter().filter(|p| p.priority >= pod.priority && p.uid != pod.uid);
    let mut later: Option<NodeInfo> = None;
    for p in waiting {
        later.get_or_insert_with(|| n.clone()).add(p.clone());
    }
    if let Some(later) = later {
        compiled.check(&later)?;
    }
    compiled.check(n)
}

/// Decides where `pod` goes.
pub fn decide<R: Rng>(cache: &Cache, profile: &Profile, pod: &PodInfo, turn: &mut Turn<R>) -> Decision {
    let cx = Cycle { cache, pod };
    let total = cache.order().len();
    if total == 0 {
        return Decision::NoNodes;
    }
    let mut diagnosis = Diagnosis { total, ..Diagnosis::default() };
    let compiled = match compile(profile, cx) {
        Ok(c) => c,
        Err(r) => {
            diagnosis.plugins.insert(r.plugin);
            diagnosis.everywhere = Some(r);
            return Decision::Unschedulable(Box::new(diagnosis));
        }
    };
    let simple = cache.no_nominations();
    let check = |n: &NodeInfo, diagnosis: &mut Diagnosis| {
        let result = if simple { compiled.check(n) } else { check_with_nominated(cache, pod, &compiled, n) };
        match result {
            Ok(()) => true,
            Err(r) => {
                diagnosis.plugins.insert(r.plugin);
                diagnosis.nodes.push((n.slot, r));
                false
            }
        }
    };
    // A node freed by preemption is taken at once when it fits now.
    if let Some(n) = pod.want().nominated.as_ref().and_then(|n| cache.node(n))
        && compiled.only.as_ref().is_none_or(|o| o.contains(&n.name))
        && check(n, &mut diagnosis)
    {
        return Decision::Node { slot: n.slot, evaluated: 1, feasible: 1 };
    }
    diagnosis.nodes.clear();

    let candidates: Vec<Slot> = match &compiled.only {
        Some(names) => names.iter().filter_map(|n| cache.node(n)).map(|n| n.slot).collect(),
        None => Vec::new(),
    };
    let list: &[Slot] = if compiled.only.is_some() { &candidates } else { cache.order() };
    if compiled.only.is_some() {
        let reason = "node(s) didn't satisfy plugin(s) [NodeAffinity]";
        let r = Rejection::unresolvable("NodeAffinity", reason);
        diagnosis.plugins.insert(r.plugin);
        diagnosis.excluded = (total > list.len()).then(|| (r, total - list.len()));
    }
    let wanted = enough(profile.percentage, list.len());
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    let mut evaluated = 0;
    for i in 0..list.len() {
        let Some(n) = cache.node_at(list[(turn.start + i) % list.len()]) else { continue };
        evaluated += 1;
        if check(n, &mut diagnosis) {
            feasible.push(n);
            if feasible.len() >= wanted {
                break;
            }
        }
    }
    turn.start = (turn.start + evaluated) % total;
    match feasible.as_slice() {
        [] => Decision::Unschedulable(Box::new(diagnosis)),
        [one] => Decision::Node { slot: one.slot, evaluated, feasible: 1 },
        _ => {
            let slot = best(profile, cx, &feasible, &mut turn.rng);
            Decision::Node { slot, evaluated, feasible: feasible.len() }
        }
    }
}

/// The node with the highest weighted score; dice among equals.
fn best<R: Rng>(profile: &Profile, cx: Cycle<'_>, feasible: &[&NodeInfo], rng: &mut R) -> Slot {
    let mut totals = vec![0i64; feasible.len()];
    let mut raw = Vec::with_capacity(feasible.len());
    for (plugin, weight) in profile.scores() {
        let Some(scorer) = plugin.score(cx, feasible) else { continue };
        raw.clear();
        raw.extend(feasible.iter().map(|n| scorer.score(n)));
        scorer.normalize(&mut raw);
        for (t, s) in totals.iter_mut().zip(&raw) {
            assert!(
                (0..=crate::framework::MAX_SCORE).contains(s),
                "plugin {} gave a score of {s}, which is not in 0..=100",
                plugin.name()
            );
            *t += s * weight;
        }
    }
    let mut best = 0;
    let mut equals = 1u32;
    for i in 1..totals.len() {
        if totals[i] > totals[best] {
            (best, equals) = (i, 1);
        } else if totals[i] == totals[best] {
            equals += 1;
            if rng.random_range(0..equals) == 0 {
                best = i;
            }
        }
    }
    feasible[best].slot
}

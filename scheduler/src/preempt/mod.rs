//! DefaultPreemption: which pods of lower priority would have to go so that a pod fits.
//!
//! [`victims`] tries out one node, this module picks among the nodes.

mod victims;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;

use crate::cache::{Cache, Slot};
use crate::decide::{Diagnosis, Turn, compile, histogram};
use crate::framework::{Cycle, Profile, Rejection};
use crate::model::{PodInfo, Str};

const NAME: &str = "DefaultPreemption";

/// A way to make room.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: Str,
    /// The most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget protects.
    pub violations: usize,
}

/// The pods that must leave a node, or why that would not help.
pub type Victims = Result<Arc<Candidate>, Rejection>;

/// What preemption comes to.
#[derive(Debug)]
pub enum Outcome {
    /// Evict the victims of one of these, [`best`] says which, and wait for the node. Never empty.
    Evict(Vec<Arc<Candidate>>),
    /// Nothing to gain; the text follows `preemption: ` in the pod's message.
    No(String),
    /// Victims of an earlier preemption are still shutting down; the text follows `preemption: `.
    Wait(String),
}

/// How many candidates are compared (`DefaultPreemptionArgs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A percentage of the nodes where preemption may help.
    pub percentage: usize,
    /// At least this many.
    pub absolute: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { percentage: 10, absolute: 100 }
    }
}

/// Looks for ways to make room for `pod`, given why it fits nowhere. The cache is left as it was.
pub fn preempt<R: Rng>(
    cache: &mut Cache,
    profile: &Profile,
    pod: &PodInfo,
    diagnosis: &Diagnosis,
    turn: &mut Turn<R>,
) -> Outcome {
    if pod.preempt_never {
        return Outcome::No("not eligible due to preemptionPolicy=Never.".into());
    }
    if let Some(text) = waits_for_victims(cache, pod, diagnosis) {
        return Outcome::Wait(text);
    }
    let mut potential: Vec<Slot> =
        diagnosis.rejections().filter(|(_, r)| r.resolvable).map(|(s, _)| s).collect();
    if diagnosis.everywhere.as_ref().is_some_and(|r| r.resolvable) {
        potential = cache.order().to_vec();
    }
    let limits = profile.preemption;
    let wanted = (potential.len() * limits.percentage / 100).max(limits.absolute).min(potential.len());
    let offset = if potential.is_empty() { 0 } else { turn.rng.random_range(0..potential.len()) };
    potential.rotate_left(offset);
    let mut search = Search { wanted, ..Search::default() };
    if !on_copies(cache, profile, pod, &potential, turn, &mut search) {
        for slot in potential {
            if search.note(Arc::new(victims::in_cache(cache, profile, pod, slot))) {
                break;
            }
        }
    }
    let Search { found, mut reasons, examined, .. } = search;
    if !found.is_empty() {
        return Outcome::Evict(found);
    }
    if diagnosis.total > examined {
        let rest = diagnosis.total - examined;
        *reasons.entry("Preemption is not helpful for scheduling".into()).or_default() += rest;
    }
    Outcome::No(histogram(diagnosis.total, reasons.into_iter()))
}

/// What the search has come to so far.
#[derive(Default)]
struct Search {
    wanted: usize,
    examined: usize,
    found: Vec<Arc<Candidate>>,
    sparing: bool,
    reasons: BTreeMap<Cow<'static, str>, usize>,
}

impl Search {
    /// Takes in what one node comes to. Returns true when there is enough to choose from.
    fn note(&mut self, v: Arc<Victims>) -> bool {
        self.examined += 1;
        match v.as_ref() {
            Ok(c) => {
                self.sparing |= c.violations == 0;
                self.found.push(c.clone());
            }
            Err(r) => r.reasons.iter().for_each(|x| *self.reasons.entry(x.clone()).or_default() += 1),
        }
        self.sparing && self.found.len() >= self.wanted
    }
}

/// The search on copies of nodes, for pods that nothing but the node decides about: what was found out about a node
/// holds until it changes. Returns false if the pod is not of that kind.
fn on_copies<R>(
    cache: &Cache,
    profile: &Profile,
    pod: &PodInfo,
    potential: &[Slot],
    turn: &mut Turn<R>,
    search: &mut Search,
) -> bool {
    let cx = Cycle { cache, pod };
    let Ok(compiled) = compile(profile, cx) else { return false };
    if !compiled.is_local() {
        return false;
    }
    // The table counts this pod itself among those its nominated node waits for.
    let own = cache.nomination(&pod.uid).is_some();
    let mut table = if own { None } else { turn.memos.table(profile, cx, &compiled) };
    for &slot in potential {
        let mut known = table.as_mut().and_then(|t| t.victims(slot));
        let v = match known.as_ref().and_then(|k| k.as_ref()) {
            Some(v) => v.clone(),
            None => {
                let v = Arc::new(victims::on_copy(cache, &compiled, pod, slot));
                if let Some(k) = &mut known {
                    **k = Some(v.clone());
                }
                v
            }
        };
        if search.note(v) {
            break;
        }
    }
    true
}

/// Earlier victims on the nominated node are still shutting down: wait for them.
fn waits_for_victims(cache: &Cache, pod: &PodInfo, diagnosis: &Diagnosis) -> Option<String> {
    let name = cache.nomination(&pod.uid).or(pod.want().nominated.as_ref())?;
    let node = cache.node(name)?;
    let hopeless = diagnosis.of(node.slot).is_some_and(|r| !r.resolvable);
    let leaving = node.pods.iter().any(|p| p.priority < pod.priority && p.deleting && p.disrupted);
    (!hopeless && leaving).then(|| "not eligible due to a terminating pod on the nominated node.".into())
}

/// The least harmful candidate: fewest broken budgets, lowest top priority, smallest sum of priorities, fewest
/// victims, and of those the most important ones started last.
#[must_use]
pub fn best(found: &[Arc<Candidate>]) -> Option<Arc<Candidate>> {
    let cost = |c: &Candidate| {
        let top = c.victims.first().map_or(i32::MIN, |p| p.priority);
        // Priorities are shifted so that one victim more always counts.
        let sum: i64 = c.victims.iter().map(|p| i64::from(p.priority) + i64::from(i32::MAX) + 1).sum();
        let earliest = c
            .victims
            .iter()
            .filter(|p| p.priority == top)
            .map(|p| p.started.unwrap_or(i64::MAX))
            .min()
            .unwrap_or(i64::MAX);
        (c.violations, top, sum, c.victims.len(), std::cmp::Reverse(earliest))
    };
    found.iter().min_by_key(|c| cost(c)).cloned()
}

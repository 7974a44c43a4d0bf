//! DefaultPreemption: which pods of lower priority would have to go so that a pod fits.
//!
//! Victims are tried out on the cache itself (removed, checked, put back), so counts and sums stay right without
//! copying nodes; the cache is left as it was.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cache::{Cache, Slot};
use crate::decide::{Diagnosis, compile, histogram};
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

/// What preemption comes to.
#[derive(Debug)]
pub enum Outcome {
    /// Evict these and wait for the node.
    Evict(Candidate),
    /// Nothing to gain; the text follows `preemption: ` in the pod's message.
    No(String),
}

/// Looks for the least harmful way to make room for `pod`, given why it fits nowhere. `offset` rotates where the
/// search starts.
pub fn preempt(
    cache: &mut Cache,
    profile: &Profile,
    pod: &PodInfo,
    diagnosis: &Diagnosis,
    offset: usize,
) -> Outcome {
    if pod.preempt_never {
        return Outcome::No("not eligible due to preemptionPolicy=Never.".into());
    }
    if let Some(text) = waits_for_victims(cache, pod, diagnosis) {
        return Outcome::No(text);
    }
    let total = diagnosis.total;
    let mut potential: Vec<Slot> =
        diagnosis.nodes.iter().filter(|(_, r)| r.resolvable).map(|(s, _)| *s).collect();
    if diagnosis.everywhere.as_ref().is_some_and(|r| r.resolvable) {
        potential = cache.order().to_vec();
    }
    let limit = (potential.len() / 10).max(100);
    let mut found: Vec<Candidate> = Vec::new();
    let mut reasons: BTreeMap<Cow<'static, str>, usize> = BTreeMap::new();
    let mut examined = 0;
    for i in 0..potential.len() {
        let slot = potential[(offset + i) % potential.len()];
        examined += 1;
        match victims_on(cache, profile, pod, slot) {
            Ok(c) => {
                found.push(c);
                if found.len() >= limit && found.iter().any(|c| c.violations == 0) {
                    break;
                }
            }
            Err(r) => r.reasons.into_iter().for_each(|x| *reasons.entry(x).or_default() += 1),
        }
    }
    match best(found) {
        Some(c) => Outcome::Evict(c),
        None => {
            if total > examined {
                reasons.insert("Preemption is not helpful for scheduling".into(), total - examined);
            }
            Outcome::No(histogram(total, reasons.into_iter()))
        }
    }
}

/// Earlier victims on the nominated node are still shutting down: wait for them.
fn waits_for_victims(cache: &Cache, pod: &PodInfo, diagnosis: &Diagnosis) -> Option<String> {
    let node = cache.node(pod.want().nominated.as_ref()?)?;
    let hopeless = diagnosis.nodes.iter().any(|(s, r)| *s == node.slot && !r.resolvable);
    let leaving = node.pods.iter().any(|p| p.priority < pod.priority && p.deleting && p.disrupted);
    (!hopeless && leaving).then(|| "not eligible due to a terminating pod on the nominated node.".into())
}

fn fits(cache: &Cache, profile: &Profile, pod: &PodInfo, slot: Slot) -> Result<(), Rejection> {
    let compiled = compile(profile, Cycle { cache, pod })?;
    match cache.node_at(slot) {
        Some(n) => compiled.check(n),
        None => Err(Rejection::unresolvable(NAME, "node(s) disappeared")),
    }
}

fn more_important(a: &PodInfo, b: &PodInfo) -> std::cmp::Ordering {
    let started = |p: &PodInfo| p.started.unwrap_or(i64::MAX);
    b.priority.cmp(&a.priority).then(started(a).cmp(&started(b)))
}

/// The pods that must leave a node.
fn victims_on(
    cache: &mut Cache,
    profile: &Profile,
    pod: &PodInfo,
    slot: Slot,
) -> Result<Candidate, Rejection> {
    let Some(n) = cache.node_at(slot) else {
        return Err(Rejection::unresolvable(NAME, "node(s) disappeared"));
    };
    let node = n.name.clone();
    let mut lower: Vec<Arc<PodInfo>> = n.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(Rejection::unresolvable(NAME, "No preemption victims found for incoming pod"));
    }
    lower.sort_by(|a, b| more_important(a, b));
    let assumed: HashMap<Str, bool> =
        lower.iter().map(|p| (p.uid.clone(), cache.is_assumed(&p.uid))).collect();
    let put_back = |cache: &mut Cache, p: &Arc<PodInfo>| {
        if assumed.get(&p.uid) == Some(&true) {
            cache.assume(p.clone());
        } else {
            cache.set_pod(p.clone());
        }
    };
    for p in &lower {
        cache.remove_pod(&p.uid);
    }
    if let Err(r) = fits(cache, profile, pod, slot) {
        lower.iter().for_each(|p| put_back(cache, p));
        return Err(r);
    }
    // Spare as many as possible, those protected by a budget first, the important before the others.
    let (protected, free) = split_by_budget(cache, &lower);
    let mut victims: Vec<Arc<PodInfo>> = Vec::new();
    let mut violations = 0;
    for (list, counts) in [(protected, true), (free, false)] {
        for p in list {
            put_back(cache, &p);
            if fits(cache, profile, pod, slot).is_err() {
                cache.remove_pod(&p.uid);
                violations += usize::from(counts);
                victims.push(p);
            }
        }
    }
    victims.iter().for_each(|p| put_back(cache, p));
    victims.sort_by(|a, b| more_important(a, b));
    Ok(Candidate { node, victims, violations })
}

/// Pods whose eviction would break a disruption budget, and the others.
fn split_by_budget(cache: &Cache, pods: &[Arc<PodInfo>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: Vec<i32> = cache.budgets.values().map(|b| b.allowed).collect();
    pods.iter().cloned().partition(|p| {
        let mut broken = false;
        for (b, left) in cache.budgets.values().zip(&mut left) {
            let covers =
                b.namespace == p.namespace && !b.selector.is_empty() && b.selector.matches(&p.labels);
            if covers && !b.disrupted.contains(&p.name) {
                *left -= 1;
                broken |= *left < 0;
            }
        }
        broken
    })
}

/// The least harmful candidate: fewest broken budgets, lowest top priority, smallest sum of priorities, fewest
/// victims, and of those the most important ones started last.
fn best(found: Vec<Candidate>) -> Option<Candidate> {
    found.into_iter().min_by_key(|c| {
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
    })
}

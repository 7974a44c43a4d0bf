//! The decision: which node a pod goes to, or why it goes nowhere. Pure: it reads the cache and nothing else.

mod choose;
mod compiled;
mod diagnosis;
mod memo;

use rand::Rng;

pub use compiled::{Compiled, compile};
pub use diagnosis::{Diagnosis, histogram};
pub use memo::{Memos, Table};

use crate::cache::{Cache, Slot};
use crate::framework::{Cycle, Profile, Rejection};
use crate::model::PodInfo;

/// Up to this many nodes all are looked at.
const MIN_NODES: usize = 100;
/// At least this percentage of a large cluster is looked at.
const MIN_PERCENT: i64 = 5;

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

/// What is carried from one decision to the next.
#[derive(Debug)]
pub struct Turn<R> {
    /// Where the search for nodes begins, so that all nodes get their turn.
    pub start: usize,
    /// The dice for equal scores.
    pub rng: R,
    /// What is known of nodes for pods like those before.
    pub memos: Memos,
}

impl<R> Turn<R> {
    /// The state before the first decision.
    #[must_use]
    pub fn new(rng: R) -> Self {
        Self { start: 0, rng, memos: Memos::default() }
    }
}

/// Decides where `pod` goes.
pub fn decide<R: Rng>(cache: &Cache, profile: &Profile, pod: &PodInfo, turn: &mut Turn<R>) -> Decision {
    let cx = Cycle { cache, pod };
    let total = cache.order().len();
    if total == 0 {
        return Decision::NoNodes;
    }
    let diagnosis = Diagnosis::new(total);
    let compiled = match compile(profile, cx) {
        Ok(c) => c,
        Err(r) => {
            return Decision::Unschedulable(Box::new(diagnosis.everywhere(r)));
        }
    };
    let named = |slot: Slot| {
        let name =
            |o: &std::collections::BTreeSet<_>| cache.node_at(slot).is_some_and(|n| o.contains(&n.name));
        compiled.only.as_ref().is_none_or(name)
    };
    // A node freed by preemption is taken at once when it fits now.
    let nominated = cache.nomination(&pod.uid).or(pod.want().nominated.as_ref()).and_then(|n| cache.node(n));
    if let Some(n) = nominated
        && named(n.slot)
        && compiled.check(n).is_ok()
    {
        return Decision::Node { slot: n.slot, evaluated: 1, feasible: 1 };
    }
    // The table counts this pod itself among those its nominated node waits for.
    let whole = matches!(profile.percentage, 0 | 100) && compiled.splits && compiled.only.is_none();
    if whole
        && nominated.is_none()
        && let Some(table) = turn.memos.table(profile, cx, &compiled)
    {
        return by_table(profile, cx, &compiled, table, diagnosis, &mut turn.rng);
    }
    by_search(profile, cx, &compiled, diagnosis, turn)
}

/// All nodes are known: the local part of the decision is in the table.
fn by_table<R: Rng>(
    profile: &Profile,
    cx: Cycle<'_>,
    compiled: &Compiled<'_>,
    table: &Table,
    mut diagnosis: Diagnosis,
    rng: &mut R,
) -> Decision {
    let evaluated = diagnosis.total;
    if compiled.is_local()
        && let Some((slot, feasible)) = choose::best_known(profile, cx, table, rng)
    {
        return Decision::Node { slot, evaluated, feasible };
    }
    let mut feasible: Vec<Slot> = Vec::new();
    if compiled.is_local() {
        feasible.extend(table.fitting());
    } else {
        for n in table.fitting().filter_map(|s| cx.cache.node_at(s)) {
            match compiled.check_global(n) {
                Ok(()) => feasible.push(n.slot),
                Err(r) => diagnosis.refuse(n.slot, r),
            }
        }
    }
    if diagnosis.failure.is_some() {
        return Decision::Unschedulable(Box::new(diagnosis));
    }
    if feasible.is_empty() {
        let mut kinds = vec![None; table.kinds().len()];
        for (slot, k) in table.objections() {
            let kind = *kinds[k].get_or_insert_with(|| diagnosis.kind(table.kinds()[k].clone()));
            diagnosis.refuse_as(slot, kind);
        }
        return Decision::Unschedulable(Box::new(diagnosis));
    }
    match choose::best(profile, cx, &feasible, Some(table), rng) {
        Some(slot) => Decision::Node { slot, evaluated, feasible: feasible.len() },
        None => Decision::Unschedulable(Box::new(diagnosis)),
    }
}

/// The nodes where `pod` fits, with their scores: what extenders are asked about.
///
/// # Errors
/// The pod fits nowhere.
pub fn shortlist(
    cache: &Cache,
    profile: &Profile,
    pod: &PodInfo,
) -> Result<Vec<(Slot, i64)>, Box<Diagnosis>> {
    let cx = Cycle { cache, pod };
    let mut diagnosis = Diagnosis::new(cache.order().len());
    let compiled = match compile(profile, cx) {
        Ok(c) => c,
        Err(r) => {
            return Err(Box::new(diagnosis.everywhere(r)));
        }
    };
    let mut feasible: Vec<Slot> = Vec::new();
    for n in cache.nodes() {
        match compiled.check(n) {
            Ok(()) => feasible.push(n.slot),
            Err(r) => diagnosis.refuse(n.slot, r),
        }
    }
    if feasible.is_empty() || diagnosis.failure.is_some() {
        return Err(Box::new(diagnosis));
    }
    let totals = choose::totals(profile, cx, &feasible, None);
    Ok(feasible.into_iter().zip(totals).collect())
}

/// Looks at nodes one after the other until enough of them fit.
fn by_search<R: Rng>(
    profile: &Profile,
    cx: Cycle<'_>,
    compiled: &Compiled<'_>,
    mut diagnosis: Diagnosis,
    turn: &mut Turn<R>,
) -> Decision {
    let (cache, total) = (cx.cache, diagnosis.total);
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
    let mut feasible: Vec<Slot> = Vec::new();
    let mut evaluated = 0;
    for i in 0..list.len() {
        let Some(n) = cache.node_at(list[(turn.start + i) % list.len()]) else { continue };
        evaluated += 1;
        match compiled.check(n) {
            Ok(()) => {
                feasible.push(n.slot);
                if feasible.len() >= wanted {
                    break;
                }
            }
            Err(r) => diagnosis.refuse(n.slot, r),
        }
        if diagnosis.failure.is_some() {
            return Decision::Unschedulable(Box::new(diagnosis));
        }
    }
    turn.start = (turn.start + evaluated) % total;
    let chosen = match feasible.as_slice() {
        [] => None,
        [one] => Some(*one),
        _ => choose::best(profile, cx, &feasible, None, &mut turn.rng),
    };
    match chosen {
        Some(slot) => Decision::Node { slot, evaluated, feasible: feasible.len() },
        None => Decision::Unschedulable(Box::new(diagnosis)),
    }
}

//! Pods waiting to be scheduled.
//!
//! *Active* pods are tried in order of priority and age. A pod that did not fit waits as *unschedulable* until an
//! event that one of the plugins that rejected it cares about, and then, unless enough time has passed since its
//! last attempt, backs off. *Gated* pods wait for their gates. Time is handed in.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::framework::{Action, ClusterEvent, Plugin, Profile, Resource};
use crate::model::{PodInfo, Str};

/// A point in time: since the process started.
pub type Time = Duration;

/// A waiting pod.
#[derive(Clone, Debug)]
pub struct Queued {
    pub pod: Arc<PodInfo>,
    /// Attempts so far.
    pub attempts: u32,
    /// When it first came.
    pub first: Time,
    /// When it last entered the queue or failed.
    pub since: Time,
    /// Plugins that rejected it last time; empty after an error that was not the pod's fault.
    pub rejected_by: BTreeSet<&'static str>,
}

type ActiveKey = (Reverse<i32>, Time, u64);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Active(ActiveKey),
    Backoff(Time, u64),
    Unschedulable,
    Gated,
}

#[derive(Debug)]
struct Entry {
    q: Queued,
    place: Place,
}

/// Where pods went, by the name of the event that sent them there: for metrics.
pub type Moves = BTreeMap<(&'static str, &'static str), u64>;

/// How many pods wait where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    pods: HashMap<Str, Entry>,
    active: BTreeMap<ActiveKey, Str>,
    backoff: BTreeMap<(Time, u64), Str>,
    /// Unschedulable and gated pods by each plugin that rejected them ("" without one): an event is held against those whose
    /// plugin cares, and no others.
    rejected: HashMap<&'static str, HashSet<Str>>,
    unschedulable: usize,
    gated: usize,
    /// Pods by profile and plugin that rejected them.
    tally: BTreeMap<(Box<str>, &'static str), i64>,
    moves: Moves,
    seq: u64,
    initial: Duration,
    max: Duration,
    /// When the oldest unschedulable pod may have waited long enough.
    next_flush: Time,
}

/// An unschedulable pod is tried again after this long, event or not.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(5 * 60);
/// How often that is looked at.
const FLUSH_EVERY: Duration = Duration::from_secs(30);

impl Queue {
    /// An empty queue with these bounds of the back-off.
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self {
            pods: HashMap::new(),
            active: BTreeMap::new(),
            backoff: BTreeMap::new(),
            rejected: HashMap::new(),
            unschedulable: 0,
            gated: 0,
            tally: BTreeMap::new(),
            moves: Moves::new(),
            seq: 0,
            initial,
            max,
            next_flush: FLUSH_EVERY,
        }
    }

    /// A new pod, or a changed one the queue does not know.
    pub fn add(&mut self, pod: Arc<PodInfo>, profile: &Profile, cache: &Cache, now: Time) {
        let q = Queued { pod, attempts: 0, first: now, since: now, rejected_by: BTreeSet::new() };
        let uid = q.pod.uid.clone();
        self.enter(q, profile, cache, now);
        self.count_move("UnscheduledPodAdd", &uid);
    }

    fn enter(&mut self, mut q: Queued, profile: &Profile, cache: &Cache, now: Time) {
        if let Some((plugin, _)) = held_back(profile, &q.pod, cache) {
            q.rejected_by = BTreeSet::from([plugin]);
            self.put(q, Place::Gated);
        } else {
            self.activate(q, now);
        }
    }

    fn activate(&mut self, mut q: Queued, now: Time) {
        q.since = now;
        self.seq += 1;
        let key = (Reverse(q.pod.priority), now, self.seq);
        self.active.insert(key, q.pod.uid.clone());
        self.put(q, Place::Active(key));
    }

    fn put(&mut self, q: Queued, place: Place) {
        let uid = q.pod.uid.clone();
        match &place {
            Place::Unschedulable => {
                self.unschedulable += 1;
                self.count_rejected(&q, 1);
                self.group(&q);
            }
            Place::Gated => {
                self.gated += 1;
                self.group(&q);
            }
            Place::Active(_) | Place::Backoff(..) => {}
        }
        self.pods.insert(uid, Entry { q, place });
    }

    fn take(&mut self, uid: &str) -> Option<Entry> {
        let e = self.pods.remove(uid)?;
        match &e.place {
            Place::Active(k) => {
                self.active.remove(k);
            }
            Place::Backoff(t, s) => {
                self.backoff.remove(&(*t, *s));
            }
            Place::Unschedulable => {
                self.unschedulable -= 1;
                self.count_rejected(&e.q, -1);
                self.ungroup(&e.q);
            }
            Place::Gated => {
                self.gated -= 1;
                self.ungroup(&e.q);
            }
        }
        Some(e)
    }

    fn group(&mut self, q: &Queued) {
        for name in groups(q) {
            self.rejected.entry(name).or_default().insert(q.pod.uid.clone());
        }
    }

    fn ungroup(&mut self, q: &Queued) {
        for name in groups(q) {
            if let Some(group) = self.rejected.get_mut(name) {
                group.remove(&q.pod.uid);
                if group.is_empty() {
                    self.rejected.remove(name);
                }
            }
        }
    }

    /// A waiting pod changed. Returns false if it does not wait here.
    pub fn update(&mut self, pod: &Arc<PodInfo>, profile: &Profile, cache: &Cache, now: Time) -> bool {
        let Some(e) = self.pods.get_mut(&pod.uid) else { return false };
        let old = std::mem::replace(&mut e.q.pod, pod.clone());
        match e.place {
            Place::Active(_) if old.priority != pod.priority => {
                if let Some(e) = self.take(&pod.uid) {
                    self.activate(e.q, now);
                }
            }
            Place::Active(_) | Place::Backoff(..) => {}
            Place::Gated => {
                // It may be held back for another reason now.
                if let Some(e) = self.take(&pod.uid) {
                    self.enter(e.q, profile, cache, now);
                }
            }
            Place::Unschedulable => {
                let event = ClusterEvent::pod(Resource::UnscheduledPod, changes(&old, pod), pod);
                if worth_retry(&e.q, profile, &event)
                    && let Some(e) = self.take(&pod.uid)
                {
                    self.requeue(e.q, now);
                }
            }
        }
        true
    }

    /// The pod is gone or has a node.
    pub fn delete(&mut self, uid: &str) -> bool {
        self.take(uid).is_some()
    }

    /// A pod that waits here.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|e| &e.q.pod)
    }

    /// The next pod to try. It is no longer in the queue: it either gets a node or comes back by
    /// [`Self::put_unschedulable`] or [`Self::put_error`].
    pub fn pop(&mut self, now: Time) -> Option<Queued> {
        self.flush(now);
        let uid = match self.active.first_key_value() {
            Some((_, uid)) => uid.clone(),
            // With nothing better to do there is no reason to let a pod wait that an event made worth trying.
            None => self
                .backoff
                .values()
                .find(|uid| self.pods.get(*uid).is_some_and(|e| !e.q.rejected_by.is_empty()))?
                .clone(),
        };
        let mut q = self.take(&uid)?.q;
        q.attempts += 1;
        Some(q)
    }

    /// The pod fitted nowhere; these plugins said so.
    pub fn put_unschedulable(&mut self, mut q: Queued, by: BTreeSet<&'static str>, now: Time) {
        q.rejected_by = by;
        q.since = now;
        self.put(q, Place::Unschedulable);
    }

    /// The pod's turn came too early: it waits on as before.
    pub fn put_back(&mut self, mut q: Queued, now: Time) {
        q.attempts -= 1;
        let by = std::mem::take(&mut q.rejected_by);
        self.put_unschedulable(q, by, now);
    }

    /// Something went wrong that was not the pod's fault: it is tried again after its back-off.
    pub fn put_error(&mut self, mut q: Queued, now: Time) {
        q.rejected_by.clear();
        q.since = now;
        self.back_off(q, now);
    }

    fn backoff_of(&self, attempts: u32) -> Duration {
        let factor = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.initial.checked_mul(factor).unwrap_or(self.max).min(self.max)
    }

    fn back_off(&mut self, q: Queued, now: Time) {
        let until = q.since + self.backoff_of(q.attempts);
        if until <= now {
            return self.activate(q, now);
        }
        self.seq += 1;
        let key = (until, self.seq);
        self.backoff.insert(key, q.pod.uid.clone());
        self.put(q, Place::Backoff(key.0, key.1));
    }

    fn requeue(&mut self, q: Queued, now: Time) {
        self.back_off(q, now);
    }

    /// Something changed in the cluster: pods it may help are tried again. Returns how many.
    pub fn on_event<'p>(
        &mut self,
        event: &ClusterEvent<'_>,
        profile_of: impl Fn(&PodInfo) -> Option<&'p Profile>,
        cache: &Cache,
        now: Time,
    ) -> usize {
        if event.action == Action::NONE {
            return 0;
        }
        let mut helped: HashSet<Str> = HashSet::new();
        for (name, uids) in &self.rejected {
            for uid in uids {
                let Some(e) = self.pods.get(uid) else { continue };
                let Some(profile) = profile_of(&e.q.pod) else { continue };
                match profile.plugin(name) {
                    // What a plugin cares about is the same for all pods: one answers for the group.
                    Some(p) if !cares(p, event) => break,
                    Some(p) if p.hint(&e.q.pod, event) => {
                        helped.insert(uid.clone());
                    }
                    None if name.is_empty() => {
                        helped.insert(uid.clone());
                    }
                    Some(_) | None => {}
                }
            }
        }
        for uid in &helped {
            let Some(e) = self.take(uid) else { continue };
            match profile_of(&e.q.pod) {
                Some(profile) if e.place == Place::Gated => self.enter(e.q, profile, cache, now),
                _ => self.requeue(e.q, now),
            }
            self.count_move(event.label(), uid);
        }
        helped.len()
    }

    fn count_rejected(&mut self, q: &Queued, by: i64) {
        for name in &q.rejected_by {
            *self.tally.entry((q.pod.want().scheduler.clone(), name)).or_default() += by;
        }
    }

    fn count_move(&mut self, event: &'static str, uid: &str) {
        let queue = match self.pods.get(uid).map(|e| &e.place) {
            Some(Place::Active(_)) => "active",
            Some(Place::Backoff(..)) => "backoff",
            Some(Place::Gated) => "gated",
            Some(Place::Unschedulable) => "unschedulable",
            None => return,
        };
        *self.moves.entry((event, queue)).or_default() += 1;
    }

    /// Unschedulable pods by profile and plugin that rejected them; a pod counts for each of its plugins.
    #[must_use]
    pub fn rejections(&self) -> &BTreeMap<(Box<str>, &'static str), i64> {
        &self.tally
    }

    /// Where pods went since this was last asked.
    pub fn take_moves(&mut self) -> Moves {
        std::mem::take(&mut self.moves)
    }

    /// Makes one pod active at once, whatever it waits for.
    pub fn activate_pod(&mut self, uid: &str, now: Time) {
        if self.pods.get(uid).is_some_and(|e| matches!(e.place, Place::Unschedulable | Place::Backoff(..)))
            && let Some(e) = self.take(uid)
        {
            self.activate(e.q, now);
        }
    }

    /// Moves on pods whose time has come.
    pub fn flush(&mut self, now: Time) {
        while let Some((&(until, seq), _)) = self.backoff.first_key_value()
            && until <= now
        {
            if let Some(uid) = self.backoff.remove(&(until, seq))
                && let Some(e) = self.pods.remove(&uid)
            {
                self.activate(e.q, now);
            }
        }
        if now < self.next_flush {
            return;
        }
        self.next_flush = now + FLUSH_EVERY;
        let old: Vec<Str> = self
            .pods
            .iter()
            .filter(|(_, e)| e.place == Place::Unschedulable && now >= e.q.since + MAX_UNSCHEDULABLE)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in old {
            if let Some(e) = self.take(&uid) {
                self.requeue(e.q, now);
            }
        }
    }

    /// When [`Self::flush`] has something to do next; `None` as long as nothing waits for time to pass.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Time> {
        let backoff = self.backoff.first_key_value().map(|(k, _)| k.0);
        let flush = (self.unschedulable > 0).then_some(self.next_flush);
        backoff.into_iter().chain(flush).min()
    }

    /// Sizes of the parts.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let (active, backoff) = (self.active.len(), self.backoff.len());
        Sizes { active, backoff, gated: self.gated, unschedulable: self.unschedulable }
    }

    /// UIDs of all waiting pods.
    pub fn uids(&self) -> impl Iterator<Item = &Str> {
        self.pods.keys()
    }
}

fn held_back(profile: &Profile, pod: &PodInfo, cache: &Cache) -> Option<(&'static str, String)> {
    profile.pre_enqueue().find_map(|p| p.pre_enqueue(pod, cache).err().map(|e| (p.name(), e)))
}

/// The groups of [`Queue::rejected`] an unschedulable pod is in.
fn groups(q: &Queued) -> impl Iterator<Item = &'static str> {
    let none = q.rejected_by.is_empty().then_some("");
    q.rejected_by.iter().copied().chain(none)
}

/// Whether a plugin wants to be asked about an event.
fn cares(p: &dyn Plugin, event: &ClusterEvent<'_>) -> bool {
    p.events().iter().any(|(r, a)| *r == event.resource && a.meets(event.action))
}

/// Whether an event may help a pod: a plugin that rejected it says so.
fn worth_retry(q: &Queued, profile: &Profile, event: &ClusterEvent<'_>) -> bool {
    let helps = |p: &dyn Plugin| cares(p, event) && p.hint(&q.pod, event);
    q.rejected_by.is_empty()
        || q.rejected_by.iter().any(|n| n.is_empty() || profile.plugin(n).is_some_and(helps))
}

/// What changed about a pending pod.
fn changes(old: &PodInfo, new: &PodInfo) -> Action {
    let flag = |c: bool, a: Action| if c { a } else { Action::NONE };
    let (a, b) = (&old.requests.asked, &new.requests.asked);
    let smaller = a != b && b.cpu <= a.cpu && b.memory <= a.memory && b.ephemeral <= a.ephemeral;
    flag(old.labels != new.labels, Action::LABELS)
        | flag(old.want().tolerations != new.want().tolerations, Action::TOLERATIONS)
        | flag(old.want().gates != new.want().gates, Action::GATES)
        | flag(smaller, Action::SCALE_DOWN)
        | flag(old.want().resource_claims != new.want().resource_claims, Action::GENERATED_CLAIM)
}

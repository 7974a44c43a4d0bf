//! The work queue: each key is held at most once, is worked on by at most one worker at a time, and comes back with a
//! growing delay when its worker failed.
//!
//! Same contract as the queues of client-go: a key added while it is being worked on is handed out again once the
//! worker says [`WorkQueue::done`]. Delays are kept inside, so no helper task is needed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How the delay of a failing key grows.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Delay after the first failure.
    pub base: Duration,
    /// The delay never exceeds this.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(5), max: Duration::from_secs(1000) }
    }
}

impl Backoff {
    /// Delay before the next try of a key that failed `failures` times before.
    pub fn delay(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures.min(31)).unwrap_or(u32::MAX);
        self.base.checked_mul(factor).map_or(self.max, |d| d.min(self.max))
    }
}

struct State<T> {
    ready: VecDeque<T>,
    /// Keys that wait to be handed out: in `ready`, or added while being processed.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    failures: HashMap<T, u32>,
    /// When each delayed key becomes due; the heap may hold stale entries, this map is the truth.
    due: HashMap<T, Instant>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_keys: HashMap<u64, T>,
    seq: u64,
    adds: u64,
    shutting_down: bool,
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, item: T) -> bool {
        if self.shutting_down || !self.dirty.insert(item.clone()) {
            return false;
        }
        self.adds += 1;
        if self.processing.contains(&item) {
            return false;
        }
        self.ready.push_back(item);
        true
    }

    fn add_at(&mut self, item: T, at: Instant) {
        if self.shutting_down {
            return;
        }
        if let Some(known) = self.due.get(&item)
            && *known <= at
        {
            return;
        }
        self.due.insert(item.clone(), at);
        self.seq += 1;
        self.delayed.push(Reverse((at, self.seq)));
        self.delayed_keys.insert(self.seq, item);
    }

    /// Moves everything that is due into the ready list; returns when the next delayed key is due.
    fn promote(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse((at, seq))) = self.delayed.peek().copied() {
            let stale = self
                .delayed_keys
                .get(&seq)
                .is_none_or(|item| self.due.get(item).is_none_or(|current| *current != at));
            if !stale && at > now {
                return Some(at);
            }
            self.delayed.pop();
            if let Some(item) = self.delayed_keys.remove(&seq)
                && !stale
            {
                self.due.remove(&item);
                self.add(item);
            }
        }
        None
    }
}

/// A queue of keys with deduplication, delays and per-key back-off. Cheap to clone.
pub struct WorkQueue<T> {
    inner: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    notify: Notify,
    backoff: Backoff,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Clone + Eq + Hash> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new(Backoff::default())
    }
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    /// An empty queue whose failing keys wait as `backoff` says.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            inner: Arc::new(Shared {
                state: Mutex::new(State {
                    ready: VecDeque::new(),
                    dirty: HashSet::new(),
                    processing: HashSet::new(),
                    failures: HashMap::new(),
                    due: HashMap::new(),
                    delayed: BinaryHeap::new(),
                    delayed_keys: HashMap::new(),
                    seq: 0,
                    adds: 0,
                    shutting_down: false,
                }),
                notify: Notify::new(),
                backoff,
            }),
        }
    }

    /// Hands `item` out as soon as a worker is free; does nothing when it already waits.
    pub fn add(&self, item: T) {
        if self.inner.state.lock().add(item) {
            self.inner.notify.notify_one();
        }
    }

    /// Hands `item` out after `delay`, or earlier if it was already due earlier.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        self.inner.state.lock().add_at(item, Instant::now() + delay);
        self.inner.notify.notify_one();
    }

    /// Hands `item` out after its back-off, and makes the next back-off longer.
    pub fn add_rate_limited(&self, item: T) {
        let delay = {
            let mut state = self.inner.state.lock();
            let failures = state.failures.entry(item.clone()).or_insert(0);
            let delay = self.inner.backoff.delay(*failures);
            *failures = failures.saturating_add(1);
            delay
        };
        self.add_after(item, delay);
    }

    /// Clears the back-off of `item`: it succeeded, or is given up.
    pub fn forget(&self, item: &T) {
        self.inner.state.lock().failures.remove(item);
    }

    /// How often `item` failed since it was last forgotten.
    pub fn num_requeues(&self, item: &T) -> u32 {
        self.inner.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// The next key, or `None` once the queue is shut down. Pair it with [`WorkQueue::done`].
    pub async fn get(&self) -> Option<T> {
        loop {
            let notified = self.inner.notify.notified();
            let next_due = {
                let mut state = self.inner.state.lock();
                if state.shutting_down {
                    return None;
                }
                let next_due = state.promote(Instant::now());
                if let Some(item) = state.ready.pop_front() {
                    state.dirty.remove(&item);
                    state.processing.insert(item.clone());
                    if !state.ready.is_empty() || next_due.is_some() {
                        self.inner.notify.notify_one();
                    }
                    return Some(item);
                }
                next_due
            };
            match next_due {
                Some(at) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => notified.await,
            }
        }
    }

    /// Says that the worker is finished with `item`; if it was added meanwhile it becomes ready again.
    pub fn done(&self, item: &T) {
        let mut state = self.inner.state.lock();
        state.processing.remove(item);
        if state.dirty.contains(item) {
            state.ready.push_back(item.clone());
            drop(state);
            self.inner.notify.notify_one();
        }
    }

    /// Keys ready to be handed out now.
    pub fn len(&self) -> usize {
        self.inner.state.lock().ready.len()
    }

    /// Whether no key is ready now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many additions the queue has accepted, for metrics.
    pub fn adds(&self) -> u64 {
        self.inner.state.lock().adds
    }

    /// Makes every [`WorkQueue::get`] return `None`; later additions are dropped.
    pub fn shut_down(&self) {
        self.inner.state.lock().shutting_down = true;
        self.inner.notify.notify_waiters();
        self.inner.notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_held_once_and_processed_by_one_worker() {
        let q = WorkQueue::default();
        q.add("a");
        q.add("a");
        assert_eq!(q.len(), 1);
        assert_eq!(q.get().await, Some("a"));
        q.add("a");
        assert_eq!(q.len(), 0, "not handed out while being processed");
        q.done(&"a");
        assert_eq!(q.get().await, Some("a"));
        q.done(&"a");
        assert!(q.is_empty());
    }

    const fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// What is ready at a time, in order.
    fn ready_at(q: &WorkQueue<&'static str>, now: Instant) -> Vec<&'static str> {
        let mut state = q.inner.state.lock();
        state.promote(now);
        let ready: Vec<_> = state.ready.drain(..).collect();
        state.dirty.clear();
        ready
    }

    #[test]
    fn delayed_keys_come_when_due_and_only_once() {
        let q = WorkQueue::default();
        let now = Instant::now();
        for (key, at) in [("late", 20), ("early", 10), ("late", 30), ("moved", 100), ("moved", 1)] {
            q.inner.state.lock().add_at(key, now + secs(at));
        }
        assert_eq!(q.inner.state.lock().promote(now), Some(now + secs(1)));
        assert_eq!(ready_at(&q, now + secs(9)), ["moved"], "the earlier due time wins");
        assert_eq!(ready_at(&q, now + secs(19)), ["early"]);
        assert_eq!(ready_at(&q, now + secs(20)), ["late"]);
        assert!(ready_at(&q, now + secs(200)).is_empty(), "later due times were dropped");
        assert!(q.inner.state.lock().delayed_keys.is_empty(), "nothing is left behind");
    }

    #[tokio::test]
    async fn a_waiting_worker_gets_a_delayed_key() {
        let q = WorkQueue::default();
        let start = Instant::now();
        q.add_after("a", Duration::from_millis(30));
        assert_eq!(q.get().await, Some("a"));
        assert!(start.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn failures_double_the_delay_until_forgotten() {
        let q = WorkQueue::new(Backoff { base: secs(1), max: secs(3) });
        let delays: Vec<_> = (0..4).map(|n| q.inner.backoff.delay(n).as_secs()).collect();
        assert_eq!(delays, [1, 2, 3, 3]);
        q.add_rate_limited("a");
        q.add_rate_limited("a");
        assert_eq!(q.num_requeues(&"a"), 2);
        q.forget(&"a");
        assert_eq!(q.num_requeues(&"a"), 0);
    }

    #[tokio::test]
    async fn shutting_down_wakes_all_workers() {
        let q: WorkQueue<String> = WorkQueue::default();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let q = q.clone();
                tokio::spawn(async move { q.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        q.shut_down();
        for worker in workers {
            assert_eq!(worker.await.ok().flatten(), None);
        }
    }

    #[test]
    fn back_off_saturates() {
        let b = Backoff::default();
        assert_eq!(b.delay(0), Duration::from_millis(5));
        assert_eq!(b.delay(500), Duration::from_secs(1000));
    }
}

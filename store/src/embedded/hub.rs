//! Watches. Each is a task that pulls: woken by a new revision, it takes what it has not yet delivered from the recent
//! events in memory, or from history on disk when it has fallen behind those. So a slow receiver costs its position
//! and a full channel, never more; once history it still needs is compacted, it ends with that error.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::metrics::Metrics;
use super::state::State;
use crate::{Event, Revision, StoreError, WatchBatch, WatchStream};

/// Bytes of recent events kept in memory.
const RECENT_BYTES: usize = 512 << 10;
/// Bytes of events a watch reads from disk at once.
const READ_BYTES: usize = 256 << 10;
/// Events in one batch.
const BATCH: usize = 512;
/// Batches a watch may have waiting at its receiver.
const QUEUE: usize = 16;

#[derive(Default)]
struct Recent {
    events: VecDeque<Event>,
    bytes: usize,
    /// All events above this are in `events`.
    after: Revision,
}

/// The point where the applier hands events over to watches.
pub struct Hub {
    state: Arc<State>,
    recent: Mutex<Recent>,
    newest: watch::Sender<Revision>,
    metrics: Arc<Metrics>,
}

fn cost(e: &Event) -> usize {
    e.kv.key.len() + e.kv.value.len() + e.prev.as_ref().map_or(0, |p| p.len()) + 160
}

impl Hub {
    pub fn new(state: Arc<State>, metrics: Arc<Metrics>) -> Arc<Hub> {
        let revision = state.revision();
        let recent = Mutex::new(Recent { after: revision, ..Recent::default() });
        Arc::new(Hub { state, recent, newest: watch::Sender::new(revision), metrics })
    }

    /// Takes the events of a batch that has just been applied, in order.
    pub fn publish(&self, events: Vec<Event>) {
        let Some(last) = events.last().map(|e| e.kv.mod_revision) else { return };
        {
            let mut recent = self.recent.lock();
            for e in events {
                recent.bytes += cost(&e);
                recent.events.push_back(e);
            }
            while recent.bytes > RECENT_BYTES {
                let Some(old) = recent.events.pop_front() else { break };
                recent.bytes -= cost(&old);
                recent.after = old.kv.mod_revision;
            }
            if recent.events.capacity() > 4 * recent.events.len() + 64 {
                recent.events.shrink_to_fit();
            }
        }
        self.newest.send_replace(last);
    }

    /// The state has been replaced by a newer one: watches read on in its history.
    pub fn replaced(&self) {
        let revision = self.state.revision();
        *self.recent.lock() = Recent { after: revision, ..Recent::default() };
        self.newest.send_replace(revision);
    }

    /// Wakes all watches, to find the engine closed.
    pub fn wake(&self) {
        self.newest.send_modify(|_| {});
    }

    /// Events of `[start, end)` above `after`, from memory; none if they are not all there. With them, the revision up
    /// to which that is complete.
    fn recent(
        &self,
        start: &str,
        end: &str,
        after: Revision,
        upto: Revision,
    ) -> Option<(Vec<Event>, Revision)> {
        let recent = self.recent.lock();
        if after < recent.after {
            return None;
        }
        let from = recent.events.partition_point(|e| e.kv.mod_revision <= after);
        let mut found = Vec::new();
        for e in recent.events.range(from..) {
            if e.kv.mod_revision > upto {
                break;
            }
            if within(&e.kv.key, start, end) {
                found.push(e.clone());
                if found.len() == BATCH {
                    return Some((found, e.kv.mod_revision));
                }
            }
        }
        Some((found, upto))
    }

    /// Starts a watch of events above `after`.
    pub fn watch(
        self: &Arc<Self>,
        start: &str,
        end: &str,
        after: Revision,
        alive: Arc<dyn Fn() -> Result<(), StoreError> + Send + Sync>,
    ) -> WatchStream {
        let (tx, rx) = mpsc::channel(QUEUE);
        let puller = Puller {
            hub: Arc::clone(self),
            start: start.to_owned(),
            end: end.to_owned(),
            after,
            tx,
            alive,
            progressed: 0,
        };
        tokio::spawn(puller.run());
        rx
    }
}

fn within(key: &str, start: &str, end: &str) -> bool {
    key >= start && (end.is_empty() || key < end)
}

struct Puller {
    hub: Arc<Hub>,
    start: String,
    end: String,
    /// Everything up to here has been delivered.
    after: Revision,
    tx: mpsc::Sender<Result<WatchBatch, StoreError>>,
    alive: Arc<dyn Fn() -> Result<(), StoreError> + Send + Sync>,
    /// The last progress told.
    progressed: Revision,
}

impl Puller {
    async fn run(mut self) {
        self.hub.metrics.watchers.add(1);
        let mut newest = self.hub.newest.subscribe();
        loop {
            let upto = *newest.borrow_and_update();
            if let Err(e) = self.catch_up(upto).await {
                // Best effort: a receiver that reads on learns why, one that does not sees the end.
                let _ = self.tx.send(Err(e)).await;
                break;
            }
            if self.tx.is_closed() {
                break;
            }
            if let Err(e) = (self.alive)() {
                let _ = self.tx.send(Err(e)).await;
                break;
            }
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { break },
                () = self.tx.closed() => break,
            }
        }
        self.hub.metrics.watchers.sub(1);
    }

    /// Delivers everything up to `upto`.
    async fn catch_up(&mut self, upto: Revision) -> Result<(), StoreError> {
        while self.after < upto {
            let (events, complete) = match self.hub.recent(&self.start, &self.end, self.after, upto) {
                Some(found) => found,
                None => self.read(upto).await?,
            };
            self.after = complete;
            if !events.is_empty() {
                self.progressed = events.last().map_or(self.progressed, |e| e.kv.mod_revision);
                self.hub.metrics.events_sent.add(events.len() as u64);
                if self.tx.send(Ok(WatchBatch::Events(events))).await.is_err() {
                    return Ok(());
                }
            }
        }
        if self.progressed < self.after {
            self.progressed = self.after;
            // If the receiver is gone, the caller finds out.
            let _ = self.tx.send(Ok(WatchBatch::Progress(self.after))).await;
        }
        Ok(())
    }

    /// The next events from disk.
    async fn read(&self, upto: Revision) -> Result<(Vec<Event>, Revision), StoreError> {
        self.hub.metrics.slow_reads.add(1);
        let state = Arc::clone(&self.hub.state);
        let after = self.after;
        let read = tokio::task::spawn_blocking(move || state.events(after, upto, READ_BYTES));
        let (mut events, complete) = read
            .await
            .map_err(|e| StoreError::Unavailable(format!("reading history for a watch: {e}")))??;
        events.retain(|e| within(&e.kv.key, &self.start, &self.end));
        Ok((events, complete))
    }
}

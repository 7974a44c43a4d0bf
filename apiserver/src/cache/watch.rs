//! Watches. A [`Watch`] is a position that its owner advances by calling [`Watch::next`]; it has no task and no queue
//! of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use super::core::{CacheEvent, EventKind, Loaded};
use super::object::Object;
use super::{Cache, Freshness, List, Slot};
use crate::store::{Event, KeyValue, Revision, StoreError, WatchBatch, WatchStream};

/// Events taken from the ring at once.
const BATCH: usize = 64;

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Every event above this revision.
    After(Revision),
    /// The state first, as `Added` events in key order and [`WatchItem::Synced`], then every event.
    State(Freshness),
    /// Every event after the call.
    Now,
}

/// Which objects a watch shows.
pub type Predicate = Arc<dyn Fn(&Object) -> bool + Send + Sync>;

/// What a watch delivers.
#[derive(Debug, Clone)]
pub enum WatchItem {
    Event(CacheEvent),
    /// The state asked for with [`From::State`] has been delivered; it was that of this revision.
    Synced(Revision),
}

/// A running watch of one range.
pub struct Watch {
    feed: Arc<super::Feed>,
    slot: Arc<Slot>,
    start: String,
    end: String,
    predicate: Option<Predicate>,
    generation: u64,
    /// Everything up to here is delivered or in `ready`.
    position: Revision,
    changed: tokio::sync::watch::Receiver<u64>,
    progress: tokio::sync::watch::Receiver<Revision>,
    /// The state still to be delivered, and the last key that was.
    state: Option<(List, Option<Box<str>>)>,
    /// The store's history, while the ring does not reach back to `position`.
    history: Option<WatchStream>,
    ready: VecDeque<CacheEvent>,
}

impl Cache {
    /// Starts a watch of `[start, end)`, a range inside the cache's prefix. With a predicate, objects that begin to
    /// fulfil it are `Added` and those that cease to are `Deleted`. A revision compacted from the store is refused
    /// with [`StoreError::Compacted`], a state that is not reached in time with [`StoreError::Future`]; a watch after a
    /// revision that lies ahead has nothing to show until that has come.
    pub async fn watch(
        &self,
        start: &str,
        end: &str,
        from: From,
        predicate: Option<Predicate>,
    ) -> Result<Watch, StoreError> {
        let freshness = match from {
            From::After(_) => Freshness::Any,
            From::State(freshness) => freshness,
            From::Now => Freshness::Newest,
        };
        let (list, generation) = loop {
            let list = self.list(start, end, freshness).await?;
            let core = self.slot.core.lock();
            // Emptied in between: once more.
            if core.loaded() == Loaded::Yes && core.revision(self.feed.revision()) >= list.revision {
                break (list, core.generation());
            }
        };
        let mut watch = Watch {
            feed: Arc::clone(&self.feed),
            slot: Arc::clone(&self.slot),
            start: start.to_owned(),
            end: end.to_owned(),
            predicate,
            generation,
            position: list.revision,
            changed: self.slot.changed.subscribe(),
            progress: self.feed.subscribe(),
            state: None,
            history: None,
            ready: VecDeque::new(),
        };
        match from {
            From::State(_) => watch.state = Some((list, None)),
            From::After(0) if list.revision > 0 => {
                return Err(StoreError::Compacted { requested: 0, oldest: list.revision });
            }
            From::After(revision) => {
                watch.position = revision;
                // Refuses what is compacted here and now, rather than with the first event.
                watch.pull().await?;
            }
            From::Now => {}
        }
        Ok(watch)
    }
}

impl Watch {
    /// The next item; waits for it. After an error the watch is over: [`StoreError::Compacted`] means that the client
    /// must list anew. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            if let Some(item) = self.next_of_state() {
                return Ok(item);
            }
            while let Some(event) = self.ready.pop_front() {
                if let Some(event) = self.filter(event) {
                    return Ok(WatchItem::Event(event));
                }
            }
            self.changed.borrow_and_update();
            if !self.pull().await? && self.changed.changed().await.is_err() {
                return Err(StoreError::Unavailable("the watch cache has stopped".to_owned()));
            }
        }
    }

    /// What can be delivered without waiting.
    pub async fn try_next(&mut self) -> Result<Option<WatchItem>, StoreError> {
        loop {
            if let Some(item) = self.next_of_state() {
                return Ok(Some(item));
            }
            while let Some(event) = self.ready.pop_front() {
                if let Some(event) = self.filter(event) {
                    return Ok(Some(WatchItem::Event(event)));
                }
            }
            if self.history.is_some() || !self.pull().await? {
                return Ok(None);
            }
        }
    }

    /// The revision for a bookmark: everything up to it has been delivered. None while there is something to deliver
    /// first.
    pub async fn bookmark(&mut self) -> Result<Option<Revision>, StoreError> {
        if self.state.is_none() && self.ready.is_empty() && self.history.is_none() {
            self.pull().await?;
        }
        let nothing = self.state.is_none() && self.ready.is_empty() && self.history.is_none();
        // Begun after a revision that lies ahead: it is not for this watch to tell of it.
        let reached = self.position <= self.slot.core.lock().revision(self.feed.revision());
        Ok((nothing && reached).then_some(self.position))
    }

    /// Waits until [`Watch::bookmark`] would give a later revision than `revision`, or there are events.
    pub async fn newer_than(&mut self, revision: Revision) -> Result<(), StoreError> {
        match self.progress.wait_for(|r| *r > revision).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::Unavailable("the watch cache has stopped".to_owned())),
        }
    }

    fn next_of_state(&mut self) -> Option<WatchItem> {
        let (list, last) = self.state.as_mut()?;
        let from = match last {
            Some(key) => format!("{key}\0"),
            None => self.start.clone(),
        };
        let chosen = |o: &&Arc<Object>| self.predicate.as_ref().is_none_or(|p| p(o));
        let next = list.range_from(&from).find(chosen).map(Arc::clone);
        match next {
            Some(object) => {
                *last = Some(object.key.clone());
                Some(WatchItem::Event(CacheEvent { kind: EventKind::Added, object, prev: None }))
            }
            None => {
                let revision = list.revision;
                self.state = None;
                Some(WatchItem::Synced(revision))
            }
        }
    }

    /// Fills `ready`. False if there is nothing new.
    async fn pull(&mut self) -> Result<bool, StoreError> {
        if self.history.is_none() {
            let found = {
                let mut core = self.slot.core.lock();
                if core.generation() != self.generation || core.loaded() != Loaded::Yes {
                    let oldest = self.feed.revision();
                    return Err(StoreError::Compacted { requested: self.position, oldest });
                }
                core.events(&self.start, &self.end, self.position, BATCH, self.feed.revision())
            };
            if let Some((events, complete)) = found {
                self.position = self.position.max(complete);
                self.ready.extend(events);
                return Ok(!self.ready.is_empty());
            }
            let store = self.feed.store();
            if self.position == 0 {
                // The store was empty then; after revision zero cannot be asked for.
                return Err(StoreError::Compacted { requested: 0, oldest: self.feed.revision() });
            }
            self.history = Some(store.watch(&self.start, &self.end, self.position).await?);
            // The end of history shows by progress only, if the last events are not of this range.
            store.request_progress().await?;
        }
        self.pull_history().await
    }

    /// The same from the store's history, until the ring can take over.
    async fn pull_history(&mut self) -> Result<bool, StoreError> {
        loop {
            let Some(history) = self.history.as_mut() else { return Ok(true) };
            let batch = history.recv().await;
            let batch = batch
                .unwrap_or_else(|| Err(StoreError::Unavailable("the store ended the watch".to_owned())))?;
            match batch {
                WatchBatch::Events(events) => {
                    self.position =
                        events.last().map_or(self.position, |e| e.kv.mod_revision.max(self.position));
                    let events: Vec<_> = events.iter().filter_map(|e| self.event(e)).collect();
                    self.ready.extend(events);
                }
                WatchBatch::Progress(revision) => self.position = self.position.max(revision),
            }
            if self.slot.core.lock().reaches_back_to(self.position) {
                self.history = None;
                return Ok(true);
            }
            if !self.ready.is_empty() {
                return Ok(true);
            }
        }
    }

    /// An event of the store as the cache would have told it.
    fn event(&self, e: &Event) -> Option<CacheEvent> {
        let prev = e.prev.as_ref().and_then(|value| {
            // Of which revision the former value was is not told; nobody is shown this object by itself.
            let mod_revision = e.kv.mod_revision - 1;
            self.slot.object(&KeyValue { value: value.clone(), mod_revision, ..e.kv.clone() })
        });
        let object = self.slot.object(&e.kv)?;
        let kind = match e.deleted {
            true => EventKind::Deleted,
            false if e.kv.create_revision == e.kv.mod_revision => EventKind::Added,
            false => EventKind::Modified,
        };
        Some(CacheEvent { kind, object, prev })
    }

    /// The event as the predicate leaves it.
    fn filter(&self, event: CacheEvent) -> Option<CacheEvent> {
        let Some(chosen) = &self.predicate else { return Some(event) };
        let before = event.prev.as_ref().is_some_and(|o| chosen(o));
        let after = event.kind != EventKind::Deleted && chosen(&event.object);
        match EventKind::seen(before, after)? {
            EventKind::Deleted if event.kind == EventKind::Deleted => Some(event),
            // What the client last saw, at the revision of the change that took it out of sight.
            EventKind::Deleted => {
                let prev = event.prev?;
                let kv = KeyValue {
                    key: prev.key.to_string(),
                    value: prev.bytes.clone(),
                    create_revision: prev.create_revision,
                    mod_revision: event.object.mod_revision,
                };
                let object = self.slot.object(&kv)?;
                Some(CacheEvent { kind: EventKind::Deleted, object, prev: Some(prev) })
            }
            kind => Some(CacheEvent { kind, ..event }),
        }
    }
}

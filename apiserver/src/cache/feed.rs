//! One watch of the store for all caches. Events go to the cache of their key, in order; then the revision reached is
//! told to all at once, so a cache of a quiet resource is as new as any other without doing anything.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Slot;
use super::core::Loaded;
use crate::store::{Event, Revision, Store, StoreError, WatchBatch, prefix_end};

/// Pause before the watch is started anew after it failed.
const RETRY: Duration = Duration::from_millis(100);

/// See the module.
pub struct Feed {
    store: Arc<dyn Store>,
    prefix: String,
    /// By prefix. A prefix has several while one cache takes another's place, until the last reader of the old one is
    /// gone.
    slots: Mutex<BTreeMap<String, Vec<Weak<Slot>>>>,
    /// Everything up to here has been handed to the caches. Zero: not started.
    revision: watch::Sender<Revision>,
    starting: tokio::sync::Mutex<bool>,
}

impl Feed {
    /// A feed of everything under `prefix`. The watch starts with the first cache that needs it.
    pub fn new(store: Arc<dyn Store>, prefix: &str) -> Arc<Feed> {
        Arc::new(Feed {
            store,
            prefix: prefix.to_owned(),
            slots: Mutex::default(),
            revision: watch::Sender::new(0),
            starting: tokio::sync::Mutex::new(false),
        })
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// How far the caches are.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Wakes when the caches are newer.
    pub(super) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Waits until the caches are as new as `revision`.
    pub async fn wait(&self, revision: Revision, patience: Duration) -> Result<(), StoreError> {
        let mut newest = self.revision.subscribe();
        if *newest.borrow_and_update() >= revision {
            return Ok(());
        }
        // A store that tells progress only now and then is asked for it.
        self.store.request_progress().await?;
        match tokio::time::timeout(patience, newest.wait_for(|r| *r >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Unavailable("the watch cache has stopped".to_owned())),
            Err(_) => Err(StoreError::Future { requested: revision, current: self.revision() }),
        }
    }

    /// From when this returns, events of the slot's prefix go to it.
    pub(super) async fn register(self: &Arc<Self>, slot: &Arc<Slot>) -> Result<(), StoreError> {
        {
            let mut slots = self.slots.lock();
            slots.retain(|_, list| {
                list.retain(|s| s.strong_count() > 0);
                !list.is_empty()
            });
            let list = slots.entry(slot.prefix.clone()).or_default();
            if !list.iter().any(|s| std::ptr::eq(s.as_ptr(), Arc::as_ptr(slot))) {
                list.push(Arc::downgrade(slot));
            }
        }
        let mut started = self.starting.lock().await;
        if !*started {
            let revision = self.store.current_revision().await?;
            let end = prefix_end(&self.prefix);
            // A store without any revision has none to watch after; zero then means the same.
            let stream = self.store.watch(&self.prefix, &end, revision).await?;
            self.revision.send_replace(revision);
            tokio::spawn(run(Arc::downgrade(self), stream, revision));
            *started = true;
        }
        Ok(())
    }

    fn deliver(&self, events: &[Event]) {
        let mut touched: Vec<Arc<Slot>> = Vec::new();
        let mut slots = Vec::new();
        // A reader never sees half a revision: events of one revision that follow each other (keys of one lease in
        // etcd, which are of one resource) go in together.
        for group in events.chunk_by(|a, b| a.kv.mod_revision == b.kv.mod_revision) {
            let mut rest = group;
            while let Some(first) = rest.first() {
                self.slots_of(&first.kv.key, &mut slots);
                let same = rest.iter().take_while(|e| slots.iter().all(|s| e.kv.key.starts_with(&s.prefix)));
                let (now, later) = rest.split_at(same.count().max(1));
                rest = later;
                for slot in slots.drain(..) {
                    let mut core = slot.core.lock();
                    let mut seen = false;
                    for event in now {
                        seen |= core.apply(event, |kv| slot.object(kv));
                    }
                    drop(core);
                    if seen && !touched.iter().any(|t| Arc::ptr_eq(t, &slot)) {
                        touched.push(slot);
                    }
                }
            }
        }
        if let Some(last) = events.last() {
            self.reached(last.kv.mod_revision);
        }
        for slot in touched {
            slot.changed.send_modify(|n| *n += 1);
        }
    }

    fn slots_of(&self, key: &str, out: &mut Vec<Arc<Slot>>) {
        let slots = self.slots.lock();
        let mut below =
            slots.range::<str, (Bound<&str>, Bound<&str>)>((Bound::Unbounded, Bound::Included(key)));
        // The longest prefix of the key sorts last among those below it; seldom is anything between.
        if let Some((_, list)) = below.rfind(|(prefix, _)| key.starts_with(prefix.as_str())) {
            out.extend(list.iter().filter_map(Weak::upgrade));
        }
    }

    fn reached(&self, revision: Revision) {
        self.revision.send_if_modified(|r| {
            let newer = revision > *r;
            *r = revision.max(*r);
            newer
        });
    }

    /// Empties all caches: events were missed.
    pub(super) fn reset(&self) {
        let slots: Vec<_> = self.slots.lock().values().flatten().filter_map(Weak::upgrade).collect();
        for slot in slots {
            let mut core = slot.core.lock();
            if core.loaded() != Loaded::No {
                core.reset();
            }
            drop(core);
            slot.changed.send_modify(|n| *n += 1);
        }
    }
}

/// Follows the store until the feed is dropped.
async fn run(feed: Weak<Feed>, mut stream: crate::store::WatchStream, mut revision: Revision) {
    loop {
        let ended = loop {
            let Some(batch) = stream.recv().await else {
                break StoreError::Unavailable("the store ended the watch".to_owned());
            };
            let Some(feed) = feed.upgrade() else { return };
            match batch {
                Ok(WatchBatch::Events(events)) => {
                    revision = events.last().map_or(revision, |e| e.kv.mod_revision.max(revision));
                    feed.deliver(&events);
                }
                Ok(WatchBatch::Progress(r)) => {
                    revision = revision.max(r);
                    feed.reached(r);
                }
                Err(e) => break e,
            }
        };
        tracing::warn!(error = %ended, revision, "the watch behind the watch cache ended; starting it anew");
        let mut missed = matches!(ended, StoreError::Compacted { .. } | StoreError::Future { .. });
        stream = loop {
            let Some(feed) = feed.upgrade() else { return };
            match again(&feed, &mut revision, missed).await {
                Ok(stream) => break stream,
                Err(StoreError::Compacted { .. } | StoreError::Future { .. }) => missed = true,
                Err(e) => tracing::debug!(error = %e, "the store cannot be watched yet"),
            }
            drop(feed);
            tokio::time::sleep(RETRY).await;
        };
    }
}

/// Watches on from `revision`, or, where events were missed, from now on with all caches emptied.
async fn again(
    feed: &Feed,
    revision: &mut Revision,
    missed: bool,
) -> Result<crate::store::WatchStream, StoreError> {
    let end = prefix_end(&feed.prefix);
    // After revision zero cannot be asked for: it means from now on.
    if !missed && *revision > 0 {
        return feed.store.watch(&feed.prefix, &end, *revision).await;
    }
    let now = feed.store.current_revision().await?;
    let stream = feed.store.watch(&feed.prefix, &end, now).await?;
    *revision = now;
    feed.reset();
    feed.reached(now);
    Ok(stream)
}

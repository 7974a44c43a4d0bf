//! The watch cache: all objects of a resource in memory, fed by the store, serving get, list and watch.
//!
//! One [`Feed`] watches the store for everybody and hands each event to the [`Cache`] of its resource. A cache fills
//! itself on first use; one nobody asks costs a few words. Readers take snapshots that writers do not wait for.
//! Watches pull from a short ring of recent events, and from the store's own history when they are behind that: what
//! a slow client costs is its position. It is ended (`410 Gone`) when the store has compacted what it still needs.
//!
//! | file | what |
//! | --- | --- |
//! | `object.rs` | one version of an object, as it is served |
//! | `map.rs` | the ordered map behind snapshots |
//! | `core.rs` | state machine of one cache: no I/O, no time |
//! | `feed.rs` | the shared watch of the store |
//! | `reads.rs`, `watch.rs` | get and list; watch |

mod core;
mod feed;
mod map;
mod object;
mod reads;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::store::{KeyValue, RangeRequest, Revision, Store, StoreError, prefix_end};

use self::core::{Core, Loaded};

pub use self::core::{CacheEvent, EventKind, Numbers};
pub use self::feed::Feed;
pub use self::object::{Indexed, Object, Pairs};
pub use self::reads::List;
pub use self::watch::{From, Predicate, Watch, WatchItem};

/// How long a read waits for the cache to reach the revision it needs.
const CATCH_UP: Duration = Duration::from_secs(3);

/// How a resource's stored bytes become what is served and selected by.
pub trait Indexer: Send + Sync + 'static {
    /// The bytes to serve, with `mod_revision` as resourceVersion, in place of one that may be inside already; labels
    /// and selectable fields. An object for which this fails is logged and left out.
    fn index(&self, kv: &KeyValue) -> Result<Indexed, String>;
}

/// How new a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// As new as every write acknowledged before the call.
    Newest,
    /// At least this revision.
    AtLeast(Revision),
    /// Whatever is there.
    Any,
}

/// The cache of the objects under one prefix.
pub struct Cache {
    feed: Arc<Feed>,
    slot: Arc<Slot>,
    loading: tokio::sync::Mutex<()>,
}

/// What the feed and the readers of a cache share.
struct Slot {
    prefix: String,
    indexer: Arc<dyn Indexer>,
    core: Mutex<Core>,
    /// Grows with each change, to wake watches.
    changed: tokio::sync::watch::Sender<u64>,
}

impl Slot {
    fn object(&self, kv: &KeyValue) -> Option<Arc<Object>> {
        match self.indexer.index(kv) {
            Ok(indexed) => Some(Arc::new(Object::new(kv, indexed))),
            Err(e) => {
                tracing::error!(key = %kv.key, revision = kv.mod_revision, error = %e, "an object cannot be served");
                None
            }
        }
    }
}

impl Cache {
    /// A cache of everything under `prefix`, which ends with `/`. Nothing is read before the first use.
    pub fn new(feed: &Arc<Feed>, prefix: &str, indexer: Arc<dyn Indexer>) -> Arc<Cache> {
        let slot = Slot {
            prefix: prefix.to_owned(),
            indexer,
            core: Mutex::new(Core::new()),
            changed: tokio::sync::watch::Sender::new(0),
        };
        Arc::new(Cache { feed: Arc::clone(feed), slot: Arc::new(slot), loading: tokio::sync::Mutex::new(()) })
    }

    /// The prefix of the keys inside.
    pub fn prefix(&self) -> &str {
        &self.slot.prefix
    }

    /// The store behind, for writes and for reads at older revisions.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.feed.store()
    }

    /// Fills the cache if it is not filled; waits while somebody else fills it. Who returned early then would ask
    /// again at once, and keep the workers busy that the one who fills it needs.
    pub async fn load(&self) -> Result<(), StoreError> {
        if self.slot.core.lock().loaded() == Loaded::Yes {
            return Ok(());
        }
        // Whoever finds it being filled waits here until that is done; going on would make readers ask again and
        // again without ever giving the filling task a turn.
        let _only_one = self.loading.lock().await;
        if self.slot.core.lock().loaded() == Loaded::Yes {
            return Ok(());
        }
        // From here on events are collected; what is read below is at least as new as the first of them.
        self.slot.core.lock().begin();
        let fill = async {
            self.feed.register(&self.slot).await?;
            let prefix = &self.slot.prefix;
            let request =
                RangeRequest { start: prefix.clone(), end: prefix_end(prefix), revision: 0, limit: 0 };
            self.feed.store().range(request).await
        };
        // Whoever waits for this may give up; the next one starts over.
        let guard = Abandoned(&self.slot);
        let range = fill.await?;
        let objects: Vec<_> = range.items.iter().filter_map(|kv| self.slot.object(kv)).collect();
        drop(range.items);
        std::mem::forget(guard);
        self.slot.core.lock().fill(objects, range.revision, |kv| self.slot.object(kv));
        Ok(())
    }

    /// Whether the cache is filled: nobody who asks now waits for that.
    pub fn is_filled(&self) -> bool {
        self.slot.core.lock().loaded() == Loaded::Yes
    }

    /// Number and bytes of the objects; none while the cache is not filled.
    pub fn size(&self) -> Option<(usize, usize)> {
        self.slot.core.lock().size()
    }

    /// Everything that is counted; none while the cache is not filled.
    pub fn numbers(&self) -> Option<Numbers> {
        self.slot.core.lock().numbers()
    }

    /// The newest revision up to which the cache is complete.
    pub fn revision(&self) -> Revision {
        self.slot.core.lock().revision(self.feed.revision())
    }

    /// Fills the cache and waits until it is as new as asked.
    async fn reach(&self, freshness: Freshness) -> Result<(), StoreError> {
        let needed = match freshness {
            Freshness::Any => 0,
            Freshness::AtLeast(revision) => revision,
            Freshness::Newest => self.feed.store().current_revision().await?,
        };
        loop {
            self.load().await?;
            if self.revision() >= needed {
                return Ok(());
            }
            self.feed.wait(needed, CATCH_UP).await?;
            // Loaded at a later revision than the feed has come to, or emptied meanwhile: look again.
            if self.slot.core.lock().loaded() == Loaded::Yes && self.revision() >= needed {
                return Ok(());
            }
        }
    }
}

/// Takes a half-filled cache back to empty.
struct Abandoned<'a>(&'a Slot);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.0.core.lock().reset();
    }
}

//! Get and list.

use std::sync::Arc;

use super::core::Loaded;
use super::map::Map;
use super::object::Object;
use super::{Cache, Freshness};
use crate::store::{RangeRequest, Revision, StoreError};

/// Objects of a range as of one revision. Holding it does not hold up writes.
pub struct List {
    map: Arc<Map>,
    start: String,
    end: String,
    /// The revision the list is exact at.
    pub revision: Revision,
}

impl List {
    /// In key order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.map.range(&self.start, &self.end)
    }

    /// Those from the key `from` on.
    pub fn range_from<'a>(&'a self, from: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        self.map.range(from, &self.end)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.count(&self.start, &self.end)
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl Cache {
    /// One object.
    pub async fn get(&self, key: &str, freshness: Freshness) -> Result<Option<Arc<Object>>, StoreError> {
        loop {
            self.reach(freshness).await?;
            let core = self.slot.core.lock();
            if core.loaded() == Loaded::Yes {
                return Ok(core.get(key));
            }
        }
    }

    /// All objects of `[start, end)`, a range inside the cache's prefix.
    pub async fn list(&self, start: &str, end: &str, freshness: Freshness) -> Result<List, StoreError> {
        loop {
            self.reach(freshness).await?;
            let core = self.slot.core.lock();
            if core.loaded() == Loaded::Yes {
                let (map, revision) = core.snapshot(self.feed.revision());
                return Ok(List { map, start: start.to_owned(), end: end.to_owned(), revision });
            }
        }
    }

    /// All objects of `[start, end)` as of exactly `revision`: from memory where nothing has changed since, otherwise
    /// from the store's history, at most `limit` (zero: all). With the list, how many objects lie beyond it. What the
    /// store has compacted is refused in either case, so that whether a revision can be read depends on its age alone.
    /// What lies ahead is waited for as in other reads: another server may have told of it first.
    pub async fn list_at(
        &self,
        start: &str,
        end: &str,
        revision: Revision,
        limit: u64,
    ) -> Result<(List, u64), StoreError> {
        self.reach(Freshness::AtLeast(revision)).await?;
        {
            let core = self.slot.core.lock();
            let (map, newest) = core.snapshot(self.feed.revision());
            let oldest = core.changed_at().max(self.feed.store().oldest_revision());
            if core.loaded() == Loaded::Yes && (oldest..=newest).contains(&revision) {
                return Ok((List { map, start: start.to_owned(), end: end.to_owned(), revision }, 0));
            }
        }
        let request = RangeRequest { start: start.to_owned(), end: end.to_owned(), revision, limit };
        let range = self.feed.store().range(request).await?;
        let objects = range.items.iter().filter_map(|kv| self.slot.object(kv)).collect();
        let map = Arc::new(Map::from_sorted(objects));
        Ok((List { map, start: start.to_owned(), end: end.to_owned(), revision }, range.remaining))
    }
}

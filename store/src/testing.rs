//! The store as plainly as it can be said: a list of everything that ever happened, searched from the front. The
//! model that engines are compared with, and a store for the unit tests of whatever stands above.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{
    Event, KeyValue, Op, Range, RangeRequest, Revision, Store, StoreError, Txn, TxnResult, WatchBatch,
    WatchStream,
};

const MAX_VALUE: usize = 3 << 19;

#[derive(Default)]
struct Model {
    /// The revision before the first event.
    base: Revision,
    /// The event of revision `base + i + 1` is at `i`.
    events: Vec<Event>,
    compacted: Revision,
    /// `(expiry, revision)` of keys that expire.
    expiries: Vec<(u64, Revision)>,
}

/// Everything in memory; nothing survives it.
pub struct MemoryStore {
    model: Arc<Mutex<Model>>,
    newest: Arc<watch::Sender<Revision>>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Model {
    fn revision(&self) -> Revision {
        self.base + self.events.len() as Revision
    }

    /// How many events there were at this revision.
    fn count(&self, revision: Revision) -> usize {
        revision.saturating_sub(self.base) as usize
    }

    fn at(&self, key: &str, revision: Revision) -> Option<KeyValue> {
        let history = &self.events[..self.count(revision)];
        history.iter().rev().find(|e| e.kv.key == key).filter(|e| !e.deleted).map(|e| e.kv.clone())
    }

    fn check(&self, asked: Revision) -> Result<Revision, StoreError> {
        let current = self.revision();
        if asked > current {
            return Err(StoreError::Future { requested: asked, current });
        }
        if asked != 0 && asked < self.compacted {
            return Err(StoreError::Compacted { requested: asked, oldest: self.compacted });
        }
        Ok(if asked == 0 { current } else { asked })
    }

    fn write(&mut self, key: &str, value: Option<Bytes>) -> Revision {
        let before = self.at(key, self.revision());
        let revision = self.revision() + 1;
        let created = before.as_ref().map(|b| b.create_revision);
        let prev = before.map(|b| b.value);
        let deleted = value.is_none();
        let value = value.or_else(|| prev.clone()).unwrap_or_default();
        let create_revision = created.unwrap_or(revision);
        let kv = KeyValue { key: key.to_owned(), value, create_revision, mod_revision: revision };
        self.events.push(Event { kv, prev, deleted });
        revision
    }

    fn expire(&mut self, now: u64) {
        let due: Vec<_> = self.expiries.iter().filter(|(at, _)| *at <= now).map(|(_, r)| *r).collect();
        self.expiries.retain(|(at, _)| *at > now);
        for revision in due {
            let key = self.events[self.count(revision) - 1].kv.key.clone();
            if self.at(&key, self.revision()).is_some_and(|kv| kv.mod_revision == revision) {
                self.write(&key, None);
            }
        }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Arc<MemoryStore> {
        MemoryStore::beginning_at(0)
    }

    /// An empty store whose first write has the revision after `base`.
    pub fn beginning_at(base: Revision) -> Arc<MemoryStore> {
        let newest = Arc::new(watch::Sender::new(base));
        Arc::new(MemoryStore { model: Arc::new(Mutex::new(Model { base, ..Model::default() })), newest })
    }

    /// Does what is due, then `f`, then tells watches.
    fn with<T>(&self, f: impl FnOnce(&mut Model) -> T) -> T {
        let mut model = self.model.lock();
        model.expire(now());
        let result = f(&mut model);
        let revision = model.revision();
        self.newest.send_if_modified(|newest| std::mem::replace(newest, revision) != revision);
        result
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.with(|m| m.revision()))
    }

    async fn get(&self, key: &str, revision: Revision) -> Result<Option<KeyValue>, StoreError> {
        self.with(|m| Ok(m.at(key, m.check(revision)?)))
    }

    async fn range(&self, request: RangeRequest) -> Result<Range, StoreError> {
        self.with(|m| {
            let revision = m.check(request.revision)?;
            let mut keys: Vec<&str> = m.events.iter().map(|e| e.kv.key.as_str()).collect();
            keys.retain(|k| *k >= request.start.as_str() && *k < request.end.as_str());
            keys.sort_unstable();
            keys.dedup();
            let mut items: Vec<_> = keys.into_iter().filter_map(|k| m.at(k, revision)).collect();
            let limit = if request.limit == 0 { items.len() } else { request.limit as usize };
            let remaining = items.len().saturating_sub(limit) as u64;
            items.truncate(limit);
            Ok(Range { items, revision, remaining })
        })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        if let Op::Put { value, .. } = &txn.op {
            let size = txn.key.len() + value.len();
            if size > MAX_VALUE {
                return Err(StoreError::TooLarge { key: txn.key, size, limit: MAX_VALUE });
            }
        }
        self.with(|m| {
            let current = m.at(&txn.key, m.revision());
            if current.as_ref().map_or(0, |kv| kv.mod_revision) != txn.expected {
                return Ok(TxnResult::Conflict(current));
            }
            let revision = match txn.op {
                Op::Put { value, ttl_seconds } => {
                    let revision = m.write(&txn.key, Some(value));
                    if ttl_seconds > 0 {
                        m.expiries.push((now() + ttl_seconds + 1, revision));
                    }
                    revision
                }
                Op::Delete if current.is_none() => m.revision(),
                Op::Delete => m.write(&txn.key, None),
            };
            Ok(TxnResult::Done(revision))
        })
    }

    fn oldest_revision(&self) -> Revision {
        self.with(|m| m.compacted)
    }

    async fn watch(&self, start: &str, end: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let (oldest, current) = self.with(|m| (m.compacted, m.revision()));
        let mut after = if after == 0 { current } else { after };
        if after < oldest {
            return Err(StoreError::Compacted { requested: after, oldest });
        }
        let (tx, rx) = mpsc::channel(16);
        let (model, start, end) = (Arc::clone(&self.model), start.to_owned(), end.to_owned());
        let mut newest = self.newest.subscribe();
        let newest_tx = Arc::clone(&self.newest);
        tokio::spawn(async move {
            loop {
                {
                    let mut model = model.lock();
                    model.expire(now());
                    let revision = model.revision();
                    newest_tx.send_if_modified(|newest| std::mem::replace(newest, revision) != revision);
                }
                let upto = *newest.borrow_and_update();
                let mut events: Vec<Event> = Vec::new();
                if after < upto {
                    let model = model.lock();
                    events.extend_from_slice(&model.events[model.count(after)..model.count(upto)]);
                }
                events.retain(|e| e.kv.key >= start && e.kv.key < end);
                after = after.max(upto);
                let batch =
                    if events.is_empty() { WatchBatch::Progress(after) } else { WatchBatch::Events(events) };
                if tx.send(Ok(batch)).await.is_err() {
                    break;
                }
                // Time is what makes keys expire, and nobody may be calling.
                let second = tokio::time::sleep(std::time::Duration::from_millis(200));
                tokio::select! {
                    changed = newest.changed() => if changed.is_err() { break },
                    () = second => {}
                }
            }
        });
        Ok(rx)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.with(|m| {
            let current = m.revision();
            if revision > current {
                return Err(StoreError::Future { requested: revision, current });
            }
            if revision <= m.compacted {
                return Err(StoreError::Compacted { requested: revision, oldest: m.compacted });
            }
            m.compacted = revision;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    async fn open(_dir: &std::path::Path) -> (std::sync::Arc<dyn crate::Store>, ()) {
        (super::MemoryStore::new(), ())
    }

    crate::conformance::suite!(open);
}

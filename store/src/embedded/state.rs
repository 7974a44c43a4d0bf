//! Reading the applied state: the store at any revision that is kept. Writing is [`super::apply`]'s, alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use super::kv::Kv;
use super::members::{MEMBERS, Members};
use super::newest::{Found, Newest};
use super::record::{Head, META, Meta, NO_RECORD, Record, corrupt, head_key, record_key, record_revision};
use crate::{Event, KeyValue, Range, RangeRequest, Revision, StoreError};

/// Keys read under one hold of the lock, so that a long list delays writes by no more than this.
const SLICE: usize = 256;

/// The applied state, shared by the applier and all readers.
pub struct State {
    pub(super) kv: Arc<dyn Kv>,
    /// Held by the applier while a batch goes in, by readers for each slice: `sled` shows batches half done.
    pub(super) gate: RwLock<Newest>,
    pub(super) revision: AtomicU64,
    pub(super) compacted: AtomicU64,
    /// What is compacted is read all the same, for tests that must notice.
    #[cfg(test)]
    fence_broken: std::sync::atomic::AtomicBool,
}

impl State {
    /// Over what `kv` holds.
    pub fn load(kv: Arc<dyn Kv>) -> Result<(Arc<State>, Meta), StoreError> {
        let meta = match kv.get(META)? {
            Some(bytes) => Meta::decode(&bytes)?,
            None => Meta::default(),
        };
        let state = State {
            gate: RwLock::new(Newest::load(&*kv)?),
            kv,
            revision: AtomicU64::new(meta.revision),
            compacted: AtomicU64::new(meta.compacted),
            #[cfg(test)]
            fence_broken: Default::default(),
        };
        Ok((Arc::new(state), meta))
    }

    /// Who belongs to the group, as of the last entry applied. A store that was never told has nobody.
    pub fn members(&self) -> Result<Members, StoreError> {
        match self.kv.get(MEMBERS)? {
            Some(bytes) => Members::decode(&bytes).map_err(|_| super::record::corrupt("the list of members")),
            None => Ok(Members::default()),
        }
    }

    /// The newest applied revision.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// The fence below which history is forgotten.
    pub fn compacted(&self) -> Revision {
        self.compacted.load(Ordering::Acquire)
    }

    /// Bytes on disk.
    pub fn size_on_disk(&self) -> u64 {
        self.kv.size_on_disk()
    }

    /// The revision to read at: `asked`, or the newest where that is zero.
    fn at(&self, asked: Revision) -> Result<Revision, StoreError> {
        let current = self.revision();
        if asked > current {
            return Err(StoreError::Future { requested: asked, current });
        }
        let at = if asked == 0 { current } else { asked };
        self.check_kept(at)?;
        Ok(at)
    }

    #[cfg(test)]
    pub(super) fn break_fence(&self) {
        self.fence_broken.store(true, Ordering::Release);
    }

    /// Another state takes the place of this one. Readers wait meanwhile.
    pub(super) fn replace(
        &self,
        with: impl FnOnce(&dyn Kv) -> Result<Meta, StoreError>,
    ) -> Result<Meta, StoreError> {
        let mut gate = self.gate.write();
        let meta = with(&*self.kv)?;
        *gate = Newest::load(&*self.kv)?;
        self.compacted.store(meta.compacted, Ordering::Release);
        self.revision.store(meta.revision, Ordering::Release);
        Ok(meta)
    }

    fn check_kept(&self, revision: Revision) -> Result<(), StoreError> {
        #[cfg(test)]
        if self.fence_broken.load(Ordering::Acquire) {
            return Ok(());
        }
        let oldest = self.compacted();
        if revision < oldest {
            return Err(StoreError::Compacted { requested: revision, oldest });
        }
        Ok(())
    }

    pub(super) fn record(&self, revision: Revision) -> Result<Option<Record>, StoreError> {
        if revision == 0 {
            return Ok(None);
        }
        self.kv.get(&record_key(revision))?.map(|b| Record::decode(&b)).transpose()
    }

    /// The revision at which a key with this head stood at `at`; zero where it was absent.
    fn standing(&self, head: &Head, at: Revision) -> Result<Revision, StoreError> {
        if head.modified <= at {
            return Ok(if head.created == 0 { 0 } else { head.modified });
        }
        let mut revision = head.prev;
        while revision > 0 {
            let Some(record) = self.record(revision)? else { return Ok(0) };
            if revision <= at {
                return Ok(if record.deleted() { 0 } else { revision });
            }
            revision = record.prev;
        }
        Ok(0)
    }

    fn key_value(&self, revision: Revision) -> Result<Option<KeyValue>, StoreError> {
        Ok(self.record(revision)?.and_then(|r| key_value(revision, r)))
    }

    /// The newest record of a key, which may be of its deletion, and its revision. None: it never was, or is forgotten.
    pub(super) fn newest(
        &self,
        newest: &Newest,
        key: &str,
    ) -> Result<Option<(Revision, Record)>, StoreError> {
        match newest.find(key) {
            Found::Nowhere => return Ok(None),
            Found::At(revision) => {
                if let Some(record) = self.record(revision)?.filter(|r| r.key == key) {
                    return Ok(Some((revision, record)));
                }
            }
            Found::InTheMap => {}
        }
        let Some(head) = self.kv.get(&head_key(key))? else { return Ok(None) };
        let revision = Head::decode(&head)?.modified;
        let record = self.record(revision)?.ok_or_else(|| corrupt(NO_RECORD))?;
        Ok(Some((revision, record)))
    }

    /// One key.
    pub fn get(&self, key: &str, revision: Revision) -> Result<Option<KeyValue>, StoreError> {
        loop {
            let at = self.at(revision)?;
            let found = {
                let newest = self.gate.read();
                match self.newest(&newest, key)? {
                    Some((revision, record)) if revision <= at => key_value(revision, record),
                    Some((revision, record)) => self.key_value(self.standing(&record.head(revision), at)?)?,
                    None => None,
                }
            };
            match self.check_kept(at) {
                Ok(()) => return Ok(found),
                // History moved away underneath a read of the newest revision: read the newer one.
                Err(_) if revision == 0 => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// All keys of a range.
    pub fn range(&self, request: &RangeRequest) -> Result<Range, StoreError> {
        loop {
            let at = self.at(request.revision)?;
            let range = self.range_at(request, at)?;
            match self.check_kept(at) {
                Ok(()) => return Ok(range),
                Err(_) if request.revision == 0 => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn range_at(&self, request: &RangeRequest, at: Revision) -> Result<Range, StoreError> {
        let mut range = Range { items: Vec::new(), revision: at, remaining: 0 };
        let limit = if request.limit == 0 { u64::MAX } else { request.limit };
        let (mut start, end) = (head_key(&request.start), head_key(&request.end));
        loop {
            let _gate = self.gate.read();
            let mut heads: Vec<(Vec<u8>, Bytes)> = Vec::new();
            self.kv.scan(&start, &end, &mut |k, v| {
                heads.push((k.to_vec(), v));
                heads.len() < SLICE
            })?;
            for (_, bytes) in &heads {
                let revision = self.standing(&Head::decode(bytes)?, at)?;
                if revision == 0 {
                    continue;
                }
                if range.items.len() as u64 >= limit {
                    range.remaining += 1;
                } else if let Some(kv) = self.key_value(revision)? {
                    range.items.push(kv);
                }
            }
            match heads.pop() {
                Some((last, _)) if heads.len() + 1 == SLICE => {
                    start = last;
                    start.push(0);
                }
                _ => return Ok(range),
            }
        }
    }

    /// Events above `after` and up to `upto`, at least one revision if there is any, stopping once `max_bytes` are
    /// together. Also the revision up to which the answer is complete.
    pub fn events(
        &self,
        after: Revision,
        upto: Revision,
        max_bytes: usize,
    ) -> Result<(Vec<Event>, Revision), StoreError> {
        let mut records = Vec::new();
        let mut events = Vec::new();
        if after >= upto {
            return Ok((events, after));
        }
        let mut complete = upto;
        {
            let _gate = self.gate.read();
            let mut bytes = 0;
            let mut bad = None;
            self.kv.scan(&record_key(after + 1), &record_key(upto + 1), &mut |k, v| {
                bytes += v.len() + 64;
                match record_revision(k) {
                    Ok(revision) => records.push((revision, v)),
                    Err(e) => bad = Some(e),
                }
                let go_on = bad.is_none() && bytes < max_bytes;
                if !go_on {
                    complete = records.last().map_or(after, |(r, _)| *r);
                }
                go_on
            })?;
            if let Some(e) = bad {
                return Err(e);
            }
            for (revision, bytes) in records {
                let record = Record::decode(&bytes)?;
                let prev = self.record(record.prev)?.filter(|p| !p.deleted());
                events.push(event(revision, record, prev));
            }
        }
        // A record at or below the fence may have been removed while this read.
        self.check_kept(after)?;
        Ok((events, complete))
    }
}

fn key_value(revision: Revision, record: Record) -> Option<KeyValue> {
    (!record.deleted()).then(|| KeyValue {
        key: record.key,
        value: record.value,
        create_revision: record.created,
        mod_revision: revision,
    })
}

/// The event of a record.
pub(super) fn event(revision: Revision, record: Record, prev: Option<Record>) -> Event {
    let deleted = record.deleted();
    let (created, prev) = match prev {
        Some(p) => (p.created, Some(p.value)),
        None => (0, None),
    };
    let kv = KeyValue {
        key: record.key,
        value: if deleted { prev.clone().unwrap_or_default() } else { record.value },
        create_revision: if deleted { created } else { record.created },
        mod_revision: revision,
    };
    Event { kv, prev, deleted }
}

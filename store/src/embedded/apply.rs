//! Applying committed commands to the state. One owner, one thread: the only writer. Deterministic: the same entries
//! give the same state, revisions and outcomes on every member and every replay.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::command::Command;
use super::judge::Checked;
use super::kv::Batch;
use super::members::{MEMBERS, Members};
use super::newest::Step;
use super::record::{
    Head, META, Meta, NO_RECORD, Record, corrupt, expiry_key, expiry_parts, head_key, record_key,
    record_revision,
};
use super::state::{State, event};
use crate::{Event, KeyValue, Revision, StoreError, TxnResult};

/// What became of a command.
pub type Outcome = Result<TxnResult, StoreError>;

/// The writer of a [`State`].
pub struct Applier {
    state: Arc<State>,
    meta: Meta,
    /// Writes of entries not yet committed to the map, newest wins.
    pending: Batch,
    /// What they did to heads.
    steps: Vec<Step>,
    events: Vec<Event>,
    /// Keys deleted because their time had come.
    expired: u64,
    /// The digest after each of the last entries: index and digest.
    chains: VecDeque<(u64, u64)>,
    checks: Vec<Checked>,
}

/// Entries whose digest is remembered.
const CHAINS: usize = 4096;

impl Applier {
    pub fn new(state: Arc<State>, meta: Meta) -> Applier {
        Applier {
            state,
            meta,
            pending: Batch::new(),
            steps: Vec::new(),
            events: Vec::new(),
            expired: 0,
            chains: VecDeque::new(),
            checks: Vec::new(),
        }
    }

    /// As of the last entry added.
    pub fn meta(&self) -> Meta {
        self.meta
    }

    /// Adds an entry. Nothing shows before [`Applier::commit`].
    pub fn entry(
        &mut self,
        index: u64,
        term: u64,
        commands: Vec<Command>,
    ) -> Result<Vec<Outcome>, StoreError> {
        assert!(index > self.meta.index, "entries are applied once, in order");
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            outcomes.push(match command {
                Command::Put { key, expected, value, expiry } => Ok(self.put(key, expected, value, expiry)?),
                Command::Delete { key, expected } => Ok(self.delete(key, expected)?),
                Command::Compact { revision } => self.compact(revision),
                Command::Expire { now, limit } => Ok(self.expire(now, limit)?),
                Command::Check { index, chain } => {
                    self.check(index, chain);
                    Ok(TxnResult::Done(self.meta.revision))
                }
            });
        }
        self.meta.index = index;
        self.meta.term = term;
        self.chains.push_back((index, self.meta.chain));
        if self.chains.len() > CHAINS {
            self.chains.pop_front();
        }
        Ok(outcomes)
    }

    /// Adds the members as an entry left them, or as they are known better now.
    pub fn members(&mut self, members: &Members) {
        self.pending.insert(MEMBERS.to_vec(), Some(members.encode().into()));
    }

    /// Compares the digest after the entry `index`, if it is remembered, with the leader's.
    fn check(&mut self, index: u64, leaders: u64) {
        let first = self.chains.front().map_or(u64::MAX, |(i, _)| *i);
        let ours = index.checked_sub(first).and_then(|i| self.chains.get(usize::try_from(i).ok()?));
        if let Some((at, ours)) = ours
            && *at == index
        {
            self.checks.push(Checked { index, ours: *ours, leaders });
        }
    }

    /// Comparisons since they were last taken.
    pub fn take_checks(&mut self) -> Vec<Checked> {
        std::mem::take(&mut self.checks)
    }

    /// Goes on from another state, which has taken the place of this one.
    pub fn replaced(&mut self, meta: Meta) {
        self.meta = meta;
        self.pending.clear();
        self.steps.clear();
        self.events.clear();
        self.chains.clear();
    }

    /// Whether a key with an expiry was added or removed since the last commit.
    pub fn expiries_changed(&self) -> bool {
        self.pending.keys().any(|k| k.first() == Some(&b't'))
    }

    /// Keys that expired since the start.
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Keys waiting for [`Applier::commit`].
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Puts all entries added into the map, as one, and shows them. The events, in order.
    pub fn commit(&mut self) -> Result<Vec<Event>, StoreError> {
        self.pending.insert(META.to_vec(), Some(self.meta.encode().into()));
        let batch = std::mem::take(&mut self.pending);
        {
            let mut newest = self.state.gate.write();
            self.state.kv.apply(&batch)?;
            self.steps.drain(..).for_each(|step| newest.step(&step));
            self.state.compacted.store(self.meta.compacted, Ordering::Release);
            self.state.revision.store(self.meta.revision, Ordering::Release);
        }
        // It shows already: readers need not wait for this.
        self.state.kv.hand_on(false)?;
        Ok(std::mem::take(&mut self.events))
    }

    /// When the next key expires.
    pub fn next_expiry(&self) -> Result<Option<u64>, StoreError> {
        let mut first = None;
        self.state.kv.scan(b"t", b"u", &mut |k, _| {
            first = Some(expiry_parts(k).map(|(expiry, _)| expiry));
            false
        })?;
        first.transpose()
    }

    /// Whether history below the fence is still there.
    pub fn needs_scrub(&self) -> bool {
        self.meta.scrubbed < self.meta.compacted
    }

    /// Removes some of the history nobody can read any more: a bounded step.
    pub fn scrub(&mut self, records: usize) -> Result<(), StoreError> {
        let mut step = Vec::new();
        let fence = self.meta.compacted;
        self.state.kv.scan(&record_key(self.meta.scrubbed + 1), &record_key(fence + 1), &mut |k, v| {
            step.push((record_revision(k), v));
            step.len() < records
        })?;
        let whole = step.len() < records;
        for (revision, bytes) in step {
            let revision = revision?;
            let record = Record::decode(&bytes)?;
            if record.prev > 0 {
                self.pending.insert(record_key(record.prev), None);
            }
            if record.deleted() {
                self.pending.insert(record_key(revision), None);
                if self.newest(&record.key)?.is_some_and(|(newest, _)| newest == revision) {
                    self.pending.insert(head_key(&record.key), None);
                    self.moved(&record.key, revision, 0);
                }
            }
            self.meta.scrubbed = revision;
        }
        if whole {
            self.meta.scrubbed = fence;
        }
        self.commit()?;
        Ok(())
    }

    fn read(&self, key: Vec<u8>) -> Result<Option<Bytes>, StoreError> {
        match self.pending.get(&key) {
            Some(value) => Ok(value.clone()),
            None => self.state.kv.get(&key),
        }
    }

    /// The newest record of a key, which may be of its deletion, and its revision.
    fn newest(&self, key: &str) -> Result<Option<(Revision, Record)>, StoreError> {
        match self.pending.get(&head_key(key)) {
            Some(Some(head)) => {
                let revision = Head::decode(head)?.modified;
                let record = self.record(revision)?.ok_or_else(|| corrupt(NO_RECORD))?;
                Ok(Some((revision, record)))
            }
            Some(None) => Ok(None),
            None => self.state.newest(&self.state.gate.read(), key),
        }
    }

    fn moved(&mut self, key: &str, from: Revision, to: Revision) {
        self.steps.push(self.state.gate.read().moved(key, from, to));
    }

    fn record(&self, revision: Revision) -> Result<Option<Record>, StoreError> {
        match revision {
            0 => Ok(None),
            _ => self.read(record_key(revision))?.map(|b| Record::decode(&b)).transpose(),
        }
    }

    fn put(
        &mut self,
        key: String,
        expected: Revision,
        value: Bytes,
        expiry: u64,
    ) -> Result<TxnResult, StoreError> {
        let there = self.newest(&key)?;
        if let Some(conflict) = conflict(&there, expected) {
            return Ok(conflict);
        }
        let created = living(&there).map_or(self.meta.revision + 1, |(_, r)| r.created);
        self.write(there, created, key, value, expiry)
    }

    fn delete(&mut self, key: String, expected: Revision) -> Result<TxnResult, StoreError> {
        let there = self.newest(&key)?;
        if let Some(conflict) = conflict(&there, expected) {
            return Ok(conflict);
        }
        if living(&there).is_none() {
            // Expected absent and is absent: nothing to delete, nothing changed.
            return Ok(TxnResult::Done(self.meta.revision));
        }
        self.write(there, 0, key, Bytes::new(), 0)
    }

    /// The next revision, writing `key`; `created` zero deletes it. `there`: its newest record.
    fn write(
        &mut self,
        there: Option<(Revision, Record)>,
        created: Revision,
        key: String,
        value: Bytes,
        expiry: u64,
    ) -> Result<TxnResult, StoreError> {
        let revision = self.meta.revision + 1;
        let (before, expired) = there.as_ref().map_or((0, 0), |(at, r)| (*at, r.expiry));
        let prev = there.map(|(_, r)| r).filter(|r| !r.deleted());
        if expired > 0 {
            self.pending.insert(expiry_key(expired, before), None);
        }
        if expiry > 0 {
            self.pending.insert(expiry_key(expiry, revision), Some(key.clone().into()));
        }
        // Its own memory: the command's is shared by the whole batch, and an event may live long.
        let value = Bytes::copy_from_slice(&value);
        let record = Record { key, value, created, prev: before, expiry };
        let new = record.head(revision);
        self.meta.extend_chain(revision, &record);
        self.moved(&record.key, before, revision);
        self.pending.insert(head_key(&record.key), Some(new.encode().into()));
        self.pending.insert(record_key(revision), Some(record.encode().into()));
        self.events.push(event(revision, record, prev));
        self.meta.revision = revision;
        Ok(TxnResult::Done(revision))
    }

    fn compact(&mut self, revision: Revision) -> Outcome {
        if revision > self.meta.revision {
            return Err(StoreError::Future { requested: revision, current: self.meta.revision });
        }
        if revision <= self.meta.compacted {
            return Err(StoreError::Compacted { requested: revision, oldest: self.meta.compacted });
        }
        self.meta.compacted = revision;
        Ok(TxnResult::Done(self.meta.revision))
    }

    fn expire(&mut self, now: u64, limit: u64) -> Result<TxnResult, StoreError> {
        // The map and, on top, what this batch has not yet put there: the outcome must not depend on how entries are
        // grouped into batches.
        let mut due = std::collections::BTreeMap::new();
        let last = expiry_key(now, u64::MAX);
        self.state.kv.scan(b"t", &last, &mut |k, v| {
            if !self.pending.contains_key(k) {
                due.insert(k.to_vec(), v);
            }
            (due.len() as u64) < limit
        })?;
        let fresh = self.pending.iter().filter(|(k, _)| k.first() == Some(&b't') && **k < last);
        due.extend(fresh.filter_map(|(k, v)| Some((k.clone(), v.clone()?))));
        let due = due.into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX));
        for (at, key) in due {
            let (_, revision) = expiry_parts(&at)?;
            let key = String::from_utf8(key.into()).map_err(|_| corrupt("an expiring key"))?;
            self.pending.insert(at, None);
            match self.newest(&key)? {
                there @ Some((newest, _)) if newest == revision && living(&there).is_some() => {
                    self.write(there, 0, key, Bytes::new(), 0)?;
                    self.expired += 1;
                }
                _ => {}
            }
        }
        Ok(TxnResult::Done(self.meta.revision))
    }
}

/// What stands there, unless that is a deletion.
fn living(there: &Option<(Revision, Record)>) -> Option<&(Revision, Record)> {
    there.as_ref().filter(|(_, record)| !record.deleted())
}

/// The answer where the key is not at the expected revision.
fn conflict(there: &Option<(Revision, Record)>, expected: Revision) -> Option<TxnResult> {
    let current = living(there);
    if current.map_or(0, |(at, _)| *at) == expected {
        return None;
    }
    Some(TxnResult::Conflict(current.map(|(at, r)| KeyValue {
        key: r.key.clone(),
        value: r.value.clone(),
        create_revision: r.created,
        mod_revision: *at,
    })))
}

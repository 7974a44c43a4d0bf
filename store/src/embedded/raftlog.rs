//! The raft library's view of the write-ahead log. The newest entries stay in memory, within a bound; older ones are
//! read from the files when a member needs them.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::wal::Wal;
use crate::StoreError;

/// Bytes of entries kept in memory.
const TAIL_BYTES: usize = 1 << 20;

/// [`Wal`] as [`raft::Storage`].
pub struct RaftLog {
    wal: Wal,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    /// Applied before the start, so known to be committed.
    committed: u64,
    /// The members as of the applied state at the start.
    conf: ConfState,
    /// The newest durable snapshot.
    snapshot: Option<SnapshotMetadata>,
    /// A member needs a snapshot, and the newest is from before it was taken in.
    lacking: Cell<bool>,
}

fn cost(e: &Entry) -> usize {
    e.data.len() + e.context.len() + 128
}

fn other(e: StoreError) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(e)))
}

impl RaftLog {
    /// `applied`: the last entry in the applied state; `conf`: the members as of that.
    pub fn new(wal: Wal, applied: u64, conf: ConfState) -> RaftLog {
        RaftLog {
            wal,
            tail: VecDeque::new(),
            tail_bytes: 0,
            committed: applied,
            conf,
            snapshot: None,
            lacking: Cell::new(false),
        }
    }

    /// Notes the newest durable snapshot, which members that lack what the log has forgotten are given.
    pub fn set_snapshot(&mut self, meta: SnapshotMetadata) {
        self.snapshot = Some(meta);
    }

    /// Whether a member waits for a snapshot that is newer than it. Says so once.
    pub fn lacks_snapshot(&self) -> bool {
        self.lacking.take()
    }

    /// A received snapshot, durable already, takes the place of all entries.
    pub fn install(
        &mut self,
        hard_state: Option<&HardState>,
        meta: &SnapshotMetadata,
    ) -> Result<(), StoreError> {
        self.tail.clear();
        self.tail_bytes = 0;
        self.wal.reset(hard_state, meta.index, meta.term)?;
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    pub fn wal_mut(&mut self) -> &mut Wal {
        &mut self.wal
    }

    /// Makes entries and hard state durable.
    pub fn append(&mut self, hard_state: Option<&HardState>, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.wal.append(hard_state, &entries)?;
        for e in entries {
            while self.tail.back().is_some_and(|last| last.index >= e.index) {
                self.tail_bytes -= self.tail.pop_back().map_or(0, |e| cost(&e));
            }
            self.tail_bytes += cost(&e);
            self.tail.push_back(e);
        }
        Ok(())
    }

    /// Lets go of entries in memory up to `applied`; of those after it too, beyond the bound.
    pub fn trim(&mut self, applied: u64) {
        while self.tail.front().is_some_and(|e| e.index <= applied || self.tail_bytes > TAIL_BYTES) {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |e| cost(&e));
        }
        if self.tail.is_empty() {
            self.tail.shrink_to(64);
        }
    }
}

impl Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut hard_state = self.wal.base().hard_state.clone();
        // That it moved is not written for its own sake.
        hard_state.commit = hard_state.commit.max(self.committed).min(self.wal.last_index());
        Ok(RaftState::new(hard_state, self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.wal.first_index() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.wal.last_index() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max = max_size.into().unwrap_or(u64::MAX);
        let Some(front) = self.tail.front().map(|e| e.index).filter(|front| *front <= low) else {
            return self.wal.entries(low, high, max).map_err(other);
        };
        let mut bytes = 0;
        let mut found: Vec<Entry> = Vec::new();
        for e in self.tail.range((low - front) as usize..(high - front) as usize) {
            bytes += e.data.len() as u64;
            if bytes > max && !found.is_empty() {
                break;
            }
            found.push(e.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index + 1 < self.wal.first_index() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        match self.wal.term(index) {
            Some(term) => Ok(term),
            None if index == 0 => Ok(0),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.wal.first_index())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.wal.last_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let knows = |meta: &SnapshotMetadata| {
            let conf = meta.get_conf_state();
            conf.voters.contains(&to) || conf.learners.contains(&to)
        };
        match &self.snapshot {
            // Nobody takes over a state in which he does not exist.
            Some(meta) if !knows(meta) => {
                self.lacking.set(true);
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
            // The content goes beside the message, as a file.
            Some(meta) if meta.index >= request_index => {
                let mut snapshot = Snapshot::default();
                snapshot.set_metadata(meta.clone());
                Ok(snapshot)
            }
            _ => Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable)),
        }
    }
}

//! The store: every object as bytes under its upstream key (`/registry/pods/ns/name`), each write at one
//! 64-bit revision of the whole store. Engines stand behind [`Store`]; nothing above knows which.
//!
//! Guarantees (those of the etcd v3 API): a write that was acknowledged is durable; reads at a revision are
//! repeatable until compaction; a watch sees every event once, in revision order, without gaps.

// Tests of the crates above use both, so they are more than this crate's own tests.
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used)]
pub mod conformance;
pub mod embedded;
pub mod etcd;
pub mod migrate;
mod operation;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::operation::{Defragmented, Member, MemberStatus, Operation, SavedSnapshot, Status};

/// Revision of the whole store; grows by one with each transaction. Zero means "none".
pub type Revision = u64;

/// One key as it stands at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
}

/// Answer to a range read.
#[derive(Debug, Clone, Default)]
pub struct Range {
    pub items: Vec<KeyValue>,
    /// Revision at which the range was read.
    pub revision: Revision,
    /// Keys of the range beyond those returned.
    pub remaining: u64,
}

/// What to read: all keys in `[start, end)`.
#[derive(Debug, Clone, Default)]
pub struct RangeRequest {
    pub start: String,
    pub end: String,
    /// Zero reads the newest revision, linearizably.
    pub revision: Revision,
    /// Zero sets no limit.
    pub limit: u64,
}

/// A compare-and-swap on one key: happens only if the key's `mod_revision` equals `expected` (zero: absent).
#[derive(Debug, Clone)]
pub struct Txn {
    pub key: String,
    pub expected: Revision,
    pub op: Op,
}

/// The write of a [`Txn`].
#[derive(Debug, Clone)]
pub enum Op {
    /// Sets the value; `ttl_seconds` zero keeps it until deleted.
    Put {
        value: Bytes,
        ttl_seconds: u64,
    },
    Delete,
}

/// Outcome of a [`Txn`].
#[derive(Debug, Clone)]
pub enum TxnResult {
    /// Done at this revision.
    Done(Revision),
    /// The comparison failed; the key as it stands (none: absent).
    Conflict(Option<KeyValue>),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key after the change; on a delete its last value, with `mod_revision` that of the delete.
    pub kv: KeyValue,
    /// Value before the change, where there was one and it is not compacted.
    pub prev: Option<Bytes>,
    pub deleted: bool,
}

/// What a watch delivers.
#[derive(Debug, Clone)]
pub enum WatchBatch {
    /// All events of one or more whole revisions, in order.
    Events(Vec<Event>),
    /// Every event up to this revision has been delivered.
    Progress(Revision),
}

/// Why the store could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("required revision {requested} has been compacted; the oldest kept is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("required revision {requested} is a future revision; the newest is {current}")]
    Future { requested: Revision, current: Revision },
    /// Nothing was done.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// A write was under way; it may have happened, or happen yet.
    #[error("the store is not available: {0}; whether the write happened is not known")]
    Unknown(String),
    #[error("the value of {key} is {size} bytes; the largest that can be stored is {limit}")]
    TooLarge { key: String, size: usize, limit: usize },
    #[error("{0}")]
    Corrupt(String),
    /// What was asked for makes no sense, or not yet; the text says what to do first.
    #[error("{0}")]
    Refused(String),
}

impl StoreError {
    /// What is said of a write that was under way when this happened: nobody knows what became of it.
    #[must_use]
    pub fn of_write_under_way(self) -> Self {
        match self {
            StoreError::Unavailable(why) => StoreError::Unknown(why),
            other => other,
        }
    }
}

/// A running watch; dropping it ends it.
pub type WatchStream = tokio::sync::mpsc::Receiver<Result<WatchBatch, StoreError>>;

/// An engine. See the module's guarantees.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest revision, linearizably.
    async fn current_revision(&self) -> Result<Revision, StoreError>;
    async fn get(&self, key: &str, revision: Revision) -> Result<Option<KeyValue>, StoreError>;
    async fn range(&self, request: RangeRequest) -> Result<Range, StoreError>;
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;
    /// Events of keys in `[start, end)` with a revision above `after` (zero: from now on).
    async fn watch(&self, start: &str, end: &str, after: Revision) -> Result<WatchStream, StoreError>;
    /// Forgets history below `revision`.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
    /// The oldest revision that can be read, as far as this is known without asking anybody; zero where it is not.
    fn oldest_revision(&self) -> Revision {
        0
    }
    /// Asks running watches to tell soon how far they are. For engines that do so of themselves, nothing to do.
    async fn request_progress(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Whether the value of a key is stored in a form that the next write would replace, although the value is the same.
    async fn is_stale(&self, _key: &str) -> Result<bool, StoreError> {
        Ok(false)
    }
    /// Whether the store can answer; the reason is fit for `/readyz`.
    fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Operation of a store that is part of this process; none where it is a server of its own.
    fn operation(&self) -> Option<Arc<dyn Operation>> {
        None
    }
    /// Appends the engine's metrics in Prometheus' text format.
    fn render_metrics(&self, _out: &mut String) {}
    /// Stops cleanly: later calls fail, the next start is fast. Without it nothing acknowledged is lost either.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The end of the range of all keys that begin with `prefix`.
pub fn prefix_end(prefix: &str) -> String {
    let mut b = prefix.as_bytes().to_vec();
    while let Some(last) = b.pop() {
        if last < 0x7f {
            b.push(last + 1);
            return String::from_utf8(b).unwrap_or_default();
        }
    }
    String::new()
}

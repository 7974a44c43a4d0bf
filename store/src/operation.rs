//! What an operator asks of a store that is inside the API server. etcd has tools of its own for the same.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Revision, StoreError};

/// One member, as the group knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// Empty for a store that stands alone.
    pub name: String,
    /// `host:port` at which other members reach it; empty for a store that stands alone.
    pub address: String,
    /// It receives everything and does not vote.
    pub learner: bool,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Number of the member that leads, as far as this one knows; zero for nobody.
    pub leader: u64,
    pub term: u64,
    /// Index of the last entry of the log that is committed, and of the last one in its state.
    pub committed: u64,
    pub applied: u64,
    pub revision: Revision,
    /// The oldest revision it can read.
    pub compacted: Revision,
    /// Bytes of its applied state on disk.
    pub size: u64,
    /// Version of its program.
    pub version: String,
    /// What keeps it from working as it should, under etcd's names: `NOSPACE`.
    pub alarms: Vec<String>,
}

/// What a defragmentation has changed: bytes of the applied state on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defragmented {
    pub before: u64,
    pub after: u64,
}

/// A member and what it says, or why it does not.
#[derive(Debug, Clone)]
pub struct MemberStatus {
    pub member: Member,
    pub status: Result<Status, String>,
}

/// A snapshot that was saved and stays readable while this is held.
pub trait SavedSnapshot: Send + Sync {
    fn revision(&self) -> Revision;
    /// Bytes.
    fn size(&self) -> u64;
    /// Up to `length` bytes from `offset` on; empty at the end. Reads from a disk.
    fn read(&self, offset: u64, length: usize) -> Result<Bytes, StoreError>;
}

/// Operation of a store. Each call may be made at any member; what only the leader can do is sent there. Errors are
/// [`StoreError::Refused`] where the caller must change something first.
#[async_trait]
pub trait Operation: Send + Sync {
    /// Number of the store.
    fn store_id(&self) -> u64;
    async fn members(&self) -> Result<Vec<Member>, StoreError>;
    /// Asks each member; one that does not answer in a few seconds is told so in its place.
    async fn status(&self) -> Result<Vec<MemberStatus>, StoreError>;
    /// Takes a learner in, which can be started after that.
    async fn add(&self, name: &str, address: &str) -> Result<Vec<Member>, StoreError>;
    /// Lets a learner vote, once it is nearly in step.
    async fn promote(&self, name: &str) -> Result<Vec<Member>, StoreError>;
    /// Removes a member for ever. If it leads, it hands over first.
    async fn remove(&self, name: &str) -> Result<Vec<Member>, StoreError>;
    /// Returns once that member leads.
    async fn transfer_leader(&self, to: &str) -> Result<(), StoreError>;
    /// Rewrites one member's applied state without what it has forgotten; all goes on meanwhile.
    async fn defragment(&self, name: &str) -> Result<Defragmented, StoreError>;
    /// Writes a snapshot of everything acknowledged before the call.
    async fn snapshot(&self) -> Result<Box<dyn SavedSnapshot>, StoreError>;
}

//! What a data directory or a snapshot holds, key by key. The state is built beside it, in a scratch directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::readonly::ReadOnly;
use super::unused;
use super::verify::{place, verify};
use crate::embedded::apply::Applier;
use crate::embedded::command::decode;
use crate::embedded::fs::Fs;
use crate::embedded::kv::{Kv, SledKv};
use crate::embedded::record::Meta;
use crate::embedded::snapshot::{self, Input};
use crate::embedded::start;
use crate::embedded::state::State;
use crate::embedded::wal::{Base, SEGMENT_BYTES, Wal};
use crate::{KeyValue, RangeRequest, Revision, StoreError, prefix_end};

/// Memory for pages of the state.
const CACHE_BYTES: u64 = 32 << 20;
/// Keys read at once.
const PAGE: u64 = 512;
/// Bytes of entries read at once.
const PIECE: u64 = 4 << 20;
/// What all keys begin with.
const PREFIX: &str = "/registry/";

/// Where the keys are.
#[derive(Debug, Clone)]
pub enum Source {
    /// A data directory of a store that stands alone, and is not in use.
    Directory(PathBuf),
    /// The file of a snapshot.
    Snapshot(PathBuf),
}

/// See the module.
pub struct Export {
    state: Arc<State>,
    /// Held while the directory is read.
    _unused: Option<std::fs::File>,
}

impl Export {
    /// Reads all of it; `scratch` is an empty directory for the time of the export.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the source is in use or belongs to a group, [`StoreError::Corrupt`] where it is
    /// damaged, [`StoreError::Unavailable`] where it cannot be read.
    pub fn open(source: &Source, scratch: &Path) -> Result<Export, StoreError> {
        let kv: Arc<dyn Kv> = Arc::new(SledKv::open(scratch, CACHE_BYTES)?);
        match source {
            Source::Snapshot(file) => {
                let (fs, name) = place(file)?;
                let (mut input, head) = Input::open(&fs, &name)?;
                snapshot::fill(&mut input, &head, &*kv)?;
                Ok(Export { state: State::load(kv)?.0, _unused: None })
            }
            Source::Directory(dir) => {
                verify(dir)?;
                let unused = unused(dir)?;
                Ok(Export { state: replay(dir, kv)?, _unused: unused })
            }
        }
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    /// The next keys after `after`, in order, with their expiry (Unix seconds, zero for never); none at the end.
    pub fn page(&self, after: &str) -> Result<Vec<(KeyValue, u64)>, StoreError> {
        let start = if after.is_empty() { PREFIX.to_owned() } else { format!("{after}\0") };
        let request = RangeRequest { start, end: prefix_end(PREFIX), revision: 0, limit: PAGE };
        let range = self.state.range(&request)?;
        let with_expiry = |kv: KeyValue| {
            let expiry = self.state.record(kv.mod_revision)?.map_or(0, |r| r.expiry);
            Ok((kv, expiry))
        };
        range.items.into_iter().map(with_expiry).collect()
    }
}

/// The state of a directory's snapshot and log.
fn replay(dir: &Path, kv: Arc<dyn Kv>) -> Result<Arc<State>, StoreError> {
    let (store_id, member) = start::identity(dir)?
        .ok_or_else(|| StoreError::Refused(format!("there is no store in {}", dir.display())))?;
    let base = Base { store_id, ..Base::default() };
    let fs: Arc<dyn Fs> = Arc::new(ReadOnly::new(&dir.join("wal")));
    let wal = Wal::open(fs, SEGMENT_BYTES, base)?;
    let snapshots = ReadOnly::new(&dir.join("snapshots"));
    if let Some(index) = snapshot::newest(&snapshots)? {
        snapshot::restore(&snapshots, &*kv, index, store_id)?;
    }
    let (state, meta) = State::load(kv)?;
    let members = state.members()?;
    let alone = match members.voters() {
        [] => wal.base().voters == [member],
        voters => voters == [member],
    };
    if !alone {
        return Err(StoreError::Refused(format!(
            "{} holds one member of a group, whose last entries the others may not have: start the group, save a \
             snapshot (ctl store snapshot save), and use that",
            dir.display()
        )));
    }
    apply(&wal, &state, meta)?;
    Ok(state)
}

/// Applies the log's entries after the state.
fn apply(wal: &Wal, state: &Arc<State>, meta: Meta) -> Result<(), StoreError> {
    let mut applier = Applier::new(Arc::clone(state), meta);
    let mut next = meta.index + 1;
    while next <= wal.last_index() {
        let entries = wal.entries(next, wal.last_index() + 1, PIECE)?;
        for e in &entries {
            let normal = e.get_entry_type() == raft::eraftpb::EntryType::EntryNormal && !e.data.is_empty();
            let commands = if normal { decode(&e.data) } else { Ok(Vec::new()) };
            let commands = commands.map_err(|_| {
                StoreError::Corrupt(format!("entry {} of the write-ahead log cannot be read", e.index))
            })?;
            applier.entry(e.index, e.term, commands)?;
        }
        applier.commit()?;
        let missing = || StoreError::Corrupt(format!("the write-ahead log lacks entry {next}"));
        next = entries.last().ok_or_else(missing)?.index + 1;
    }
    Ok(())
}

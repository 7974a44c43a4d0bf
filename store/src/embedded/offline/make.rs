//! Makes a data directory: of a snapshot, or of keys that come one by one. The store in it has a number of its own, and
//! begins at a revision above all that its clients can have seen, with no history before: who watched the old one is
//! told to list anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft::eraftpb::HardState;

use super::io;
use super::verify::{place, verify_snapshot};
use crate::embedded::fs::{DiskFs, Fs};
use crate::embedded::kv::{Batch, Kv, SledKv};
use crate::embedded::members::{Members, Peer};
use crate::embedded::peer::member_id;
use crate::embedded::record::{Meta, Record, record_key};
use crate::embedded::snapshot::{self, Input};
use crate::embedded::start::{self, FIRST};
use crate::embedded::wal::{Base, SEGMENT_BYTES, Wal};
use crate::{KeyValue, Revision, StoreError};

/// Bytes of keys and values that are added at once.
const BATCH_BYTES: usize = 1 << 20;
/// Memory for pages while keys are brought into order.
const CACHE_BYTES: u64 = 32 << 20;

/// The directory to be made.
#[derive(Debug, Clone)]
pub struct Target {
    /// It must not exist, or be empty.
    pub dir: PathBuf,
    /// Name of this member, and name and `host:port` of all, each of which makes its own directory of the same source;
    /// none for a store that stands alone.
    pub group: Option<(String, BTreeMap<String, String>)>,
    /// Tells stores apart that are made of the same source for the same members.
    pub token: String,
    /// Revisions to leave out, so that none is used twice.
    pub bump: u64,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub store_id: u64,
    pub member: u64,
    pub revision: Revision,
    pub records: u64,
}

impl Target {
    fn members(&self) -> Result<(u64, Members), StoreError> {
        let Some((name, initial)) = &self.group else { return Ok((FIRST, Members::of_voters(&[FIRST]))) };
        if !initial.contains_key(name) {
            return Err(StoreError::Refused(format!("the member {name} is not in the list of members")));
        }
        let peer = |(name, address): (&String, &String)| {
            (member_id(name), Peer { name: name.clone(), address: address.clone() })
        };
        Ok((member_id(name), Members::new(initial.iter().map(peer).collect())))
    }

    /// The number of the store: the same at all members, another than that of any store before.
    fn store_id(&self, source: &str) -> u64 {
        match &self.group {
            Some((_, initial)) => {
                let all: Vec<_> = initial.iter().map(|(n, a)| format!("{n}={a}")).collect();
                member_id(&format!("{}|{source}|{}|{}", self.token, self.bump, all.join(",")))
            }
            None => rand::random::<u64>().max(2),
        }
    }

    /// Makes the directory; `write` puts the snapshot in. Leaves nothing where that fails.
    fn make(
        &self,
        source: &str,
        write: impl FnOnce(&dyn Fs, u64, &Members) -> Result<(Meta, u64), StoreError>,
    ) -> Result<Made, StoreError> {
        let (member, members) = self.members()?;
        let dir = &self.dir;
        match std::fs::read_dir(dir) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(StoreError::Refused(format!("{} is not empty", dir.display())));
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(dir).map_err(|e| io("making", dir, &e))?;
            }
            Err(e) => return Err(io("reading", dir, &e)),
        }
        let made = self.fill(member, &members, self.store_id(source), write);
        if made.is_err() {
            for name in ["snapshots", "wal"] {
                // Best effort: what failed is what is told.
                let _ = std::fs::remove_dir_all(dir.join(name));
            }
        }
        made
    }

    fn fill(
        &self,
        member: u64,
        members: &Members,
        store_id: u64,
        write: impl FnOnce(&dyn Fs, u64, &Members) -> Result<(Meta, u64), StoreError>,
    ) -> Result<Made, StoreError> {
        let disk = |name: &str| {
            let path = self.dir.join(name);
            DiskFs::new(&path).map_err(|e| io("making", &path, &e))
        };
        let (meta, records) = write(&disk("snapshots")?, store_id, members)?;
        let hard_state = HardState { term: meta.term, commit: meta.index, ..HardState::default() };
        let base = Base {
            store_id,
            index: meta.index,
            term: meta.term,
            hard_state,
            voters: members.voters().to_vec(),
            reset: false,
        };
        // Opening one that is not there makes it.
        Wal::open(Arc::new(disk("wal")?), SEGMENT_BYTES, base)?;
        start::write_identity(&self.dir, store_id, member)?;
        Ok(Made { store_id, member, revision: meta.revision, records })
    }

    /// The state as the new store begins with it.
    fn begin(&self, meta: Meta) -> Meta {
        let revision = meta.revision.saturating_add(self.bump);
        Meta { revision, compacted: revision, index: meta.index.max(1), term: meta.term.max(1), ..meta }
    }
}

/// Makes a data directory of a snapshot, which is checked first.
///
/// # Errors
/// [`StoreError::Refused`] where the directory is not empty, [`StoreError::Corrupt`] where the snapshot is damaged,
/// [`StoreError::Unavailable`] where a file cannot be read or written.
pub fn restore(file: &Path, to: &Target) -> Result<Made, StoreError> {
    let report = verify_snapshot(file)?;
    let source = format!("{:016x}.{:x}.{:08x}", report.store_id, report.revision, report.checksum);
    to.make(&source, |fs, store_id, members| {
        let (from, name) = place(file)?;
        let (mut input, head) = Input::open(&from, &name)?;
        let meta = to.begin(head.meta);
        snapshot::copy(&mut input, fs, store_id, &meta, members)?;
        Ok((meta, report.records))
    })
}

/// Where keys are brought into the order of their revisions.
const IMPORT: &str = "import";

/// A data directory that is made key by key, in any order.
pub struct Import {
    target: Target,
    kv: SledKv,
    batch: Batch,
    bytes: usize,
    records: u64,
    revision: Revision,
    /// Revisions that were used twice, which here no two keys can share.
    shared: Vec<(KeyValue, u64)>,
}

impl Import {
    /// Begins. `revision`: the newest of the source.
    pub fn new(target: Target, revision: Revision) -> Result<Import, StoreError> {
        target.members()?;
        let dir = &target.dir;
        if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(StoreError::Refused(format!("{} is not empty", dir.display())));
        }
        // Beside the directory, which must be empty. What an earlier attempt has left is of no use.
        let scratch = import_dir(dir);
        match std::fs::remove_dir_all(&scratch) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("removing", &scratch, &e)),
            _ => {}
        }
        let kv = SledKv::open(&scratch, CACHE_BYTES)?;
        Ok(Import { target, kv, batch: Batch::new(), bytes: 0, records: 0, revision, shared: Vec::new() })
    }

    /// Adds a key. `expiry`: Unix seconds, zero for never.
    pub fn add(&mut self, kv: KeyValue, expiry: u64) -> Result<(), StoreError> {
        let key = record_key(kv.mod_revision);
        if kv.mod_revision == 0 || self.batch.contains_key(&key) || self.kv.get(&key)?.is_some() {
            self.shared.push((kv, expiry));
            return Ok(());
        }
        self.put(kv, expiry)
    }

    fn put(&mut self, kv: KeyValue, expiry: u64) -> Result<(), StoreError> {
        self.bytes += kv.key.len() + kv.value.len();
        self.records += 1;
        let created = kv.create_revision.max(1);
        let record = Record { key: kv.key, value: kv.value, created, prev: 0, expiry };
        self.batch.insert(record_key(kv.mod_revision), Some(record.encode().into()));
        if self.bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        self.kv.load(&std::mem::take(&mut self.batch))
    }

    /// Gives up.
    pub fn discard(self) -> Result<(), StoreError> {
        let dir = import_dir(&self.target.dir);
        drop(self.kv);
        std::fs::remove_dir_all(&dir).map_err(|e| io("removing", &dir, &e))
    }

    /// Makes the directory.
    pub fn finish(mut self) -> Result<Made, StoreError> {
        // A transaction of several keys: each gets a revision of its own, after all others.
        for (mut kv, expiry) in std::mem::take(&mut self.shared) {
            self.revision += 1;
            kv.mod_revision = self.revision;
            self.put(kv, expiry)?;
        }
        self.flush()?;
        let meta = self.target.begin(Meta { revision: self.revision, ..Meta::default() });
        let source = format!("import.{:x}.{:x}", self.revision, self.records);
        let made = self.target.make(&source, |fs, store_id, members| {
            snapshot::write(fs, &self.kv, store_id, &meta, members)?;
            Ok((meta, self.records))
        });
        let dir = import_dir(&self.target.dir);
        drop(self.kv);
        std::fs::remove_dir_all(&dir).map_err(|e| io("removing", &dir, &e))?;
        made
    }
}

fn import_dir(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(IMPORT);
    dir.with_file_name(name)
}

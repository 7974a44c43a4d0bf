//! Reads a data directory, or a snapshot file, from one end to the other and checks all of it. Changes nothing.

use std::path::Path;
use std::sync::Arc;

use super::readonly::ReadOnly;
use super::{io, unused};
use crate::embedded::command;
use crate::embedded::fs::Fs;
use crate::embedded::record::Record;
use crate::embedded::snapshot::{self, Input};
use crate::embedded::start;
use crate::embedded::wal::{Base, SEGMENT_BYTES, Wal};
use crate::{Revision, StoreError};

/// Bytes of entries read at once.
const PIECE: u64 = 4 << 20;

/// What a snapshot file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotReport {
    /// Number of the store.
    pub store_id: u64,
    /// Index of the last entry of the log that is inside.
    pub index: u64,
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// What revisions did, one record each.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Names of the members, where it tells of them.
    pub members: Vec<String>,
    /// Checksum of the content.
    pub checksum: u32,
}

/// What a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryReport {
    pub store_id: u64,
    /// Number of the member.
    pub member: u64,
    /// First and last entry that the log holds; the last is before the first where there is none.
    pub first: u64,
    pub last: u64,
    /// Commands in these entries.
    pub commands: u64,
    /// The last write was torn when the machine stopped. It was never acknowledged, and is cut off by the next start.
    pub torn: bool,
    pub snapshot: Option<SnapshotReport>,
}

/// Checks the file of a snapshot.
///
/// # Errors
/// [`StoreError::Corrupt`] where it is damaged, [`StoreError::Unavailable`] where it cannot be read.
pub fn verify_snapshot(file: &Path) -> Result<SnapshotReport, StoreError> {
    let (fs, name) = place(file)?;
    read(&fs, &name)
}

/// Directory and name of a file.
pub fn place(file: &Path) -> Result<(ReadOnly, String), StoreError> {
    let name = file.file_name().and_then(|n| n.to_str());
    let name = name.ok_or_else(|| StoreError::Refused(format!("{} is no file", file.display())))?;
    let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((ReadOnly::new(dir), name.to_owned()))
}

fn read(fs: &dyn Fs, name: &str) -> Result<SnapshotReport, StoreError> {
    let (mut input, head) = Input::open(fs, name)?;
    let mut last = 0;
    let records = input.records(&mut |revision, bytes| {
        let record = Record::decode(bytes)?;
        if revision <= last || revision > head.meta.revision || record.prev >= revision {
            return Err(StoreError::Corrupt(format!(
                "snapshot {name} in {} is damaged: revision {revision} of {} is out of order",
                fs.describe(),
                record.key
            )));
        }
        last = revision;
        Ok(())
    })?;
    let members = head.members.as_ref().map(|m| m.peers().values().map(|p| p.name.clone()).collect());
    Ok(SnapshotReport {
        store_id: head.store_id,
        index: head.meta.index,
        revision: head.meta.revision,
        compacted: head.meta.compacted,
        records,
        bytes: input.size(),
        members: members.unwrap_or_default(),
        checksum: input.checksum(),
    })
}

/// Checks log and snapshots of a data directory. The applied state is not looked at: it is rebuilt from these whenever
/// there is a doubt.
///
/// # Errors
/// [`StoreError::Refused`] where the directory is in use or holds no store, [`StoreError::Corrupt`] where something is
/// damaged or missing, [`StoreError::Unavailable`] where something cannot be read.
pub fn verify(dir: &Path) -> Result<DirectoryReport, StoreError> {
    let _unused = unused(dir)?;
    let Some((store_id, member)) = start::identity(dir)? else {
        return Err(StoreError::Refused(format!("there is no store in {}", dir.display())));
    };
    let fs = Arc::new(ReadOnly::new(&dir.join("wal")));
    let names = fs.list().map_err(|e| io("listing", &dir.join("wal"), &e))?;
    if names.is_empty() {
        return Err(StoreError::Corrupt(format!(
            "{} has a store's identity, but no log: restore this member from a backup or replace it",
            dir.display()
        )));
    }
    let wal = Wal::open(Arc::clone(&fs) as Arc<dyn Fs>, SEGMENT_BYTES, Base { store_id, ..Base::default() })?;
    if wal.base().store_id != store_id {
        return Err(StoreError::Corrupt(format!(
            "{} is of store {store_id:016x}, but its log of {:016x}",
            dir.display(),
            wal.base().store_id
        )));
    }
    let commands = check_entries(&wal)?;
    let snapshot = check_snapshots(&ReadOnly::new(&dir.join("snapshots")), &wal)?;
    Ok(DirectoryReport {
        store_id,
        member,
        first: wal.first_index(),
        last: wal.last_index(),
        commands,
        torn: fs.repairs() > 0,
        snapshot,
    })
}

/// Commands in all entries.
fn check_entries(wal: &Wal) -> Result<u64, StoreError> {
    let mut commands = 0;
    let mut next = wal.first_index();
    while next <= wal.last_index() {
        let entries = wal.entries(next, wal.last_index() + 1, PIECE)?;
        let missing = || StoreError::Corrupt(format!("the write-ahead log lacks entry {next}"));
        next = entries.last().ok_or_else(missing)?.index + 1;
        for e in entries {
            if e.data.is_empty() || e.get_entry_type() != raft::eraftpb::EntryType::EntryNormal {
                continue;
            }
            let decoded = command::decode(&e.data).map_err(|_| {
                StoreError::Corrupt(format!("entry {} of the write-ahead log cannot be read", e.index))
            })?;
            commands += decoded.len() as u64;
        }
    }
    Ok(commands)
}

/// Checks every snapshot; the newest one must meet the log.
fn check_snapshots(fs: &ReadOnly, wal: &Wal) -> Result<Option<SnapshotReport>, StoreError> {
    let mut newest: Option<SnapshotReport> = None;
    for index in snapshot::all(fs)? {
        let report = read(fs, &snapshot::name(index))?;
        if report.store_id != wal.base().store_id || report.index != index {
            return Err(StoreError::Corrupt(format!(
                "snapshot {} in {} belongs to another store than the log beside it",
                snapshot::name(index),
                fs.describe()
            )));
        }
        newest = Some(report);
    }
    let ends = newest.as_ref().map_or(0, |s| s.index);
    if ends < wal.base().index {
        return Err(StoreError::Corrupt(format!(
            "the newest snapshot in {} ends at entry {ends}, but the log begins after entry {}: restore this member \
             from a backup or replace it",
            fs.describe(),
            wal.base().index
        )));
    }
    Ok(newest)
}

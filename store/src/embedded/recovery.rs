//! From what is on disk to a state and a log that belong together.
//!
//! Durable are the log and the snapshots. The map of the applied state is a cache of them that happens to be on disk:
//! it is used as found after a clean stop and after a crash of the process, and built anew after the machine went
//! down underneath it, when nothing is known about which of its writes arrived.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::fs::Fs;
use super::kv::Kv;
use super::record::Meta;
use super::snapshot;
use super::state::State;
use super::wal::Wal;
use crate::StoreError;

const CLEAN: &str = "clean";

/// Opens the map; with `true`, an empty one in its place.
pub type OpenKv<'a> = dyn Fn(bool) -> Result<Arc<dyn Kv>, StoreError> + 'a;

/// The state to go on from. `trusted`: the map's files are what the last process wrote.
pub fn state(
    open: &OpenKv<'_>,
    snapshots: &dyn Fs,
    wal: &Wal,
    trusted: bool,
) -> Result<(Arc<State>, Meta), StoreError> {
    let adopted = snapshot::recover_received(snapshots, wal.base().index)?;
    if trusted && !adopted {
        match open(false).and_then(State::load) {
            Ok((state, meta)) if meta.index >= wal.base().index => return checked(state, meta, wal),
            Ok((_, meta)) => tracing::warn!(
                index = meta.index,
                log_begins = wal.first_index(),
                "the applied state ends before the log begins; building it from the snapshot"
            ),
            Err(e) => {
                tracing::warn!(error = %e, "the applied state is unusable; building it from snapshot and log")
            }
        }
    } else if wal.last_index() > 0 {
        tracing::info!("the machine did not stop cleanly; building the applied state from snapshot and log");
    }
    let kv = open(true)?;
    match snapshot::newest(snapshots)? {
        Some(index) => {
            snapshot::restore(snapshots, &*kv, index, wal.base().store_id)?;
        }
        None if wal.base().index > 0 => {
            return Err(StoreError::Corrupt(format!(
                "the log begins after entry {}, and there is no snapshot in {}: restore this member from a backup or \
                 replace it",
                wal.base().index,
                snapshots.describe()
            )));
        }
        None => {}
    }
    let (state, meta) = State::load(kv)?;
    if meta.index < wal.base().index {
        return Err(StoreError::Corrupt(format!(
            "the newest snapshot in {} ends at entry {}, but the log begins after entry {}: restore this member from a \
             backup or replace it",
            snapshots.describe(),
            meta.index,
            wal.base().index
        )));
    }
    checked(state, meta, wal)
}

fn checked(state: Arc<State>, meta: Meta, wal: &Wal) -> Result<(Arc<State>, Meta), StoreError> {
    if meta.index > wal.last_index() {
        return Err(StoreError::Corrupt(format!(
            "the applied state holds entry {}, but the write-ahead log ends at {}: its end was lost or belongs to \
             another store; restore this member from a backup or replace it",
            meta.index,
            wal.last_index()
        )));
    }
    Ok((state, meta))
}

/// What tells one boot of the machine from the next; none where the kernel does not say.
pub fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|s| s.trim().to_owned())
}

/// Whether a map last written under `mark` can be used as found.
pub fn trusted(mark: Option<&str>, boot: Option<&str>) -> bool {
    match mark {
        Some(CLEAN) => true,
        Some(mark) => boot == Some(mark),
        None => false,
    }
}

/// Reads a small file; none if there is none.
pub fn read_mark(path: &Path) -> Result<Option<String>, StoreError> {
    match std::fs::read_to_string(path) {
        Ok(s) => Ok(Some(s.trim().to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::Unavailable(format!("reading {}: {e}", path.display()))),
    }
}

/// Writes a small file, durably and whole.
pub fn write_mark(path: &Path, content: &str) -> Result<(), StoreError> {
    let write = || -> std::io::Result<()> {
        let part = path.with_extension("part");
        let mut file = std::fs::File::create(&part)?;
        file.write_all(content.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        match path.parent() {
            Some(dir) => std::fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|e| StoreError::Unavailable(format!("writing {}: {e}", path.display())))
}

/// Notes that the map is in use in this boot, and which.
pub fn mark_used(path: &Path, which: &str) -> Result<(), StoreError> {
    let boot = boot_id();
    write_mark(path, format!("{} {which}", boot.as_deref().unwrap_or("unknown")).trim_end())
}

/// Notes that the map is whole and durable, and which.
pub fn mark_clean(path: &Path, which: &str) -> Result<(), StoreError> {
    write_mark(path, format!("{CLEAN} {which}").trim_end())
}

#[cfg(test)]
mod tests {
    use super::trusted;

    #[test]
    fn a_map_is_trusted_after_a_clean_stop_or_in_the_same_boot() {
        assert!(trusted(Some("clean"), Some("a")));
        assert!(trusted(Some("clean"), None));
        assert!(trusted(Some("a"), Some("a")));
        assert!(!trusted(Some("a"), Some("b")));
        assert!(!trusted(Some("unknown"), None));
        assert!(!trusted(None, Some("a")));
    }
}

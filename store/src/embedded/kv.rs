//! The ordered map under the applied state. `sled` in production; a plain map in crash simulations, where only the log
//! is under test.
//!
//! `sled` is never trusted to survive a power cut: its `flush` stops at `sync_file_range`, and it may overwrite a
//! segment whose successor is not yet on the platter. The engine rebuilds it from snapshot and log when the machine
//! went down underneath it (see [`super::recovery`]). After a mere crash of the process its files are whole, and each
//! batch is there completely or not at all.

use std::path::Path;

use bytes::Bytes;

use crate::StoreError;

/// Writes that take effect together; `None` removes.
pub type Batch = std::collections::BTreeMap<Vec<u8>, Option<Bytes>>;

/// An ordered map of bytes.
pub trait Kv: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// Calls `each` on the pairs of `[start, end)` in order, until it returns false.
    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        each: &mut dyn FnMut(&[u8], Bytes) -> bool,
    ) -> Result<(), StoreError>;
    /// All or nothing, also across a crash of the process.
    fn apply(&self, batch: &Batch) -> Result<(), StoreError>;
    /// Puts writes in, not as one: for a map that does not count before it is filled.
    fn load(&self, batch: &Batch) -> Result<(), StoreError> {
        self.apply(batch)
    }
    /// Of a map that holds writes back: puts them into the one below, if they are many or `all` must go.
    fn hand_on(&self, _all: bool) -> Result<(), StoreError> {
        Ok(())
    }
    /// Hands everything that was applied to the operating system: it is there after a crash of the process.
    fn flush(&self) -> Result<(), StoreError>;
    /// Removes everything, not at once: the caller has noted elsewhere that the map is not to be trusted meanwhile.
    fn clear(&self) -> Result<(), StoreError>;
    /// Makes everything durable, as far as a quiet file system can; only used for a clean stop.
    fn close(&self) -> Result<(), StoreError>;
    /// Bytes used on disk.
    fn size_on_disk(&self) -> u64;
}

/// `sled`, with a small cache.
pub struct SledKv {
    db: sled::Db,
    dir: std::path::PathBuf,
}

fn failed(doing: &str, e: sled::Error) -> StoreError {
    StoreError::Unavailable(format!("{doing} the applied state: {e}"))
}

impl SledKv {
    /// Opens or makes the map in `dir`.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<SledKv, StoreError> {
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(Some(1000))
            .open()
            .map_err(|e| failed("opening", e))?;
        Ok(SledKv { db, dir: dir.to_owned() })
    }
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.db.get(key).map_err(|e| failed("reading", e))?;
        Ok(value.map(|v| Bytes::copy_from_slice(&v)))
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        each: &mut dyn FnMut(&[u8], Bytes) -> bool,
    ) -> Result<(), StoreError> {
        for pair in self.db.range(start..end) {
            let (k, v) = pair.map_err(|e| failed("reading", e))?;
            if !each(&k, Bytes::copy_from_slice(&v)) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut b = sled::Batch::default();
        for (k, v) in batch {
            match v {
                Some(v) => b.insert(&k[..], &v[..]),
                None => b.remove(&k[..]),
            }
        }
        self.db.apply_batch(b).map_err(|e| failed("writing", e))
    }

    fn load(&self, batch: &Batch) -> Result<(), StoreError> {
        // Nothing waits for the disk here, as the end of a batch does.
        for (k, v) in batch {
            match v {
                Some(v) => self.db.insert(k, &v[..]),
                None => self.db.remove(k),
            }
            .map_err(|e| failed("filling", e))?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(drop).map_err(|e| failed("flushing", e))
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.db.clear().map_err(|e| failed("clearing", e))
    }

    fn close(&self) -> Result<(), StoreError> {
        self.flush()?;
        sync_tree(&self.dir)
            .map_err(|e| StoreError::Unavailable(format!("syncing {}: {e}", self.dir.display())))
    }

    fn size_on_disk(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}

/// Syncs every file and directory below `dir`.
fn sync_tree(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            std::fs::File::open(entry.path())?.sync_all()?;
        }
    }
    std::fs::File::open(dir)?.sync_all()
}

/// A map in memory whose content outlives its handles: what a simulated crash leaves is a clone taken earlier.
#[cfg(test)]
#[derive(Clone, Default)]
pub struct MemKv(pub std::sync::Arc<parking_lot::Mutex<std::collections::BTreeMap<Vec<u8>, Bytes>>>);

#[cfg(test)]
impl Kv for MemKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.lock().get(key).cloned())
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        each: &mut dyn FnMut(&[u8], Bytes) -> bool,
    ) -> Result<(), StoreError> {
        let pairs: Vec<_> =
            self.0.lock().range(start.to_vec()..end.to_vec()).map(|(k, v)| (k.clone(), v.clone())).collect();
        for (k, v) in pairs {
            if !each(&k, v) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut map = self.0.lock();
        for (k, v) in batch {
            match v {
                Some(v) => map.insert(k.clone(), v.clone()),
                None => map.remove(k),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.0.lock().clear();
        Ok(())
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn size_on_disk(&self) -> u64 {
        0
    }
}

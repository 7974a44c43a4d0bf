//! The map of the applied state on disk. It can be rewritten: another one is filled beside it and takes its place,
//! in the process at one moment, on disk with the renaming of one small file, `APPLIED`, which names the directory in
//! use. A crash on the way leaves either of them in use, and both are right.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::RwLock;

use super::kv::{Batch, Kv, SledKv};
use super::recovery;
use crate::StoreError;

/// The directories, one of which is in use. Stores that were never rewritten have the first.
const NAMES: [&str; 2] = ["applied", "applied.1"];

/// What is known of the map before it is opened.
pub struct Place {
    dir: PathBuf,
    cache_bytes: u64,
    current: usize,
    /// Whether it can be used as found.
    pub trusted: bool,
}

impl Place {
    /// Reads which of the directories is in use.
    pub fn find(dir: &Path, cache_bytes: u64) -> Result<Place, StoreError> {
        let text = recovery::read_mark(&dir.join("APPLIED"))?.unwrap_or_default();
        let (state, name) = text.split_once(' ').unwrap_or((&text, NAMES[0]));
        let current = NAMES.iter().position(|n| *n == name);
        let state = (!state.is_empty()).then_some(state);
        let trusted = current.is_some() && recovery::trusted(state, recovery::boot_id().as_deref());
        Ok(Place { dir: dir.to_owned(), cache_bytes, current: current.unwrap_or(0), trusted })
    }

    /// Opens the map; with `anew`, an empty one in its place.
    pub fn open(&self, anew: bool) -> Result<Map, StoreError> {
        let current = if anew { 0 } else { self.current };
        // What a rewriting that was broken off has left goes, too.
        for (_, name) in NAMES.iter().enumerate().filter(|(i, _)| anew || *i != current) {
            remove(&self.dir.join(name))?;
        }
        recovery::mark_used(&self.dir.join("APPLIED"), suffix(current))?;
        let kv = SledKv::open(&self.dir.join(NAMES[current]), self.cache_bytes)?;
        Ok(Map {
            dir: self.dir.clone(),
            cache_bytes: self.cache_bytes,
            current: RwLock::new(Current { kv, name: current }),
        })
    }
}

fn remove(dir: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::Unavailable(format!("removing {}: {e}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// What names the directory in `APPLIED`: nothing for the first, as releases before there was a second have it. To
/// those the other is a mark of another boot, and they build the map anew.
fn suffix(name: usize) -> &'static str {
    if name == 0 { "" } else { NAMES[name] }
}

struct Current {
    kv: SledKv,
    /// Index in [`NAMES`].
    name: usize,
}

/// See the module.
pub struct Map {
    dir: PathBuf,
    cache_bytes: u64,
    current: RwLock<Current>,
}

/// A map that is not in use: not yet, or not any more. Dropped, it is removed.
pub struct Aside {
    kv: Option<SledKv>,
    name: usize,
    path: PathBuf,
}

impl Aside {
    /// None only while it is dropped.
    pub fn kv(&self) -> Option<&SledKv> {
        self.kv.as_ref()
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(kv) = self.kv.take() {
            drop(kv);
            if let Err(e) = remove(&self.path) {
                tracing::warn!(error = %e, "a map that is not in use stays");
            }
        }
    }
}

impl Map {
    /// An empty map beside the one in use. One at a time.
    pub fn aside(&self) -> Result<Aside, StoreError> {
        let name = 1 - self.current.read().name;
        let path = self.dir.join(NAMES[name]);
        remove(&path)?;
        let kv = SledKv::open(&path, self.cache_bytes)?;
        Ok(Aside { kv: Some(kv), name, path })
    }

    /// Puts a map in the place of the one in use, which is returned. The caller is the only writer, and both hold the
    /// same. `readers`: held by whoever reads, for no longer than a moment.
    pub fn exchange<T>(&self, mut with: Aside, readers: &RwLock<T>) -> Result<Aside, StoreError> {
        let Some(kv) = with.kv.take() else {
            return Err(StoreError::Unavailable("a map that is gone cannot be used".to_owned()));
        };
        let name = with.name;
        if let Err(e) = kv.flush().and_then(|()| recovery::mark_used(&self.dir.join("APPLIED"), suffix(name)))
        {
            with.kv = Some(kv);
            return Err(e);
        }
        let _gate = readers.write();
        let old = std::mem::replace(&mut *self.current.write(), Current { kv, name });
        Ok(Aside { kv: Some(old.kv), name: old.name, path: self.dir.join(NAMES[old.name]) })
    }

    /// Notes that the map is whole and durable.
    pub fn mark_clean(&self) -> Result<(), StoreError> {
        recovery::mark_clean(&self.dir.join("APPLIED"), suffix(self.current.read().name))
    }
}

impl Kv for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.current.read_recursive().kv.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        each: &mut dyn FnMut(&[u8], Bytes) -> bool,
    ) -> Result<(), StoreError> {
        self.current.read_recursive().kv.scan(start, end, each)
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.current.read_recursive().kv.apply(batch)
    }

    fn load(&self, batch: &Batch) -> Result<(), StoreError> {
        self.current.read_recursive().kv.load(batch)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.current.read_recursive().kv.flush()
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.current.read_recursive().kv.clear()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.current.read_recursive().kv.close()
    }

    fn size_on_disk(&self) -> u64 {
        self.current.read_recursive().kv.size_on_disk()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(kv: &dyn Kv, key: &str) {
        kv.apply(&Batch::from([(key.as_bytes().to_vec(), Some(Bytes::from_static(b"v")))])).unwrap();
    }

    #[test]
    fn one_takes_the_place_of_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let gate = RwLock::new(());
        let names = || NAMES.map(|n| dir.path().join(n).exists());
        let map = Place::find(dir.path(), 1 << 20).unwrap().open(true).unwrap();
        for (round, there) in [(0, [false, true]), (1, [true, false])] {
            let aside = map.aside().unwrap();
            let key = format!("round {round}");
            put(aside.kv().unwrap(), &key);
            drop(map.exchange(aside, &gate).unwrap());
            assert!(map.get(key.as_bytes()).unwrap().is_some());
            assert_eq!(names(), there);
        }
        // Not exchanged: gone without a trace, and the other is found again.
        let aside = map.aside().unwrap();
        put(aside.kv().unwrap(), "lost");
        drop(aside);
        drop(map.exchange(map.aside().unwrap(), &gate).unwrap());
        put(&map, "kept");
        map.close().unwrap();
        map.mark_clean().unwrap();
        drop(map);
        std::fs::create_dir(dir.path().join(NAMES[0])).unwrap();
        let place = Place::find(dir.path(), 1 << 20).unwrap();
        assert!(place.trusted);
        let map = place.open(false).unwrap();
        assert_eq!(names(), [false, true]);
        assert!(map.get(b"kept").unwrap().is_some() && map.get(b"lost").unwrap().is_none());
    }

    #[test]
    fn a_name_from_elsewhere_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("APPLIED"), "clean ../applied\n").unwrap();
        assert!(!Place::find(dir.path(), 1 << 20).unwrap().trusted);
    }
}

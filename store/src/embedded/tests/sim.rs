//! A disk that loses what was not synced. Files live in memory; a crash keeps, of each write since the last sync,
//! any of its 512-byte sectors, and of the directory changes since the last directory sync, any beginning.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;

use crate::embedded::fs::{File, Fs};

const SECTOR: usize = 512;

#[derive(Default, Clone)]
struct Content {
    /// What a power cut leaves for certain.
    durable: Vec<u8>,
    /// What readers see.
    seen: Vec<u8>,
    /// Writes since the last sync: offset and data.
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum Change {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

#[derive(Default)]
struct Disk {
    files: BTreeMap<u64, Content>,
    next: u64,
    durable_names: BTreeMap<String, u64>,
    names: BTreeMap<String, u64>,
    changes: Vec<Change>,
    /// Operations left until everything fails.
    budget: Option<u64>,
    /// Whether syncing works.
    sync_fails: bool,
    /// Whether syncing only says that it works.
    sync_lies: bool,
}

fn change(names: &mut BTreeMap<String, u64>, change: &Change) {
    match change {
        Change::Link(name, id) => {
            names.insert(name.clone(), *id);
        }
        Change::Unlink(name) => {
            names.remove(name);
        }
        Change::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
    }
}

impl Disk {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.budget {
            Some(0) => Err(io::Error::other("the simulated machine is off")),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn alter(&mut self, c: Change) -> io::Result<()> {
        self.spend()?;
        change(&mut self.names, &c);
        self.changes.push(c);
        Ok(())
    }
}

/// One directory on such a disk.
#[derive(Clone, Default)]
pub struct SimFs(Arc<Mutex<Disk>>);

struct SimFile(Arc<Mutex<Disk>>, u64);

impl SimFs {
    /// After so many more operations, everything fails.
    pub fn fail_after(&self, operations: u64) {
        self.0.lock().budget = Some(operations);
    }

    /// From now on nothing can be synced.
    pub fn fail_syncs(&self) {
        self.0.lock().sync_fails = true;
    }

    /// Whether syncing says it works, and does nothing.
    pub fn lie_about_syncs(&self, lie: bool) {
        self.0.lock().sync_lies = lie;
    }

    /// The process died: nothing that was written is lost.
    pub fn restart(&self) {
        let mut disk = self.0.lock();
        disk.budget = None;
        disk.sync_fails = false;
    }

    /// Takes over a file of another disk, as it is seen there.
    pub fn adopt(&self, other: &SimFs, name: &str) {
        let seen = other.content(name);
        let disk = &mut *self.0.lock();
        let id = disk.next;
        disk.next += 1;
        disk.files.insert(id, Content { durable: seen.clone(), seen, pending: Vec::new() });
        disk.names.insert(name.to_owned(), id);
        disk.durable_names.insert(name.to_owned(), id);
    }

    /// The power went: what was not synced is lost, kept, or torn.
    pub fn power_cut(&self, rng: &mut StdRng) {
        self.restart();
        let disk = &mut *self.0.lock();
        let kept = rng.random_range(0..=disk.changes.len());
        let mut names = std::mem::take(&mut disk.durable_names);
        for c in disk.changes.drain(..).take(kept) {
            change(&mut names, &c);
        }
        for content in disk.files.values_mut() {
            let mood = rng.random_range(0..4);
            for (offset, data) in std::mem::take(&mut content.pending) {
                for (i, sector) in data.chunks(SECTOR).enumerate() {
                    let arrives = match mood {
                        0 => false,
                        1 => true,
                        _ => rng.random_bool(0.5),
                    };
                    if arrives {
                        put(&mut content.durable, offset + i * SECTOR, sector);
                    }
                }
            }
            content.seen.clone_from(&content.durable);
        }
        disk.files.retain(|id, _| names.values().any(|n| n == id));
        disk.names.clone_from(&names);
        disk.durable_names = names;
    }

    /// Flips a bit of a file where it was written.
    pub fn damage(&self, name: &str, offset: usize) {
        let disk = &mut *self.0.lock();
        let id = disk.names[name];
        let content = disk.files.get_mut(&id).unwrap();
        content.durable[offset] ^= 0x10;
        content.seen[offset] ^= 0x10;
    }

    /// What readers see of a file.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let disk = self.0.lock();
        disk.files[&disk.names[name]].seen.clone()
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

impl Fs for SimFs {
    fn create(&self, name: &str, size: u64) -> io::Result<Box<dyn File>> {
        let mut disk = self.0.lock();
        let id = disk.next;
        disk.next += 1;
        disk.alter(Change::Link(name.to_owned(), id))?;
        let zeros = vec![0; size as usize];
        disk.files.insert(id, Content { durable: zeros.clone(), seen: zeros, pending: Vec::new() });
        Ok(Box::new(SimFile(Arc::clone(&self.0), id)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let disk = self.0.lock();
        let id = *disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimFile(Arc::clone(&self.0), id)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().alter(Change::Unlink(name.to_owned()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.lock().alter(Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let disk = &mut *self.0.lock();
        disk.spend()?;
        disk.changes.clear();
        disk.durable_names.clone_from(&disk.names);
        Ok(())
    }

    fn describe(&self) -> String {
        "the simulated disk".to_owned()
    }
}

impl File for SimFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock();
        let spent = disk.spend();
        let content = disk.files.get_mut(&self.1).unwrap();
        // The write during which the machine stops may have got anywhere.
        put(&mut content.seen, offset as usize, data);
        content.pending.push((offset as usize, data.to_vec()));
        spent
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let disk = self.0.lock();
        let seen = &disk.files[&self.1].seen;
        let from = seen.get(offset as usize..).unwrap_or_default();
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().files[&self.1].seen.len() as u64)
    }

    fn reset_tail(&self, offset: u64, size: u64) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.spend()?;
        let content = disk.files.get_mut(&self.1).unwrap();
        content.seen.truncate(offset as usize);
        content.seen.resize(size as usize, 0);
        content.durable.clone_from(&content.seen);
        content.pending.clear();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.spend()?;
        if disk.sync_fails {
            return Err(io::Error::other("the simulated disk does not sync"));
        }
        if disk.sync_lies {
            return Ok(());
        }
        let content = disk.files.get_mut(&self.1).unwrap();
        content.pending.clear();
        content.durable.clone_from(&content.seen);
        Ok(())
    }
}

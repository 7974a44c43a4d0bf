//! A directory that is only read. What the log would repair when it is opened is counted instead.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::embedded::fs::{File, Fs, read_full};

/// See the module.
pub struct ReadOnly {
    dir: PathBuf,
    repairs: Arc<AtomicU64>,
}

impl ReadOnly {
    pub fn new(dir: &Path) -> ReadOnly {
        ReadOnly { dir: dir.to_owned(), repairs: Arc::default() }
    }

    /// How many writes that a crash had torn were found.
    pub fn repairs(&self) -> u64 {
        self.repairs.load(Ordering::Relaxed)
    }
}

struct Found(std::fs::File, Arc<AtomicU64>);

/// Swallows what is written.
struct Nothing;

impl Fs for ReadOnly {
    fn create(&self, _name: &str, _size: u64) -> io::Result<Box<dyn File>> {
        Ok(Box::new(Nothing))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(Found(std::fs::File::open(self.dir.join(name))?, Arc::clone(&self.repairs))))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn describe(&self) -> String {
        self.dir.display().to_string()
    }
}

impl File for Found {
    fn write_at(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_full(&self.0, offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn reset_tail(&self, _offset: u64, _size: u64) -> io::Result<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl File for Nothing {
    fn write_at(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn reset_tail(&self, _offset: u64, _size: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

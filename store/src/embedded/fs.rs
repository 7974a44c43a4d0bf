//! The few file operations the write-ahead log and the snapshots need, as a trait: the real disk in production, a
//! disk that crashes on command in tests. Nothing else in the engine touches log or snapshot files.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A directory of files.
pub trait Fs: Send + Sync + 'static {
    /// Makes (or replaces) a file with `size` bytes of zeros reserved for it.
    fn create(&self, name: &str, size: u64) -> io::Result<Box<dyn File>>;
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;
    fn list(&self) -> io::Result<Vec<String>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Where this is, for messages.
    fn describe(&self) -> String;
}

/// An open file.
pub trait File: Send + Sync {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    fn len(&self) -> io::Result<u64>;
    /// Zeroes everything from `offset` to `size`, which becomes the file's size.
    fn reset_tail(&self, offset: u64, size: u64) -> io::Result<()>;
    /// Returns once all that was written would survive a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// Files on a real disk.
pub struct DiskFs {
    dir: PathBuf,
}

impl DiskFs {
    /// Makes the directory if needed.
    pub fn new(dir: &Path) -> io::Result<DiskFs> {
        std::fs::create_dir_all(dir)?;
        Ok(DiskFs { dir: dir.to_owned() })
    }
}

/// Reads until `buf` is full or the file ends. How much was read.
pub(super) fn read_full(file: &std::fs::File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

struct DiskFile(std::fs::File);

impl DiskFile {
    /// Reserves real blocks, so that a later `fdatasync` has no allocation to write and a full disk shows here, before
    /// anything depends on the space.
    fn reserve(&self, size: u64) -> io::Result<()> {
        let length = i64::try_from(size).map_err(io::Error::other)?;
        match nix::fcntl::fallocate(&self.0, nix::fcntl::FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => self.0.set_len(size),
            Err(e) => Err(e.into()),
        }
    }
}

impl Fs for DiskFs {
    fn create(&self, name: &str, size: u64) -> io::Result<Box<dyn File>> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.dir.join(name))?;
        let file = DiskFile(file);
        if size > 0
            && let Err(e) = file.reserve(size)
        {
            // Half a file would keep what others need. The error of the reservation is the one to tell.
            let _ = std::fs::remove_file(self.dir.join(name));
            return Err(e);
        }
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(self.dir.join(name))?;
        Ok(Box::new(DiskFile(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        std::fs::File::open(&self.dir)?.sync_all()
    }

    fn describe(&self) -> String {
        self.dir.display().to_string()
    }
}

impl File for DiskFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_full(&self.0, offset, buf)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn reset_tail(&self, offset: u64, size: u64) -> io::Result<()> {
        self.0.set_len(offset)?;
        self.reserve(size)?;
        self.0.sync_all()
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

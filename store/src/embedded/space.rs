//! Room on the disk. Where it runs low, values are refused while deletions, reads and watches go on; where next to
//! nothing is left, nothing is written any more. Both end by themselves when there is room again.
//!
//! A file of some megabytes is kept in reserve and given up when room runs low, so that what is written already can
//! be finished although something else fills the disk to the last byte.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::fs::{DiskFs, Fs as _};
use crate::StoreError;

/// Bytes kept free: below, values are refused.
const LOW: u64 = 32 << 20;
/// From here on they are taken again.
const ENOUGH: u64 = LOW + LOW / 2;
/// Below this nothing is written: a segment of the log, and some.
const LEAST: u64 = 10 << 20;
/// Bytes of the file in reserve, and its name.
const RESERVE: u64 = 16 << 20;
const RESERVE_FILE: &str = "RESERVE";
/// How often the disk is asked. Nothing tells of room that is gone.
const LOOK: Duration = Duration::from_millis(250);
/// What etcd calls it.
pub const ALARM: &str = "NOSPACE";

/// Bytes that are free on the disk of a directory; none where that is not known.
pub type Free = Arc<dyn Fn(&Path) -> Option<u64> + Send + Sync>;

/// What the file system says.
pub fn of_disk() -> Free {
    Arc::new(|dir| {
        let found = nix::sys::statvfs::statvfs(dir).ok()?;
        found.blocks_available().checked_mul(found.fragment_size())
    })
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    None = 0,
    Low = 1,
    Enough = 2,
}

impl Room {
    /// The next state, with so many bytes free.
    fn next(self, free: u64) -> Room {
        match free {
            f if f < LEAST => Room::None,
            f if f < LOW => Room::Low,
            f if f < ENOUGH && self != Room::Enough => Room::Low,
            _ => Room::Enough,
        }
    }
}

/// See the module.
pub struct Space {
    dir: PathBuf,
    free: Free,
    room: AtomicU8,
}

impl Space {
    /// Looks at once, and puts the reserve aside.
    pub fn new(dir: &Path, free: Free) -> Arc<Space> {
        let space = Arc::new(Space { dir: dir.to_owned(), free, room: AtomicU8::new(Room::Enough as u8) });
        space.look();
        space
    }

    /// As of the last look.
    pub fn room(&self) -> Room {
        match self.room.load(Ordering::Acquire) {
            0 => Room::None,
            1 => Room::Low,
            _ => Room::Enough,
        }
    }

    /// Looks, and says how it is.
    pub fn look(&self) -> Room {
        let before = self.room();
        let Some(free) = (self.free)(&self.dir) else { return before };
        let room = before.next(free);
        self.room.store(room as u8, Ordering::Release);
        let reserve = self.dir.join(RESERVE_FILE);
        match (before, room) {
            (Room::Enough, Room::Enough) | (_, Room::Low | Room::None) => {}
            (_, Room::Enough) => {
                tracing::info!(free, "there is room on the disk again; the store takes writes")
            }
        }
        if room == Room::Enough && free > ENOUGH + RESERVE && !reserve.exists() {
            self.put_aside();
        } else if room != Room::Enough && before == Room::Enough {
            tracing::error!(free, dir = %self.dir.display(), "the disk is full; the store takes no values until there is room");
        }
        if room != Room::Enough && reserve.exists() {
            // If it cannot be removed, there is no more to give.
            let _ = std::fs::remove_file(&reserve);
        }
        room
    }

    fn put_aside(&self) {
        let made = DiskFs::new(&self.dir).and_then(|fs| fs.create(RESERVE_FILE, RESERVE));
        if let Err(e) = made {
            tracing::debug!(error = %e, "could not put room aside");
        }
    }

    /// Why values are refused.
    pub fn refusal(&self) -> StoreError {
        let free = (self.free)(&self.dir).unwrap_or(0);
        StoreError::Unavailable(format!(
            "the disk of {} is full: {} MiB are free, {} are kept; only deletions, reads and watches are possible until \
             there is room",
            self.dir.display(),
            free >> 20,
            LOW >> 20
        ))
    }

    /// Whether a snapshot of so many bytes can be written. Also where room is low: it is what lets the log go.
    pub fn fits(&self, bytes: u64) -> bool {
        (self.free)(&self.dir).is_none_or(|free| free >= bytes.saturating_add(LEAST))
    }

    /// Looks from time to time, as long as anybody uses this.
    pub fn follow(self: &Arc<Self>, mut changed: impl FnMut() + Send + 'static) -> Result<(), StoreError> {
        let space: Weak<Space> = Arc::downgrade(self);
        let watcher = std::thread::Builder::new().name("store-space".to_owned()).stack_size(128 << 10);
        let look = move || {
            loop {
                std::thread::sleep(LOOK);
                let Some(space) = space.upgrade() else { return };
                let before = space.room();
                if space.look() != before {
                    changed();
                }
            }
        };
        let spawned = watcher.spawn(look);
        spawned.map_err(|e| StoreError::Unavailable(format!("starting a thread of the store: {e}")))?;
        Ok(())
    }
}

/// Whether an error says that the disk is full.
pub fn is_full(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_comes_back_later_than_it_goes() {
        let steps = [(LOW, Room::Enough), (LOW - 1, Room::Low), (LOW, Room::Low), (ENOUGH - 1, Room::Low)];
        let more =
            [(ENOUGH, Room::Enough), (LEAST - 1, Room::None), (LEAST, Room::Low), (ENOUGH, Room::Enough)];
        let mut room = Room::Enough;
        for (free, expected) in steps.into_iter().chain(more) {
            room = room.next(free);
            assert_eq!(room, expected, "{free}");
        }
    }

    #[test]
    fn the_reserve_is_given_up_and_put_aside_again() {
        let dir = tempfile::tempdir().unwrap();
        let free = Arc::new(std::sync::atomic::AtomicU64::new(1 << 30));
        let reads = Arc::clone(&free);
        let space = Space::new(dir.path(), Arc::new(move |_| Some(reads.load(Ordering::Relaxed))));
        let file = dir.path().join(RESERVE_FILE);
        assert_eq!(file.metadata().unwrap().len(), RESERVE);
        free.store(0, Ordering::Relaxed);
        assert_eq!(space.look(), Room::None);
        assert!(!file.exists() && space.refusal().to_string().contains("is full"));
        free.store(1 << 30, Ordering::Relaxed);
        assert_eq!(space.look(), Room::Enough);
        assert!(file.exists() && space.fits(1 << 29) && !space.fits(1 << 30));
    }
}

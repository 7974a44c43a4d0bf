//! Work on data directories and snapshot files that no process uses: checking them, making a directory of a snapshot
//! or of what another store holds.
//!
//! | file | what |
//! | --- | --- |
//! | `readonly.rs` | files that cannot be changed, for checking |
//! | `verify.rs` | reads and checks everything |
//! | `make.rs` | makes a data directory: of a snapshot, or key by key |
//! | `export.rs` | what a directory or a snapshot holds, key by key |

mod export;
mod make;
mod readonly;
mod verify;

#[cfg(test)]
mod tests;

use std::fs::TryLockError;
use std::path::Path;

use crate::StoreError;

pub use self::export::{Export, Source};
pub use self::make::{Import, Made, Target, restore};
pub use self::verify::{DirectoryReport, SnapshotReport, verify, verify_snapshot};

fn io(doing: &str, path: &Path, e: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{doing} {}: {e}", path.display()))
}

/// Fails where a process uses the directory. It stays free to be used as long as what is returned lives.
fn unused(dir: &Path) -> Result<Option<std::fs::File>, StoreError> {
    let path = dir.join("LOCK");
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io("opening", &path, &e)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Refused(format!(
            "the data directory {} is in use: stop its API server first",
            dir.display()
        ))),
        Err(TryLockError::Error(e)) => Err(io("locking", &path, &e)),
    }
}

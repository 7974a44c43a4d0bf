//! The power cut: ext4 stops at once, as if the machine had lost power. Nothing that is not on the disk yet gets there
//! any more, neither data nor the journal that is still in memory; the next mount recovers from the journal.
//!
//! It is what file system tests use for this (`EXT4_IOC_SHUTDOWN`, in Linux since 4.11). It says nothing about disks
//! that forget what they have confirmed.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use anyhow::Context;

/// Without writing the journal first.
const NO_LOG_FLUSH: u32 = 2;

nix::ioctl_read!(ext4_shutdown, b'X', 125, u32);

/// Stops the file system that is mounted there.
///
/// # Errors
/// It is not ext4, or this process may not.
pub fn cut(mount: &Path) -> anyhow::Result<()> {
    let root = File::open(mount).with_context(|| format!("opening {}", mount.display()))?;
    let mut how = NO_LOG_FLUSH;
    // SAFETY: the descriptor is open for the whole call, and the argument is the u32 that the request reads.
    unsafe { ext4_shutdown(root.as_raw_fd(), &raw mut how) }
        .with_context(|| format!("stopping the file system at {}", mount.display()))?;
    Ok(())
}

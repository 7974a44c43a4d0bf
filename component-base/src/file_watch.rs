//! inotify as a future: waits until something happened to watched files or folders. What it was is not told,
//! as every user here looks again at the whole anyway.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

pub use nix::sys::inotify::AddWatchFlags;
use nix::sys::inotify::{InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

struct Handle(Inotify);

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Watches paths.
pub struct FileWatch(AsyncFd<Handle>);

impl FileWatch {
    /// Watches each path for its events.
    ///
    /// # Errors
    /// A path is not there, or the kernel has no watches left.
    pub fn new(paths: &[(&Path, AddWatchFlags)]) -> anyhow::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        for (path, flags) in paths {
            inotify.add_watch(*path, *flags)?;
        }
        // `register` would be unsafe code; what `new` is deprecated for cannot happen here, as the handle is
        // private and never gives up or exchanges its descriptor.
        #[allow(deprecated)]
        let fd = AsyncFd::new(Handle(inotify))?;
        Ok(Self(fd))
    }

    /// Something happened since the last call.
    pub async fn changed(&self) {
        if let Ok(mut guard) = self.0.readable().await {
            // Only drains the queue: an error means that it is empty.
            let _ = guard.get_inner().0.read_events();
            guard.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_of_a_write() {
        let dir = std::env::temp_dir().join(format!("file-watch-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let w = FileWatch::new(&[(&dir, AddWatchFlags::IN_CLOSE_WRITE)]).unwrap();
        std::fs::write(dir.join("a"), "x").unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), w.changed()).await.unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }
}

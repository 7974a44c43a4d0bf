//! Streams a container's log to a client: what is there, then what comes, across rotations, until the container
//! has ended and everything it wrote is sent.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::logs::{Formatter, Options, tail_offset};
use crate::{
    cri::{Container, ContainerState, PodRuntime},
    pod::shared::PodShared,
    util::file_watch::{AddWatchFlags, FileWatch},
};

/// The instance whose log is meant.
pub fn choose<'a>(runtime: &'a PodRuntime, name: &str, previous: bool) -> Option<&'a Container> {
    let newest = runtime.container(name)?;
    if !previous {
        return Some(newest).filter(|c| c.state != ContainerState::Created);
    }
    if newest.state == ContainerState::Running {
        runtime.previous(name).filter(|c| c.state == ContainerState::Exited)
    } else {
        // Between two runs the one that ended is the previous one.
        Some(newest).filter(|c| c.state == ContainerState::Exited)
    }
}

const BLOCK: usize = 32 << 10;
/// How often the container's state is looked at while nothing is written.
const IDLE: Duration = Duration::from_millis(500);

/// Sends the log until its end, the byte limit, or the client's.
pub async fn stream(pod: Arc<PodShared>, instance: Container, options: Options, out: mpsc::Sender<Bytes>) {
    let path = Path::new(&instance.log_path);
    let follow = options.follow && !options.previous;
    if let Err(e) = copy(&pod, &instance.id, path, options, follow, &out).await {
        tracing::debug!(path = %path.display(), error = %e, "log stream ended");
    }
}

async fn copy(
    pod: &PodShared,
    id: &str,
    path: &Path,
    options: Options,
    follow: bool,
    out: &mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let from = match options.tail {
        Some(lines) => tail_offset(&mut file, lines)?,
        None => 0,
    };
    file.seek(SeekFrom::Start(from))?;
    let watch = if follow { watch(path).ok() } else { None };
    let mut formatter = Formatter::new(options);
    let mut rest: Vec<u8> = Vec::new();
    let mut block = vec![0u8; BLOCK];
    loop {
        // Whether it runs is asked before reading: what it wrote last is then surely seen.
        let running = alive(pod, id);
        loop {
            let n = file.read(&mut block)?;
            if n == 0 {
                break;
            }
            rest.extend_from_slice(&block[..n]);
            let mut text = Vec::new();
            let mut begin = 0;
            while let Some(end) = rest[begin..].iter().position(|b| *b == b'\n') {
                formatter.push(&rest[begin..begin + end], &mut text);
                begin += end + 1;
            }
            rest.drain(..begin);
            if !text.is_empty() && out.send(Bytes::from(text)).await.is_err() {
                return Ok(());
            }
            if formatter.full() {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        if let Some(next) = rotated(&file, path) {
            file = next;
            continue;
        }
        if !running {
            return Ok(());
        }
        tokio::select! {
            () = changed(watch.as_ref()) => {}
            () = tokio::time::sleep(IDLE) => {}
            () = out.closed() => return Ok(()),
        }
    }
}

fn alive(pod: &PodShared, id: &str) -> bool {
    !pod.is_removed()
        && pod.runtime.read().containers.iter().any(|c| c.id == id && c.state == ContainerState::Running)
}

/// The new file, if the log was rotated and the old one is read to its end.
fn rotated(file: &File, path: &Path) -> Option<File> {
    let (old, now) = (file.metadata().ok()?, fs::metadata(path).ok()?);
    if old.ino() == now.ino() && old.dev() == now.dev() { None } else { File::open(path).ok() }
}

fn watch(path: &Path) -> anyhow::Result<FileWatch> {
    let mut paths = vec![(path, AddWatchFlags::IN_MODIFY)];
    if let Some(dir) = path.parent() {
        paths.push((dir, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO));
    }
    FileWatch::new(&paths)
}

async fn changed(watch: Option<&FileWatch>) {
    match watch {
        Some(w) => w.changed().await,
        None => std::future::pending().await,
    }
}

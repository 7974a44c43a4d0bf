//! Files that are read again when they change: certificates, CA bundles, token files, configurations.
//!
//! A change is seen through inotify on the files' folders, which also tells of the symbolic links that are exchanged
//! where such folders are mounted; and by looking once a minute, for file systems that tell nothing. What counts is
//! the contents: a file that is written anew with the same contents is no change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use component_base::file_watch::{AddWatchFlags, FileWatch};
use tokio_util::sync::CancellationToken;

/// How often files are looked at in any case.
const LOOK: Duration = Duration::from_secs(60);
/// How long a burst of events is waited out.
const SETTLE: Duration = Duration::from_millis(50);

/// The contents of some files; none for those that cannot be read.
type Contents = Vec<Option<Vec<u8>>>;

fn read(paths: &[PathBuf]) -> Contents {
    paths.iter().map(|p| std::fs::read(p).ok()).collect()
}

fn watch(paths: &[PathBuf]) -> Option<FileWatch> {
    let folders: BTreeSet<&Path> = paths.iter().filter_map(|p| p.parent()).collect();
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF;
    let folders: Vec<(&Path, AddWatchFlags)> = folders.into_iter().map(|f| (f, flags)).collect();
    FileWatch::new(&folders).ok()
}

/// Calls `changed` whenever the contents of one of `paths` changed, until `stop`. It runs one at a time; what changes
/// meanwhile is seen afterwards.
pub fn on_change<F, Fut>(paths: Vec<PathBuf>, stop: CancellationToken, mut changed: F)
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    if paths.is_empty() {
        return;
    }
    let mut known = read(&paths);
    let mut events = watch(&paths);
    tokio::spawn(async move {
        loop {
            let event = async {
                match &events {
                    Some(e) => e.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
                () = event => tokio::time::sleep(SETTLE).await,
            }
            if events.is_none() {
                events = watch(&paths);
            }
            let now = read(&paths);
            if now == known {
                continue;
            }
            known = now;
            changed().await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn tells_of_new_contents_only() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, "1").unwrap();
        let (tx, mut rx) = mpsc::channel(8);
        let stop = CancellationToken::new();
        on_change(vec![a.clone()], stop.clone(), move || {
            let tx = tx.clone();
            async move { tx.send(()).await.unwrap() }
        });
        std::fs::write(&b, "other").unwrap();
        std::fs::write(&a, "1").unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(300), rx.recv()).await.is_err());
        std::fs::write(&b, "2").unwrap();
        std::fs::rename(&b, &a).unwrap();
        tokio::time::timeout(Duration::from_secs(5), rx.recv()).await.unwrap().unwrap();
        stop.cancel();
    }
}

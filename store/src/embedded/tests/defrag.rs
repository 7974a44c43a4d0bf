//! Defragmentation while the store is used. Crashes on the way are `kill.rs`'s.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::open;
use crate::conformance::{delete, keys, put, value};
use crate::embedded::{Config, Engine};
use crate::{Store, StoreError, WatchBatch, prefix_end};

const KEYS: usize = 600;

fn key(i: usize) -> String {
    format!("/r/{i:04}")
}

/// Much is written, little stays.
async fn grow_and_shrink(s: &Arc<dyn Store>) {
    let text = "x".repeat(8000);
    let mut writers = Vec::new();
    for w in 0..8 {
        let (s, text) = (Arc::clone(s), text.clone());
        writers.push(tokio::spawn(async move {
            for i in (w..KEYS).step_by(8) {
                let revision = put(&s, &key(i), &format!("{i} {text}"), 0).await;
                if i % 20 != 0 {
                    delete(&s, &key(i), revision).await;
                }
            }
        }));
    }
    for w in writers {
        w.await.unwrap();
    }
    s.compact(s.current_revision().await.unwrap()).await.unwrap();
}

async fn check_kept(s: &Arc<dyn Store>) {
    let kept: Vec<_> = (0..KEYS).step_by(20).map(key).collect();
    assert_eq!(keys(s, "/r/", 0).await, kept);
    for (i, key) in kept.iter().enumerate() {
        let found = s.get(key, 0).await.unwrap().unwrap();
        assert!(found.value.starts_with(format!("{} xxx", i * 20).as_bytes()));
    }
}

/// Counts up under one key until told to stop; the last revision and the longest time one write took.
async fn count(s: Arc<dyn Store>, stop: Arc<AtomicBool>) -> (u64, u64, Duration) {
    let (mut n, mut revision, mut longest) = (0, 0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let begun = std::time::Instant::now();
        revision = put(&s, "/w/count", &n.to_string(), revision).await;
        longest = longest.max(begun.elapsed());
    }
    (n, revision, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_goes_on_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path());
    grow_and_shrink(&s).await;
    let at = s.current_revision().await.unwrap();
    let mut w = s.watch("/w/", &prefix_end("/w/"), at).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(count(Arc::clone(&s), Arc::clone(&stop)));
    let operation = s.operation().unwrap();
    let first = operation.defragment("").await.unwrap();
    assert!(first.after < first.before / 2, "{first:?}");
    check_kept(&s).await;
    // Back into the first directory; of two at once, one is refused or comes after the other.
    let (a, b) = tokio::join!(operation.defragment(""), operation.defragment(""));
    for outcome in [&a, &b] {
        match outcome {
            Ok(d) => assert!(d.after < first.before / 2, "{d:?}"),
            Err(e) => assert!(e.to_string().contains("being defragmented already"), "{e}"),
        }
    }
    assert!(a.is_ok() || b.is_ok());
    stop.store(true, Ordering::Relaxed);
    let (n, revision, longest) = writer.await.unwrap();
    println!("{n} writes meanwhile, the longest took {longest:?}; {first:?}");
    let mut seen = at;
    while seen < revision {
        match tokio::time::timeout(Duration::from_secs(20), w.recv()).await.unwrap().unwrap().unwrap() {
            WatchBatch::Events(events) => {
                for e in events {
                    assert_eq!(e.kv.mod_revision, seen + 1, "a watch misses nothing");
                    seen += 1;
                }
            }
            WatchBatch::Progress(_) => {}
        }
    }
    // History and expiries are as they were.
    assert_eq!(s.get("/w/count", at + 1).await.unwrap().unwrap().value, value("1"));
    assert!(matches!(s.get("/w/count", at - 1).await, Err(StoreError::Compacted { .. })));
    while !mark(dir.path()).ends_with("applied.1") {
        operation.defragment("").await.unwrap();
    }
    drop((operation, w));
    let mut s = s;
    for clean in [false, true] {
        s = reopened(dir.path(), clean, s).await;
        assert!(mark(dir.path()).ends_with("applied.1"), "it was built anew");
        check_kept(&s).await;
        let found = s.get("/w/count", 0).await.unwrap().unwrap();
        assert!(found.mod_revision == revision && found.value == value(&n.to_string()));
    }
}

fn mark(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("APPLIED")).unwrap().trim().to_owned()
}

/// Stops the store and opens it again.
async fn reopened(dir: &Path, clean: bool, s: Arc<dyn Store>) -> Arc<dyn Store> {
    s.close().await.unwrap();
    while Arc::strong_count(&s) > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::task::block_in_place(|| drop(s));
    // Tasks of its watches end by themselves.
    tokio::time::sleep(Duration::from_millis(200)).await;
    if !clean {
        // As a process leaves it that was killed.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        std::fs::write(dir.join("APPLIED"), mark(dir).replace("clean", boot.trim())).unwrap();
    }
    open(dir)
}

/// What a rewriting that was broken off leaves is removed; a map that is named and is not there is built anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_leaves_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path());
    grow_and_shrink(&s).await;
    s.close().await.unwrap();
    drop(s);
    let other = dir.path().join("applied.1");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("db"), "half").unwrap();
    let s = open(dir.path());
    check_kept(&s).await;
    assert!(!other.exists());
    s.close().await.unwrap();
    drop(s);
    std::fs::write(dir.path().join("APPLIED"), "clean applied.1\n").unwrap();
    let s = open(dir.path());
    check_kept(&s).await;
    assert!(other.exists() && !dir.path().join("applied").exists());
}

/// Bytes of all files below a directory.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |e: std::fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => size(&e.path()),
        Ok(m) => m.len(),
        // It was removed just now.
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Bytes that a store takes once nothing moves any more: what is behind is worked off by then.
async fn settled(dir: &Path) -> u64 {
    let now = || ["wal", "snapshots", "applied"].map(|part| size(&dir.join(part))).iter().sum::<u64>();
    let (mut last, mut quiet) = (now(), 0);
    while quiet < 5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let next = now();
        quiet = if next == last { quiet + 1 } else { 0 };
        last = next;
    }
    last
}

/// The same keys are overwritten again and again: what was forgotten is used for what comes, without anybody's command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwriting_takes_no_more_and_more_room() {
    const ROUNDS: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let config = Config { retention_seconds: 0, snapshot_bytes: 2 << 20, ..Config::new(dir.path()) };
    let s: Arc<dyn Store> = Engine::open(config).unwrap();
    let text = "x".repeat(32_000);
    let mut revisions = vec![0; 48];
    let mut sizes = Vec::new();
    for _ in 0..4 {
        for round in 0..ROUNDS {
            let writes = revisions.iter().enumerate().map(|(i, revision)| {
                let (s, text, revision) = (Arc::clone(&s), text.clone(), *revision);
                tokio::spawn(async move { put(&s, &key(i), &format!("{round} {text}"), revision).await })
            });
            let writes: Vec<_> = writes.collect();
            for (revision, write) in revisions.iter_mut().zip(writes) {
                *revision = write.await.unwrap();
            }
            s.compact(s.current_revision().await.unwrap()).await.unwrap();
        }
        sizes.push(settled(dir.path()).await);
    }
    let written = (ROUNDS * revisions.len() * text.len()) as u64;
    assert!(sizes[3] < sizes[0] + written, "{written} bytes written four times: {sizes:?}");
}

//! What is there after a stop, a crash, a power cut; what is refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::open;
use crate::conformance::{delete, keys, next_events, put, value};
use crate::embedded::{Config, Engine};
use crate::{Op, Store, StoreError, Txn, prefix_end};

/// Some keys, deletions and history; the newest revision.
async fn fill(s: &Arc<dyn Store>) -> u64 {
    let mut last = 0;
    for i in 0..100 {
        let r = put(s, &format!("/r/{i:03}"), &format!("value {i}"), 0).await;
        last = put(s, &format!("/r/{i:03}"), &"x".repeat(i * 50), r).await;
    }
    for i in 0..10 {
        let key = format!("/r/{i:03}");
        let at = s.get(&key, 0).await.unwrap().unwrap().mod_revision;
        last = delete(s, &key, at).await;
    }
    last
}

/// `filled`: what [`fill`] returned; `last`: the newest revision expected.
async fn check(s: &Arc<dyn Store>, filled: u64, last: u64) {
    assert_eq!(s.current_revision().await.unwrap(), last);
    assert_eq!(keys(s, "/r/", 0).await.len(), 90);
    assert_eq!(s.get("/r/042", 0).await.unwrap().unwrap().value, value(&"x".repeat(2100)));
    assert_eq!(s.get("/r/005", filled - 10).await.unwrap().unwrap().value, value(&"x".repeat(250)));
    let mut w = s.watch("/r/", &prefix_end("/r/"), filled - 10).await.unwrap();
    let events = next_events(&mut w).await;
    assert_eq!(
        (events.len() as u64, events[0].kv.mod_revision, events[0].deleted),
        (last - filled + 10, filled - 9, true)
    );
    let r = put(s, "/r/new", "x", 0).await;
    assert_eq!(r, last + 1);
    delete(s, "/r/new", r).await;
}

#[tokio::test]
async fn after_a_clean_stop_and_after_none() {
    let dir = tempfile::tempdir().unwrap();
    let filled = fill(&open(dir.path())).await;
    let mut last = filled;
    for clean in [true, false, true, false, false] {
        let s = open(dir.path());
        check(&s, filled, last).await;
        last += 2;
        if clean {
            s.close().await.unwrap();
            assert!(matches!(s.current_revision().await, Err(StoreError::Unavailable(_))));
            assert_eq!(std::fs::read_to_string(dir.path().join("APPLIED")).unwrap(), "clean\n");
        }
    }
    check(&open(dir.path()), filled, last).await;
}

/// A power cut leaves nothing of the applied state that can be trusted: all comes from log and snapshot.
#[tokio::test]
async fn without_the_applied_state() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path());
    let filled = fill(&s).await;
    let mut last = filled;
    drop(s);
    for _ in 0..2 {
        std::fs::write(dir.path().join("APPLIED"), "another boot\n").unwrap();
        let s = open(dir.path());
        check(&s, filled, last).await;
        last += 2;
    }
}

/// How much may be logged before the next snapshot goes by the last one, also after a restart.
#[tokio::test]
async fn a_restart_does_not_begin_with_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let config = || Config { snapshot_bytes: 1 << 20, ..Config::new(dir.path()) };
    let open = || -> Arc<dyn Store> { Engine::open(config()).unwrap() };
    let s = open();
    // Several times a segment of the log, which goes as a whole.
    let mebibyte = "x".repeat(1 << 20);
    for i in 0..32 {
        put(&s, &format!("/r/{i}"), &mebibyte, 0).await;
    }
    s.operation().unwrap().snapshot().await.unwrap();
    s.close().await.unwrap();
    drop(s);
    let snapshots = || -> Vec<_> {
        std::fs::read_dir(dir.path().join("snapshots")).unwrap().map(|e| e.unwrap().file_name()).collect()
    };
    let before = snapshots();
    let s = open();
    for i in 0..3 {
        put(&s, &format!("/more/{i}"), &mebibyte, 0).await;
    }
    s.close().await.unwrap();
    assert_eq!(snapshots(), before);
}

#[tokio::test]
async fn from_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let config = || Config { snapshot_bytes: 200_000, retention_seconds: 0, ..Config::new(dir.path()) };
    let s: Arc<dyn Store> = Engine::open(config()).unwrap();
    let op = Op::Put { value: value("soon gone"), ttl_seconds: 3600 };
    s.txn(Txn { key: "/t/lease".into(), expected: 0, op }).await.unwrap();
    let last = fill(&s).await;
    s.compact(5).await.unwrap();
    let mut revision = 0;
    for i in 0..200 {
        revision = put(&s, "/other", &"y".repeat(5000 + i), revision).await;
        if i % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    s.close().await.unwrap();
    drop(s);
    let snapshots = std::fs::read_dir(dir.path().join("snapshots")).unwrap().count();
    assert_eq!(snapshots, 1, "one snapshot is kept");
    let first =
        std::fs::read_dir(dir.path().join("wal")).unwrap().map(|e| e.unwrap().file_name()).min().unwrap();
    assert!(first.to_str().unwrap() > "0000000000000001.wal", "the log was truncated: {first:?}");

    for _ in 0..2 {
        // The applied state is lost altogether.
        std::fs::remove_dir_all(dir.path().join("applied")).unwrap();
        std::fs::write(dir.path().join("APPLIED"), "another boot\n").unwrap();
        let s: Arc<dyn Store> = Engine::open(config()).unwrap();
        assert_eq!(s.current_revision().await.unwrap(), revision);
        assert_eq!(keys(&s, "/r/", last).await.len(), 90);
        assert_eq!(s.get("/r/005", last - 10).await.unwrap().unwrap().value, value(&"x".repeat(250)));
        assert_eq!(s.get("/other", 0).await.unwrap().unwrap().value.len(), 5199);
        assert_eq!(s.get("/t/lease", 0).await.unwrap().unwrap().value, value("soon gone"));
        assert!(matches!(s.get("/r/005", 4).await, Err(StoreError::Compacted { oldest: 5, .. })));
    }
    let s: Arc<dyn Store> = Engine::open(Config { clock: Arc::new(|| u64::MAX / 2), ..config() }).unwrap();
    let wait = async {
        while s.get("/t/lease", 0).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("a lease survives, and so does its end");
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path());
    let config = || Config { lock_patience: Duration::from_millis(100), ..Config::new(dir.path()) };
    let error = Engine::open(config()).err().unwrap().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    // A successor waits for a predecessor that is on its way out.
    let successor = std::thread::spawn({
        let dir = dir.path().to_owned();
        move || Engine::open(Config::new(dir)).map(|_| ())
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    s.close().await.unwrap();
    drop(s);
    successor.join().unwrap().unwrap();
}

fn wal_file(dir: &Path) -> std::path::PathBuf {
    dir.join("wal/0000000000000001.wal")
}

#[tokio::test]
async fn a_damaged_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path());
    fill(&s).await;
    drop(s);
    let mut bytes = std::fs::read(wal_file(dir.path())).unwrap();
    let middle = bytes.windows(8).position(|w| w == b"value 50").unwrap();
    bytes[middle] ^= 1;
    std::fs::write(wal_file(dir.path()), &bytes).unwrap();
    let error = Engine::open(Config::new(dir.path())).err().unwrap().to_string();
    assert!(error.contains("acknowledged writes would be lost"), "{error}");
}

#[tokio::test]
async fn a_lost_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path());
    fill(&s).await;
    drop(s);
    std::fs::remove_dir_all(dir.path().join("wal")).unwrap();
    let error = Engine::open(Config::new(dir.path())).err().unwrap().to_string();
    assert!(error.contains("or missing: restore this member"), "{error}");
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let s = open(dir.path());
    fill(&s).await;
    s.close().await.unwrap();
    drop(s);
    let mut bytes = std::fs::read(wal_file(dir.path())).unwrap();
    let cut = bytes.windows(8).position(|w| w == b"value 50").unwrap();
    bytes[cut - 64..].fill(0);
    std::fs::write(wal_file(dir.path()), &bytes).unwrap();
    let error = Engine::open(Config::new(dir.path())).err().unwrap().to_string();
    assert!(error.contains("its end was lost"), "{error}");
}

#[tokio::test]
async fn history_is_compacted_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let time = Arc::new(std::sync::atomic::AtomicU64::new(1_000_000));
    let t = Arc::clone(&time);
    let clock = Arc::new(move || t.load(std::sync::atomic::Ordering::Relaxed));
    let s: Arc<dyn Store> =
        Engine::open(Config { clock, retention_seconds: 300, ..Config::new(dir.path()) }).unwrap();
    let r1 = put(&s, "/r/a", "1", 0).await;
    let r2 = put(&s, "/r/a", "2", r1).await;
    put(&s, "/r/b", "1", 0).await;
    let wait = async {
        let mut at = 0;
        while s.get("/r/a", r1).await.is_ok() {
            // Any write wakes the engine; without one it would have woken by itself, in real seconds.
            at = put(&s, "/r/c", "1", at).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            time.fetch_add(100, std::sync::atomic::Ordering::Relaxed);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("history goes");
    assert_eq!(s.get("/r/a", 0).await.unwrap().unwrap().mod_revision, r2);
}

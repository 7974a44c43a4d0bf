use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::conformance::{keys, put, value};
use crate::embedded::{Config, Engine, GroupConfig};
use crate::{KeyValue, Op, Store, Txn};

fn target(dir: PathBuf) -> Target {
    Target { dir, group: None, token: String::new(), bump: 1000 }
}

/// A store with some history, stopped; what it held, and its newest revision.
async fn filled(dir: &Path, clean: bool) -> (Vec<(String, u64)>, u64) {
    let config = Config { snapshot_bytes: 20_000, retention_seconds: 0, ..Config::new(dir) };
    let engine = Engine::open(config).unwrap();
    let store: Arc<dyn Store> = engine.clone();
    let mut revision = 0;
    for i in 0..300 {
        let key = format!("/registry/pods/a/p{}", i % 40);
        let expected = store.get(&key, 0).await.unwrap().map_or(0, |kv| kv.mod_revision);
        revision = put(&store, &key, &format!("{i} {}", "x".repeat(100)), expected).await;
    }
    let op = Op::Put { value: value("soon"), ttl_seconds: 7200 };
    store.txn(Txn { key: "/registry/events/a/e".into(), expected: 0, op }).await.unwrap();
    revision += 1;
    let held = all(&store).await;
    if clean {
        engine.close().await.unwrap();
    }
    drop(store);
    tokio::task::block_in_place(|| drop(engine));
    (held, revision)
}

async fn all(store: &Arc<dyn Store>) -> Vec<(String, u64)> {
    let request = crate::RangeRequest {
        start: "/registry/".into(),
        end: "/registry0".into(),
        ..crate::RangeRequest::default()
    };
    store.range(request).await.unwrap().items.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect()
}

async fn save(dir: &Path, file: &Path) {
    let engine = Engine::open(Config { retention_seconds: 0, ..Config::new(dir) }).unwrap();
    let saved = engine.operation().unwrap().snapshot().await.unwrap();
    std::fs::write(file, saved.read(0, usize::MAX >> 1).unwrap()).unwrap();
    engine.close().await.unwrap();
    tokio::task::block_in_place(|| drop(engine));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_checked_without_being_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (_, revision) = filled(dir.path(), false).await;
    let listing = |dir: &Path| {
        let mut all = Vec::new();
        for sub in ["wal", "snapshots", "."] {
            for entry in std::fs::read_dir(dir.join(sub)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    all.push((entry.path(), std::fs::read(entry.path()).unwrap()));
                }
            }
        }
        all.sort();
        all
    };
    let before = listing(dir.path());
    let report = verify(dir.path()).unwrap();
    assert_eq!(before, listing(dir.path()), "it was changed");
    let snapshot = report.snapshot.clone().unwrap();
    assert!(report.last > report.first && report.commands > 0 && !report.torn, "{report:?}");
    assert!(snapshot.revision <= revision && snapshot.records > 0 && report.member == 1, "{snapshot:?}");
    assert!(verify(&dir.path().join("nowhere")).unwrap_err().to_string().contains("no store"));

    // In use.
    let engine = Engine::open(Config::new(dir.path())).unwrap();
    let why = verify(dir.path()).unwrap_err();
    assert!(matches!(&why, StoreError::Refused(w) if w.contains("in use")), "{why}");
    tokio::task::block_in_place(|| drop(engine));

    // A torn end is no damage; a changed byte with something after it is.
    let last = newest(&dir.path().join("wal"));
    let mut bytes = std::fs::read(&last).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
    let end = end.next_multiple_of(8);
    bytes[end..end + 8].copy_from_slice(b"CXWL\x02\0\0\0");
    std::fs::write(&last, &bytes).unwrap();
    assert!(verify(dir.path()).unwrap().torn);
    bytes[end..end + 8].fill(0);
    bytes[40] ^= 1;
    std::fs::write(&last, &bytes).unwrap();
    let why = verify(dir.path()).unwrap_err();
    assert!(matches!(why, StoreError::Corrupt(_)), "{why}");
}

fn newest(dir: &Path) -> PathBuf {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.pop().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_refused_wherever_the_damage_is() {
    let dir = tempfile::tempdir().unwrap();
    filled(&dir.path().join("old"), true).await;
    let file = dir.path().join("saved");
    save(&dir.path().join("old"), &file).await;
    let whole = std::fs::read(&file).unwrap();
    verify_snapshot(&file).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 50) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&file, &bytes).unwrap();
        assert!(verify_snapshot(&file).is_err(), "byte {at}");
        let to = target(dir.path().join("new"));
        assert!(restore(&file, &to).is_err() && std::fs::read_dir(&to.dir).is_err(), "byte {at}");
        std::fs::write(&file, &whole[..at]).unwrap();
        assert!(verify_snapshot(&file).is_err(), "cut at {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_store_goes_on_above_all_that_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    let (held, revision) = filled(&old, true).await;
    let file = dir.path().join("saved");
    save(&old, &file).await;
    let to = target(dir.path().join("new"));
    let made = restore(&file, &to).unwrap();
    assert_eq!(made.revision, revision + 1000);
    assert_ne!(made.store_id, verify(&old).unwrap().store_id);
    assert!(matches!(restore(&file, &to), Err(StoreError::Refused(_))), "over another store");
    verify(&to.dir).unwrap();

    let store: Arc<dyn Store> =
        Engine::open(Config { retention_seconds: 0, ..Config::new(&to.dir) }).unwrap();
    assert_eq!(all(&store).await, held);
    for after in [1, revision - 1, revision, revision + 999] {
        let gone = store.watch("/registry/", "/registry0", after).await.unwrap_err();
        assert!(matches!(gone, StoreError::Compacted { .. }), "{after}: {gone}");
    }
    let next = put(&store, "/registry/pods/a/new", "1", 0).await;
    assert_eq!(next, revision + 1001);
    let gone = store.get("/registry/pods/a/new", revision).await.unwrap_err();
    assert!(matches!(gone, StoreError::Compacted { .. }), "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_restored_member_by_member() {
    let dir = tempfile::tempdir().unwrap();
    let (held, revision) = filled(&dir.path().join("old"), true).await;
    let file = dir.path().join("saved");
    save(&dir.path().join("old"), &file).await;
    let process = 1 + std::process::id() % 250;
    let initial: BTreeMap<String, String> =
        (1..=3).map(|i| (format!("n{i}"), format!("127.{process}.200.{i}:2380"))).collect();
    let mut engines = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for name in initial.keys() {
        let group = Some((name.clone(), initial.clone()));
        let to = Target { group, ..target(dir.path().join(name)) };
        let made = restore(&file, &to).unwrap();
        ids.insert(made.store_id);
        let other = Target { dir: dir.path().join(format!("{name}.other")), token: "t".into(), ..to.clone() };
        assert_ne!(restore(&file, &other).unwrap().store_id, made.store_id);
        let config = GroupConfig {
            name: name.clone(),
            listen: initial[name].parse().unwrap(),
            initial: initial.clone(),
            join: false,
            tls: None,
            snapshot_rate: 1 << 30,
        };
        engines.push(Engine::open_group(Config::new(&to.dir), config).await.unwrap());
    }
    assert_eq!(ids.len(), 1, "the members make one store");
    for engine in &engines {
        engine.ready().await.unwrap();
    }
    let store: Arc<dyn Store> = engines[2].clone();
    assert_eq!(all(&store).await, held);
    assert_eq!(put(&store, "/registry/x", "1", 0).await, revision + 1001);
    let other: Arc<dyn Store> = engines[0].clone();
    assert_eq!(keys(&other, "/registry/x", 0).await, ["/registry/x"]);
    let status = engines[0].operation().unwrap().status().await.unwrap();
    assert!(status.len() == 3 && status.iter().all(|m| m.status.is_ok()), "{status:?}");
    drop((store, other));
    tokio::task::block_in_place(|| drop(engines));
}

/// What is exported of a directory (which was not even stopped cleanly) is what is imported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_go_out_and_come_in() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    let (held, revision) = filled(&old, false).await;
    let export = Export::open(&Source::Directory(old), &dir.path().join("scratch")).unwrap();
    assert_eq!(export.revision(), revision);
    let mut import = Import::new(target(dir.path().join("new")), revision).unwrap();
    let (mut after, mut expiring) = (String::new(), 0);
    loop {
        let page = export.page(&after).unwrap();
        let Some((last, _)) = page.last() else { break };
        after.clone_from(&last.key);
        for (kv, expiry) in page {
            expiring += u64::from(expiry > 0);
            import.add(kv, expiry).unwrap();
        }
    }
    assert_eq!(expiring, 1);
    // Two keys of one transaction, as etcd can have them.
    let twin = |key: &str| KeyValue {
        key: key.to_owned(),
        value: value(key),
        create_revision: 3,
        mod_revision: held[0].1,
    };
    import.add(twin("/registry/z1"), 0).unwrap();
    import.add(twin("/registry/z2"), 0).unwrap();
    let made = import.finish().unwrap();
    assert_eq!((made.revision, made.records), (revision + 1002, held.len() as u64 + 2));
    assert!(!dir.path().join("new.import").exists());
    let store: Arc<dyn Store> = Engine::open(Config::new(dir.path().join("new"))).unwrap();
    let mut expected = held;
    expected.push(("/registry/z1".to_owned(), revision + 1));
    expected.push(("/registry/z2".to_owned(), revision + 2));
    assert_eq!(all(&store).await, expected);
    assert_eq!(store.get("/registry/z2", 0).await.unwrap().unwrap().value, value("/registry/z2"));
}

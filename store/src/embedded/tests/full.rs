//! A disk that is full, and then is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::conformance::{delete, next_events, put, value};
use crate::embedded::{Config, Engine};
use crate::{Op, Store, StoreError, Txn, TxnResult};

/// Bytes that a test says are free.
#[derive(Clone)]
pub struct Disk(Arc<AtomicU64>);

impl Disk {
    pub fn new() -> Disk {
        Disk(Arc::new(AtomicU64::new(1 << 30)))
    }

    pub fn set(&self, mib: u64) {
        self.0.store(mib << 20, Ordering::Relaxed);
    }

    pub fn on(&self, config: Config) -> Config {
        let free = Arc::clone(&self.0);
        Config { free_space: Arc::new(move |_| Some(free.load(Ordering::Relaxed))), ..config }
    }
}

pub async fn try_put(s: &Arc<dyn Store>, key: &str, expected: u64) -> Result<TxnResult, StoreError> {
    let op = Op::Put { value: value("x"), ttl_seconds: 0 };
    s.txn(Txn { key: key.to_owned(), expected, op }).await
}

fn alarm(engine: &Engine) -> bool {
    let mut text = String::new();
    engine.render_metrics(&mut text);
    text.contains("etcd_debugging_server_alarms{alarm_type=\"NOSPACE\"} 1\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_refused_and_everything_else_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new();
    let engine = Engine::open(disk.on(Config::new(dir.path()))).unwrap();
    let s: Arc<dyn Store> = engine.clone();
    let a = put(&s, "/r/a", "1", 0).await;
    let b = put(&s, "/r/b", "1", 0).await;
    let mut w = s.watch("/r/", "/r0", b).await.unwrap();
    assert!(!alarm(&engine));

    disk.set(20);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let why = try_put(&s, "/r/c", 0).await.unwrap_err().to_string();
    assert!(why.contains("is full") && why.contains("20 MiB are free"), "{why}");
    let status = engine.operation().unwrap().status().await.unwrap();
    assert_eq!(status[0].status.as_ref().unwrap().alarms, ["NOSPACE"]);
    assert!(alarm(&engine) && s.health().is_ok());
    assert_eq!(s.get("/r/a", 0).await.unwrap().unwrap().mod_revision, a);
    // Deleting is how room is made.
    let deleted = delete(&s, "/r/b", b).await;
    let events = next_events(&mut w).await;
    assert!(events.len() == 1 && events[0].deleted && events[0].kv.mod_revision == deleted, "{events:?}");
    s.compact(deleted).await.unwrap();

    disk.set(1);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let why = s.txn(Txn { key: "/r/a".into(), expected: a, op: Op::Delete }).await.unwrap_err();
    assert!(why.to_string().contains("is full"), "{why}");
    assert!(s.get("/r/a", 0).await.unwrap().is_some());
    let why = engine.operation().unwrap().snapshot().await.map(|_| ()).unwrap_err().to_string();
    assert!(why.contains("is full"), "{why}");

    disk.set(100);
    tokio::time::sleep(Duration::from_millis(600)).await;
    put(&s, "/r/c", "1", 0).await;
    assert_eq!(next_events(&mut w).await[0].kv.key, "/r/c");
    assert!(!alarm(&engine));
    drop((w, s));
    tokio::task::block_in_place(|| drop(engine));
}

//! The engine over a real etcd: Debian's `etcd-server`, or the program that `COXSWAIN_ETCD` names.

mod cluster;
mod migrate;
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::server::Server;
use super::{Config, Etcd, compaction};
use crate::conformance::{put, value};
use crate::{RangeRequest, Store, StoreError, WatchBatch, prefix_end};

async fn open(dir: &Path) -> (Arc<dyn Store>, Server) {
    let server = Server::alone(dir);
    let store = Etcd::connect(Config::new(vec![server.url()])).await.unwrap();
    (store, server)
}

crate::conformance::suite!(open);

async fn engine(server: &Server, change: impl FnOnce(&mut Config)) -> Arc<Etcd> {
    let mut config = Config::new(vec![server.url()]);
    change(&mut config);
    Etcd::connect(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_compacted_in_agreement_with_others() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let (one, two) = (engine(&server, |_| {}).await, engine(&server, |_| {}).await);
    let s: Arc<dyn Store> = one.clone();
    let r1 = put(&s, "/r/a", "1", 0).await;
    let r2 = put(&s, "/r/a", "2", r1).await;
    compaction::two_rounds(&one.inner).await.unwrap();
    assert!(one.oldest_revision() >= r2, "compacted up to the first round");
    assert!(matches!(s.get("/r/a", r1).await, Err(StoreError::Compacted { .. })));
    // The other finds the version it does not know, does nothing and learns.
    compaction::two_rounds(&two.inner).await.unwrap();
    assert!(two.oldest_revision() >= one.oldest_revision());
    // One that comes later knows at once.
    let three = engine(&server, |_| {}).await;
    assert!(three.oldest_revision() >= r2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fence_is_learned_from_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let (one, two) = (engine(&server, |_| {}).await, engine(&server, |_| {}).await);
    let s: Arc<dyn Store> = one.clone();
    let r1 = put(&s, "/r/a", "1", 0).await;
    let r2 = put(&s, "/r/a", "2", r1).await;
    let r3 = put(&s, "/r/a", "3", r2).await;
    one.compact(r3).await.unwrap();
    let error = two.get("/r/a", r1).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Compacted { requested, oldest } if (requested, oldest) == (r1, r3)),
        "{error:?}"
    );
    let late = engine(&server, |_| {}).await;
    let mut w = late.watch("/r/", "/r0", r1).await.unwrap();
    let error = w.recv().await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Compacted { oldest, .. } if oldest == r3), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let theirs: Arc<dyn Store> = engine(&server, |_| {}).await;
    let ours: Arc<dyn Store> = engine(&server, |c| c.prefix = "east".to_owned()).await;
    let mut w = ours.watch("/registry/", &prefix_end("/registry/"), 0).await.unwrap();
    let r = put(&ours, "/registry/pods/a", "x", 0).await;
    assert_eq!(theirs.get("/east/pods/a", 0).await.unwrap().unwrap().mod_revision, r);
    assert!(theirs.get("/registry/pods/a", 0).await.unwrap().is_none());
    let event = crate::conformance::next_events(&mut w).await.remove(0);
    assert_eq!(event.kv.key, "/registry/pods/a");
}

/// More keys than etcd is asked for at once are read at one revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_of_one_revision() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let s: Arc<dyn Store> = engine(&server, |_| {}).await;
    let n = super::PAGE as usize + 50;
    let writers: Vec<_> = (0..8)
        .map(|w| {
            let s = Arc::clone(&s);
            tokio::spawn(async move {
                for i in (w..n).step_by(8) {
                    put(&s, &format!("/r/{i:06}"), "x", 0).await;
                }
            })
        })
        .collect();
    for w in writers {
        w.await.unwrap();
    }
    let all = RangeRequest { start: "/r/".into(), end: "/r0".into(), ..RangeRequest::default() };
    let range = s.range(all.clone()).await.unwrap();
    assert_eq!((range.items.len(), range.remaining), (n, 0));
    assert!(range.items.windows(2).all(|p| p[0].key < p[1].key));
    let range = s.range(RangeRequest { limit: n as u64 - 10, ..all }).await.unwrap();
    assert_eq!((range.items.len(), range.remaining), (n - 10, 10));
}

/// A watch is at the newest revision soon after it is asked for, though nothing of its range changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_comes_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let s: Arc<dyn Store> = engine(&server, |_| {}).await;
    let mut w = s.watch("/r/quiet/", "/r/quiet0", 0).await.unwrap();
    for i in 0..5 {
        let wanted = put(&s, &format!("/elsewhere/{i}"), "x", 0).await;
        s.request_progress().await.unwrap();
        let reach = async {
            loop {
                match w.recv().await.unwrap().unwrap() {
                    WatchBatch::Progress(r) if r >= wanted => break,
                    WatchBatch::Progress(_) => {}
                    WatchBatch::Events(e) => panic!("{e:?}"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(2), reach).await.expect("no progress");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_tells_of_servers_that_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::alone(dir.path());
    let s = engine(&server, |_| {}).await;
    s.health().unwrap();
    server.kill();
    let error = s.get("/r/a", 0).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(s.health().unwrap_err().to_string().contains("no etcd server answers"));
    server.start();
    let back = async {
        while s.get("/r/a", 0).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("etcd is back");
    s.health().unwrap();
}

/// Values are compared as bytes, whatever they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_one_lease_expire_in_one_revision_and_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::alone(dir.path());
    let s: Arc<dyn Store> = engine(&server, |_| {}).await;
    let mut w = s.watch("/r/", "/r0", 0).await.unwrap();
    for i in 0..5 {
        let op = crate::Op::Put { value: value("short-lived"), ttl_seconds: 20 };
        s.txn(crate::Txn { key: format!("/r/{i}"), expected: 0, op }).await.unwrap();
    }
    let deleted = async {
        loop {
            let events = crate::conformance::next_events(&mut w).await;
            let deleted: Vec<_> = events.into_iter().filter(|e| e.deleted).collect();
            if !deleted.is_empty() {
                break deleted;
            }
        }
    };
    // Asking etcd to end the lease now stands in for the time.
    server.revoke_leases();
    let deleted = tokio::time::timeout(Duration::from_secs(20), deleted).await.expect("nothing expired");
    assert_eq!(deleted.len(), 5);
    assert!(deleted.iter().all(|e| e.kv.mod_revision == deleted[0].kv.mod_revision));
    // The next key finds its lease gone, and gets another.
    let op = crate::Op::Put { value: value("x"), ttl_seconds: 20 };
    let done = s.txn(crate::Txn { key: "/r/next".into(), expected: 0, op }).await.unwrap();
    assert!(matches!(done, crate::TxnResult::Done(_)), "{done:?}");
}

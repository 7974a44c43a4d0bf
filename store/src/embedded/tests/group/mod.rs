//! Several members: over real sockets here, in virtual time in `sim.rs`.

mod changes;
mod checker;
mod fence;
mod full;
mod operation;
mod regressions;
mod scenarios;
mod sim;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::conformance::{keys, next_events, put, value};
use crate::embedded::{Config, Engine};
use crate::{Op, Store, Txn, TxnResult};

/// A group on the loopback interface.
struct Group {
    dir: PathBuf,
    addresses: BTreeMap<String, String>,
    engines: BTreeMap<String, Arc<Engine>>,
}

/// Loopback addresses that nobody else has: of this process, this test, this member.
fn addresses(size: usize) -> BTreeMap<String, String> {
    static TESTS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    let test = TESTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let process = 1 + std::process::id() % 250;
    let address = |i: usize| (format!("m{i}"), format!("127.{process}.{test}.{}:2380", i + 1));
    (0..size).map(address).collect()
}

impl Group {
    async fn new(dir: &Path, size: usize) -> Group {
        let mut group = Group { dir: dir.to_owned(), addresses: addresses(size), engines: BTreeMap::new() };
        let names: Vec<_> = group.addresses.keys().cloned().collect();
        for name in &names {
            group.start(name, false).await;
        }
        for engine in group.engines.values() {
            engine.ready().await.unwrap();
        }
        group
    }

    async fn start(&mut self, name: &str, join: bool) {
        let group = self.config(name, join);
        let config =
            Config { retention_seconds: 0, snapshot_bytes: 300_000, ..Config::new(self.dir.join(name)) };
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let engine = loop {
            match Engine::open_group(config.clone(), group.clone()).await {
                Ok(engine) => break engine,
                // The port of the one before it is still being let go.
                Err(e) if std::time::Instant::now() < deadline && e.to_string().contains("listening") => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(e) => panic!("{e}"),
            }
        };
        self.engines.insert(name.to_owned(), engine);
    }

    /// Stops a member as a crash would.
    fn kill(&mut self, name: &str) {
        let engine = self.engines.remove(name).unwrap();
        tokio::task::block_in_place(|| drop(engine));
    }

    fn leader(&self) -> Option<String> {
        let leads = |e: &Arc<Engine>| e.proposer.leader.borrow().is_me;
        self.engines.iter().find(|(_, e)| leads(e)).map(|(name, _)| name.clone())
    }

    async fn wait_for_leader(&self) -> String {
        loop {
            if let Some(leader) = self.leader() {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn store(&self, name: &str) -> Arc<dyn Store> {
        self.engines[name].clone()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let engines = std::mem::take(&mut self.engines);
        tokio::task::block_in_place(|| drop(engines));
    }
}

/// What others keep open to a member that has stopped does not keep its state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_member_lets_its_state_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new(dir.path(), 3).await;
    for name in group.addresses.keys().cloned().collect::<Vec<_>>() {
        // Each leads once, so that each has talked to each.
        group.engines[&name].operation().unwrap().transfer_leader(&name).await.unwrap();
    }
    let name = group.engines.keys().next().unwrap().clone();
    let state = Arc::downgrade(&group.engines[&name].state);
    group.kill(&name);
    let gone = async {
        while state.upgrade().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("somebody holds the state");
}

mod at_the_leader {
    async fn open(dir: &std::path::Path) -> (std::sync::Arc<dyn crate::Store>, super::Group) {
        let group = super::Group::new(dir, 3).await;
        let leader = group.wait_for_leader().await;
        (group.store(&leader), group)
    }

    crate::conformance::suite!(open);
}

mod at_a_follower {
    async fn open(dir: &std::path::Path) -> (std::sync::Arc<dyn crate::Store>, super::Group) {
        let group = super::Group::new(dir, 3).await;
        let leader = group.wait_for_leader().await;
        let follower = group.engines.keys().find(|name| **name != leader).unwrap().clone();
        (group.store(&follower), group)
    }

    crate::conformance::suite!(open);
}

/// Counts up under a key until told to stop; the last number acknowledged, and how many were.
async fn count(s: Arc<dyn Store>, key: String, stop: tokio::sync::watch::Receiver<bool>) -> (u64, u64) {
    let (mut n, mut last, mut acknowledged, mut expected) = (0, 0, 0, 0);
    while !*stop.borrow() {
        n += 1;
        let op = Op::Put { value: value(&n.to_string()), ttl_seconds: 0 };
        match s.txn(Txn { key: key.clone(), expected, op }).await {
            Ok(TxnResult::Done(revision)) => {
                expected = revision;
                last = n;
                acknowledged += 1;
            }
            Ok(TxnResult::Conflict(there)) => expected = there.map_or(0, |kv| kv.mod_revision),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    (last, acknowledged)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_while_members_die() {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new(dir.path(), 3).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    // The witness is never killed; its watch sees everything.
    let witness = group.store("m0");
    let mut w = witness.watch("/r/", "/r0", 0).await.unwrap();
    let counters: Vec<_> = (0..4)
        .map(|i| tokio::spawn(count(Arc::clone(&witness), format!("/r/{i}"), stopped.clone())))
        .collect();
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let victim = ["m1", "m2"][round % 2];
        group.kill(victim);
        tokio::time::sleep(Duration::from_millis(300)).await;
        group.start(victim, false).await;
        group.engines[victim].ready().await.unwrap();
    }
    stop.send(true).unwrap();
    let mut told = Vec::new();
    for c in counters {
        told.push(c.await.unwrap());
    }
    put(&witness, "/r/end", "x", 0).await;
    let mut revisions = Vec::new();
    'all: loop {
        for e in next_events(&mut w).await {
            revisions.push(e.kv.mod_revision);
            if e.kv.key == "/r/end" {
                break 'all;
            }
        }
    }
    assert!(revisions.windows(2).all(|p| p[0] + 1 == p[1]), "an event is missing, or came twice");
    for name in ["m0", "m1", "m2"] {
        let s = group.store(name);
        for (i, (last, _)) in told.iter().enumerate() {
            let there = s.get(&format!("/r/{i}"), 0).await.unwrap().unwrap();
            let there: u64 = std::str::from_utf8(&there.value).unwrap().parse().unwrap();
            assert!(there >= *last, "{name}: {there} where {last} was acknowledged");
        }
    }
    let acknowledged: u64 = told.iter().map(|(_, n)| n).sum();
    assert!(acknowledged > 50, "only {acknowledged} writes went through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new(dir.path(), 3).await;
    let s = group.store("m0");
    let r = put(&s, "/r/a", "1", 0).await;
    assert_eq!(s.current_revision().await.unwrap(), r);
    group.kill("m1");
    group.kill("m2");
    let op = Op::Put { value: value("2"), ttl_seconds: 0 };
    let write = s.txn(Txn { key: "/r/a".into(), expected: r, op });
    let outcome = tokio::time::timeout(Duration::from_secs(3), write).await;
    assert!(!matches!(outcome, Ok(Ok(_))), "{outcome:?}");
    let read = tokio::time::timeout(Duration::from_secs(3), s.get("/r/a", 0)).await;
    assert!(!matches!(read, Ok(Ok(_))), "a read that may be stale was answered");
    // What history says of the past is no matter of majority.
    assert_eq!(s.get("/r/a", r).await.unwrap().unwrap().value, value("1"));
    group.start("m1", false).await;
    let back = tokio::time::timeout(Duration::from_secs(20), s.get("/r/a", 0)).await;
    assert!(back.expect("a majority is back").unwrap().is_some());
}

/// A member that was away while the others forgot the log gets a snapshot, and its watches go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lacks_the_log_gets_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new(dir.path(), 3).await;
    let leader = group.wait_for_leader().await;
    let away = group.engines.keys().find(|n| **n != leader).unwrap().clone();
    let s = group.store(&leader);
    let first = put(&s, "/r/first", "1", 0).await;
    group.kill(&away);
    let filler = "x".repeat(20_000);
    let mut revision = 0;
    for _ in 0..100 {
        revision = put(&s, "/r/a", &filler, revision).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    group.start(&away, false).await;
    group.engines[&away].ready().await.unwrap();
    let back = group.store(&away);
    assert_eq!(back.current_revision().await.unwrap(), revision);
    assert_eq!(keys(&back, "/r/", 0).await, ["/r/a", "/r/first"]);
    let mut w = back.watch("/r/", "/r0", first).await.unwrap();
    let mut seen = 0;
    while seen < 100 {
        seen += next_events(&mut w).await.len();
    }
    let files = std::fs::read_dir(dir.path().join(&away).join("snapshots")).unwrap();
    let files: Vec<_> = files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    assert!(
        files.iter().any(|f| f.ends_with(".snap")) && !files.iter().any(|f| f.contains("recv")),
        "{files:?}"
    );
    // It starts from what it has now, too.
    drop((back, w));
    group.kill(&away);
    group.start(&away, false).await;
    group.engines[&away].ready().await.unwrap();
    assert_eq!(group.store(&away).current_revision().await.unwrap(), revision);
}

/// Without a hand-over nobody leads for an election timeout at least, a second: seen every time, where a machine that is
/// busy is seen once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over() {
    const ATTEMPTS: usize = 5;
    let mut took = Vec::new();
    while took.len() < ATTEMPTS {
        let dir = tempfile::tempdir().unwrap();
        let mut group = Group::new(dir.path(), 3).await;
        let leader = group.wait_for_leader().await;
        let other = group.engines.keys().find(|n| **n != leader).unwrap().clone();
        let s = group.store(&other);
        put(&s, "/r/a", "1", 0).await;
        let engine = group.engines.remove(&leader).unwrap();
        engine.close().await.unwrap();
        tokio::task::block_in_place(|| drop(engine));
        let started = std::time::Instant::now();
        put(&s, "/r/b", "1", 0).await;
        took.push(started.elapsed());
        if took.last() < Some(&Duration::from_secs(1)) {
            return;
        }
    }
    panic!("without a leader for {took:?}");
}

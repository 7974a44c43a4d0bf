//! A real process that is killed while it writes: the test starts itself again as the victim.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::open;
use crate::conformance::value;
use crate::embedded::{Config, Engine};
use crate::{Op, RangeRequest, Store, Txn, TxnResult};

const DIR: &str = "COXSWAIN_TEST_KILL_DIR";
/// The victim defragments itself all the time.
const DEFRAGMENTS: &str = "COXSWAIN_TEST_KILL_DEFRAGMENTS";
const WRITERS: usize = 8;

/// The victim: writes for ever and says what was acknowledged. As a test of its own it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let config = Config { snapshot_bytes: 300_000, ..Config::new(&dir) };
    let s: Arc<dyn Store> = Engine::open(config).unwrap();
    if std::env::var_os(DEFRAGMENTS).is_some() {
        let operation = s.operation().unwrap();
        tokio::spawn(async move {
            loop {
                operation.defragment("").await.unwrap();
            }
        });
    }
    let mut writers = Vec::new();
    for w in 0..WRITERS {
        let s = Arc::clone(&s);
        writers.push(tokio::spawn(async move {
            let key = format!("/r/{w}");
            let now = s.get(&key, 0).await.unwrap();
            let mut expected = now.as_ref().map_or(0, |kv| kv.mod_revision);
            let mut n: u64 = now.map_or(0, |kv| number(&kv.value) + 1);
            loop {
                let op = Op::Put { value: value(&format!("{n} {}", "x".repeat(w * 100))), ttl_seconds: 0 };
                match s.txn(Txn { key: key.clone(), expected, op }).await.unwrap() {
                    TxnResult::Done(revision) => expected = revision,
                    TxnResult::Conflict(c) => panic!("{c:?}"),
                }
                // One write to a pipe: whole lines, and there once the call returns.
                use std::io::Write;
                std::io::stdout().lock().write_all(format!("\nack {w} {n} {expected}\n").as_bytes()).unwrap();
                n += 1;
            }
        }));
    }
    // They end only by panicking.
    futures::future::join_all(writers).await.into_iter().for_each(|w| w.unwrap());
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// Runs the victim for a while; the last acknowledged number and revision of each writer.
fn run_and_kill(dir: &Path, acks: usize, defragments: bool) -> BTreeMap<String, (u64, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["embedded::tests::kill::victim", "--exact", "--nocapture"])
        .env(DIR, dir)
        .envs(defragments.then_some((DEFRAGMENTS, "1")))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut last = BTreeMap::new();
    let mut seen = 0;
    let mut killed = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some(ack) = line.strip_prefix("ack ") else { continue };
        let parts: Vec<&str> = ack.split(' ').collect();
        let [w, n, revision] = parts[..] else { continue };
        let (Ok(n), Ok(revision)) = (n.parse(), revision.parse()) else { continue };
        last.insert(format!("/r/{w}"), (n, revision));
        seen += 1;
        if seen >= acks && !killed {
            // SIGKILL; what is still in the pipe was acknowledged too.
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the victim ended by itself");
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing() {
    kill_again_and_again(4, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_during_defragmentation_loses_nothing() {
    kill_again_and_again(10, true).await;
}

async fn kill_again_and_again(rounds: usize, defragments: bool) {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..rounds {
        let path = dir.path().to_owned();
        let acks = 300 + 400 * (round % 4) + 37 * round;
        let acked =
            tokio::task::spawn_blocking(move || run_and_kill(&path, acks, defragments)).await.unwrap();
        assert_eq!(acked.len(), WRITERS);
        let s = open(dir.path());
        let request = RangeRequest { start: "/r/".into(), end: "/r0".into(), ..RangeRequest::default() };
        let range = s.range(request).await.unwrap();
        for kv in range.items {
            let (n, revision) = acked[&kv.key];
            let there = number(&kv.value);
            // At most one more each: written, and killed before it could say so.
            assert!(
                there == n && kv.mod_revision == revision || there == n + 1,
                "{}: {n}, found {there}",
                kv.key
            );
            assert!(kv.mod_revision <= range.revision);
        }
        drop(s);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

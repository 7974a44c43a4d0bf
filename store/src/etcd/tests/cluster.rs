//! Three etcd servers, one of which is dead at most times.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::server::Server;
use crate::conformance::{next_events, value};
use crate::etcd::{Config, Etcd};
use crate::{Op, Store, StoreError, Txn, TxnResult};

const WRITERS: usize = 4;

/// What one writer knows: acknowledged `(revision, number)`, and numbers whose fate it was not told.
#[derive(Default)]
struct Told {
    acknowledged: Vec<(u64, u64)>,
    unknown: Vec<u64>,
}

async fn write(s: Arc<dyn Store>, key: String, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    let mut n = 0;
    let mut expected = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let op = Op::Put { value: value(&n.to_string()), ttl_seconds: 0 };
        match s.txn(Txn { key: key.clone(), expected, op }).await {
            Ok(TxnResult::Done(revision)) => {
                told.acknowledged.push((revision, n));
                expected = revision;
            }
            // A write of before whose fate was unknown did happen.
            Ok(TxnResult::Conflict(kv)) => expected = kv.map_or(0, |kv| kv.mod_revision),
            Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => told.unknown.push(n),
            Err(e) => panic!("{e}"),
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_missed_while_servers_die() {
    let dir = tempfile::tempdir().unwrap();
    let mut servers = Server::cluster(dir.path(), 3);
    let urls: Vec<_> = servers.iter().map(Server::url).collect();
    let s: Arc<dyn Store> = Etcd::connect(Config::new(urls)).await.unwrap();
    let begin = s.current_revision().await.unwrap();
    let mut w = s.watch("/r/", "/r0", begin).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|i| tokio::spawn(write(Arc::clone(&s), format!("/r/{i}"), Arc::clone(&stop))))
        .collect();
    let collect = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            for e in next_events(&mut w).await {
                if e.kv.key == "/r/end" {
                    return seen;
                }
                seen.push((e.kv.mod_revision, e.kv.key, e.kv.value));
            }
        }
    });
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let victim = &mut servers[round % 3];
        tokio::task::block_in_place(|| {
            victim.kill();
            std::thread::sleep(Duration::from_millis(700));
            victim.start();
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let mut told = Vec::new();
    for writer in writers {
        told.push(writer.await.unwrap());
    }
    crate::conformance::put(&s, "/r/end", "x", 0).await;
    let seen =
        tokio::time::timeout(Duration::from_secs(30), collect).await.expect("the watch stalls").unwrap();

    assert!(seen.windows(2).all(|p| p[0].0 < p[1].0), "an event came twice, or out of order");
    let by_revision: BTreeMap<u64, (&str, &[u8])> =
        seen.iter().map(|(revision, key, value)| (*revision, (key.as_str(), &value[..]))).collect();
    let mut acknowledged = 0;
    for (i, told) in told.iter().enumerate() {
        let key = format!("/r/{i}");
        for (revision, n) in &told.acknowledged {
            let event = by_revision.get(revision);
            assert_eq!(event, Some(&(key.as_str(), n.to_string().as_bytes())), "acknowledged at {revision}");
        }
        let numbers: Vec<u64> = told.acknowledged.iter().map(|(_, n)| *n).collect();
        for (revision, _, value) in seen.iter().filter(|(_, k, _)| *k == key) {
            let n = std::str::from_utf8(value).unwrap().parse::<u64>().unwrap();
            assert!(
                numbers.contains(&n) || told.unknown.contains(&n),
                "{n} at {revision} was told to have failed"
            );
        }
        acknowledged += numbers.len();
    }
    assert!(acknowledged > 100, "only {acknowledged} writes went through");
}

//! One member's disk is full: the others go on, whichever it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Group;
use crate::Store;
use crate::conformance::put;
use crate::embedded::tests::full::{Disk, try_put};
use crate::embedded::{Config, Engine};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_and_it_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut group =
        Group { dir: dir.path().to_owned(), addresses: super::addresses(3), engines: BTreeMap::new() };
    let mut disks = BTreeMap::new();
    for name in group.addresses.clone().into_keys() {
        let disk = Disk::new();
        let config = disk.on(Config::new(dir.path().join(&name)));
        let engine = Engine::open_group(config, group.config(&name, false)).await.unwrap();
        disks.insert(name.clone(), disk);
        group.engines.insert(name, engine);
    }
    for engine in group.engines.values() {
        engine.ready().await.unwrap();
    }
    let leader = group.wait_for_leader().await;
    let s: Arc<dyn Store> = group.store(&leader);
    put(&s, "/r/a", "1", 0).await;

    // The leader's: it hands over, and values are taken at any member, itself included.
    disks[&leader].set(20);
    let started = Instant::now();
    loop {
        match try_put(&s, "/r/b", 0).await {
            Ok(_) => break,
            Err(e) => assert!(started.elapsed() < Duration::from_secs(15), "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    let until = Instant::now() + Duration::from_secs(15);
    while group.leader().is_none_or(|l| l == leader) {
        // Refused until it has handed over; what it accepted before it looked at its disk counts, too.
        drop(try_put(&s, "/r/c", 0).await);
        assert!(Instant::now() < until, "a leader with a full disk leads on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Nothing is left at all: a majority goes on without it, and it comes back by itself.
    disks[&leader].set(0);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let other = group.leader().unwrap();
    let at = group.store(&other);
    let mut last = 0;
    for i in 0..20 {
        last = put(&at, &format!("/r/n{i}"), "1", 0).await;
    }
    assert!(group.engines[&leader].state.revision() < last, "it wrote without room");
    disks[&leader].set(1000);
    group.engines[&leader].ready().await.unwrap();
    assert_eq!(s.current_revision().await.unwrap(), last);
}

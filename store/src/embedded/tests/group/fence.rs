//! One member's state is not the others': it stops, whichever it is, and they go on.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Group;
use crate::Store;
use crate::conformance::put;
use crate::embedded::kv::{Batch, Kv, SledKv};
use crate::embedded::record::{META, Meta};

/// Stops a member and changes its state behind its back.
async fn damage(group: &mut Group, name: &str) {
    let engine = group.engines.remove(name).unwrap();
    engine.close().await.unwrap();
    tokio::task::block_in_place(|| drop(engine));
    // A copy: streams of the other members may still hold what the engine had open.
    let (applied, copy) = (group.dir.join(name).join("applied"), group.dir.join(name).join("copy"));
    copy_tree(&applied, &copy);
    std::fs::remove_dir_all(&applied).unwrap();
    let kv = SledKv::open(&copy, 1 << 20).unwrap();
    let mut meta = Meta::decode(&kv.get(META).unwrap().unwrap()).unwrap();
    meta.chain ^= 1;
    kv.apply(&Batch::from([(META.to_vec(), Some(meta.encode().into()))])).unwrap();
    kv.close().unwrap();
    drop(kv);
    std::fs::rename(&copy, &applied).unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Whether it led, where it should: it may be noticed before.
async fn odd_one(leads: bool) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let mut group = Group::new(dir.path(), 3).await;
    let leader = group.wait_for_leader().await;
    put(&group.store(&leader), "/r/a", "1", 0).await;
    let odd = group.engines.keys().find(|n| **n != leader).unwrap().clone();
    damage(&mut group, &odd).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    group.start(&odd, false).await;
    // It may be noticed already.
    let _ = group.engines[&odd].ready().await;
    if leads && group.engines[&leader].operation().unwrap().transfer_leader(&odd).await.is_err() {
        return false;
    }
    let s = group.store(&leader);
    let (mut n, until) = (0, Instant::now() + Duration::from_secs(30));
    let why = loop {
        n += 1;
        // One that is under way when a leader is fenced may fail.
        let _ = crate::embedded::tests::full::try_put(&s, &format!("/r/n{n}"), 0).await;
        match group.engines[&odd].health() {
            Err(e) if e.to_string().contains("differs") => break e.to_string(),
            _ => assert!(Instant::now() < until, "nobody noticed"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(why.contains("that of a majority"), "{why}");
    // Longer than it takes to look again.
    tokio::time::sleep(Duration::from_millis(3000)).await;
    for (name, engine) in group.engines.iter().filter(|(name, _)| **name != odd) {
        engine.ready().await.unwrap_or_else(|e| panic!("{name}: {e}"));
        put(&group.store(name), &format!("/r/{name}"), "1", 0).await;
    }
    assert!(group.store(&odd).get("/r/a", 0).await.is_err(), "it serves on");
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_differs_stops() {
    odd_one(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_differs_stops_and_the_others_do_not() {
    for _ in 0..10 {
        if odd_one(true).await {
            return;
        }
    }
    panic!("it was always noticed before it led");
}

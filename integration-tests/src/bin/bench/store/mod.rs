//! The store beside Debian's etcd on the same disk. What is measured is what an API server waits for: calls of the
//! `Store` trait, our engine being part of the process, etcd being reached over gRPC on the loopback interface. Neither
//! uses TLS. In groups the clients are spread over the members.
//!
//! Writes are creations of objects of 1 KB by compare-and-swap, as an API server makes them, and durable before they
//! are answered. Reads are linearizable.

pub mod engine;
mod etcd;
mod failover;
mod group;
mod load;
mod overwrite;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use integration_tests::binaries;
use integration_tests::usage::resident;
use store::Store;
use store::embedded::{Config, Engine};

use self::engine::Child;
use self::load::{creates, fill, reads};
use crate::figures::line;

/// Clients at once.
const CLIENTS: usize = 64;
/// Bytes of a value.
const VALUE: usize = 1 << 10;
/// How long writes and reads are counted.
const WRITING: Duration = Duration::from_secs(8);
const READING: Duration = Duration::from_secs(4);
/// Objects of the measurement of memory: 100 MB.
const OBJECTS: usize = 100_000;
/// Objects, and bytes of each, of the measurement of restarts: 1 GB.
const MANY: usize = 250_000;
const LARGE: usize = 4_000;

/// Prints the figures of the store.
pub fn run() -> anyhow::Result<()> {
    // Beside the programs: what is temporary may be in memory.
    let dir = tempfile::Builder::new().prefix("bench-store-").tempdir_in(binaries::folder())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let dir = dir.path();
    runtime.block_on(async {
        alone(dir).await?;
        of_three(dir).await?;
        memory(dir).await?;
        restart(&dir.join("restart"))?;
        overwrite::run(&dir.join("overwrite")).await?;
        failover::run().await
    })
}

/// One member.
async fn alone(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("alone");
    let engine: Arc<dyn Store> = Engine::open(Config::new(&path))?;
    let stores = vec![Arc::clone(&engine)];
    speed("store.one", &stores).await?;
    engine.close().await?;
    drop((engine, stores));
    let servers = etcd::start(&dir.join("etcd-alone"), 1).await?;
    speed("etcd.one", &servers.stores().await?).await?;
    drop(servers);
    remove(&path)?;
    remove(&dir.join("etcd-alone"))
}

/// Three members on this machine.
async fn of_three(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("three");
    let members = group::start(&path, 3).await?;
    speed("store.three", &members).await?;
    for m in &members {
        m.close().await?;
    }
    drop(members);
    let servers = etcd::start(&dir.join("etcd-three"), 3).await?;
    speed("etcd.three", &servers.stores().await?).await?;
    drop(servers);
    remove(&path)?;
    remove(&dir.join("etcd-three"))
}

async fn speed(name: &str, stores: &[Arc<dyn Store>]) -> anyhow::Result<()> {
    let (written, made) = creates(stores, WRITING).await?;
    written.print(&format!("{name}.create_1k"));
    reads(stores, &made, READING).await?.print(&format!("{name}.get_1k"));
    Ok(())
}

/// Resident memory with 100 MB of live data, of a process that is nothing but the engine, and of etcd.
async fn memory(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join("memory");
    let child = Child::fill(&path, OBJECTS, VALUE)?;
    let live = (OBJECTS * VALUE) as f64 / 1e6;
    line("store.memory.live", live, "MB");
    // What was only needed to write it goes within moments.
    tokio::time::sleep(Duration::from_secs(2)).await;
    line("store.memory.resident", resident(child.id())?, "MB");
    line("store.memory.goal", live * 1.5 + 20.0, "MB");
    drop(child);
    remove(&path)?;
    let servers = etcd::start(&dir.join("etcd-memory"), 1).await?;
    fill(&servers.stores().await?, OBJECTS, VALUE).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    line("etcd.memory.resident", resident(servers.first()?)?, "MB");
    drop(servers);
    remove(&dir.join("etcd-memory"))
}

/// From the start of the process until it has read and written, with 1 GB of live data: after it was killed, and after
/// the machine has lost power, when the applied state is built anew from the snapshot and the log.
fn restart(path: &Path) -> anyhow::Result<()> {
    drop(Child::fill(path, MANY, LARGE)?);
    line("store.restart_1gb.disk", load::disk(path)? / 1e6, "MB");
    for name in ["killed", "killed_again"] {
        let started = Instant::now();
        let child = Child::open(path)?;
        line(&format!("store.restart_1gb.{name}"), started.elapsed().as_secs_f64(), "s");
        line(&format!("store.restart_1gb.{name}.memory"), resident(child.id())?, "MB");
    }
    std::fs::write(path.join("APPLIED"), "another boot").context("the mark of the applied state")?;
    let started = Instant::now();
    let child = Child::open(path)?;
    line("store.restart_1gb.power_cut", started.elapsed().as_secs_f64(), "s");
    line("store.restart_1gb.power_cut.memory", resident(child.id())?, "MB");
    drop(child);
    remove(path)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    std::fs::remove_dir_all(path).with_context(|| path.display().to_string())
}

//! Clients of a store.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use store::{Op, Store, Txn, TxnResult};
use tokio::task::JoinSet;

use super::{CLIENTS, VALUE};
use crate::figures::{line, quantile};

/// What the clients did together.
pub struct Done {
    seconds: f64,
    /// Of each call, in ms.
    times: Vec<f64>,
}

impl Done {
    /// Calls a second, and the time that 99 of 100 did not exceed.
    pub fn print(self, name: &str) {
        line(&format!("{name}.rate"), self.times.len() as f64 / self.seconds, "1/s");
        line(&format!("{name}.p99"), quantile(self.times, 0.99), "ms");
    }
}

/// Bytes that cannot be compressed.
pub fn value(bytes: usize) -> Bytes {
    let mut value = vec![0; bytes];
    StdRng::seed_from_u64(1).fill_bytes(&mut value);
    value.into()
}

/// Writes a key that stands at `expected`; its new revision.
pub async fn put(s: &dyn Store, key: String, expected: u64, value: Bytes) -> anyhow::Result<u64> {
    match s.txn(Txn { key, expected, op: Op::Put { value, ttl_seconds: 0 } }).await? {
        TxnResult::Done(revision) => Ok(revision),
        TxnResult::Conflict(there) => bail!("somebody else writes here: {there:?}"),
    }
}

fn key(client: usize, n: usize) -> String {
    format!("/registry/configmaps/bench-{client}/object-{n}")
}

/// Each client creates one object after the other. Also how many each has made.
pub async fn creates(stores: &[Arc<dyn Store>], time: Duration) -> anyhow::Result<(Done, Vec<usize>)> {
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let s = Arc::clone(&stores[client % stores.len()]);
        clients.spawn(async move {
            let (value, mut times) = (value(VALUE), Vec::new());
            while started.elapsed() < time {
                let begun = Instant::now();
                put(&*s, key(client, times.len()), 0, value.clone()).await?;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok((client, times))
        });
    }
    let (mut all, mut made) = (Vec::new(), vec![0; CLIENTS]);
    while let Some(done) = clients.join_next().await {
        let (client, times) = done??;
        made[client] = times.len();
        all.extend(times);
    }
    Ok((Done { seconds: started.elapsed().as_secs_f64(), times: all }, made))
}

/// Each client reads objects by chance, at the newest revision. `made`: how many each client has created.
pub async fn reads(stores: &[Arc<dyn Store>], made: &[usize], time: Duration) -> anyhow::Result<Done> {
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let s = Arc::clone(&stores[client % stores.len()]);
        let made = made.to_vec();
        clients.spawn(async move {
            let (mut rng, mut times) = (StdRng::seed_from_u64(client as u64), Vec::new());
            while started.elapsed() < time {
                let of = rng.random_range(0..CLIENTS);
                let key = key(of, rng.random_range(0..made[of].max(1)));
                let begun = Instant::now();
                let found = s.get(&key, 0).await?;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
                anyhow::ensure!(found.is_some_and(|kv| kv.value.len() == VALUE), "{key} is not there");
                // Where nothing is waited for, others still have their turn.
                tokio::task::consume_budget().await;
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = clients.join_next().await {
        all.extend(times??);
    }
    Ok(Done { seconds: started.elapsed().as_secs_f64(), times: all })
}

/// Creates so many objects.
pub async fn fill(stores: &[Arc<dyn Store>], objects: usize, bytes: usize) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let s = Arc::clone(&stores[client % stores.len()]);
        clients.spawn(async move {
            let value = value(bytes);
            for n in (client..objects).step_by(CLIENTS) {
                put(&*s, key(client, n), 0, value.clone()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(())
}

/// Bytes that everything below a directory takes on the disk. What vanishes meanwhile takes none.
pub fn disk(dir: &Path) -> anyhow::Result<f64> {
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(dir)?.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        // stat(2) counts in 512 bytes, whatever the file system does.
        bytes +=
            if meta.is_dir() { disk(&entry.path()).unwrap_or(0.0) } else { meta.blocks() as f64 * 512.0 };
    }
    Ok(bytes)
}

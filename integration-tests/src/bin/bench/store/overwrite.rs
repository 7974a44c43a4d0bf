//! Room on the disk while the same keys are overwritten for an hour, which is pressed into as little time as the writes
//! take: the engine's clock goes by the writes. History is kept and removed as in production.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use store::Store;
use store::embedded::{Config, Engine};
use tokio::task::JoinSet;

use super::load::{disk, put, value};
use super::{CLIENTS, VALUE};
use crate::figures::line;

/// Writes in a second of the engine's clock.
const RATE: u64 = 500;
const WRITES: u64 = RATE * 3600;
const KEYS: u64 = 2_048;
/// Between two looks at the disk.
const LOOK: Duration = Duration::from_millis(500);
/// Where the engine's clock begins, in Unix seconds.
const BEGIN: u64 = 1_800_000_000;

/// Prints what the disk held at most in each quarter of the hour. The first has the history still growing.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let written = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&written);
    let config =
        Config { clock: Arc::new(move || BEGIN + clock.load(Ordering::Relaxed) / RATE), ..Config::new(path) };
    let history = config.retention_seconds * RATE * VALUE as u64;
    line("store.overwrite.live", (KEYS * VALUE as u64) as f64 / 1e6, "MB");
    line("store.overwrite.history", history as f64 / 1e6, "MB");
    let engine: Arc<dyn Store> = Engine::open(config)?;
    let mut clients = JoinSet::new();
    let begun = std::time::Instant::now();
    for client in 0..CLIENTS as u64 {
        let (s, written) = (Arc::clone(&engine), Arc::clone(&written));
        clients.spawn(async move {
            let mut keys: Vec<_> = (client..KEYS).step_by(CLIENTS).map(|k| (k, 0)).collect();
            let value = value(VALUE);
            loop {
                for (key, revision) in &mut keys {
                    if written.load(Ordering::Relaxed) >= WRITES {
                        return anyhow::Ok(());
                    }
                    let name = format!("/registry/leases/bench/object-{key}");
                    *revision = put(&*s, name, *revision, value.clone()).await?;
                    written.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let mut peaks = [0f64; 4];
    while !clients.is_empty() {
        // A sample falls into the quarter it is taken in; the last one's end is its own.
        let quarter = (written.load(Ordering::Relaxed) * 4 / WRITES).min(3) as usize;
        peaks[quarter] = peaks[quarter].max(disk(path)?);
        tokio::time::sleep(LOOK).await;
        while let Some(done) = clients.try_join_next() {
            done??;
        }
    }
    line("store.overwrite.rate", WRITES as f64 / begun.elapsed().as_secs_f64(), "1/s");
    for (n, peak) in peaks.into_iter().enumerate() {
        line(&format!("store.overwrite.disk.quarter{}", n + 1), peak / 1e6, "MB");
    }
    engine.close().await?;
    drop(engine);
    super::remove(path)
}

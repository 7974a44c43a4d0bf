//! Measures the embedded store and the watch cache: durable writes per second by one and by many writers, reads, list
//! and watch fan-out, time to open, memory at rest. One line each: name, value, unit.
//!
//! `cargo run --release -p apiserver --example store_bench [DIR]`; the directory is removed afterwards.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apiserver::cache::{Cache, Feed, Freshness, From, Indexed, Indexer, Pairs, WatchItem};
use apiserver::store::embedded::{Config, Engine};
use apiserver::store::{KeyValue, Op, RangeRequest, Store, Txn, TxnResult, prefix_end};
use bytes::Bytes;

const VALUE: usize = 1024;
const TIME: Duration = Duration::from_secs(2);

struct Plain;

impl Indexer for Plain {
    fn index(&self, kv: &KeyValue) -> Result<Indexed, String> {
        let labels: Pairs = [("app", "bench")].into_iter().collect();
        Ok(Indexed { bytes: kv.value.clone(), labels, fields: Pairs::default() })
    }
}

fn line(name: &str, value: f64, unit: &str) {
    println!("{name:<44} {value:>12.1} {unit}");
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next());
    kib.and_then(|k| k.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

async fn put(s: &Arc<dyn Store>, key: &str, expected: u64) -> anyhow::Result<u64> {
    let op = Op::Put { value: Bytes::from(vec![b'x'; VALUE]), ttl_seconds: 0 };
    match s.txn(Txn { key: key.to_owned(), expected, op }).await? {
        TxnResult::Done(revision) => Ok(revision),
        TxnResult::Conflict(_) => anyhow::bail!("{key} was changed by somebody else"),
    }
}

/// Updates by `n` writers, each its own key; how many per second, and the median and 99th percentile of their time.
async fn writers(s: &Arc<dyn Store>, n: usize) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut tasks = Vec::new();
    for w in 0..n {
        let s = Arc::clone(s);
        tasks.push(tokio::spawn(async move {
            let (key, mut revision, mut times) = (format!("/bench/{n}/{w}"), 0, Vec::new());
            while started.elapsed() < TIME {
                let begun = Instant::now();
                revision = put(&s, &key, revision).await?;
                times.push(begun.elapsed());
            }
            anyhow::Ok(times)
        }));
    }
    let mut times = Vec::new();
    for t in tasks {
        times.extend(t.await??);
    }
    let per_second = times.len() as f64 / started.elapsed().as_secs_f64();
    times.sort_unstable();
    line(&format!("durable puts, {n} writers"), per_second, "1/s");
    line(&format!("  p50, {n} writers"), times[times.len() / 2].as_secs_f64() * 1e6, "µs");
    line(&format!("  p99, {n} writers"), times[times.len() * 99 / 100].as_secs_f64() * 1e6, "µs");
    Ok(())
}

/// Lists and watches of 10,000 objects.
async fn cache(s: &Arc<dyn Store>) -> anyhow::Result<()> {
    const OBJECTS: usize = 10_000;
    let prefix = "/registry/pods/";
    let end = prefix_end(prefix);
    let mut tasks = Vec::new();
    for w in 0..64 {
        let s = Arc::clone(s);
        tasks.push(tokio::spawn(async move {
            for i in (w..OBJECTS).step_by(64) {
                put(&s, &format!("{prefix}ns-{}/pod-{i:05}", i % 10), 0).await?;
            }
            anyhow::Ok(())
        }));
    }
    for t in tasks {
        t.await??;
    }
    let begun = Instant::now();
    let range =
        s.range(RangeRequest { start: prefix.into(), end: end.clone(), ..RangeRequest::default() }).await?;
    line("range of 10,000 objects from the store", begun.elapsed().as_secs_f64() * 1e3, "ms");
    anyhow::ensure!(range.items.len() == OBJECTS);
    drop(range);

    let feed = Feed::new(Arc::clone(s), "/registry/");
    let cache = Cache::new(&feed, prefix, Arc::new(Plain));
    let begun = Instant::now();
    cache.load().await?;
    line("filling the cache with 10,000 objects", begun.elapsed().as_secs_f64() * 1e3, "ms");
    let begun = Instant::now();
    for _ in 0..100 {
        let list = cache.list(prefix, &end, Freshness::Newest).await?;
        anyhow::ensure!(list.iter().map(|o| o.bytes.len()).sum::<usize>() == OBJECTS * VALUE);
    }
    line("consistent list of 10,000 objects", begun.elapsed().as_secs_f64() * 1e6 / 100.0, "µs");

    const WATCHES: usize = 100;
    const EVENTS: usize = 2000;
    let seen = Arc::new(AtomicU64::new(0));
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let mut w = cache.watch(prefix, &end, From::Now, None).await?;
        let seen = Arc::clone(&seen);
        watches.push(tokio::spawn(async move {
            for _ in 0..EVENTS {
                if let WatchItem::Event(_) = w.next().await? {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
            anyhow::Ok(())
        }));
    }
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for w in 0..20 {
        let s = Arc::clone(s);
        tasks.push(tokio::spawn(async move {
            let (key, mut revision) = (format!("{prefix}hot/{w}"), 0);
            for _ in 0..EVENTS / 20 {
                revision = put(&s, &key, revision).await?;
            }
            anyhow::Ok(())
        }));
    }
    for t in tasks.into_iter().chain(watches) {
        t.await??;
    }
    let delivered = seen.load(Ordering::Relaxed) as f64;
    line("watch events delivered, 100 watches", delivered / begun.elapsed().as_secs_f64(), "1/s");
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("store-bench"), PathBuf::from);
    anyhow::ensure!(!dir.exists(), "{} exists; give the name of a new directory", dir.display());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    line("resident before opening", resident_mib(), "MiB");
    let begun = Instant::now();
    let s: Arc<dyn Store> = Engine::open(Config::new(&dir))?;
    line("opening a new store", begun.elapsed().as_secs_f64() * 1e3, "ms");
    line("resident with a new store", resident_mib(), "MiB");
    let result = runtime.block_on(async {
        for n in [1, 8, 64, 256] {
            writers(&s, n).await?;
        }
        line("resident after writing", resident_mib(), "MiB");
        cache(&s).await?;
        line("resident after caching", resident_mib(), "MiB");
        s.close().await?;
        anyhow::Ok(())
    });
    drop(s);
    if result.is_ok() {
        for (name, mark) in
            [("opening after a clean stop", None), ("opening after a power cut", Some("another boot"))]
        {
            if let Some(mark) = mark {
                std::fs::write(dir.join("APPLIED"), mark)?;
            }
            let begun = Instant::now();
            let s = Engine::open(Config::new(&dir))?;
            line(name, begun.elapsed().as_secs_f64() * 1e3, "ms");
            runtime.block_on(s.close())?;
        }
    }
    std::fs::remove_dir_all(&dir)?;
    result
}

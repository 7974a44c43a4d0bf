//! The embedded engine: a raft group (of one, so far) over a write-ahead log, with the applied state in `sled`.
//!
//! A write's way: [`Engine::txn`] → [`node`] (gathers what waits into one entry, appends, syncs) → [`applied`]
//! (revisions, compare-and-swap, history) → the answer, and [`hub`] (watches). Two threads of its own; readers run on
//! the caller's. On-disk layout and recovery: `docs/store.md`.

mod applied;
mod apply;
mod codec;
mod command;
mod compaction;
mod fs;
mod hub;
mod kv;
mod logger;
mod metrics;
mod node;
mod raftlog;
mod record;
mod recovery;
mod snapshot;
mod start;
mod state;
mod wal;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use self::applied::Reply;
use self::command::Command;
use self::hub::Hub;
use self::metrics::Metrics;
use self::node::Message;
use self::state::State;
use super::{KeyValue, Op, Range, RangeRequest, Revision, Store, StoreError, Txn, TxnResult, WatchStream};

/// Unix seconds.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Settings; [`Config::new`] has the defaults.
#[derive(Clone)]
pub struct Config {
    /// Everything the engine keeps is below this directory, which one process at a time can use.
    pub dir: PathBuf,
    /// The largest value that is accepted.
    pub max_value_bytes: usize,
    /// Seconds of history kept; zero keeps all until [`Store::compact`].
    pub retention_seconds: u64,
    /// Memory for pages of the applied state.
    pub cache_bytes: u64,
    /// Bytes of log after which a snapshot is written and the log dropped. The disk holds about three times the data.
    pub snapshot_bytes: u64,
    /// The time expiry goes by.
    pub clock: Clock,
    /// How long to wait for another process to leave the directory.
    pub lock_patience: Duration,
}

impl Config {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Config {
        Config {
            dir: dir.into(),
            max_value_bytes: 3 << 19,
            retention_seconds: 300,
            cache_bytes: 4 << 20,
            snapshot_bytes: 32 << 20,
            clock: Arc::new(|| {
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
            }),
            lock_patience: Duration::from_secs(10),
        }
    }
}

/// Writes under way, in KiB: what memory they may take before further ones wait.
const UNDER_WAY_KIB: usize = 32 << 10;

/// Whether the engine can answer.
#[derive(Default)]
struct Health {
    failed: Mutex<Option<StoreError>>,
}

impl Health {
    fn check(&self) -> Result<(), StoreError> {
        match &*self.failed.lock() {
            Some(e) => Err(e.clone()),
            None => Ok(()),
        }
    }

    /// The first reason stays.
    fn fail(&self, why: StoreError) {
        self.failed.lock().get_or_insert(why);
    }
}

/// The engine. Dropping it stops it; [`Store::close`] does so cleanly, which makes the next start faster.
pub struct Engine {
    messages: Sender<Message>,
    state: Arc<State>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    under_way: Arc<Semaphore>,
    max_value_bytes: usize,
    clock: Clock,
    supervisor: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Engine {
    /// Opens the store in `config.dir`, or makes one. Blocks while it reads the log; ready for use when it returns.
    /// Watches need a tokio runtime to be started in, nothing else does.
    pub fn open(config: Config) -> Result<Arc<Engine>, StoreError> {
        start::open(config).map(Arc::new)
    }

    async fn propose(&self, command: Command, bytes: usize) -> Result<TxnResult, StoreError> {
        self.health.check()?;
        let permits = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(UNDER_WAY_KIB as u32);
        let permit = Arc::clone(&self.under_way).acquire_many_owned(permits).await;
        let permit = permit.map_err(|_| self.stopped())?;
        let (tx, rx) = oneshot::channel();
        self.metrics.proposals_pending.add(1);
        if self.messages.send(Message::Propose(command, Reply { tx, permit })).is_err() {
            self.metrics.proposals_pending.sub(1);
            return Err(self.stopped());
        }
        rx.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    fn stopped(&self) -> StoreError {
        match self.health.check() {
            Err(e) => e,
            Ok(()) => StoreError::Unavailable(
                "the store has stopped; whether the write happened is not known".into(),
            ),
        }
    }

    fn stop(&self, clean: bool) -> oneshot::Receiver<()> {
        let (tx, rx) = oneshot::channel();
        self.health.fail(StoreError::Unavailable("the store is closed".to_owned()));
        // If the thread is gone, so is the receiver of this, which counts as the answer.
        let _ = self.messages.send(Message::Stop(clean, tx));
        self.hub.wake();
        rx
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.health.check()?;
        let state = Arc::clone(&self.state);
        let done = tokio::task::spawn_blocking(move || read(&state)).await;
        done.map_err(|e| StoreError::Unavailable(format!("reading: {e}")))?
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.stop(false));
        if let Some(supervisor) = self.supervisor.lock().take() {
            // It only joins threads and unlocks the directory; its own panic has nobody left to be told to.
            let _ = supervisor.join();
        }
    }
}

#[async_trait]
impl Store for Engine {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        // Alone in its group, a leader that has applied what it acknowledged is up to date.
        self.health.check()?;
        Ok(self.state.revision())
    }

    async fn get(&self, key: &str, revision: Revision) -> Result<Option<KeyValue>, StoreError> {
        self.health.check()?;
        self.metrics.ranges.add(1);
        // A handful of page look-ups, mostly in memory: cheaper than a change of threads.
        self.state.get(key, revision)
    }

    async fn range(&self, request: RangeRequest) -> Result<Range, StoreError> {
        self.metrics.ranges.add(1);
        self.blocking(move |state| state.range(&request)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let Txn { key, expected, op } = txn;
        match op {
            Op::Put { value, ttl_seconds } => {
                let size = key.len() + value.len();
                if size > self.max_value_bytes {
                    return Err(StoreError::TooLarge { key, size, limit: self.max_value_bytes });
                }
                let expiry = if ttl_seconds == 0 { 0 } else { (self.clock)().saturating_add(ttl_seconds) };
                self.propose(Command::Put { key, expected, value, expiry }, size).await
            }
            Op::Delete => {
                let size = key.len();
                self.propose(Command::Delete { key, expected }, size).await
            }
        }
    }

    async fn watch(&self, start: &str, end: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.health.check()?;
        let after = if after == 0 { self.state.revision() } else { after };
        let oldest = self.state.compacted();
        if after < oldest {
            return Err(StoreError::Compacted { requested: after, oldest });
        }
        let health = Arc::clone(&self.health);
        Ok(self.hub.watch(start, end, after, Arc::new(move || health.check())))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.propose(Command::Compact { revision }, 0).await.map(|_| ())
    }

    fn oldest_revision(&self) -> Revision {
        self.state.compacted()
    }

    fn health(&self) -> Result<(), StoreError> {
        self.health.check()
    }

    fn render_metrics(&self, out: &mut String) {
        self.metrics.render(out);
        for (name, value) in [
            ("etcd_debugging_mvcc_current_revision", self.state.revision()),
            ("etcd_debugging_mvcc_compact_revision", self.state.compacted()),
            ("etcd_mvcc_db_total_size_in_bytes", self.state.size_on_disk()),
        ] {
            out.push_str(&format!("# TYPE {name} gauge\n{name} {value}\n"));
        }
        let size = self.state.size_on_disk();
        out.push_str("# HELP apiserver_storage_size_bytes Size of the storage database file physically allocated in bytes.\n# TYPE apiserver_storage_size_bytes gauge\n");
        out.push_str(&format!("apiserver_storage_size_bytes{{storage_cluster_id=\"embedded\"}} {size}\n"));
    }

    async fn close(&self) -> Result<(), StoreError> {
        if self.stop(true).await.is_ok() {
            return Ok(());
        }
        // The thread was gone already.
        self.health.check()
    }
}

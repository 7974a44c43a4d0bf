//! The embedded engine: a raft group of one or several members over a write-ahead log, with the applied state in
//! `sled`.
//!
//! A write's way: [`Engine::txn`] → [`proposer`] (to the leader, over [`peer`] where that is another member) → [`node`]
//! (gathers what waits into one entry) → [`core`] (raft: append, sync, replicate) → [`applied`] (revisions,
//! compare-and-swap, history) → the answer, and [`hub`] (watches). Two threads of its own; readers run on the caller's.
//! On-disk layout and recovery: `docs/store.md`.

mod applied;
mod apply;
mod boot_time;
mod codec;
mod command;
mod compaction;
mod core;
mod defrag;
mod fs;
mod hub;
mod judge;
mod kv;
mod logger;
mod map;
mod members;
mod metrics;
mod newest;
mod node;
pub mod offline;
mod operate;
mod pace;
mod peer;
mod proposer;
mod raftlog;
mod record;
mod recovery;
mod snapshot;
mod space;
mod staged;
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
use tokio::sync::oneshot;

use self::command::Command;
use self::hub::Hub;
use self::metrics::Metrics;
use self::node::Message;
use self::operate::Operator;
use self::peer::Peers;
use self::proposer::Proposer;
use self::start::Group;
use self::state::State;
use super::{
    KeyValue, Op, Operation, Range, RangeRequest, Revision, Store, StoreError, Txn, TxnResult, WatchStream,
};

pub use self::peer::{GroupConfig, TlsFiles};

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
    /// Bytes that are free on the disk.
    pub free_space: space::Free,
    /// Whether a leader answers linearizable reads without asking the others while it is certain to lead.
    pub lease_reads: bool,
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
            free_space: space::of_disk(),
            lease_reads: true,
            lock_patience: Duration::from_secs(10),
        }
    }
}

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
    proposer: Arc<Proposer>,
    operator: Arc<Operator>,
    max_value_bytes: usize,
    clock: Clock,
    supervisor: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Dropped, it ends what answers the other members.
    serving: Mutex<Option<tokio::sync::watch::Sender<()>>>,
    /// Compares this member's state with the others'.
    judging: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Engine {
    /// Opens the store in `config.dir`, or makes one, with this member alone. Blocks while it reads the log; ready for
    /// use when it returns. Watches need a tokio runtime to be started in, nothing else does.
    pub fn open(config: Config) -> Result<Arc<Engine>, StoreError> {
        start::open(config, None).map(|(engine, _)| Arc::new(engine))
    }

    /// Opens or makes a member of a group. Calls wait for a leader, for a while; [`Engine::ready`] waits until there
    /// is one.
    pub async fn open_group(config: Config, group: GroupConfig) -> Result<Arc<Engine>, StoreError> {
        group.check()?;
        let joined = match group.join {
            true => start::ask_to_join(&config.dir, &group).await?,
            false => None,
        };
        let listen = group.clone();
        let group = Group { config: group, runtime: tokio::runtime::Handle::current(), joined };
        let opened = tokio::task::spawn_blocking(move || start::open(config, Some(group))).await;
        let (engine, served) = opened.map_err(|e| StoreError::Unavailable(format!("opening: {e}")))??;
        *engine.serving.lock() = Some(peer::serve(&listen, served.clone()).await?);
        *engine.judging.lock() = Some(tokio::spawn(judge::watch(engine.operator.member(), served)));
        Ok(Arc::new(engine))
    }

    /// Returns once there is a leader and this member has caught up with it.
    pub async fn ready(&self) -> Result<(), StoreError> {
        loop {
            self.health.check()?;
            match self.proposer.catch_up().await {
                Ok(()) => return Ok(()),
                Err(e) => tracing::info!(error = %e, "waiting for the other members of the store"),
            }
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

    fn hang_up(&self) {
        if let Some(peers) = &self.proposer.peers {
            peers.close();
        }
        drop(self.serving.lock().take());
        if let Some(judging) = self.judging.lock().take() {
            judging.abort();
        }
    }

    /// Makes sure that a read of `revision` finds this member new enough.
    async fn catch_up_for(&self, revision: Revision) -> Result<(), StoreError> {
        if revision == 0 || revision > self.state.revision() {
            self.proposer.catch_up().await
        } else {
            self.health.check()
        }
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
        self.hang_up();
        if let Some(supervisor) = self.supervisor.lock().take() {
            // It only joins threads and unlocks the directory; its own panic has nobody left to be told to.
            let _ = supervisor.join();
        }
    }
}

#[async_trait]
impl Store for Engine {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.proposer.catch_up().await?;
        Ok(self.state.revision())
    }

    async fn get(&self, key: &str, revision: Revision) -> Result<Option<KeyValue>, StoreError> {
        self.catch_up_for(revision).await?;
        self.metrics.ranges.add(1);
        // A handful of page look-ups, mostly in memory: cheaper than a change of threads.
        self.state.get(key, revision)
    }

    async fn range(&self, request: RangeRequest) -> Result<Range, StoreError> {
        self.catch_up_for(request.revision).await?;
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
                // Some of this second has gone already: a key lives as long as was asked, or a little longer.
                let expiry = match ttl_seconds {
                    0 => 0,
                    seconds => (self.clock)().saturating_add(seconds).saturating_add(1),
                };
                self.proposer.propose(Command::Put { key, expected, value, expiry }).await
            }
            Op::Delete => self.proposer.propose(Command::Delete { key, expected }).await,
        }
    }

    async fn watch(&self, start: &str, end: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.catch_up_for(after).await?;
        let after = if after == 0 { self.state.revision() } else { after };
        let oldest = self.state.compacted();
        if after < oldest {
            return Err(StoreError::Compacted { requested: after, oldest });
        }
        let health = Arc::clone(&self.health);
        Ok(self.hub.watch(start, end, after, Arc::new(move || health.check())))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.proposer.propose(Command::Compact { revision }).await?;
        // Reads of history at this member see the fence from now on, also if the leader is another.
        self.proposer.catch_up().await
    }

    fn oldest_revision(&self) -> Revision {
        self.state.compacted()
    }

    fn health(&self) -> Result<(), StoreError> {
        self.health.check()?;
        if self.proposer.peers.is_some() && self.proposer.leader.borrow().id == 0 {
            return Err(proposer::no_leader());
        }
        Ok(())
    }

    fn operation(&self) -> Option<Arc<dyn Operation>> {
        Some(Arc::clone(&self.operator) as Arc<dyn Operation>)
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
        let full = u8::from(self.operator.is_full());
        out.push_str(&format!(
            "# TYPE etcd_debugging_server_alarms gauge\netcd_debugging_server_alarms{{alarm_type=\"{}\"}} {full}\n",
            space::ALARM
        ));
        let leader = *self.proposer.leader.borrow();
        let peers = self.proposer.peers.as_ref();
        for (name, value) in [
            ("etcd_server_has_leader", leader.id != 0),
            ("etcd_server_is_leader", leader.is_me),
            ("etcd_server_is_learner", peers.is_some_and(Peers::is_learner)),
        ] {
            out.push_str(&format!("# TYPE {name} gauge\n{name} {}\n", u8::from(value)));
        }
        if let Some(peers) = peers {
            peers.render(out);
        }
        let size = self.state.size_on_disk();
        out.push_str("# HELP apiserver_storage_size_bytes Size of the storage database file physically allocated in bytes.\n# TYPE apiserver_storage_size_bytes gauge\n");
        out.push_str(&format!("apiserver_storage_size_bytes{{storage_cluster_id=\"embedded\"}} {size}\n"));
    }

    async fn close(&self) -> Result<(), StoreError> {
        let stopped = self.stop(true).await.is_ok();
        self.hang_up();
        if stopped {
            return Ok(());
        }
        // The thread was gone already.
        self.health.check()
    }
}

//! Putting an engine together: lock, recover, start the threads, wait until it leads.

use std::fs::TryLockError;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft::RawNode;
use tokio::sync::{Semaphore, oneshot};

use super::applied::{ApplyThread, Progress, Work};
use super::apply::Applier;
use super::compaction::AutoCompaction;
use super::fs::{DiskFs, Fs};
use super::hub::Hub;
use super::kv::{Kv, SledKv};
use super::metrics::Metrics;
use super::node::{Message, Node, refuse};
use super::raftlog::RaftLog;
use super::snapshot::Snapshotter;
use super::wal::{Base, SEGMENT_BYTES, Wal};
use super::{Config, Engine, Health, UNDER_WAY_KIB, logger, recovery};
use crate::StoreError;

/// This member's number in its group.
const MEMBER: u64 = 1;
/// Batches of entries waiting for the applier, before the log waits for it.
const APPLY_QUEUE: usize = 4;
/// Pause between two looks at a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Stack of the engine's threads.
const STACK: usize = 1 << 20;

fn unavailable(doing: &str, path: &Path, e: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{doing} {}: {e}", path.display()))
}

/// Takes the directory for this process. A predecessor that was killed holds it until its last write to the disk
/// has ended, so one that is taken is waited for, `patience` long.
fn lock(dir: &Path, patience: Duration) -> Result<std::fs::File, StoreError> {
    std::fs::create_dir_all(dir).map_err(|e| unavailable("making", dir, &e))?;
    let path = dir.join("LOCK");
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|e| unavailable("opening", &path, &e))?;
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(dir = %dir.display(), "waiting for another process to leave the data directory");
                }
                thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Unavailable(format!(
                    "the data directory {} is in use by another process; stop it, or use another directory",
                    dir.display()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(unavailable("locking", &path, &e)),
        }
    }
}

/// Opens the log. `IDENTITY` names the store once its log exists, so that a log that vanished is not taken for a new
/// store.
fn open_wal(dir: &Path, fs: Arc<dyn Fs>) -> Result<Wal, StoreError> {
    let path = dir.join("IDENTITY");
    let identity = recovery::read_mark(&path)?;
    let store_id: u64 = rand::random::<u64>().max(1);
    let initial = Base { store_id, voters: vec![MEMBER], ..Base::default() };
    let wal = Wal::open(fs, SEGMENT_BYTES, initial)?;
    let found = format!("{:016x}", wal.base().store_id);
    match identity {
        None => recovery::write_mark(&path, &found)?,
        Some(known) if known == found => {}
        Some(known) => {
            return Err(StoreError::Corrupt(format!(
                "{} says this is store {known}, but the log is that of {found}, or missing: restore this member from a \
                 backup or replace it",
                path.display()
            )));
        }
    }
    Ok(wal)
}

/// See [`Engine::open`].
pub fn open(config: Config) -> Result<Engine, StoreError> {
    let dir = config.dir.clone();
    let lock = lock(&dir, config.lock_patience)?;
    let disk = |name: &str| -> Result<Arc<dyn Fs>, StoreError> {
        let path = dir.join(name);
        Ok(Arc::new(DiskFs::new(&path).map_err(|e| unavailable("making", &path, &e))?))
    };
    let snapshots = disk("snapshots")?;
    let wal = open_wal(&dir, disk("wal")?)?;

    let mark = dir.join("APPLIED");
    let map_dir = dir.join("applied");
    let trusted = recovery::trusted(recovery::read_mark(&mark)?.as_deref(), recovery::boot_id().as_deref());
    let open_map = |anew: bool| -> Result<Arc<dyn Kv>, StoreError> {
        if anew && map_dir.exists() {
            std::fs::remove_dir_all(&map_dir).map_err(|e| unavailable("removing", &map_dir, &e))?;
        }
        recovery::mark_used(&mark)?;
        Ok(Arc::new(SledKv::open(&map_dir, config.cache_bytes)?))
    };
    let (state, meta) = recovery::state(&open_map, &*snapshots, &wal, trusted)?;

    let metrics = Arc::new(Metrics::default());
    let hub = Hub::new(Arc::clone(&state), Arc::clone(&metrics));
    let health = Arc::new(Health::default());
    let progress = Arc::new(Progress {
        index: AtomicU64::new(meta.index),
        next_expiry: AtomicU64::new(u64::MAX),
        snapshot: Mutex::new(None),
    });
    let (messages, inbox) = mpsc::channel();
    let (work, work_inbox) = mpsc::sync_channel(APPLY_QUEUE);

    let snapshotter = Snapshotter {
        fs: snapshots,
        store_id: wal.base().store_id,
        threshold: config.snapshot_bytes,
        progress: Arc::clone(&progress),
        metrics: Arc::clone(&metrics),
        node: messages.clone(),
        logged: wal.bytes(),
        last_size: Arc::new(AtomicU64::new(0)),
        writer: None,
    };
    let applier = ApplyThread {
        applier: Applier::new(Arc::clone(&state), meta),
        state: Arc::clone(&state),
        hub: Arc::clone(&hub),
        metrics: Arc::clone(&metrics),
        progress: Arc::clone(&progress),
        node: messages.clone(),
        snapshotter,
    };
    let last = wal.last_index();
    let raft_config = raft::Config {
        id: MEMBER,
        applied: meta.index,
        max_committed_size_per_ready: 1 << 20,
        max_size_per_msg: 1 << 20,
        ..raft::Config::new(MEMBER)
    };
    let log = RaftLog::new(wal, meta.index);
    let raft = RawNode::new(&raft_config, log, &logger::logger())
        .map_err(|e| StoreError::Corrupt(format!("the raft log and its state do not fit together: {e}")))?;
    let node = Node {
        raft,
        messages: inbox,
        apply: work.clone(),
        progress: Arc::clone(&progress),
        state: Arc::clone(&state),
        metrics: Arc::clone(&metrics),
        clock: Arc::clone(&config.clock),
        compaction: AutoCompaction::new(config.retention_seconds),
        waiting: std::collections::VecDeque::new(),
        batches: 0,
        expiring: 0,
    };

    let threads =
        Threads { health: Arc::clone(&health), hub: Arc::clone(&hub), metrics: Arc::clone(&metrics), mark };
    let supervisor = threads.start(node, applier, work, work_inbox, lock)?;
    let engine = Engine {
        messages,
        state,
        hub,
        metrics,
        health,
        under_way: Arc::new(Semaphore::new(UNDER_WAY_KIB)),
        max_value_bytes: config.max_value_bytes,
        clock: config.clock,
        supervisor: Mutex::new(Some(supervisor)),
    };
    // The new term's first entry: once it is applied, everything before is.
    while progress.index.load(std::sync::atomic::Ordering::Acquire) <= last {
        engine.health.check()?;
        thread::sleep(Duration::from_micros(200));
    }
    Ok(engine)
}

/// What the threads' end is reported to.
struct Threads {
    health: Arc<Health>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    mark: std::path::PathBuf,
}

impl Threads {
    /// Starts both threads, in one that sees to their end.
    fn start(
        self,
        node: Node,
        applier: ApplyThread,
        work: mpsc::SyncSender<Work>,
        inbox: mpsc::Receiver<Work>,
        lock: std::fs::File,
    ) -> Result<thread::JoinHandle<()>, StoreError> {
        let spawn_failed =
            |e: std::io::Error| StoreError::Unavailable(format!("starting a thread of the store: {e}"));
        let health = Arc::clone(&self.health);
        let apply = thread::Builder::new()
            .name("store-apply".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let result = guarded(|| applier.run(&inbox));
                if let Err(e) = &result {
                    health.fail(e.clone());
                }
                result
            })
            .map_err(spawn_failed)?;
        thread::Builder::new()
            .name("store-raft".to_owned())
            .stack_size(STACK)
            .spawn(move || self.run(node, work, apply, lock))
            .map_err(spawn_failed)
    }

    fn run(
        self,
        mut node: Node,
        work: mpsc::SyncSender<Work>,
        apply: thread::JoinHandle<Result<(), StoreError>>,
        lock: std::fs::File,
    ) {
        let ended = guarded(|| node.run());
        let (clean, done): (bool, Option<oneshot::Sender<()>>) = match ended {
            Ok((clean, done)) => (clean, Some(done)),
            Err(e) => {
                tracing::error!(error = %e, "the store has stopped; no write is acknowledged any more");
                self.health.fail(e);
                (false, None)
            }
        };
        // If the applier is gone, its own error is the one to tell.
        let _ = work.send(Work::Stop(clean));
        let applied =
            apply.join().unwrap_or_else(|_| Err(StoreError::Unavailable("the applier panicked".into())));
        if let Err(e) = &applied {
            tracing::error!(error = %e, "the store's applied state has failed");
            self.health.fail(e.clone());
        }
        if clean
            && applied.is_ok()
            && let Err(e) = recovery::mark_clean(&self.mark)
        {
            tracing::warn!(error = %e, "the next start will rebuild the applied state");
        }
        let why = self.health.check().err();
        let why = why.unwrap_or_else(|| StoreError::Unavailable("the store has stopped".to_owned()));
        for (_, replies) in node.waiting.drain(..) {
            refuse(replies, &self.metrics, &why);
        }
        while let Ok(message) = node.messages.try_recv() {
            if let Message::Propose(_, reply) = message {
                refuse(vec![Some(reply)], &self.metrics, &why);
            }
        }
        drop(node);
        self.hub.wake();
        drop(lock);
        if let Some(done) = done {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

/// Turns a panic into an error: the engine must stop acknowledging, not vanish.
fn guarded<T>(f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(StoreError::Unavailable(format!("a thread of the store panicked: {what}")))
    })
}

//! Putting an engine together: lock, recover, start the threads, wait until it leads.

use std::cell::RefCell;
use std::fs::TryLockError;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use raft::RawNode;
use tokio::sync::oneshot;

use super::applied::{ApplyThread, Progress, Work};
use super::apply::Applier;
use super::compaction::AutoCompaction;
use super::core::{Core, Granted, Lease, PROMISE, refuse};
use super::defrag::Defragmenter;
use super::fs::{DiskFs, Fs};
use super::hub::Hub;
use super::kv::Kv;
use super::map::{Map, Place};
use super::members::Members;
use super::metrics::Metrics;
use super::node::{Leader, Message, Network, Nobody, Node, Ways};
use super::operate::Operator;
use super::peer::{self, GroupConfig, Peers, Served, member_id, proto};
use super::proposer::Proposer;
use super::raftlog::RaftLog;
use super::snapshot::{self, Snapshotter};
use super::space::Space;
use super::staged::Staged;
use super::wal::{Base, SEGMENT_BYTES, Wal};
use super::{Config, Engine, Health, logger, recovery};
use crate::StoreError;

/// The number of a member that was made without a group.
pub const FIRST: u64 = 1;
/// Batches of entries waiting for the applier, before the log waits for it.
const APPLY_QUEUE: usize = 4;
/// Pause between two looks at a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Pause before the log asks again for room on a full disk.
const FULL_PAUSE: Duration = Duration::from_millis(100);
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

/// Which store, and which of its members, is in a directory; none if there is nothing yet.
pub fn identity(dir: &Path) -> Result<Option<(u64, u64)>, StoreError> {
    let path = dir.join("IDENTITY");
    let Some(text) = recovery::read_mark(&path)? else { return Ok(None) };
    let mut parts = text.split_whitespace().map(|p| u64::from_str_radix(p, 16).ok());
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Some(store)), None, None) => Ok(Some((store, FIRST))),
        (Some(Some(store)), Some(Some(member)), None) => Ok(Some((store, member))),
        _ => Err(StoreError::Corrupt(format!("{} cannot be read: {text:?}", path.display()))),
    }
}

/// Notes which store, and which of its members, is in a directory.
pub fn write_identity(dir: &Path, store: u64, member: u64) -> Result<(), StoreError> {
    let text = match member {
        FIRST => format!("{store:016x}"),
        member => format!("{store:016x} {member:016x}"),
    };
    recovery::write_mark(&dir.join("IDENTITY"), &text)
}

/// Opens the log. `IDENTITY` names the store once its log exists, so that a log that vanished is not taken for a new
/// store.
fn open_wal(dir: &Path, fs: Arc<dyn Fs>, me: u64, initial: Base) -> Result<Wal, StoreError> {
    let known = identity(dir)?;
    let path = dir.join("IDENTITY");
    let wal = Wal::open(fs, SEGMENT_BYTES, initial)?;
    let found = wal.base().store_id;
    match known {
        None => write_identity(dir, found, me)?,
        Some((store, _)) if store == found => {}
        Some((store, _)) => {
            return Err(StoreError::Corrupt(format!(
                "{} says this is store {store:016x}, but the log is that of {found:016x}, or missing: restore this \
                 member from a backup or replace it",
                path.display()
            )));
        }
    }
    Ok(wal)
}

/// What a member of a group knows of it before it has read its log.
pub struct Group {
    pub config: GroupConfig,
    pub runtime: tokio::runtime::Handle,
    /// What a member that is there already says, where this one joins or has joined.
    pub joined: Option<proto::Description>,
}

impl Group {
    /// This member's number: it keeps the one it had.
    fn me(&self, dir: &Path) -> Result<u64, StoreError> {
        let known = identity(dir)?.map(|(_, member)| member);
        Ok(known.unwrap_or_else(|| member_id(&self.config.name)))
    }

    fn base(&self, me: u64) -> Base {
        match &self.joined {
            Some(d) => Base { store_id: d.store_id, voters: d.first_voters.clone(), ..Base::default() },
            None => Base {
                store_id: self.config.store_id(),
                voters: self.config.peers(me).into_keys().collect(),
                ..Base::default()
            },
        }
    }
}

/// What a member that joins a group must know of it. One that has joined can do without.
pub async fn ask_to_join(dir: &Path, group: &GroupConfig) -> Result<Option<proto::Description>, StoreError> {
    let known = identity(dir)?;
    let described = peer::describe_any(group).await;
    match (described, known) {
        (Ok(d), None) => peer::check_expected(group, &d).map(|()| Some(d)),
        (Ok(d), Some((store, _))) => Ok((d.store_id == store).then_some(d)),
        (Err(_), Some(_)) => Ok(None),
        (Err(e), None) => Err(e),
    }
}

/// See [`Engine::open`].
pub fn open(config: Config, group: Option<Group>) -> Result<(Engine, Served), StoreError> {
    let dir = config.dir.clone();
    let lock = lock(&dir, config.lock_patience)?;
    let disk = |name: &str| -> Result<Arc<dyn Fs>, StoreError> {
        let path = dir.join(name);
        Ok(Arc::new(DiskFs::new(&path).map_err(|e| unavailable("making", &path, &e))?))
    };
    let snapshots = disk("snapshots")?;
    let (me, initial) = match &group {
        Some(group) => {
            let me = group.me(&dir)?;
            (me, group.base(me))
        }
        None => {
            let store_id = rand::random::<u64>().max(1);
            let me = identity(&dir)?.map_or(FIRST, |(_, member)| member);
            (me, Base { store_id, voters: vec![FIRST], ..Base::default() })
        }
    };
    let mut wal = open_wal(&dir, disk("wal")?, me, initial)?;
    let space = Space::new(&dir, Arc::clone(&config.free_space));

    let place = Place::find(&dir, config.cache_bytes)?;
    let opened = RefCell::new(None);
    let open_map = |anew: bool| -> Result<Arc<dyn Kv>, StoreError> {
        // One that is open cannot be removed.
        drop(opened.take());
        let map = Arc::new(place.open(anew)?);
        opened.replace(Some(Arc::clone(&map)));
        Ok(Arc::new(Staged::new(map)?))
    };
    let (state, meta) = recovery::state(&open_map, &*snapshots, &wal, place.trusted)?;
    let Some(map) = opened.into_inner() else {
        return Err(StoreError::Unavailable("the applied state was not opened".to_owned()));
    };

    let mut members = state.members()?;
    if members.voters().is_empty() {
        members = Members::of_voters(&wal.base().voters);
    }
    if let Some(group) = &group {
        // What another member says first: it knows the numbers, too.
        members.complete(&group.joined.as_ref().map(peer::members_told).unwrap_or_default());
        members.complete(&group.config.peers(me));
    } else if members.voters() != [me] {
        return Err(StoreError::Unavailable(format!(
            "{} holds a member of a group of {}: say which (--store-name and --store-initial-cluster)",
            dir.display(),
            members.voters().len()
        )));
    }

    let metrics = Arc::new(Metrics::default());
    let hub = Hub::new(Arc::clone(&state), Arc::clone(&metrics));
    let health = Arc::new(Health::default());
    let progress = Arc::new(Progress::at(&meta));
    let (messages, inbox) = mpsc::channel();
    wal.wait_for_room({
        let (space, health) = (Arc::clone(&space), Arc::clone(&health));
        Box::new(move || {
            thread::sleep(FULL_PAUSE);
            space.look();
            health.check().is_ok()
        })
    });
    space.follow({
        let messages: mpsc::Sender<Message> = messages.clone();
        move || {
            // If it is gone, the engine is stopping.
            let _ = messages.send(Message::Wake);
        }
    })?;
    let (work, work_inbox) = mpsc::sync_channel(APPLY_QUEUE);

    let snapshotter = Snapshotter {
        fs: Arc::clone(&snapshots),
        store_id: wal.base().store_id,
        threshold: config.snapshot_bytes,
        progress: Arc::clone(&progress),
        metrics: Arc::clone(&metrics),
        node: messages.clone(),
        logged: wal.bytes(),
        last_size: Arc::new(AtomicU64::new(snapshot::newest_size(&*snapshots)?)),
        space: Arc::clone(&space),
        writer: None,
    };
    let mut applier = Applier::new(Arc::clone(&state), meta);
    // So that every snapshot tells them; they are written with the next entry.
    applier.members(&members);
    let applier = ApplyThread {
        applier,
        state: Arc::clone(&state),
        hub: Arc::clone(&hub),
        metrics: Arc::clone(&metrics),
        progress: Arc::clone(&progress),
        node: messages.clone(),
        snapshotter,
        defragmenter: Defragmenter::new(
            Arc::clone(&map),
            Arc::clone(&state),
            Arc::clone(&space),
            work.clone(),
        ),
    };
    let last = wal.last_index();
    let raft_config = raft::Config {
        id: me,
        applied: meta.index,
        election_tick: PROMISE as usize,
        heartbeat_tick: 2,
        pre_vote: true,
        check_quorum: true,
        max_inflight_msgs: 64,
        max_committed_size_per_ready: 1 << 20,
        max_size_per_msg: 512 << 10,
        ..raft::Config::new(me)
    };
    let base = wal.base().clone();
    let mut log = RaftLog::new(wal, meta.index, members.conf().clone());
    if let Some(index) = snapshot::newest(&*snapshots)? {
        let (meta, of_snapshot) = snapshot::head(&*snapshots, index, base.store_id)?;
        let of_snapshot = of_snapshot.unwrap_or_else(|| Members::of_voters(&base.voters));
        log.set_snapshot(snapshot::raft_metadata(&meta, &of_snapshot));
    }
    let raft = RawNode::new(&raft_config, log, &logger::logger())
        .map_err(|e| StoreError::Corrupt(format!("the raft log and its state do not fit together: {e}")))?;
    let peers = group.as_ref().map(|group| {
        let runtime = group.runtime.clone();
        let told = group.joined.as_ref().map(peer::members_told).unwrap_or_default();
        Peers::new(&group.config, me, base.store_id, told, Arc::clone(&snapshots), messages.clone(), runtime)
    });
    let network: Box<dyn Network> = match &peers {
        Some(peers) => Box::new(peers.clone()),
        None => Box::new(Nobody),
    };
    let (leader, leader_seen) = tokio::sync::watch::channel(Leader::default());
    let alone = Arc::new(AtomicBool::new(false));
    let ways = Ways {
        apply: work.clone(),
        progress: Arc::clone(&progress),
        network,
        snapshots: Arc::clone(&snapshots),
        store_id: base.store_id,
        leader,
        alone: Arc::clone(&alone),
    };
    let waits = members.voters() == [me];
    let lease = Arc::new(Granted::default());
    let granted = config.lease_reads.then(|| Arc::clone(&lease));
    let node = Node {
        core: Core::new(raft, members, Arc::clone(&metrics), rand::random(), Lease::new(granted)),
        ways,
        messages: inbox,
        state: Arc::clone(&state),
        clock: Arc::clone(&config.clock),
        compaction: AutoCompaction::new(config.retention_seconds),
        expiring: 0,
        ticked: Instant::now(),
        checked: Instant::now(),
        leaving: None,
        space: Arc::clone(&space),
        gave_up: None,
    };

    let threads =
        Threads { health: Arc::clone(&health), hub: Arc::clone(&hub), metrics: Arc::clone(&metrics), map };
    let supervisor = threads.start(node, applier, work, work_inbox, lock)?;
    let proposer = Arc::new(Proposer {
        node: messages.clone(),
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        under_way: Proposer::permits(),
        leader: leader_seen,
        progress: Arc::clone(&progress),
        alone,
        peers,
        lease,
    });
    let served = Served {
        store_id: base.store_id,
        first_voters: base.voters,
        node: messages.clone(),
        proposer: Arc::clone(&proposer),
        snapshots,
        state: Arc::clone(&state),
        space,
    };
    let operator = Arc::new(Operator::new(me, served.clone()));
    let engine = Engine {
        messages,
        operator,
        state,
        hub,
        metrics,
        health,
        proposer,
        max_value_bytes: config.max_value_bytes,
        clock: config.clock,
        supervisor: Mutex::new(Some(supervisor)),
        serving: Mutex::new(None),
        judging: Mutex::new(None),
    };
    // The new term's first entry: once it is applied, everything before is.
    while waits && progress.index.load(std::sync::atomic::Ordering::Acquire) <= last {
        engine.health.check()?;
        thread::sleep(Duration::from_micros(200));
    }
    Ok((engine, served))
}

/// What the threads' end is reported to.
struct Threads {
    health: Arc<Health>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    map: Arc<Map>,
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
            && let Err(e) = self.map.mark_clean()
        {
            tracing::warn!(error = %e, "the next start will rebuild the applied state");
        }
        let why = self.health.check().err();
        let why = why.unwrap_or_else(|| StoreError::Unavailable("the store has stopped".to_owned()));
        node.core.abandon(&why);
        // Everybody else finds the other end of his reply gone.
        while let Ok(message) = node.messages.try_recv() {
            if let Message::Propose(_, reply) = message {
                refuse(vec![Some(reply)], &self.metrics, &why);
            }
        }
        drop(node);
        drop(self.map);
        self.hub.wake();
        drop(lock);
        if let Some(done) = done {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

/// Turns a panic into an error: the engine must stop acknowledging, not vanish.
pub(super) fn guarded<T>(f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(StoreError::Unavailable(format!("a thread of the store panicked: {what}")))
    })
}

//! The group in virtual time: members without threads on disks that lose and tear what was not synced, over a network
//! that delays, drops, doubles, reorders and cuts one way. Each machine's clock has a speed of its own, and processes
//! are paused. The same seed gives the same history.

mod clocks;
mod ends;
mod steps;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft::RawNode;
use raft::eraftpb::{Message, MessageType, SnapshotMetadata};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Semaphore, oneshot};

use super::super::sim::SimFs;
use super::checker::{Checker, Operation, Verdict};
use crate::embedded::applied::{Committed, Reply};
use crate::embedded::apply::{Applier, Outcome};
use crate::embedded::command::{Command, decode};
use crate::embedded::core::{Core, Granted, Lease, NOT_LEADING, Outside, PROMISE};
use crate::embedded::kv::{Kv, MemKv};
use crate::embedded::members::{Members, Peer};
use crate::embedded::node::TICK;
use crate::embedded::raftlog::RaftLog;
use crate::embedded::record::Meta;
use crate::embedded::snapshot::{self, Incoming, Outgoing};
use crate::embedded::staged::Staged;
use crate::embedded::state::State;
use crate::embedded::wal::{Base, Wal};
use crate::embedded::{logger, recovery};
use crate::{RangeRequest, Revision, StoreError, TxnResult};

const STORE: u64 = 7;
const SEGMENT: u64 = 16 << 10;
const KEYS: u64 = 8;
/// Keys that an applied state holds back.
const HELD: usize = 40;
/// How fast clocks go, in thousandths.
const SPEEDS: std::ops::RangeInclusive<u32> = 900..=1100;
/// Time that lets every clock tick once.
const ROUND: Duration = Duration::from_millis(56);

/// What is broken on purpose, to see that the checker notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    None,
    /// The disk says it has synced and has not.
    Sync,
    /// A vote is forgotten at a restart.
    Vote,
    /// The applied index is not in the same write as what was applied.
    AppliedIndex,
    /// What is below the fence of compaction is read all the same.
    Fence,
    /// Reads are answered without asking the others.
    Reads,
    /// A leader takes its lease for longer than the others' promises.
    Lease,
    /// A member forgets at a restart that it has promised to vote for nobody.
    Promise,
    /// A leader keeps its lease while it hands over.
    Transfer,
}

enum Work {
    Apply(Committed),
    Install(u64),
}

/// A member's ways out.
struct Ways {
    sent: Vec<Message>,
    work: VecDeque<Work>,
    snapshots: SimFs,
    applied: u64,
    /// As of the batch before the last.
    before: Meta,
    leads: bool,
    now: Duration,
}

impl Outside for Ways {
    fn send(&mut self, messages: Vec<Message>) {
        self.sent.extend(messages);
    }

    fn apply(&mut self, committed: Committed) -> Result<(), StoreError> {
        self.work.push_back(Work::Apply(committed));
        Ok(())
    }

    fn has_received(&self, index: u64) -> bool {
        snapshot::has_received(&self.snapshots, index)
    }

    fn install(&mut self, meta: &SnapshotMetadata) -> Result<Option<Members>, StoreError> {
        snapshot::adopt(&self.snapshots, meta.index)?;
        self.work.push_back(Work::Install(meta.index));
        Ok(None)
    }

    fn applied(&self) -> u64 {
        self.applied
    }

    fn leader(&mut self, _leader: u64, is_me: bool) {
        self.leads = is_me;
    }

    fn now(&self) -> Duration {
        self.now
    }
}

struct Running {
    core: Core,
    applier: Applier,
    state: Arc<State>,
    ways: Ways,
}

/// A machine: its disks, and the process if it runs.
struct Machine {
    id: u64,
    wal: SimFs,
    snapshots: SimFs,
    kv: MemKv,
    /// Whether the map's files are what the last process left.
    trusted: bool,
    running: Option<Running>,
    /// The process, while it is stopped and knows nothing of it, and what has arrived meanwhile.
    paused: Option<Running>,
    waiting: Vec<Packet>,
    clock: Duration,
    /// In thousandths.
    speed: u32,
    /// When the process last ticked, by its clock.
    ticked: Duration,
}

struct Packet {
    message: Message,
    /// The snapshot's file, beside its announcement.
    file: Option<Vec<u8>>,
}

struct Write {
    operation: Operation,
    key: String,
    expected: Revision,
    begun_at: Revision,
    answer: oneshot::Receiver<Outcome>,
}

struct Read {
    machine: usize,
    key: String,
    begun_at: Revision,
    answer: oneshot::Receiver<Result<u64, StoreError>>,
    /// The entry it must have seen, once that is known.
    index: Option<u64>,
}

/// See the module.
pub struct Sim {
    rng: StdRng,
    machines: Vec<Machine>,
    packets: Vec<Packet>,
    cut: BTreeSet<(u64, u64)>,
    pub checker: Checker,
    writes: Vec<Write>,
    reads: Vec<Read>,
    operations: u64,
    permits: Arc<Semaphore>,
    mutation: Mutation,
    watched: Revision,
    pub crashes: u64,
    pub installs: u64,
    /// Reads that a lease has answered at once.
    pub leased: u64,
}

impl Sim {
    pub fn new(seed: u64, size: u64, mutation: Mutation) -> Sim {
        let mut rng = StdRng::seed_from_u64(seed);
        let machines = (1..=size)
            .map(|id| Machine {
                id,
                wal: SimFs::default(),
                snapshots: SimFs::default(),
                kv: MemKv::default(),
                trusted: true,
                running: None,
                paused: None,
                waiting: Vec::new(),
                clock: Duration::ZERO,
                speed: rng.random_range(SPEEDS),
                ticked: Duration::ZERO,
            })
            .collect();
        let mut sim = Sim {
            rng,
            machines,
            packets: Vec::new(),
            cut: BTreeSet::new(),
            checker: Checker::default(),
            writes: Vec::new(),
            reads: Vec::new(),
            operations: 0,
            permits: Arc::new(Semaphore::new(1 << 28)),
            mutation,
            watched: 0,
            crashes: 0,
            installs: 0,
            leased: 0,
        };
        for i in 0..sim.machines.len() {
            sim.start(i).expect("an empty disk");
        }
        sim
    }

    fn size(&self) -> usize {
        self.machines.len()
    }

    /// Starts a machine's process; an error is the disk's, which may fail meanwhile.
    fn start(&mut self, i: usize) -> Result<(), StoreError> {
        let voters: Vec<u64> = (1..=self.size() as u64).collect();
        let machine = &mut self.machines[i];
        machine.wal.lie_about_syncs(self.mutation == Mutation::Sync);
        let initial = Base { store_id: STORE, voters: voters.clone(), ..Base::default() };
        let mut wal = Wal::open(Arc::new(machine.wal.clone()), SEGMENT, initial)?;
        if self.mutation == Mutation::Vote {
            wal.forget_vote();
        }
        let kv = &machine.kv;
        let open = |anew: bool| -> Result<Arc<dyn Kv>, StoreError> {
            if anew {
                kv.0.lock().clear();
            }
            Ok(Arc::new(Staged::holding(Arc::new(kv.clone()), HELD)))
        };
        let (state, meta) = recovery::state(&open, &machine.snapshots, &wal, machine.trusted)?;
        machine.trusted = true;
        if self.mutation == Mutation::Fence {
            state.break_fence();
        }
        let peer = |id: &u64| (*id, Peer { name: format!("m{id}"), address: format!("m{id}:1") });
        let mut members = state.members()?;
        if members.voters().is_empty() {
            members = Members::new(voters.iter().map(peer).collect());
        }
        let mut log = RaftLog::new(wal, meta.index, members.conf().clone());
        if let Some(index) = snapshot::newest(&machine.snapshots)? {
            let (meta, of_snapshot) = snapshot::head(&machine.snapshots, index, STORE)?;
            log.set_snapshot(snapshot::raft_metadata(&meta, &of_snapshot.unwrap_or_else(|| members.clone())));
        }
        let config = raft::Config {
            id: machine.id,
            applied: meta.index,
            election_tick: PROMISE as usize,
            heartbeat_tick: 2,
            pre_vote: true,
            check_quorum: true,
            max_size_per_msg: 4096,
            max_committed_size_per_ready: 4096,
            max_inflight_msgs: 16,
            ..raft::Config::new(machine.id)
        };
        let raft = RawNode::new(&config, log, &logger::logger())
            .map_err(|e| StoreError::Corrupt(format!("raft does not start: {e}")))?;
        let mut applier = Applier::new(Arc::clone(&state), meta);
        applier.members(&members);
        let mut lease = Lease::new(Some(Arc::new(Granted::default())));
        lease.clings = self.mutation == Mutation::Transfer;
        if self.mutation == Mutation::Lease {
            lease.stretch(TICK * 40);
        }
        let mut core = Core::new(raft, members, Arc::default(), self.rng.random(), lease);
        // One that is forgotten would never be asked for a second vote in time if promises were kept.
        core.breaks_promises = matches!(self.mutation, Mutation::Promise | Mutation::Vote);
        let ways = Ways {
            sent: Vec::new(),
            work: VecDeque::new(),
            snapshots: machine.snapshots.clone(),
            applied: meta.index,
            before: meta,
            leads: false,
            now: machine.clock,
        };
        machine.ticked = machine.clock;
        machine.running = Some(Running { core, applier, state, ways });
        Ok(())
    }

    /// Lets a member do what it wants to do, and takes what it says.
    fn settle(&mut self, i: usize) -> Verdict {
        let Some(running) = &mut self.machines[i].running else { return Ok(()) };
        let done = running.core.settle(&mut running.ways);
        let (leads, term) = (running.ways.leads, running.core.raft.raft.term);
        let sent = std::mem::take(&mut running.ways.sent);
        if let Err(e) = done {
            if matches!(e, StoreError::Corrupt(_)) {
                return Err(e.to_string());
            }
            // The disk has failed.
            self.crash(i);
            return Ok(());
        }
        if leads {
            self.checker.leads(term, self.machines[i].id)?;
        }
        let size = self.size() as u64;
        // A member may have been added that has no machine.
        for message in sent.into_iter().filter(|m| m.to <= size) {
            let file = (message.get_msg_type() == MessageType::MsgSnapshot)
                .then(|| self.file(i, message.get_snapshot().get_metadata().index))
                .flatten();
            self.packets.push(Packet { message, file });
        }
        Ok(())
    }

    fn file(&self, i: usize, index: u64) -> Option<Vec<u8>> {
        Outgoing::open(&self.machines[i].snapshots, index).ok()?.read(0, usize::MAX).ok()
    }

    fn deliver(&mut self) -> Verdict {
        if self.packets.is_empty() {
            return Ok(());
        }
        let n = self.rng.random_range(0..self.packets.len().min(12));
        let packet = self.packets.remove(n);
        let message = packet.message.clone();
        let (from, to) = (message.from, message.to);
        let i = (to - 1) as usize;
        if self.machines[i].paused.is_some() {
            self.machines[i].waiting.push(packet);
            return Ok(());
        }
        let lost = self.cut.contains(&(from, to)) || self.rng.random_bool(0.02);
        if !lost && self.rng.random_bool(0.02) {
            self.packets.push(Packet { message: packet.message.clone(), file: packet.file.clone() });
        }
        let arrived = !lost && self.arrive(i, packet);
        self.sent(&message, arrived);
        self.settle(i)?;
        self.settle((from - 1) as usize)
    }

    /// Tells the sender of a snapshot what became of it; also one that is paused, later.
    fn sent(&mut self, message: &Message, arrived: bool) {
        let sender = &mut self.machines[(message.from - 1) as usize];
        if message.get_msg_type() == MessageType::MsgSnapshot
            && let Some(process) = sender.running.as_mut().or(sender.paused.as_mut())
        {
            process.core.snapshot_sent(message.to, arrived);
        }
    }

    fn arrive(&mut self, i: usize, packet: Packet) -> bool {
        let machine = &mut self.machines[i];
        let Some(running) = &mut machine.running else { return false };
        if let Some(file) = &packet.file {
            let index = packet.message.get_snapshot().get_metadata().index;
            let receive = || -> Result<(), StoreError> {
                let mut incoming = Incoming::open(Arc::new(machine.snapshots.clone()), index)?;
                let offset = usize::try_from(incoming.offset()).unwrap_or(usize::MAX);
                incoming.write(file.get(offset..).unwrap_or_default())?;
                incoming.finish(STORE)
            };
            if receive().is_err() {
                return false;
            }
        }
        running.core.receive(packet.message, &running.ways);
        true
    }

    /// Applies some of what is committed.
    fn apply(&mut self, i: usize) -> Verdict {
        let id = self.machines[i].id;
        let Some(running) = &mut self.machines[i].running else { return Ok(()) };
        let Some(work) = running.ways.work.pop_front() else { return Ok(()) };
        let committed = match work {
            Work::Apply(committed) => committed,
            Work::Install(index) => {
                let machine = &self.machines[i];
                let Some(running) = &machine.running else { return Ok(()) };
                let replaced = running.state.replace(|kv| {
                    kv.clear()?;
                    snapshot::restore(&machine.snapshots, kv, index, STORE)
                });
                let meta = match replaced {
                    Ok(meta) => meta,
                    Err(StoreError::Corrupt(e)) => return Err(e),
                    Err(_) => {
                        self.crash(i);
                        return Ok(());
                    }
                };
                self.installs += 1;
                if meta.revision > self.checker.newest() {
                    return Err(format!(
                        "member {id} was given a state of {}, from the future",
                        meta.revision
                    ));
                }
                if let Some(running) = &mut self.machines[i].running {
                    running.applier.replaced(meta);
                    running.ways.applied = meta.index;
                }
                return self.settle(i);
            }
        };
        running.ways.before = running.applier.meta();
        let mut answers: Vec<(Reply, Outcome)> = Vec::new();
        let mut replies = committed.replies.into_iter().peekable();
        let mut members = committed.members.into_iter().peekable();
        for entry in &committed.entries {
            if let Some((_, changed)) = members.next_if(|(index, _)| *index == entry.index) {
                running.applier.members(&changed);
            }
            let normal = entry.get_entry_type() == raft::eraftpb::EntryType::EntryNormal;
            let commands = match normal && !entry.data.is_empty() {
                true => decode(&entry.data).map_err(|_| "an entry cannot be read".to_owned())?,
                false => Vec::new(),
            };
            let outcomes =
                running.applier.entry(entry.index, entry.term, commands).map_err(|e| e.to_string())?;
            if let Some((_, waiting)) = replies.next_if(|(index, _)| *index == entry.index) {
                answers.extend(waiting.into_iter().zip(outcomes).filter_map(|(r, o)| Some((r?, o))));
            }
        }
        let events = running.applier.commit().map_err(|e| e.to_string())?;
        let meta = running.applier.meta();
        running.ways.applied = meta.index;
        self.checker.compacted = self.checker.compacted.max(meta.compacted);
        for event in &events {
            self.checker.applied(id, event)?;
        }
        for (reply, outcome) in answers {
            drop(reply.tx.send(outcome));
        }
        self.settle(i)
    }

    fn random(&mut self) -> usize {
        self.rng.random_range(0..self.machines.len())
    }

    fn write(&mut self) -> Verdict {
        let i = self.random();
        let key = format!("/r/{}", self.rng.random_range(0..KEYS));
        let (guess, delete, compact) =
            (self.rng.random_bool(0.8), self.rng.random_bool(0.15), self.rng.random_bool(0.1));
        let Some(running) = &mut self.machines[i].running else { return Ok(()) };
        let now = running.state.get(&key, 0).ok().flatten().map_or(0, |kv| kv.mod_revision);
        let expected = if guess { now } else { 0 };
        if compact {
            let revision = running.state.revision().saturating_sub(4);
            if revision > 0 {
                running.core.propose(&[Command::Compact { revision }], vec![None]);
            }
            return self.settle(i);
        }
        self.operations += 1;
        let operation = self.operations;
        let command = match delete && expected != 0 {
            true => Command::Delete { key: key.clone(), expected },
            false => {
                let value = Bytes::from(operation.to_string());
                Command::Put { key: key.clone(), expected, value, expiry: 0 }
            }
        };
        let (tx, answer) = oneshot::channel();
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|e| e.to_string())?;
        running.core.propose(&[command], vec![Some(Reply { tx, permit })]);
        self.writes.push(Write { operation, key, expected, begun_at: self.checker.floor(), answer });
        self.settle(i)
    }

    fn read(&mut self) -> Verdict {
        let i = self.random();
        let key = format!("/r/{}", self.rng.random_range(0..KEYS));
        let Some(running) = &mut self.machines[i].running else { return Ok(()) };
        let (tx, answer) = oneshot::channel();
        if self.mutation == Mutation::Reads {
            drop(tx.send(Ok(running.ways.applied)));
        } else {
            running.core.read(tx);
        }
        self.reads.push(Read { machine: i, key, begun_at: self.checker.floor(), answer, index: None });
        let leased =
            self.machines[i].running.as_ref().is_some_and(|r| r.core.lease.index(r.ways.now).is_some());
        self.leased += u64::from(leased);
        self.settle(i)
    }

    /// Looks at the answers clients have got.
    fn hear(&mut self) -> Verdict {
        let mut left = Vec::new();
        for mut w in std::mem::take(&mut self.writes) {
            match w.answer.try_recv() {
                Ok(Ok(TxnResult::Done(revision))) => {
                    self.checker.acknowledge(w.operation, w.begun_at, &w.key, w.expected, revision)?;
                }
                Ok(Ok(TxnResult::Conflict(there))) => {
                    let found = there.map_or(0, |kv| kv.mod_revision);
                    self.checker.conflict(w.operation, w.begun_at, &w.key, w.expected, found)?;
                }
                Ok(Err(StoreError::Unavailable(why))) if why == NOT_LEADING => {
                    self.checker.refuse(w.operation)
                }
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => {}
                Err(oneshot::error::TryRecvError::Empty) => left.push(w),
            }
        }
        self.writes = left;
        let mut left = Vec::new();
        for mut r in std::mem::take(&mut self.reads) {
            if r.index.is_none() {
                match r.answer.try_recv() {
                    Ok(Ok(index)) => r.index = Some(index),
                    Err(oneshot::error::TryRecvError::Empty) => {}
                    _ => continue,
                }
            }
            let machine = &self.machines[r.machine];
            if machine.paused.is_some() {
                left.push(r);
                continue;
            }
            let Some(running) = &machine.running else { continue };
            match r.index {
                Some(index) if running.ways.applied >= index => {
                    let all = RangeRequest { start: "/".into(), end: "0".into(), ..RangeRequest::default() };
                    let range = running.state.range(&all).map_err(|e| e.to_string())?;
                    let found = range.items.iter().find(|kv| kv.key == r.key).map_or(0, |kv| kv.mod_revision);
                    self.checker.read(r.begun_at, &r.key, range.revision, found)?;
                }
                _ => left.push(r),
            }
        }
        self.reads = left;
        Ok(())
    }

    /// A watch goes on at any member from where it was at another.
    fn watch(&mut self) -> Verdict {
        let i = self.random();
        let Some(running) = &self.machines[i].running else { return Ok(()) };
        let upto = running.state.revision();
        // One that begins anywhere in history.
        let after = self.rng.random_range(0..=upto);
        match running.state.events(after, upto, 2000) {
            Ok((events, complete)) => self.checker.watched(after, complete, &events)?,
            Err(StoreError::Compacted { .. }) => {}
            Err(e) => return Err(e.to_string()),
        }
        if upto <= self.watched {
            return Ok(());
        }
        match running.state.events(self.watched, upto, 2000) {
            Ok((events, complete)) => {
                self.checker.watched(self.watched, complete, &events)?;
                self.watched = complete;
                Ok(())
            }
            Err(StoreError::Compacted { .. }) => {
                self.watched = upto;
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        }
    }

    fn snapshot(&mut self, i: usize) -> Verdict {
        let machine = &mut self.machines[i];
        let Some(running) = &mut machine.running else { return Ok(()) };
        if running.ways.work.iter().any(|w| matches!(w, Work::Install(_))) {
            return Ok(());
        }
        let meta = running.applier.meta();
        let members = running.state.members().map_err(|e| e.to_string())?;
        if meta.index == 0 || members.voters().is_empty() {
            return Ok(());
        }
        let kv = Arc::clone(&running.state.kv);
        kv.hand_on(true).map_err(|e| e.to_string())?;
        let written = snapshot::write(&machine.snapshots, &*kv, STORE, &meta, &members);
        let log = running.core.raft.mut_store();
        let done = written.and_then(|_| {
            log.set_snapshot(snapshot::raft_metadata(&meta, &members));
            log.wal_mut().truncate_front(meta.index, meta.term)
        });
        if done.is_err() {
            self.crash(i);
        }
        Ok(())
    }

    /// One thing happens.
    pub fn step(&mut self) -> Verdict {
        let i = self.random();
        match self.rng.random_range(0..1000) {
            0..300 => {
                let time = Duration::from_micros(self.rng.random_range(0..30_000));
                self.pass(time)
            }
            300..302 => {
                self.pause(i);
                Ok(())
            }
            302..308 => {
                self.resume(i);
                Ok(())
            }
            308..700 => self.deliver(),
            700..810 => self.apply(i),
            810..880 => self.write(),
            880..910 => self.read(),
            910..918 => self.watch(),
            918..950 => match &mut self.machines[i].running {
                Some(running) => running.applier.scrub(20).map_err(|e| e.to_string()),
                None => Ok(()),
            },
            950..956 => self.snapshot(i),
            956..959 => {
                if self.machines[i].running.is_some() || self.machines[i].paused.is_some() {
                    self.crash(i);
                }
                Ok(())
            }
            959..961 => {
                let operations = self.rng.random_range(0..12);
                self.machines[i].wal.fail_after(operations);
                Ok(())
            }
            961..984 => {
                if self.machines[i].running.is_none() && self.machines[i].paused.is_none() {
                    self.restart(i)?;
                }
                Ok(())
            }
            984..988 => {
                let (a, b) = (i as u64 + 1, self.random() as u64 + 1);
                self.cut.insert((a, b));
                if self.rng.random_bool(0.5) {
                    self.cut.insert((b, a));
                }
                Ok(())
            }
            988..996 => {
                self.cut.clear();
                Ok(())
            }
            _ => {
                let to = self.random() as u64 + 1;
                if let Some(running) = &mut self.machines[i].running {
                    running.core.transfer_leader(to);
                }
                self.settle(i)
            }
        }?;
        self.hear()
    }
}

//! The thread that drives the raft node: gathers proposals into batches, gives the node its time and its messages, and
//! carries what the node wants done to the log, the applier and the other members.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use raft::eraftpb::{Message as RaftMessage, MessageType, SnapshotMetadata};
use tokio::sync::{oneshot, watch};

use super::Clock;
use super::applied::{Committed, Progress, Reply, Work};
use super::boot_time;
use super::command::Command;
use super::compaction::AutoCompaction;
use super::core::{ChangeReply, Core, Outside, ReadReply, refuse};
use super::defrag::{self, DefragReply};
use super::fs::Fs;
use super::members::{Change, Members};
use super::snapshot::{self, SaveReply};
use super::space::{Room, Space};
use super::state::State;
use crate::StoreError;

/// Commands in one entry.
const BATCH_COMMANDS: usize = 1024;
/// Bytes of values in one entry, from which on no more are added.
const BATCH_BYTES: usize = 1 << 20;
/// Keys deleted by one expiry command.
const EXPIRE_LIMIT: u64 = 500;
/// Raft's unit of time. An election begins after ten to twenty without a leader.
pub const TICK: Duration = Duration::from_millis(50);
/// How often the members' states are compared.
const CHECK: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// Between two attempts of a leader with a full disk to hand over.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How long a leader that stops waits for another to take over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// To the thread.
pub enum Message {
    Propose(Command, Reply),
    /// Tell which entry a linearizable read must have seen.
    Read(ReadReply),
    /// From other members.
    Raft(Vec<RaftMessage>),
    /// A member cannot be reached.
    Unreachable(u64),
    /// A snapshot was sent to a member, or could not be.
    SnapshotSent(u64, bool),
    Change(Change, ChangeReply),
    TransferLeader(u64),
    /// Another member says that this one was removed.
    Removed,
    /// Write a snapshot now.
    Save(SaveReply),
    /// Rewrite the map of the applied state.
    Defragment(DefragReply),
    /// This member's state is not the others': stop.
    Fence(StoreError),
    Describe(oneshot::Sender<Description>),
    /// Something the thread's sleep depends on has changed.
    Wake,
    /// Stop; with `true` after a clean end.
    Stop(bool, oneshot::Sender<()>),
}

/// A member's view of the group.
#[derive(Debug, Clone)]
pub struct Description {
    pub id: u64,
    pub leader: u64,
    pub term: u64,
    pub committed: u64,
    pub applied: u64,
    pub members: Members,
}

/// Who leads, as this member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leader {
    /// Zero: nobody.
    pub id: u64,
    pub is_me: bool,
}

/// The way to the other members.
pub trait Network: Send {
    fn send(&mut self, messages: Vec<RaftMessage>);
    /// Who there is, and where.
    fn members(&mut self, members: &Members);
}

/// Of a group without others.
pub struct Nobody;

impl Network for Nobody {
    fn send(&mut self, _messages: Vec<RaftMessage>) {}
    fn members(&mut self, _members: &Members) {}
}

/// What the node's output goes through.
pub struct Ways {
    pub apply: SyncSender<Work>,
    pub progress: Arc<Progress>,
    pub network: Box<dyn Network>,
    pub snapshots: Arc<dyn Fs>,
    pub store_id: u64,
    pub leader: watch::Sender<Leader>,
    /// Whether this member is all there is.
    pub alone: Arc<AtomicBool>,
}

impl Outside for Ways {
    fn send(&mut self, messages: Vec<RaftMessage>) {
        self.network.send(messages);
    }

    fn apply(&mut self, committed: Committed) -> Result<(), StoreError> {
        if let Some((_, members)) = committed.members.last() {
            self.network.members(members);
        }
        self.apply.send(Work::Apply(committed)).map_err(|_| gone())
    }

    fn has_received(&self, index: u64) -> bool {
        snapshot::has_received(&*self.snapshots, index)
    }

    fn install(&mut self, meta: &SnapshotMetadata) -> Result<Option<Members>, StoreError> {
        snapshot::adopt(&*self.snapshots, meta.index)?;
        let (_, members) = snapshot::head(&*self.snapshots, meta.index, self.store_id)?;
        if let Some(members) = &members {
            self.network.members(members);
        }
        self.apply.send(Work::Install(meta.index)).map_err(|_| gone())?;
        Ok(members)
    }

    fn applied(&self) -> u64 {
        self.progress.index.load(Ordering::Acquire)
    }

    fn leader(&mut self, leader: u64, is_me: bool) {
        self.leader.send_replace(Leader { id: leader, is_me });
    }

    fn now(&self) -> Duration {
        // Where there is no such clock, every lease is over.
        boot_time::now().unwrap_or(Duration::MAX)
    }
}

/// The thread's state.
pub struct Node {
    pub core: Core,
    pub ways: Ways,
    pub messages: Receiver<Message>,
    pub state: Arc<State>,
    pub clock: Clock,
    pub compaction: AutoCompaction,
    /// Index of the last expiry proposed; the next waits until it is applied.
    pub expiring: u64,
    pub ticked: Instant,
    pub checked: Instant,
    /// Since when this leader, about to stop, waits for another.
    pub leaving: Option<(Instant, oneshot::Sender<()>)>,
    pub space: Arc<Space>,
    /// When this leader last tried to hand over because its disk is full.
    pub gave_up: Option<Instant>,
}

/// What came in one turn.
#[derive(Default)]
struct Gathered {
    commands: Vec<Command>,
    replies: Vec<Option<Reply>>,
    bytes: usize,
    stop: Option<(bool, oneshot::Sender<()>)>,
    removed: bool,
    fenced: Option<StoreError>,
    save: Option<SaveReply>,
    defragment: Option<DefragReply>,
}

impl Node {
    /// Runs until told to stop (returns whether cleanly, and whom to tell) or until something fails.
    pub fn run(&mut self) -> Result<(bool, oneshot::Sender<()>), StoreError> {
        if self.core.alone() {
            // There is nobody to wait for.
            self.core.campaign()?;
        }
        self.ways.alone.store(self.core.alone(), Ordering::Release);
        let members = self.core.members.clone();
        self.ways.network.members(&members);
        loop {
            self.settle()?;
            self.truncate()?;
            let now = (self.clock)();
            self.housekeeping(now);
            self.settle()?;
            if let Some(done) = self.left() {
                return Ok((true, done));
            }
            let message = match self.sleep(now) {
                Some(wait) => match self.messages.recv_timeout(wait) {
                    Ok(m) => Some(m),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                },
                None => Some(self.messages.recv().map_err(|_| gone())?),
            };
            self.tick();
            if matches!(message, Some(Message::Propose(..))) {
                // Who else is about to write gets to it first: one write to disk then does for all. With a processor to
                // spare this takes no time.
                std::thread::yield_now();
            }
            let mut gathered = Gathered::default();
            let mut next = message;
            while let Some(m) = next.take() {
                self.take(m, &mut gathered);
                let full = gathered.commands.len() >= BATCH_COMMANDS || gathered.bytes >= BATCH_BYTES;
                if !full && gathered.stop.is_none() {
                    next = self.messages.try_recv().ok();
                }
            }
            self.propose(&gathered.commands, gathered.replies);
            if let Some(reply) = gathered.save {
                self.ways.apply.send(Work::Save(reply)).map_err(|_| gone())?;
            }
            if let Some(reply) = gathered.defragment {
                self.ways.apply.send(Work::Defragment(reply)).map_err(|_| gone())?;
            }
            if gathered.removed {
                return Err(removed());
            }
            if let Some(why) = gathered.fenced {
                return Err(why);
            }
            if let Some((clean, done)) = gathered.stop {
                self.settle()?;
                if !clean || !self.hand_over() {
                    return Ok((clean, done));
                }
                self.leaving = Some((Instant::now(), done));
            }
        }
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.core.settle(&mut self.ways)?;
        if self.core.members.is_removed(self.core.id()) {
            return Err(removed());
        }
        self.ways.alone.store(self.core.alone(), Ordering::Release);
        if self.core.raft.store().lacks_snapshot() {
            // Nobody waits for the answer: raft asks again.
            let (reply, _) = oneshot::channel();
            self.ways.apply.send(Work::Save(reply)).map_err(|_| gone())?;
        }
        Ok(())
    }

    fn take(&mut self, message: Message, gathered: &mut Gathered) {
        match message {
            Message::Propose(_, reply) if self.space.room() == Room::None => self.no_room(reply),
            Message::Propose(Command::Put { .. }, reply) if self.space.room() == Room::Low => {
                self.no_room(reply);
            }
            Message::Propose(command, reply) => {
                if let Command::Put { value, .. } = &command {
                    gathered.bytes += value.len();
                }
                gathered.commands.push(command);
                gathered.replies.push(Some(reply));
            }
            Message::Read(reply) => self.core.read(reply),
            Message::Raft(messages) => {
                for m in messages {
                    if self.space.room() == Room::None && takes_room(&m) {
                        // As if it had been lost: raft sends it again, until there is room for it.
                        continue;
                    }
                    self.core.receive(m, &self.ways);
                }
            }
            Message::Unreachable(id) => self.core.unreachable(id),
            Message::SnapshotSent(id, ok) => self.core.snapshot_sent(id, ok),
            Message::Change(change, reply) => self.core.change(change, reply),
            Message::TransferLeader(id) => self.core.transfer_leader(id),
            Message::Describe(reply) => {
                // Whoever asked may have gone.
                drop(reply.send(self.describe()));
            }
            Message::Removed => gathered.removed = true,
            Message::Fence(why) => gathered.fenced = Some(why),
            Message::Save(reply) => {
                if let Some(earlier) = gathered.save.replace(reply) {
                    // Whoever asked may have gone.
                    drop(earlier.send(Err(snapshot::busy())));
                }
            }
            Message::Defragment(reply) => {
                if let Some(earlier) = gathered.defragment.replace(reply) {
                    // Whoever asked may have gone.
                    drop(earlier.send(Err(StoreError::Unavailable(defrag::BUSY.to_owned()))));
                }
            }
            Message::Wake => {}
            Message::Stop(clean, done) => gathered.stop = Some((clean, done)),
        }
    }

    /// Refuses what there is no room for. If this was proposed here because this member leads, another may have room.
    fn no_room(&mut self, reply: Reply) {
        refuse(vec![Some(reply)], &self.core.metrics, &self.space.refusal());
        let due = self.gave_up.is_none_or(|at| at.elapsed() >= GIVE_UP);
        if due && self.core.leads() && self.has_others() {
            self.gave_up = Some(Instant::now());
            self.hand_over();
        }
    }

    fn describe(&self) -> Description {
        let raft = &self.core.raft.raft;
        Description {
            id: raft.id,
            leader: raft.leader_id,
            term: raft.term,
            committed: raft.raft_log.committed,
            applied: self.ways.applied(),
            members: self.core.members.clone(),
        }
    }

    /// Whether there are members that need to hear of this one in time.
    fn has_others(&self) -> bool {
        self.core.members.peers().len() > 1 || !self.core.alone()
    }

    /// After a pause of the whole process one tick is enough: the others' clocks have gone on, and tell.
    fn tick(&mut self) {
        let now = Instant::now();
        if self.has_others() && now.duration_since(self.ticked) >= TICK {
            self.ticked = now;
            self.core.tick();
        }
    }

    /// How long to sleep if nothing comes; none: until something comes.
    fn sleep(&self, now: u64) -> Option<Duration> {
        if self.has_others() || self.core.has_changes_waiting() {
            return Some(TICK.saturating_sub(self.ticked.elapsed()));
        }
        let expiry = self.ways.progress.next_expiry.load(Ordering::Acquire);
        // While one is being applied, the applier says when there is more.
        let expiry = if self.is_expiring() { u64::MAX } else { expiry };
        let wake = expiry.min(self.compaction.next().unwrap_or(u64::MAX));
        // Whole seconds, so up to one late, never busy.
        (wake != u64::MAX).then(|| Duration::from_secs(wake.saturating_sub(now).clamp(1, 3600)))
    }

    /// Proposes what time has made due.
    fn housekeeping(&mut self, now: u64) {
        if !self.core.leads() {
            // Whoever leads next has all of its time before it.
            self.compaction.wrote();
            return;
        }
        if self.space.room() == Room::None {
            return;
        }
        let expiry = self.ways.progress.next_expiry.load(Ordering::Acquire);
        if expiry <= now && !self.is_expiring() {
            self.propose(&[Command::Expire { now, limit: EXPIRE_LIMIT }], vec![None]);
            self.expiring = self.core.raft.raft.raft_log.last_index();
        }
        if let Some(revision) = self.compaction.due(now, self.state.revision())
            && revision > self.state.compacted()
        {
            self.propose(&[Command::Compact { revision }], vec![None]);
        }
        if self.has_others() && self.core.pace.should_hand_over(Instant::now()) {
            tracing::warn!(mean = ?self.core.pace.mean(), "the disk is slow; another member should lead");
            self.hand_over();
        }
        if self.has_others() && self.checked.elapsed() >= CHECK {
            self.checked = Instant::now();
            let (index, chain) = *self.ways.progress.chain.lock();
            self.core.propose(&[Command::Check { index, chain }], vec![None]);
        }
    }

    fn is_expiring(&self) -> bool {
        self.ways.applied() < self.expiring
    }

    fn propose(&mut self, commands: &[Command], replies: Vec<Option<Reply>>) {
        if !commands.is_empty() {
            self.compaction.wrote();
            self.core.propose(commands, replies);
        }
    }

    /// Drops what a new durable snapshot made superfluous from the log.
    fn truncate(&mut self) -> Result<(), StoreError> {
        let snapshot = self.ways.progress.snapshot.lock().take();
        match snapshot {
            Some(meta) => {
                let log = self.core.raft.mut_store();
                let (index, term) = (meta.index, meta.term);
                log.set_snapshot(meta);
                log.wal_mut().truncate_front(index, term)
            }
            None => Ok(()),
        }
    }

    /// Gives the lead to the voter that is furthest. False if there is nothing to give or nobody to take it.
    fn hand_over(&mut self) -> bool {
        if !self.core.leads() {
            return false;
        }
        let (me, raft) = (self.core.id(), &self.core.raft.raft);
        let others = self.core.members.voters().iter().filter(|v| **v != me);
        let best = others.filter_map(|v| Some((raft.prs().get(*v)?, *v))).filter(|(p, _)| p.recent_active);
        let Some((_, to)) = best.max_by_key(|(p, _)| p.matched) else { return false };
        tracing::info!(to = format!("{to:016x}"), "handing the lead over");
        self.core.transfer_leader(to);
        true
    }

    /// Whom to tell that a leader which wanted to stop may do so now.
    fn left(&mut self) -> Option<oneshot::Sender<()>> {
        let over = |since: &Instant| since.elapsed() >= HAND_OVER;
        let gone = !self.core.leads() || self.leaving.as_ref().is_some_and(|(since, _)| over(since));
        if gone { self.leaving.take().map(|(_, done)| done) } else { None }
    }
}

/// Whether taking a message in means writing.
fn takes_room(m: &RaftMessage) -> bool {
    match m.get_msg_type() {
        MessageType::MsgAppend => !m.entries.is_empty(),
        MessageType::MsgSnapshot => true,
        _ => false,
    }
}

fn removed() -> StoreError {
    StoreError::Unavailable(
        "this member was removed from the store, for ever: stop this server, or give it another --store-name, an empty \
         --data-dir and --store-initial-cluster-state=existing after ctl store add"
            .to_owned(),
    )
}

fn gone() -> StoreError {
    StoreError::Unavailable("a thread of the store has stopped".to_owned())
}

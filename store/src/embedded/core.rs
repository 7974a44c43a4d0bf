//! The raft node of one member, without I/O of its own: inputs are proposals, messages, ticks and reads; everything
//! that leaves goes through [`Outside`]. The thread of [`super::node`] drives it on a machine, the simulation of
//! `tests/group` in virtual time.
//!
//! It must never send a message that depends on state which is not yet on disk: raft tells which messages may go
//! before the append (`messages`) and which only after it (`persisted_messages`).

mod change;
mod lease;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft::eraftpb::{ConfChangeV2, Entry, EntryType, Message, MessageType, SnapshotMetadata};
use raft::{CAMPAIGN_TRANSFER, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use tokio::sync::oneshot;

pub use self::change::ChangeReply;
use self::change::Changes;
pub use self::lease::{Granted, Lease, PROMISE};
use super::applied::{Committed, Reply};
use super::apply::Outcome;
use super::command::{Command, encode};
use super::members::{Change, Members};
use super::metrics::Metrics;
use super::pace::Pace;
use super::raftlog::RaftLog;
use crate::StoreError;

/// Ticks after which a read that has no answer is asked anew: its question, or the answer, was lost.
const READ_PATIENCE: u64 = 10;

/// Who waits for the index that a linearizable read must have seen.
pub type ReadReply = oneshot::Sender<Result<u64, StoreError>>;

/// Where the node's output goes.
pub trait Outside {
    /// To other members. Messages may be lost.
    fn send(&mut self, messages: Vec<Message>);
    /// To the applier, in order.
    fn apply(&mut self, committed: Committed) -> Result<(), StoreError>;
    /// Whether the snapshot that a leader announces has been received, whole and durable.
    fn has_received(&self, index: u64) -> bool;
    /// The received snapshot takes the place of the applied state. The log has forgotten what is before it already.
    /// The members that it tells of, if it does.
    fn install(&mut self, meta: &SnapshotMetadata) -> Result<Option<Members>, StoreError>;
    /// Index of the last entry in the applied state.
    fn applied(&self) -> u64;
    /// This member leads, or follows somebody, or nobody (zero).
    fn leader(&mut self, leader: u64, is_me: bool);
    /// Time on a clock that never goes back and never stands still.
    fn now(&self) -> Duration;
}

/// Linearizable reads. Those that come while one question is under way share the next.
#[derive(Default)]
struct Reads {
    gathering: Vec<ReadReply>,
    /// The question asked, when, and who waits for it.
    asked: Option<(Vec<u8>, u64, Vec<ReadReply>)>,
    /// There is another leader than the one that was asked.
    lost: bool,
    count: u64,
}

/// See the module.
pub struct Core {
    pub raft: RawNode<RaftLog>,
    pub members: Members,
    pub metrics: Arc<Metrics>,
    /// Proposals in the log and not yet committed: number of the batch, its proposers.
    waiting: VecDeque<(u64, Vec<Option<Reply>>)>,
    batches: u64,
    reads: Reads,
    /// Tells this run of this member from all others, in the questions of reads.
    incarnation: u64,
    ticks: u64,
    /// How fast the disk is.
    pub pace: Pace,
    /// When each other member was last heard of.
    heard: BTreeMap<u64, u64>,
    /// When this member last became leader.
    elected: u64,
    changes: Changes,
    /// Lets reads do without a question.
    pub lease: Lease,
    /// The tick in which this member last promised to vote for nobody for a while.
    promised: Option<u64>,
    /// Promises are not kept, for tests that must notice.
    #[cfg(test)]
    pub breaks_promises: bool,
}

fn raft_failed(e: &raft::Error) -> StoreError {
    StoreError::Unavailable(format!("the raft node failed: {e}"))
}

/// What a member that does not lead says to a proposal.
pub const NOT_LEADING: &str = "this member does not lead the store; the write was not made";

/// The error of a proposal at a member that does not lead.
pub fn not_leading() -> StoreError {
    StoreError::Unavailable(NOT_LEADING.to_owned())
}

impl Core {
    pub fn new(
        raft: RawNode<RaftLog>,
        members: Members,
        metrics: Arc<Metrics>,
        incarnation: u64,
        lease: Lease,
    ) -> Core {
        // Before its first term a member cannot have promised anything.
        let promised = (raft.raft.term > 0).then_some(0);
        Core {
            raft,
            members,
            metrics,
            waiting: VecDeque::new(),
            batches: 0,
            reads: Reads::default(),
            incarnation,
            ticks: 0,
            pace: Pace::default(),
            heard: BTreeMap::new(),
            elected: 0,
            changes: Changes::default(),
            lease,
            promised,
            #[cfg(test)]
            breaks_promises: false,
        }
    }

    pub fn id(&self) -> u64 {
        self.raft.raft.id
    }

    pub fn leads(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// Whether nobody else is there to be asked.
    pub fn alone(&self) -> bool {
        self.members.voters() == [self.id()]
    }

    /// Becomes a candidate at once; for a member that is alone.
    pub fn campaign(&mut self) -> Result<(), StoreError> {
        self.raft.campaign().map_err(|e| raft_failed(&e))
    }

    /// Time has passed.
    pub fn tick(&mut self) {
        self.ticks += 1;
        self.raft.tick();
        if self.reads.asked.as_ref().is_some_and(|(_, at, _)| at + READ_PATIENCE <= self.ticks) {
            self.ask_again();
        }
    }

    /// One entry of commands, and who waits for each.
    pub fn propose(&mut self, commands: &[Command], replies: Vec<Option<Reply>>) {
        if commands.is_empty() {
            return;
        }
        if !self.leads() {
            refuse(replies, &self.metrics, &not_leading());
            return;
        }
        self.batches += 1;
        let context = self.batches.to_le_bytes().to_vec();
        match self.raft.propose(context, encode(commands)) {
            Ok(()) => self.waiting.push_back((self.batches, replies)),
            Err(e) => {
                self.metrics.proposals_failed.add(replies.len() as u64);
                let why = match e {
                    // It is handing over: whoever leads next takes them.
                    raft::Error::ProposalDropped => not_leading(),
                    e => raft_failed(&e),
                };
                refuse(replies, &self.metrics, &why);
            }
        }
    }

    /// A read wants to know which entry it must have seen.
    pub fn read(&mut self, reply: ReadReply) {
        self.reads.gathering.push(reply);
    }

    /// Hands the lead over.
    pub fn transfer_leader(&mut self, to: u64) {
        self.raft.transfer_leader(to);
        if self.raft.raft.lead_transferee.is_some() {
            self.lease.hand_over();
        }
    }

    /// Whether this member votes for nobody at present, because a leader may count on that.
    fn has_promised(&self) -> bool {
        #[cfg(test)]
        if self.breaks_promises {
            return false;
        }
        self.promised.is_some_and(|at| self.ticks < at + PROMISE)
    }

    /// A message of another member.
    pub fn receive(&mut self, message: Message, out: &dyn Outside) {
        let (from, kind, term) = (message.from, message.get_msg_type(), message.term);
        self.heard.insert(from, self.ticks);
        let leads = self.leads();
        match kind {
            MessageType::MsgSnapshot if !out.has_received(message.get_snapshot().get_metadata().index) => {
                // The announcement came without the file; the leader sends both again.
                return;
            }
            // Raft looks at this, too, but forgets it at a restart, and with its leader.
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
                if message.context != CAMPAIGN_TRANSFER && self.has_promised() =>
            {
                return;
            }
            MessageType::MsgHeartbeatResponse if leads && term == self.raft.raft.term => {
                let (me, members) = (self.id(), self.raft.raft.prs());
                let is_majority = |ids: &[u64]| members.has_quorum(&ids.iter().copied().collect());
                self.lease.answered(from, &message.context, me, is_majority);
                self.publish();
            }
            MessageType::MsgReadIndex if leads && self.lease.index(out.now()).is_some() => {
                self.raft.raft.read_only.option = ReadOnlyOption::LeaseBased;
            }
            _ => {}
        }
        if let Err(e) = self.raft.step(message) {
            tracing::debug!(from, error = %e, "raft did not take a message");
        }
        self.raft.raft.read_only.option = ReadOnlyOption::Safe;
        if kind == MessageType::MsgHeartbeat && term == self.raft.raft.term {
            self.promised = Some(self.ticks);
        }
    }

    /// Shows readers the lease, and what is committed.
    fn publish(&self) {
        let raft = &self.raft.raft;
        let reigns = self.leads() && raft.commit_to_current_term();
        self.lease.publish(reigns, raft.raft_log.committed);
    }

    fn send(&mut self, mut messages: Vec<Message>, out: &mut dyn Outside) {
        self.lease.sending(&mut messages, out.now());
        out.send(messages);
    }

    /// A message to this member could not be delivered.
    pub fn unreachable(&mut self, id: u64) {
        self.raft.report_unreachable(id);
    }

    /// A snapshot has been sent, or could not be.
    pub fn snapshot_sent(&mut self, id: u64, ok: bool) {
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raft.report_snapshot(id, status);
    }

    /// Does what raft wants done until it wants nothing.
    pub fn settle(&mut self, out: &mut dyn Outside) -> Result<(), StoreError> {
        // Raft looks at what is not yet applied when it stands for election; the log may have forgotten the rest.
        self.note_applied(out.applied());
        self.ask(out);
        self.next_change();
        while self.raft.has_ready() {
            self.ready(out)?;
            self.ask(out);
            self.next_change();
        }
        self.note_applied(out.applied());
        Ok(())
    }

    fn note_applied(&mut self, applied: u64) {
        if applied > self.raft.raft.raft_log.applied {
            self.raft.advance_apply_to(applied.min(self.raft.raft.raft_log.committed));
        }
    }

    /// One turn of raft's loop.
    fn ready(&mut self, out: &mut dyn Outside) -> Result<(), StoreError> {
        let mut ready = self.raft.ready();
        if let Some((leader, role)) = ready.ss().map(|ss| (ss.leader_id, ss.raft_state)) {
            self.role_changed(leader, role, out);
        }
        self.publish();
        if !ready.messages().is_empty() {
            let messages = ready.take_messages();
            self.send(messages, out);
        }
        for state in ready.take_read_states() {
            self.answer_read(&state.request_ctx, state.index);
        }
        let mut installed = 0;
        if !ready.snapshot().is_empty() {
            let meta = ready.snapshot().get_metadata().clone();
            self.raft.mut_store().install(ready.hs(), &meta)?;
            if let Some(members) = out.install(&meta)? {
                self.members = members;
            }
            self.members.set_conf(meta.get_conf_state());
            installed = meta.index;
        }
        self.commit(ready.take_committed_entries(), out)?;
        let entries = ready.take_entries();
        // How far the others have come (the commit index) is found out again after a restart: not worth a sync.
        if !entries.is_empty() || ready.must_sync() {
            let started = Instant::now();
            let hard_state = ready.hs().cloned();
            self.raft.mut_store().append(hard_state.as_ref(), entries)?;
            let took = started.elapsed();
            self.metrics.wal_fsync.observe(took);
            self.metrics.wal_written.set(self.raft.mut_store().wal_mut().written());
            self.pace.synced(took);
        }
        if !ready.persisted_messages().is_empty() {
            let messages = ready.take_persisted_messages();
            self.send(messages, out);
        }
        let mut light = self.raft.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.metrics.proposals_committed.set(commit);
        }
        self.publish();
        if !light.messages().is_empty() {
            let messages = light.take_messages();
            self.send(messages, out);
        }
        self.commit(light.take_committed_entries(), out)?;
        let applied = out.applied();
        // The applier gets to the state of a snapshot in its turn; before it there are no entries.
        self.note_applied(applied.max(installed));
        self.raft.mut_store().trim(applied);
        Ok(())
    }

    fn role_changed(&mut self, leader: u64, role: StateRole, out: &mut dyn Outside) {
        self.lease.forget(true);
        if role == StateRole::Leader {
            self.metrics.leader_changes.add(1);
            self.elected = self.ticks;
        } else {
            // What was proposed may still be committed by another leader: nobody here can say.
            let why = StoreError::Unknown("leadership was lost".to_owned());
            for (_, replies) in self.waiting.drain(..) {
                refuse(replies, &self.metrics, &why);
            }
            self.changes.leadership_lost();
        }
        out.leader(leader, role == StateRole::Leader);
        // The one who was asked is gone. Raft takes no new question while it waits for this turn's end.
        self.reads.lost = leader != raft::INVALID_ID;
    }

    /// Hands committed entries over to the applier; waits while it is far behind.
    fn commit(&mut self, entries: Vec<Entry>, out: &mut dyn Outside) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut replies = Vec::new();
        let mut members = Vec::new();
        for e in &entries {
            if e.get_entry_type() != EntryType::EntryNormal {
                if let Some(changed) = self.members_changed(e)? {
                    members.push((e.index, changed));
                }
                continue;
            }
            let Ok(batch) = <[u8; 8]>::try_from(&e.context[..]).map(u64::from_le_bytes) else { continue };
            if self.waiting.front().is_some_and(|(number, _)| *number == batch)
                && e.term == self.raft.raft.term
                && let Some((_, waiting)) = self.waiting.pop_front()
            {
                replies.push((e.index, waiting));
            }
        }
        out.apply(Committed { entries, replies, members })
    }

    /// A change of members is committed: it takes effect here and now.
    fn members_changed(&mut self, entry: &Entry) -> Result<Option<Members>, StoreError> {
        let damaged = || {
            StoreError::Corrupt(format!(
                "entry {} of the raft log, a change of members, cannot be read",
                entry.index
            ))
        };
        let mut cc = ConfChangeV2::default();
        protobuf::Message::merge_from_bytes(&mut cc, &entry.data).map_err(|_| damaged())?;
        let conf = self.raft.apply_conf_change(&cc).map_err(|e| raft_failed(&e))?;
        self.members.set_conf(&conf);
        self.lease.forget(false);
        if !entry.context.is_empty() {
            self.members.note(&Change::decode(&entry.context).map_err(|_| damaged())?);
        }
        self.changes.committed(entry.index, &self.members);
        Ok(Some(self.members.clone()))
    }

    /// Asks which entry the reads gathered must have seen, if no question is under way and no lease tells.
    fn ask(&mut self, out: &dyn Outside) {
        if std::mem::take(&mut self.reads.lost) {
            self.ask_again();
        }
        if self.reads.gathering.is_empty() {
            return;
        }
        if let Some(index) = self.lease.index(out.now()) {
            for reply in self.reads.gathering.drain(..) {
                // A reader that went away does not need its answer.
                drop(reply.send(Ok(index)));
            }
            return;
        }
        if self.reads.asked.is_some() {
            return;
        }
        if self.raft.raft.leader_id == raft::INVALID_ID {
            // When there is one, it is asked; whoever waits has a patience of his own.
            return;
        }
        let waiting = std::mem::take(&mut self.reads.gathering);
        self.put_question(waiting);
    }

    fn put_question(&mut self, waiting: Vec<ReadReply>) {
        self.reads.count += 1;
        let mut context = Vec::with_capacity(24);
        for v in [self.id(), self.incarnation, self.reads.count] {
            context.extend_from_slice(&v.to_le_bytes());
        }
        self.reads.asked = Some((context.clone(), self.ticks, waiting));
        self.raft.read_index(context);
    }

    fn ask_again(&mut self) {
        if let Some((_, _, mut waiting)) = self.reads.asked.take() {
            waiting.retain(|w| !w.is_closed());
            if waiting.is_empty() {
                return;
            }
            if self.raft.raft.leader_id == raft::INVALID_ID {
                self.reads.gathering.extend(waiting);
            } else {
                self.put_question(waiting);
            }
        }
    }

    fn answer_read(&mut self, context: &[u8], index: u64) {
        if self.reads.asked.as_ref().is_some_and(|(asked, ..)| asked == context)
            && let Some((_, _, waiting)) = self.reads.asked.take()
        {
            for reply in waiting {
                // A reader that went away does not need its answer.
                drop(reply.send(Ok(index)));
            }
        }
    }

    /// Answers everybody who waits, with an error.
    pub fn abandon(&mut self, why: &StoreError) {
        // They are in raft's hands: another member may have them by now.
        let lost = why.clone().of_write_under_way();
        for (_, replies) in self.waiting.drain(..) {
            refuse(replies, &self.metrics, &lost);
        }
        let asked = self.reads.asked.take().map(|(_, _, waiting)| waiting).unwrap_or_default();
        for reply in asked.into_iter().chain(self.reads.gathering.drain(..)) {
            drop(reply.send(Err(why.clone())));
        }
        self.changes.abandon(why);
    }
}

/// Answers proposers whose command will not be done, or not be known to be.
pub fn refuse(replies: Vec<Option<Reply>>, metrics: &Metrics, why: &StoreError) {
    for reply in replies.into_iter().flatten() {
        metrics.proposals_pending.sub(1);
        let outcome: Outcome = Err(why.clone());
        // A proposer that went away does not need its answer.
        drop(reply.tx.send(outcome));
    }
}

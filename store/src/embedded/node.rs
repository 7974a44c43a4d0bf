//! The thread that drives the raft node: gathers proposals into batches, persists what the node wants persisted (one
//! append, one sync), hands committed entries to the applier. It knows no network yet: a group of one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use raft::eraftpb::Entry;
use raft::{RawNode, StateRole};
use tokio::sync::oneshot;

use super::Clock;
use super::applied::{Committed, Progress, Reply, Work};
use super::apply::Outcome;
use super::command::{Command, encode};
use super::compaction::AutoCompaction;
use super::metrics::Metrics;
use super::raftlog::RaftLog;
use super::state::State;
use crate::StoreError;

/// Commands in one entry.
const BATCH_COMMANDS: usize = 1024;
/// Bytes of values in one entry, from which on no more are added.
const BATCH_BYTES: usize = 1 << 20;
/// Keys deleted by one expiry command.
const EXPIRE_LIMIT: u64 = 500;

/// To the thread.
pub enum Message {
    Propose(Command, Reply),
    /// Something the thread's sleep depends on has changed.
    Wake,
    /// Stop; with `true` after a clean end.
    Stop(bool, oneshot::Sender<()>),
}

/// The thread's state.
pub struct Node {
    pub raft: RawNode<RaftLog>,
    pub messages: Receiver<Message>,
    pub apply: SyncSender<Work>,
    pub progress: Arc<Progress>,
    pub state: Arc<State>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    pub compaction: AutoCompaction,
    /// Proposals in the log and not yet committed: number of the batch, its proposers.
    pub waiting: VecDeque<(u64, Vec<Option<Reply>>)>,
    pub batches: u64,
    /// Index of the last expiry proposed; the next waits until it is applied.
    pub expiring: u64,
}

fn raft_failed(e: &raft::Error) -> StoreError {
    StoreError::Unavailable(format!("the raft node failed: {e}"))
}

impl Node {
    /// Runs until told to stop (returns whether cleanly, and whom to tell) or until something fails.
    pub fn run(&mut self) -> Result<(bool, oneshot::Sender<()>), StoreError> {
        // Alone in the group, there is nobody to wait for.
        self.raft.campaign().map_err(|e| raft_failed(&e))?;
        loop {
            while self.raft.has_ready() {
                self.ready()?;
            }
            self.truncate()?;
            let now = (self.clock)();
            self.housekeeping(now)?;
            if self.raft.has_ready() {
                continue;
            }
            let mut message = match self.sleep(now) {
                Some(wait) => match self.messages.recv_timeout(wait) {
                    Ok(m) => Some(m),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                },
                None => Some(self.messages.recv().map_err(|_| gone())?),
            };
            let mut commands = Vec::new();
            let mut replies = Vec::new();
            let mut bytes = 0;
            while let Some(m) = message.take() {
                match m {
                    Message::Propose(command, reply) => {
                        if let Command::Put { value, .. } = &command {
                            bytes += value.len();
                        }
                        commands.push(command);
                        replies.push(Some(reply));
                    }
                    Message::Wake => {}
                    Message::Stop(clean, done) => {
                        self.propose(commands, replies)?;
                        while self.raft.has_ready() {
                            self.ready()?;
                        }
                        return Ok((clean, done));
                    }
                }
                if commands.len() < BATCH_COMMANDS && bytes < BATCH_BYTES {
                    message = self.messages.try_recv().ok();
                }
            }
            self.propose(commands, replies)?;
        }
    }

    /// How long to sleep if nothing comes; none: until something comes.
    fn sleep(&self, now: u64) -> Option<Duration> {
        let expiry = self.progress.next_expiry.load(Ordering::Acquire);
        // While one is being applied, the applier says when there is more.
        let expiry = if self.is_expiring() { u64::MAX } else { expiry };
        let wake = expiry.min(self.compaction.next().unwrap_or(u64::MAX));
        // Whole seconds, so up to one late, never busy.
        (wake != u64::MAX).then(|| Duration::from_secs(wake.saturating_sub(now).clamp(1, 3600)))
    }

    /// Proposes what time has made due.
    fn housekeeping(&mut self, now: u64) -> Result<(), StoreError> {
        let expiry = self.progress.next_expiry.load(Ordering::Acquire);
        if expiry <= now && !self.is_expiring() {
            self.propose(vec![Command::Expire { now, limit: EXPIRE_LIMIT }], vec![None])?;
            self.expiring = self.raft.raft.raft_log.last_index();
        }
        if let Some(revision) = self.compaction.due(now, self.state.revision())
            && revision > self.state.compacted()
        {
            self.propose(vec![Command::Compact { revision }], vec![None])?;
        }
        Ok(())
    }

    fn is_expiring(&self) -> bool {
        self.progress.index.load(Ordering::Acquire) < self.expiring
    }

    fn propose(&mut self, commands: Vec<Command>, replies: Vec<Option<Reply>>) -> Result<(), StoreError> {
        if commands.is_empty() {
            return Ok(());
        }
        self.compaction.wrote();
        self.batches += 1;
        let context = self.batches.to_le_bytes().to_vec();
        match self.raft.propose(context, encode(&commands)) {
            Ok(()) => self.waiting.push_back((self.batches, replies)),
            Err(e) => {
                self.metrics.proposals_failed.add(replies.len() as u64);
                refuse(replies, &self.metrics, &raft_failed(&e));
            }
        }
        Ok(())
    }

    /// One turn of raft's loop.
    fn ready(&mut self) -> Result<(), StoreError> {
        let mut ready = self.raft.ready();
        if let Some(role) = ready.ss().map(|ss| ss.raft_state) {
            if role == StateRole::Leader {
                self.metrics.leader_changes.add(1);
            } else {
                // What was proposed may still be committed by another leader: nobody here can say.
                for (_, replies) in self.waiting.drain(..) {
                    let why = "leadership was lost; whether the write happened is not known";
                    refuse(replies, &self.metrics, &StoreError::Unavailable(why.to_owned()));
                }
            }
        }
        self.commit(ready.take_committed_entries())?;
        let entries = ready.take_entries();
        if !entries.is_empty() || ready.hs().is_some() {
            let started = Instant::now();
            let hard_state = ready.hs().cloned();
            self.raft.mut_store().append(hard_state.as_ref(), entries)?;
            self.metrics.wal_fsync.observe(started.elapsed());
        }
        let mut light = self.raft.advance_append(ready);
        if let Some(commit) = light.commit_index() {
            self.metrics.proposals_committed.set(commit);
        }
        self.commit(light.take_committed_entries())?;
        let applied = self.progress.index.load(Ordering::Acquire);
        if applied > self.raft.raft.raft_log.applied {
            self.raft.advance_apply_to(applied);
        }
        self.raft.mut_store().trim(applied);
        Ok(())
    }

    /// Hands committed entries over to the applier; waits while it is far behind.
    fn commit(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut replies = Vec::new();
        for e in &entries {
            let Ok(batch) = <[u8; 8]>::try_from(&e.context[..]).map(u64::from_le_bytes) else { continue };
            if self.waiting.front().is_some_and(|(number, _)| *number == batch)
                && e.term == self.raft.raft.term
                && let Some((_, waiting)) = self.waiting.pop_front()
            {
                replies.push((e.index, waiting));
            }
        }
        self.apply.send(Work::Apply(Committed { entries, replies })).map_err(|_| gone())
    }

    /// Drops what a new durable snapshot made superfluous from the log.
    fn truncate(&mut self) -> Result<(), StoreError> {
        let snapshot = self.progress.snapshot.lock().take();
        match snapshot {
            Some((index, term)) => self.raft.mut_store().wal_mut().truncate_front(index, term),
            None => Ok(()),
        }
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("a thread of the store has stopped".to_owned())
}

/// Answers proposers whose command will not be done, or not be known to be.
pub fn refuse(replies: Vec<Option<Reply>>, metrics: &Metrics, why: &StoreError) {
    for reply in replies.into_iter().flatten() {
        metrics.proposals_pending.sub(1);
        let outcome: Outcome = Err(why.clone());
        let _ = reply.tx.send(outcome);
    }
}

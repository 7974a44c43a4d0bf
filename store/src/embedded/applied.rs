//! The thread that applies committed entries, answers their proposers and feeds watches. Between batches it removes
//! compacted history, a small step at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use raft::eraftpb::{Entry, EntryType, SnapshotMetadata};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::apply::{Applier, Outcome};
use super::command::{Command, decode};
use super::defrag::{DefragReply, Defragmenter};
use super::hub::Hub;
use super::judge::Checked;
use super::members::Members;
use super::metrics::Metrics;
use super::node::Message;
use super::record::Meta;
use super::snapshot::{self, SaveReply, Snapshotter};
use super::state::State;
use crate::StoreError;

/// Keys in one batch of the map, roughly; entries beyond wait for the next.
const BATCH_KEYS: usize = 4096;
/// A batch that takes longer counts as slow, as in etcd.
const SLOW: Duration = Duration::from_millis(100);
/// Comparisons whose digest is remembered.
const DIGESTS: usize = 64;
/// Records looked at in one step of removing history.
const SCRUB_STEP: usize = 256;

/// Who waits for a command's outcome. The permit is its share of the bytes allowed to be under way.
pub struct Reply {
    pub tx: oneshot::Sender<Outcome>,
    pub permit: OwnedSemaphorePermit,
}

/// Entries to apply, with the proposers waiting for them here: `(index of the entry, one reply per command)`.
#[derive(Default)]
pub struct Committed {
    pub entries: Vec<Entry>,
    pub replies: Vec<(u64, Vec<Option<Reply>>)>,
    /// The members as these entries left them: `(index of the entry, members)`.
    pub members: Vec<(u64, Members)>,
}

/// Work for the thread.
pub enum Work {
    Apply(Committed),
    /// The snapshot that ends with this entry takes the place of the state.
    Install(u64),
    /// Write a snapshot now.
    Save(SaveReply),
    /// Rewrite the map.
    Defragment(DefragReply),
    /// Something that is done between two batches may be due.
    Turn,
    /// Finish and return; with `true` make the map durable first.
    Stop(bool),
}

/// What the node thread reads of the applier's progress.
pub struct Progress {
    pub index: AtomicU64,
    /// Unix seconds at which the next key expires; `u64::MAX` for none.
    pub next_expiry: AtomicU64,
    /// The last entry in a durable snapshot; the log may be truncated to here.
    pub snapshot: parking_lot::Mutex<Option<SnapshotMetadata>>,
    /// Digest of the state, and the entry it is of.
    pub chain: parking_lot::Mutex<(u64, u64)>,
    /// Digests at the last entries that leaders have named: index and digest.
    digests: parking_lot::Mutex<VecDeque<(u64, u64)>>,
    /// The last comparison with the leader's.
    pub checked: tokio::sync::watch::Sender<Checked>,
    /// Wakes reads that wait for `index`.
    pub reached: tokio::sync::watch::Sender<u64>,
}

impl Progress {
    /// Of a state that ends with this entry.
    pub fn at(meta: &Meta) -> Progress {
        Progress {
            index: AtomicU64::new(meta.index),
            next_expiry: AtomicU64::new(u64::MAX),
            snapshot: parking_lot::Mutex::new(None),
            chain: parking_lot::Mutex::new((meta.index, meta.chain)),
            digests: parking_lot::Mutex::default(),
            checked: tokio::sync::watch::Sender::new(Checked::default()),
            reached: tokio::sync::watch::Sender::new(meta.index),
        }
    }

    /// Digest of the state after an entry that a leader has named; none if that is too long ago, or not there yet.
    pub fn digest(&self, index: u64) -> Option<u64> {
        self.digests.lock().iter().find(|(i, _)| *i == index).map(|(_, digest)| *digest)
    }

    fn compared(&self, check: Checked) {
        {
            let mut digests = self.digests.lock();
            digests.push_back((check.index, check.ours));
            if digests.len() > DIGESTS {
                digests.pop_front();
            }
        }
        self.checked.send_replace(check);
    }

    fn reach(&self, meta: &Meta) {
        *self.chain.lock() = (meta.index, meta.chain);
        self.index.store(meta.index, Ordering::Release);
        self.reached.send_replace(meta.index);
    }
}

/// The thread's state.
pub struct ApplyThread {
    pub applier: Applier,
    pub state: Arc<State>,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub progress: Arc<Progress>,
    pub node: Sender<Message>,
    pub snapshotter: Snapshotter,
    pub defragmenter: Defragmenter,
}

impl ApplyThread {
    /// Runs until told to stop, or until the map fails.
    pub fn run(mut self, work: &Receiver<Work>) -> Result<(), StoreError> {
        self.publish_expiry()?;
        loop {
            self.defragmenter.turn(&self.applier.meta(), !self.applier.needs_scrub())?;
            let idle = self.applier.needs_scrub() && !self.snapshotter.busy() && !self.defragmenter.busy();
            let first = if idle {
                match work.try_recv() {
                    Ok(w) => Some(w),
                    Err(TryRecvError::Empty) => {
                        self.applier.scrub(SCRUB_STEP)?;
                        continue;
                    }
                    Err(TryRecvError::Disconnected) => None,
                }
            } else {
                work.recv().ok()
            };
            match first {
                Some(Work::Apply(committed)) => {
                    if let Some(durable) = self.apply(committed, work)? {
                        return self.stop(durable);
                    }
                }
                Some(Work::Install(index)) => self.install(index)?,
                Some(Work::Save(reply)) => self.save(reply)?,
                Some(Work::Defragment(reply)) => self.defragmenter.ask(reply),
                Some(Work::Turn) => {}
                Some(Work::Stop(durable)) => return self.stop(durable),
                None => return Ok(()),
            }
        }
    }

    fn stop(&mut self, durable: bool) -> Result<(), StoreError> {
        self.defragmenter.cancel();
        self.snapshotter.wait();
        if durable { self.state.kv.close() } else { Ok(()) }
    }

    /// Applies this and what else is waiting as one batch. Returns a stop request met on the way.
    fn apply(&mut self, first: Committed, work: &Receiver<Work>) -> Result<Option<bool>, StoreError> {
        let started = Instant::now();
        let mut answers = Vec::new();
        let mut stop = None;
        let (mut install, mut save) = (None, None);
        let mut expired = false;
        let mut next = Some(first);
        while let Some(committed) = next.take() {
            expired |= self.add(committed, &mut answers)?;
            if self.applier.pending_len() < BATCH_KEYS {
                match work.try_recv() {
                    Ok(Work::Apply(more)) => next = Some(more),
                    Ok(Work::Install(index)) => install = Some(index),
                    Ok(Work::Save(reply)) => save = Some(reply),
                    Ok(Work::Defragment(reply)) => self.defragmenter.ask(reply),
                    // Its turn comes after this batch.
                    Ok(Work::Turn) => {}
                    Ok(Work::Stop(durable)) => stop = Some(durable),
                    Err(_) => {}
                }
            }
        }
        let expiries_changed = self.applier.expiries_changed();
        let events = self.applier.commit()?;
        self.metrics.backend_commit.observe(started.elapsed());
        if started.elapsed() > SLOW {
            self.metrics.slow_applies.add(1);
        }
        let deleted = events.iter().filter(|e| e.deleted).count() as u64;
        self.metrics.deletes.add(deleted);
        self.metrics.puts.add(events.len() as u64 - deleted);
        let meta = self.applier.meta();
        self.metrics.proposals_applied.set(meta.index);
        self.progress.reach(&meta);
        for check in self.applier.take_checks() {
            self.progress.compared(check);
        }
        self.hub.publish(events);
        for (reply, outcome) in answers {
            self.metrics.proposals_pending.sub(1);
            // A proposer that went away does not need its answer.
            let _ = reply.tx.send(outcome);
            drop(reply.permit);
        }
        if expiries_changed || expired {
            self.metrics.expired.set(self.applier.expired());
            self.publish_expiry()?;
        }
        if expired {
            // There may be more than one command's worth.
            let _ = self.node.send(Message::Wake);
        }
        match save {
            Some(reply) => self.save(reply)?,
            None => self.snapshotter.applied(&meta, &self.state)?,
        }
        if let Some(index) = install {
            self.install(index)?;
        }
        Ok(stop)
    }

    fn save(&mut self, reply: SaveReply) -> Result<(), StoreError> {
        if self.snapshotter.busy() {
            // Whoever asked may have gone.
            drop(reply.send(Err(snapshot::busy())));
            return Ok(());
        }
        self.snapshotter.start(&self.applier.meta(), &self.state, Some(reply))
    }

    /// Takes the state of a snapshot that another member has sent.
    fn install(&mut self, index: u64) -> Result<(), StoreError> {
        self.defragmenter.cancel();
        self.snapshotter.wait();
        let (fs, store_id) = (&*self.snapshotter.fs, self.snapshotter.store_id);
        let meta = self.state.replace(|kv| {
            kv.clear()?;
            snapshot::restore(fs, kv, index, store_id)
        })?;
        tracing::info!(index, revision = meta.revision, "took over the state of another member");
        self.applier.replaced(meta);
        self.progress.reach(&meta);
        self.hub.replaced();
        self.publish_expiry()?;
        let _ = self.node.send(Message::Wake);
        Ok(())
    }

    /// Returns whether an expiry was among the commands.
    fn add(&mut self, committed: Committed, answers: &mut Vec<(Reply, Outcome)>) -> Result<bool, StoreError> {
        let mut expired = false;
        let mut replies = committed.replies.into_iter().peekable();
        let mut members = committed.members.into_iter().peekable();
        for entry in committed.entries {
            if let Some((_, changed)) = members.next_if(|(index, _)| *index == entry.index) {
                self.applier.members(&changed);
            }
            let commands = self.commands(&entry)?;
            expired |= commands.iter().any(|c| matches!(c, Command::Expire { .. }));
            let outcomes = self.applier.entry(entry.index, entry.term, commands)?;
            self.snapshotter.logged(entry.data.len());
            if replies.peek().is_some_and(|(index, _)| *index == entry.index)
                && let Some((_, waiting)) = replies.next()
            {
                for (reply, outcome) in waiting.into_iter().zip(outcomes) {
                    answers.extend(reply.map(|r| (r, outcome)));
                }
            }
        }
        Ok(expired)
    }

    fn commands(&self, entry: &Entry) -> Result<Vec<Command>, StoreError> {
        if entry.data.is_empty() || entry.get_entry_type() != EntryType::EntryNormal {
            // A new leader's first entry says nothing; a change of members is raft's.
            return Ok(Vec::new());
        }
        decode(&entry.data).map_err(|_| {
            StoreError::Corrupt(format!(
                "entry {} of the raft log cannot be read; it was written by a newer release, or is damaged",
                entry.index
            ))
        })
    }

    fn publish_expiry(&mut self) -> Result<(), StoreError> {
        let next = self.applier.next_expiry()?.unwrap_or(u64::MAX);
        let before = self.progress.next_expiry.swap(next, Ordering::AcqRel);
        if next < before {
            // It may be asleep until a later moment. If it is gone, the engine is stopping.
            let _ = self.node.send(Message::Wake);
        }
        Ok(())
    }
}

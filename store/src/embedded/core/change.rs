//! Changes of the members: one at a time, as raft wants it. One that meets another waits for its turn. So does one
//! that comes right after an election: until a new leader has applied what it found in its log, a change may be
//! among that, and raft would not propose a second.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{Core, not_leading, raft_failed};
use crate::StoreError;
use crate::embedded::members::{Change, Members};

/// Ticks without a word after which a member counts as gone.
const SILENCE: u64 = 40;

/// Changes that may wait; nobody has so many members to change.
pub const QUEUE: usize = 16;

/// Who waits for the outcome of a change.
pub type ChangeReply = oneshot::Sender<Result<Members, StoreError>>;

/// See the module.
#[derive(Default)]
pub struct Changes {
    /// Index of the one that was proposed.
    proposed: Option<(u64, ChangeReply)>,
    waiting: VecDeque<(Change, ChangeReply)>,
}

fn answer(reply: ChangeReply, outcome: Result<Members, StoreError>) {
    // Whoever asked may have gone.
    drop(reply.send(outcome));
}

impl Changes {
    /// Another member leads. Of what was proposed nobody here can say what becomes; the rest was not begun.
    pub fn leadership_lost(&mut self) {
        if let Some((_, reply)) = self.proposed.take() {
            answer(reply, Err(StoreError::Unknown("leadership was lost".to_owned())));
        }
        for (_, reply) in self.waiting.drain(..) {
            answer(reply, Err(not_leading()));
        }
    }

    /// The change in this entry, if it is one of ours, is done.
    pub fn committed(&mut self, index: u64, members: &Members) {
        if self.proposed.as_ref().is_some_and(|(proposed, _)| *proposed <= index)
            && let Some((_, reply)) = self.proposed.take()
        {
            answer(reply, Ok(members.clone()));
        }
    }

    /// The member stops.
    pub fn abandon(&mut self, why: &StoreError) {
        if let Some((_, reply)) = self.proposed.take() {
            answer(reply, Err(why.clone().of_write_under_way()));
        }
        for (_, reply) in self.waiting.drain(..) {
            answer(reply, Err(why.clone()));
        }
    }
}

impl Core {
    /// Changes who belongs to the group, in turn.
    pub fn change(&mut self, change: Change, reply: ChangeReply) {
        if !self.leads() {
            return answer(reply, Err(not_leading()));
        }
        let waiting = &mut self.changes.waiting;
        waiting.retain(|(_, reply)| !reply.is_closed());
        if waiting.len() >= QUEUE {
            let why = "too many changes of members are waiting; try again when they are done";
            return answer(reply, Err(StoreError::Refused(why.to_owned())));
        }
        waiting.push_back((change, reply));
        self.next_change();
    }

    /// Whether a change waits for the one before it to be applied.
    pub fn has_changes_waiting(&self) -> bool {
        !self.changes.waiting.is_empty()
    }

    /// Proposes the next change that makes sense, if none is under way.
    pub(super) fn next_change(&mut self) {
        while self.changes.proposed.is_none() && !self.raft.raft.has_pending_conf() {
            let Some((change, reply)) = self.changes.waiting.pop_front() else { return };
            if reply.is_closed() {
                continue;
            }
            match self.propose_change(&change) {
                Ok(Some(index)) => self.changes.proposed = Some((index, reply)),
                Ok(None) => return self.changes.waiting.push_front((change, reply)),
                Err(e) => answer(reply, Err(e)),
            }
        }
    }

    /// Index of the entry with the change; none if it is too early to say whether it makes sense.
    fn propose_change(&mut self, change: &Change) -> Result<Option<u64>, StoreError> {
        self.members.check(change)?;
        match change {
            Change::Add { .. } => {}
            Change::Promote { id } => self.check_caught_up(*id)?,
            Change::Remove { id } if *id == self.id() => {
                let why = "this member leads, and must hand over before it can be removed";
                return Err(StoreError::Refused(why.to_owned()));
            }
            // A new leader has not heard of everybody yet.
            Change::Remove { id } => match self.check_majority_without(*id) {
                Err(_) if self.elected + SILENCE >= self.ticks => return Ok(None),
                checked => checked?,
            },
        }
        let cc = change.conf_change();
        match self.raft.propose_conf_change(change.encode(), cc) {
            Ok(()) => Ok(Some(self.raft.raft.raft_log.last_index())),
            // It is handing over.
            Err(raft::Error::ProposalDropped) => Err(not_leading()),
            Err(e) => Err(raft_failed(&e)),
        }
    }

    /// A learner that lacks much would hold up every commit once it votes.
    fn check_caught_up(&self, id: u64) -> Result<(), StoreError> {
        let matched = self.raft.raft.prs().get(id).map_or(0, |p| p.matched);
        let committed = self.raft.raft.raft_log.committed;
        // Nine tenths, as etcd has it.
        if matched.saturating_mul(10) < committed.saturating_mul(9) {
            return Err(StoreError::Refused(format!(
                "the learner has {matched} of {committed} entries: it can be promoted once it is nearly in step"
            )));
        }
        Ok(())
    }

    /// Those that stay must be able to go on.
    fn check_majority_without(&self, id: u64) -> Result<(), StoreError> {
        let others: Vec<u64> = self.members.voters().iter().copied().filter(|v| *v != id).collect();
        if others.len() == self.members.voters().len() {
            return Ok(());
        }
        let is_there =
            |v: &&u64| **v == self.id() || self.heard.get(v).is_some_and(|at| at + SILENCE >= self.ticks);
        let there = others.iter().filter(is_there).count();
        if there < others.len() / 2 + 1 {
            return Err(StoreError::Refused(format!(
                "without that member only {there} of {} voters could be reached, and the store would stop: start the \
                 others first",
                others.len()
            )));
        }
        Ok(())
    }
}

//! Single steps, for histories that are told and not diced.

use super::*;
use crate::embedded::members::Change;

/// What became of a change.
pub type ChangeAnswer = oneshot::Receiver<Result<Members, StoreError>>;

/// How long a step may take, in rounds of the simulation.
const ROUNDS: usize = 4000;

fn index(id: u64) -> usize {
    (id - 1) as usize
}

impl Sim {
    /// Lets time go on and messages arrive until `done`. False if that does not come.
    pub fn until(&mut self, mut done: impl FnMut(&Sim) -> bool) -> Result<bool, String> {
        for round in 0..ROUNDS {
            if done(self) {
                return Ok(true);
            }
            if round % 4 == 0 {
                self.pass(ROUND)?;
            }
            for i in 0..self.size() {
                self.apply(i)?;
            }
            for _ in 0..4 {
                self.deliver()?;
            }
            self.hear()?;
        }
        Ok(done(self))
    }

    /// A moment in which every clock ticks and messages arrive.
    pub fn time_goes_on(&mut self) -> Verdict {
        let mut rounds = 0;
        self.until(|_| {
            rounds += 1;
            rounds > 4
        })
        .map(drop)
    }

    /// Who believes to lead.
    pub fn leader(&self) -> Option<u64> {
        let leads = |m: &&Machine| m.running.as_ref().is_some_and(|r| r.ways.leads);
        self.machines.iter().find(leads).map(|m| m.id)
    }

    /// Whether a member believes to lead.
    pub fn leads(&self, id: u64) -> bool {
        self.machines[index(id)].running.as_ref().is_some_and(|r| r.ways.leads)
    }

    /// Writes at a member; returns once that is acknowledged, or known not to be. True if it is acknowledged.
    pub fn write_at(&mut self, id: u64, key: &str) -> Result<bool, String> {
        let acknowledged = self.checker.acknowledged();
        self.begin_write_at(id, key)?;
        self.until(|s| s.checker.acknowledged() > acknowledged || s.writes.is_empty())?;
        Ok(self.checker.acknowledged() > acknowledged)
    }

    /// Begins a write at a member.
    pub fn begin_write_at(&mut self, id: u64, key: &str) -> Verdict {
        let Some(running) = &mut self.machines[index(id)].running else { return Ok(()) };
        let expected = running.state.get(key, 0).map_err(|e| e.to_string())?.map_or(0, |kv| kv.mod_revision);
        self.operations += 1;
        let operation = self.operations;
        let (tx, answer) = oneshot::channel();
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|e| e.to_string())?;
        let value = Bytes::from(operation.to_string());
        let command = Command::Put { key: key.to_owned(), expected, value, expiry: 0 };
        running.core.propose(&[command], vec![Some(Reply { tx, permit })]);
        let begun_at = self.checker.floor();
        self.writes.push(Write { operation, key: key.to_owned(), expected, begun_at, answer });
        self.settle(index(id))
    }

    /// A watch at a member after a revision that may be newer than all it has; how many events it gets.
    pub fn watch_at(&mut self, id: u64, after: Revision) -> Result<usize, String> {
        let Some(running) = &self.machines[index(id)].running else { return Ok(0) };
        let upto = running.state.revision();
        let (events, complete) = running.state.events(after, upto, 1 << 20).map_err(|e| e.to_string())?;
        if !events.is_empty() {
            self.checker.watched(after, complete, &events)?;
        }
        Ok(events.len())
    }

    /// Asks a member to change the members.
    pub fn change_at(&mut self, id: u64, change: Change) -> Result<ChangeAnswer, String> {
        let (tx, answer) = oneshot::channel();
        if let Some(running) = &mut self.machines[index(id)].running {
            running.core.change(change, tx);
        }
        self.settle(index(id))?;
        Ok(answer)
    }

    /// Lets a member hand the lead over.
    pub fn transfer_at(&mut self, id: u64, to: u64) -> Verdict {
        if let Some(running) = &mut self.machines[index(id)].running {
            running.core.transfer_leader(to);
        }
        self.settle(index(id))
    }

    /// The members, as one of them knows.
    pub fn members_at(&self, id: u64) -> Option<&Members> {
        self.machines[index(id)].running.as_ref().map(|r| &r.core.members)
    }

    /// Nothing goes from one of these members to the other any more.
    pub fn cut_between(&mut self, a: u64, b: u64) {
        self.cut.extend([(a, b), (b, a)]);
    }

    /// Nothing arrives at this member any more; what it says does.
    pub fn deafen(&mut self, id: u64) {
        let others = (1..=self.size() as u64).filter(|other| *other != id);
        self.cut.extend(others.map(|other| (other, id)));
    }

    /// All messages arrive again.
    pub fn join(&mut self) {
        self.cut.clear();
    }

    /// Forgets history before a revision.
    pub fn compact_at(&mut self, id: u64, revision: Revision) -> Verdict {
        if let Some(running) = &mut self.machines[index(id)].running {
            running.core.propose(&[Command::Compact { revision }], vec![None]);
        }
        self.settle(index(id))?;
        self.until(|s| s.checker.compacted >= revision).map(drop)
    }

    /// Removes a little of what is below the fence.
    pub fn scrub_at(&mut self, id: u64) -> Verdict {
        match &mut self.machines[index(id)].running {
            Some(running) => running.applier.scrub(1).map_err(|e| e.to_string()),
            None => Ok(()),
        }
    }

    /// Begins a read at a member. What it sees is compared with everything that is acknowledged by now.
    pub fn read_at(&mut self, id: u64, key: &str) -> Verdict {
        let machine = index(id);
        let Some(running) = &mut self.machines[machine].running else { return Ok(()) };
        let (tx, answer) = oneshot::channel();
        running.core.read(tx);
        let begun_at = self.checker.floor();
        self.reads.push(Read { machine, key: key.to_owned(), begun_at, answer, index: None });
        self.settle(machine)
    }

    /// Reads without an answer.
    pub fn reads(&self) -> usize {
        self.reads.len()
    }

    /// A watch at a member after each revision there is; how many of them it refused as compacted.
    pub fn watch_all_at(&mut self, id: u64) -> Result<usize, String> {
        let Some(running) = &self.machines[index(id)].running else { return Ok(0) };
        let (upto, fence) = (running.state.revision(), running.state.compacted());
        let mut refused = 0;
        for after in 0..=upto {
            match running.state.events(after, upto, 1 << 20) {
                Ok((events, complete)) => self.checker.watched(after, complete, &events)?,
                Err(StoreError::Compacted { .. }) if after < fence => refused += 1,
                Err(e) => return Err(format!("a watch after {after}, with the fence at {fence}: {e}")),
            }
        }
        Ok(refused)
    }

    /// The newest revision of a member's state, and its fence of compaction.
    pub fn revisions(&self, id: u64) -> Option<(Revision, Revision)> {
        let running = self.machines[index(id)].running.as_ref()?;
        Some((running.state.revision(), running.state.compacted()))
    }

    /// A member writes its snapshot and forgets its log.
    pub fn snapshot_at(&mut self, id: u64) -> Verdict {
        self.snapshot(index(id))
    }

    /// The disk of a member's snapshots fails after so many more operations.
    pub fn snapshots_fail_after(&mut self, id: u64, operations: u64) {
        self.machines[index(id)].snapshots.fail_after(operations);
    }

    /// Stops a member's process, or its machine, by chance.
    pub fn crash_at(&mut self, id: u64) {
        if self.machines[index(id)].running.is_some() {
            self.crash(index(id));
        }
    }

    /// Stops a member's process for a while.
    pub fn pause_at(&mut self, id: u64) {
        self.pause(index(id));
    }

    /// Lets it go on.
    pub fn resume_at(&mut self, id: u64) {
        self.resume(index(id));
    }

    /// Whether a member may answer reads without asking.
    pub fn has_lease(&self, id: u64) -> bool {
        let running = self.machines[index(id)].running.as_ref();
        running.is_some_and(|r| r.core.lease.index(r.ways.now).is_some())
    }

    /// Starts a member that does not run.
    pub fn start_at(&mut self, id: u64) -> Verdict {
        match self.machines[index(id)].running {
            Some(_) => Ok(()),
            None => self.restart(index(id)),
        }
    }

    /// Of each running member: applied index, digest, last entry.
    pub(super) fn ends(&self) -> Vec<(u64, u64, u64)> {
        let running = self.machines.iter().filter_map(|m| m.running.as_ref());
        running
            .map(|r| (r.ways.applied, r.applier.meta().chain, r.core.raft.raft.raft_log.last_index()))
            .collect()
    }
}

//! Processes that stop and start again, and how a history ends.

use super::*;

impl Sim {
    /// The process, or the whole machine, stops.
    pub(super) fn crash(&mut self, i: usize) {
        self.crashes += 1;
        let machine = &mut self.machines[i];
        if self.mutation == Mutation::AppliedIndex
            && let Some(running) = &machine.running
        {
            // As if the index went to the disk by itself, and later.
            let meta = running.ways.before.encode();
            machine.kv.0.lock().insert(crate::embedded::record::META.to_vec(), Bytes::from(meta));
        }
        machine.running = None;
        machine.paused = None;
        for packet in std::mem::take(&mut machine.waiting) {
            // Whoever sends sees the connection break.
            self.sent(&packet.message, false);
        }
        let machine = &mut self.machines[i];
        if self.rng.random_bool(0.5) {
            machine.wal.restart();
            machine.snapshots.restart();
        } else {
            machine.wal.power_cut(&mut self.rng);
            machine.snapshots.power_cut(&mut self.rng);
            machine.trusted = false;
        }
        let gone = i;
        self.reads.retain(|r| r.machine != gone);
    }

    pub(super) fn restart(&mut self, i: usize) -> Verdict {
        match self.start(i) {
            Ok(()) => self.settle(i),
            Err(StoreError::Corrupt(e)) => Err(format!("member {} does not start: {e}", self.machines[i].id)),
            Err(_) => {
                self.crash(i);
                Ok(())
            }
        }
    }

    /// Nothing fails any more: everybody must end in the same state, with everything acknowledged.
    pub fn finish(&mut self) -> Verdict {
        self.cut.clear();
        for i in 0..self.size() {
            self.resume(i);
            self.machines[i].wal.restart();
            self.machines[i].snapshots.restart();
            if self.machines[i].running.is_none() {
                self.restart(i)?;
            }
        }
        let mut still = 0;
        for round in 0..40_000 {
            if round % 40 == 0 {
                self.pass(ROUND)?;
            }
            self.deliver()?;
            let i = round % self.size();
            if self.machines[i].running.is_none() {
                self.restart(i)?;
            }
            self.apply(i)?;
            self.hear()?;
            let ends: Vec<_> = self.ends();
            let settled = ends.len() == self.size()
                && ends.windows(2).all(|p| p[0] == p[1])
                && ends[0].0 == ends[0].2
                && self.machines.iter().any(|m| m.running.as_ref().is_some_and(|r| r.ways.leads));
            still = if settled { still + 1 } else { 0 };
            if still > 2000 {
                break;
            }
        }
        if still <= 2000 {
            return Err(format!("the members do not come together: {:?}", self.ends()));
        }
        for machine in &self.machines {
            let Some(running) = &machine.running else { continue };
            let all = RangeRequest { start: "/".into(), end: "0".into(), ..RangeRequest::default() };
            let range = running.state.range(&all).map_err(|e| e.to_string())?;
            self.checker.finished(machine.id, range.revision, &range.items)?;
        }
        Ok(())
    }
}

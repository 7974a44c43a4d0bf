//! Each machine's time, and processes that stand still in it.

use super::*;

impl Sim {
    /// Time goes on, by each clock at its speed.
    pub(super) fn pass(&mut self, time: Duration) -> Verdict {
        for i in 0..self.size() {
            let machine = &mut self.machines[i];
            machine.clock += time * machine.speed / 1000;
            let due = machine.clock - machine.ticked >= TICK;
            let Some(running) = &mut machine.running else { continue };
            running.ways.now = machine.clock;
            if due {
                machine.ticked = machine.clock;
                self.tick(i);
                self.settle(i)?;
            }
        }
        Ok(())
    }

    /// The process stops where it is; what arrives waits.
    pub(super) fn pause(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        if machine.paused.is_none() {
            machine.paused = machine.running.take();
        }
    }

    /// It goes on, with nothing but its clock telling that anything was.
    pub(super) fn resume(&mut self, i: usize) {
        let machine = &mut self.machines[i];
        if let Some(mut running) = machine.paused.take() {
            running.ways.now = machine.clock;
            machine.running = Some(running);
            self.packets.append(&mut machine.waiting);
        }
    }

    fn tick(&mut self, i: usize) {
        let timeout = self.rng.random_range(10..20);
        if let Some(running) = &mut self.machines[i].running {
            // Raft would draw it from the machine's chance.
            if running.core.raft.raft.election_elapsed == 0 {
                running.core.raft.raft.set_randomized_election_timeout(timeout);
            }
            running.core.tick();
        }
    }
}

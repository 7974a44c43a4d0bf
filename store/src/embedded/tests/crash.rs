//! Log, snapshots and recovery on a disk that crashes at any operation, thousands of times. What was acknowledged is
//! there afterwards; of what was under way, all or nothing.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::sim::SimFs;
use crate::embedded::apply::Applier;
use crate::embedded::command::{Command, decode, encode};
use crate::embedded::kv::{Kv, MemKv};
use crate::embedded::members::Members;
use crate::embedded::record::Meta;
use crate::embedded::state::State;
use crate::embedded::wal::{Base, Wal};
use crate::embedded::{recovery, snapshot};
use crate::{RangeRequest, StoreError};

const SEGMENT: u64 = 16 << 10;

/// A member without raft: what its threads do, one after the other.
struct Member {
    wal: Wal,
    state: Arc<State>,
    applier: Applier,
}

/// The disks, and what they must not lose.
struct World {
    wal: SimFs,
    snapshots: SimFs,
    kv: MemKv,
    /// Commands of all entries acknowledged, from entry 1 on.
    acknowledged: Vec<Vec<Command>>,
    /// The entry that was being written when the machine stopped.
    under_way: Option<Vec<Command>>,
}

impl World {
    fn open(&mut self, trusted: bool) -> Result<Member, StoreError> {
        let initial = Base { store_id: 7, voters: vec![1], ..Base::default() };
        let wal = Wal::open(Arc::new(self.wal.clone()), SEGMENT, initial)?;
        let kv = &self.kv;
        let open = |anew: bool| -> Result<Arc<dyn Kv>, StoreError> {
            if anew {
                kv.0.lock().clear();
            }
            Ok(Arc::new(kv.clone()))
        };
        let (state, meta) = recovery::state(&open, &self.snapshots, &wal, trusted)?;
        let mut member = Member { wal, applier: Applier::new(Arc::clone(&state), meta), state };
        member.replay(meta)?;
        Ok(member)
    }

    fn step(&mut self, m: &mut Member, rng: &mut StdRng) -> Result<(), StoreError> {
        match rng.random_range(0..20) {
            0 => {
                let meta = m.applier.meta();
                snapshot::write(&self.snapshots, &self.kv, 7, &meta, &Members::of_voters(&[1]))?;
                if rng.random_bool(0.8) {
                    m.wal.truncate_front(meta.index, meta.term)?;
                }
                Ok(())
            }
            1 => m.applier.scrub(20),
            2 => m.wal.append(Some(&HardState { term: rng.random_range(1..9), ..HardState::default() }), &[]),
            _ => {
                let n = rng.random_range(1..6);
                let commands: Vec<_> = (0..n).map(|_| command(rng, m)).collect();
                let index = m.wal.last_index() + 1;
                let term = m.wal.term(index - 1).unwrap_or(0).max(1) + u64::from(rng.random_bool(0.05));
                let entry = Entry { term, index, data: Bytes::from(encode(&commands)), ..Entry::default() };
                self.under_way = Some(commands.clone());
                m.wal.append(None, &[entry])?;
                self.under_way = None;
                self.acknowledged.push(commands);
                if rng.random_bool(0.7) { m.replay(m.applier.meta()) } else { Ok(()) }
            }
        }
    }
}

impl Member {
    /// Applies what the log has beyond the state.
    fn replay(&mut self, meta: Meta) -> Result<(), StoreError> {
        let mut next = meta.index + 1;
        while next <= self.wal.last_index() {
            let entries = self.wal.entries(next, self.wal.last_index() + 1, 2000)?;
            assert_eq!(entries[0].index, next);
            for e in entries {
                next = e.index + 1;
                drop(self.applier.entry(e.index, e.term, decode(&e.data).unwrap())?);
            }
            self.applier.commit()?;
        }
        Ok(())
    }
}

fn command(rng: &mut StdRng, m: &Member) -> Command {
    let key = format!("/r/{}", rng.random_range(0..30));
    let expected = m.state.get(&key, 0).unwrap().map_or(0, |kv| kv.mod_revision);
    match rng.random_range(0..20) {
        0 => Command::Compact { revision: rng.random_range(0..=m.state.revision()) },
        1 => Command::Expire { now: rng.random_range(0..100), limit: 3 },
        2..5 => Command::Delete { key, expected },
        _ => {
            let size = if rng.random_bool(0.05) { 9000 } else { rng.random_range(0..600) };
            let value = Bytes::from(vec![rng.random(); size]);
            let expiry = if rng.random_bool(0.3) { rng.random_range(1..100) } else { 0 };
            Command::Put { key, expected, value, expiry }
        }
    }
}

/// The state all these entries lead to, from nothing.
fn expected(entries: &[Vec<Command>]) -> Arc<State> {
    let (state, meta) = State::load(Arc::new(MemKv::default())).unwrap();
    let mut applier = Applier::new(Arc::clone(&state), meta);
    for (index, commands) in (1..).zip(entries) {
        drop(applier.entry(index, 1, commands.clone()).unwrap());
    }
    applier.commit().unwrap();
    state
}

fn check(seed: u64, world: &World, member: &Member) {
    let entries = &world.acknowledged;
    let meta = member.applier.meta();
    assert_eq!(meta.index, entries.len() as u64, "seed {seed}: entries lost or invented");
    let truth = expected(entries);
    assert_eq!(meta.revision, truth.revision(), "seed {seed}");
    assert_eq!(meta.compacted, truth.compacted(), "seed {seed}");
    let oldest = truth.compacted().max(1);
    for revision in [0, oldest, truth.revision(), (oldest + truth.revision()) / 2] {
        let all = RangeRequest { start: "/".into(), end: "0".into(), revision, limit: 0 };
        let (ours, theirs) = (member.state.range(&all), truth.range(&all));
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "seed {seed} at {revision}");
    }
    let ours = member.state.events(truth.compacted(), truth.revision(), usize::MAX).unwrap();
    let theirs = truth.events(truth.compacted(), truth.revision(), usize::MAX).unwrap();
    assert_eq!(ours, theirs, "seed {seed}: history");
    assert_eq!(member.applier.next_expiry().unwrap(), next_expiry(&truth), "seed {seed}");
}

fn next_expiry(state: &Arc<State>) -> Option<u64> {
    Applier::new(Arc::clone(state), Meta::default()).next_expiry().unwrap()
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World {
        wal: SimFs::default(),
        snapshots: SimFs::default(),
        kv: MemKv::default(),
        acknowledged: Vec::new(),
        under_way: None,
    };
    let mut trusted = true;
    for _ in 0..6 {
        let member = world.open(trusted);
        let mut member = member.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        if let Some(commands) = world.under_way.take()
            && member.wal.last_index() == world.acknowledged.len() as u64 + 1
        {
            // It was not acknowledged, and is there all the same: as it may be.
            world.acknowledged.push(commands);
        }
        check(seed, &world, &member);
        // Any disk operation may be the last.
        world.wal.fail_after(rng.random_range(0..150));
        if rng.random_bool(0.3) {
            world.snapshots.fail_after(rng.random_range(0..20));
        }
        while world.step(&mut member, &mut rng).is_ok() {}
        drop(member);
        trusted = rng.random_bool(0.4);
        if trusted {
            world.wal.restart();
            world.snapshots.restart();
        } else {
            world.wal.power_cut(&mut rng);
            world.snapshots.power_cut(&mut rng);
        }
    }
}

/// How many histories to try: `COXSWAIN_TEST_SEEDS` for a long run.
fn seeds(ordinary: u64) -> u64 {
    std::env::var("COXSWAIN_TEST_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ordinary)
}

#[test]
fn nothing_acknowledged_is_lost() {
    for seed in 0..seeds(400) {
        run(seed);
    }
}

/// Opening also writes; a crash there must not lose anything either.
#[test]
fn crashes_while_recovering() {
    for seed in 0..seeds(200) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World {
            wal: SimFs::default(),
            snapshots: SimFs::default(),
            kv: MemKv::default(),
            acknowledged: Vec::new(),
            under_way: None,
        };
        for _ in 0..8 {
            world.wal.fail_after(rng.random_range(0..8));
            if let Ok(mut member) = world.open(false) {
                if let Some(commands) = world.under_way.take()
                    && member.wal.last_index() == world.acknowledged.len() as u64 + 1
                {
                    world.acknowledged.push(commands);
                }
                check(seed, &world, &member);
                world.wal.fail_after(rng.random_range(0..60));
                while world.step(&mut member, &mut rng).is_ok() {}
            }
            world.wal.power_cut(&mut rng);
            world.snapshots.power_cut(&mut rng);
        }
    }
}

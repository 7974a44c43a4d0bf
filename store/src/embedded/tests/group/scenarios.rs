//! Histories by the thousand, and breakages that the checker must notice.

use super::sim::{Mutation, Sim};

/// One history; what it did, or what is wrong with it.
fn run(seed: u64, steps: usize, mutation: Mutation) -> Result<Sim, String> {
    let size = if seed.is_multiple_of(3) { 5 } else { 3 };
    let mut sim = Sim::new(seed, size, mutation);
    for step in 0..steps {
        sim.step().map_err(|e| format!("step {step}: {e}"))?;
    }
    sim.finish().map_err(|e| format!("at the end: {e}"))?;
    Ok(sim)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// `COXSWAIN_TEST_SEEDS` for a long run, `COXSWAIN_TEST_SEED` to see one history again.
#[test]
fn histories_are_linearizable() {
    let seeds = match number("COXSWAIN_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("COXSWAIN_TEST_SEEDS").unwrap_or(60),
    };
    let (mut acknowledged, mut crashes, mut installs, mut leased) = (0, 0, 0, 0);
    let many = seeds.end - seeds.start > 1;
    for seed in seeds {
        match run(seed, 6000, Mutation::None) {
            Ok(sim) => {
                acknowledged += sim.checker.acknowledged();
                crashes += sim.crashes;
                installs += sim.installs;
                leased += sim.leased;
            }
            Err(e) => panic!(
                "{e}\nsee it again: COXSWAIN_TEST_SEED={seed} cargo test -p store --lib histories_are_linearizable"
            ),
        }
    }
    println!(
        "{acknowledged} writes acknowledged, {leased} reads by lease, {crashes} crashes, {installs} snapshots taken over"
    );
    // A simulation in which nothing happens proves nothing.
    assert!(!many || (acknowledged > 1000 && leased > 200 && crashes > 100 && installs > 10));
}

/// The same seed gives the same history.
#[test]
fn histories_can_be_repeated() {
    for seed in [1, 2] {
        let ends = [(); 2].map(|()| {
            let sim = run(seed, 3000, Mutation::None).unwrap();
            (sim.checker.acknowledged(), sim.checker.newest(), sim.crashes, sim.installs)
        });
        assert_eq!(ends[0], ends[1]);
    }
}

/// Some history notices the breakage.
fn caught(mutation: Mutation, seeds: u64) {
    let found = (0..seeds).find_map(|seed| {
        let noticed = std::panic::catch_unwind(|| run(seed, 6000, mutation).map(|_| ()));
        match noticed {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(format!("seed {seed}: {e}")),
            // Raft's own assertions.
            Err(_) => Some(format!("seed {seed}: raft stopped")),
        }
    });
    let Some(what) = found else { panic!("{seeds} histories with broken {mutation:?}, and nobody noticed") };
    println!("broken {mutation:?}: {what}");
}

#[test]
fn a_broken_sync_is_noticed() {
    caught(Mutation::Sync, 100);
}

#[test]
fn a_forgotten_vote_is_noticed() {
    caught(Mutation::Vote, 400);
}

#[test]
fn an_applied_index_apart_from_its_data_is_noticed() {
    caught(Mutation::AppliedIndex, 50);
}

#[test]
fn a_broken_fence_is_noticed() {
    caught(Mutation::Fence, 100);
}

#[test]
fn reads_that_ask_nobody_are_noticed() {
    caught(Mutation::Reads, 50);
}

#[test]
fn a_lease_that_is_too_long_is_noticed() {
    caught(Mutation::Lease, 400);
}

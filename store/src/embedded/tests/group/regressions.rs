//! What has broken stores in this role before, each as a story of its own. The checker looks at every step.

use super::sim::{Mutation, Sim};

const SEEDS: u64 = 20;

/// Three members, one of which leads.
fn group(seed: u64) -> (Sim, u64) {
    let mut sim = Sim::new(seed, 3, Mutation::None);
    assert!(sim.until(|s| s.leader().is_some()).unwrap(), "nobody leads");
    let leader = sim.leader().unwrap();
    (sim, leader)
}

fn write(sim: &mut Sim, key: &str) {
    for _ in 0..20 {
        assert!(sim.until(|s| s.leader().is_some()).unwrap(), "nobody leads");
        let leader = sim.leader().unwrap();
        if sim.write_at(leader, key).unwrap() {
            return;
        }
    }
    panic!("no write goes through");
}

fn others(id: u64) -> impl Iterator<Item = u64> {
    (1..=3).filter(move |other| *other != id)
}

/// A crash at any operation of the disk while a snapshot takes the log's place.
#[test]
fn a_crash_while_the_log_is_shortened() {
    for operations in 0..24 {
        let (mut sim, leader) = group(operations);
        for i in 0..6 {
            write(&mut sim, &format!("/r/{i}"));
        }
        sim.snapshots_fail_after(leader, operations);
        sim.snapshot_at(leader).unwrap();
        sim.crash_at(leader);
        sim.start_at(leader).unwrap();
        write(&mut sim, "/r/0");
        sim.finish().unwrap();
    }
}

/// What was acknowledged is there after all members have crashed, or lost power, again and again.
#[test]
fn no_acknowledged_write_is_lost_when_all_crash() {
    for seed in 0..SEEDS {
        let (mut sim, _) = group(seed);
        for i in 0..6 {
            write(&mut sim, &format!("/r/{i}"));
            for id in 1..=3 {
                sim.crash_at(id);
            }
            for id in 1..=3 {
                sim.start_at(id).unwrap();
            }
        }
        assert_eq!(sim.checker.acknowledged(), 6);
        sim.finish().unwrap();
    }
}

/// One member crashes after every single write: its state and the index that goes with it stay together, and no
/// write is missing there or done twice.
#[test]
fn one_member_never_differs_from_the_others() {
    for seed in 0..SEEDS {
        let (mut sim, leader) = group(seed);
        let crashing = others(leader).next().unwrap();
        for i in 0..8 {
            write(&mut sim, &format!("/r/{}", i % 2));
            sim.crash_at(crashing);
            sim.start_at(crashing).unwrap();
        }
        sim.finish().unwrap();
    }
}

/// A compaction that is broken off takes no revision back, and its fence stays.
#[test]
fn revisions_do_not_go_back_when_compaction_crashes() {
    for seed in 0..SEEDS {
        let (mut sim, leader) = group(seed);
        for i in 0..6 {
            write(&mut sim, &format!("/r/{}", i % 2));
        }
        let newest = sim.checker.newest();
        sim.compact_at(leader, newest).unwrap();
        for id in 1..=3 {
            sim.scrub_at(id).unwrap();
        }
        for id in 1..=3 {
            sim.crash_at(id);
        }
        for id in 1..=3 {
            sim.start_at(id).unwrap();
        }
        write(&mut sim, "/r/9");
        sim.finish().unwrap();
        for id in 1..=3 {
            let (revision, fence) = sim.revisions(id).unwrap();
            assert!(
                revision > newest && fence == newest,
                "seed {seed}: member {id} is at {revision}, fence {fence}"
            );
        }
    }
}

/// From the fence on a watch is complete, below it it is refused: in between nothing is lost, nothing comes twice.
#[test]
fn no_event_is_lost_at_the_fence_of_compaction() {
    for seed in 0..SEEDS {
        let (mut sim, _) = group(seed);
        for i in 0..9 {
            write(&mut sim, &format!("/r/{}", i % 3));
            if i % 3 == 2 {
                let (leader, fence) = (sim.leader().unwrap(), sim.checker.newest() - 1);
                sim.compact_at(leader, fence).unwrap();
            }
            for id in 1..=3 {
                sim.watch_all_at(id).unwrap();
                sim.scrub_at(id).unwrap();
                sim.watch_all_at(id).unwrap();
            }
        }
        sim.finish().unwrap();
        for id in 1..=3 {
            let (_, fence) = sim.revisions(id).unwrap();
            assert_eq!(sim.watch_all_at(id).unwrap() as u64, fence, "seed {seed}");
        }
    }
}

/// A follower that lags answers a linearizable read only once it has seen what was acknowledged before.
#[test]
fn no_stale_read_at_a_follower() {
    for seed in 0..SEEDS {
        let (mut sim, leader) = group(seed);
        for _ in 0..5 {
            write(&mut sim, "/r/a");
            for id in others(leader) {
                sim.read_at(id, "/r/a").unwrap();
            }
            assert!(sim.until(|s| s.reads() == 0).unwrap(), "seed {seed}: a read has no answer");
        }
        sim.finish().unwrap();
    }
}

/// A leader that was stopped, with a lease, and goes on when others have elected another: it still believes to lead, but
/// its reads ask, and are not stale.
fn pausing(seed: u64, mutation: Mutation) -> Result<(), String> {
    let mut sim = Sim::new(seed, 3, mutation);
    assert!(sim.until(|s| s.leader().is_some_and(|id| s.has_lease(id)))?, "seed {seed}: no lease");
    let old = sim.leader().unwrap();
    write(&mut sim, "/r/a");
    sim.read_at(old, "/r/a")?;
    sim.pause_at(old);
    assert!(sim.until(|s| others(old).any(|id| s.leads(id)))?, "seed {seed}: nobody else leads");
    let new = others(old).find(|id| sim.leads(*id)).unwrap();
    assert!(sim.write_at(new, "/r/a")?, "seed {seed}: the others cannot write");
    sim.resume_at(old);
    assert!(sim.leads(old), "seed {seed}: nobody has told it yet");
    sim.read_at(old, "/r/a")?;
    assert!(sim.until(|s| s.reads() == 0)?, "seed {seed}: a read has no answer");
    sim.finish()
}

#[test]
fn no_stale_read_after_a_pause_with_a_lease() {
    for seed in 0..SEEDS {
        pausing(seed, Mutation::None).unwrap();
    }
    let noticed = (0..SEEDS).find_map(|seed| pausing(seed, Mutation::Lease).err());
    println!("{}", noticed.expect("a lease that is too long must be noticed"));
}

/// A leader that hears nothing any more hands over, while its lease would go on: whoever takes over has acknowledged a
/// write when the old leader is asked.
fn handing_over(seed: u64, mutation: Mutation) -> Result<(), String> {
    let mut sim = Sim::new(seed, 3, mutation);
    assert!(sim.until(|s| s.leader().is_some_and(|id| s.has_lease(id)))?, "seed {seed}: no lease");
    let old = sim.leader().unwrap();
    write(&mut sim, "/r/a");
    sim.deafen(old);
    sim.transfer_at(old, others(old).next().unwrap())?;
    if sim.until(|s| others(old).any(|id| s.leads(id)))? {
        let new = others(old).find(|id| sim.leads(*id)).unwrap();
        sim.write_at(new, "/r/a")?;
    }
    sim.read_at(old, "/r/a")?;
    sim.until(|s| s.reads() == 0)?;
    sim.finish()
}

#[test]
fn no_stale_read_while_handing_over() {
    for seed in 0..SEEDS {
        handing_over(seed, Mutation::None).unwrap();
    }
    let noticed = (0..SEEDS).find_map(|seed| handing_over(seed, Mutation::Transfer).err());
    println!("{}", noticed.expect("a lease kept while handing over must be noticed"));
}

/// A member that has answered the leader's heartbeat starts anew, and is at once asked for its vote by one who has not
/// heard of the leader for long. The leader, from whom both are cut off, is asked when another has acknowledged a write.
fn starting_anew(seed: u64, mutation: Mutation) -> Result<(), String> {
    let mut sim = Sim::new(seed, 3, mutation);
    assert!(sim.until(|s| s.leader().is_some())?, "seed {seed}: nobody leads");
    write(&mut sim, "/r/a");
    let old = sim.leader().unwrap();
    let (voter, candidate) = (others(old).next().unwrap(), others(old).nth(1).unwrap());
    sim.cut_between(candidate, old);
    sim.cut_between(candidate, voter);
    for _ in 0..20 {
        sim.time_goes_on()?;
    }
    assert!(sim.until(|s| s.has_lease(old))?, "seed {seed}: no lease");
    sim.crash_at(voter);
    sim.start_at(voter)?;
    sim.join();
    sim.cut_between(old, voter);
    sim.cut_between(old, candidate);
    sim.until(|s| s.leads(candidate) || !s.has_lease(old))?;
    if sim.leads(candidate) {
        sim.write_at(candidate, "/r/a")?;
    }
    sim.read_at(old, "/r/a")?;
    sim.join();
    sim.until(|s| s.reads() == 0)?;
    sim.finish()
}

#[test]
fn no_stale_read_after_a_voter_has_started_anew() {
    const SEEDS: u64 = 200;
    for seed in 0..SEEDS {
        starting_anew(seed, Mutation::None).unwrap();
    }
    let noticed = (0..SEEDS).find_map(|seed| starting_anew(seed, Mutation::Promise).err());
    println!("{}", noticed.expect("a promise forgotten at a restart must be noticed"));
}

/// Whoever hands over has no lease from then on, also if nobody takes over.
#[test]
fn no_lease_while_the_lead_is_handed_over() {
    for seed in 0..SEEDS {
        let (mut sim, leader) = group(seed);
        write(&mut sim, "/r/a");
        assert!(sim.until(|s| s.has_lease(leader)).unwrap(), "seed {seed}: no lease");
        let to = others(leader).next().unwrap();
        sim.crash_at(to);
        sim.transfer_at(leader, to).unwrap();
        assert!(!sim.has_lease(leader), "seed {seed}");
        sim.until(|s| s.has_lease(leader)).unwrap();
        assert!(!sim.has_lease(leader), "seed {seed}: what it has said may arrive late");
        // Reads go on all the same.
        sim.read_at(leader, "/r/a").unwrap();
        assert!(sim.until(|s| s.reads() == 0).unwrap(), "seed {seed}: a read has no answer");
        sim.finish().unwrap();
    }
}

/// A partition, and a new leader on its other side. Whoever comes back to the old leader with a revision of the new one
/// is not shown what happened before, nor what was never acknowledged; the old leader answers no read meanwhile.
#[test]
fn no_watch_travels_in_time_after_a_partition() {
    for seed in 0..SEEDS {
        let (mut sim, old) = group(seed);
        for i in 0..4 {
            write(&mut sim, &format!("/r/{}", i % 2));
        }
        for other in others(old) {
            sim.cut_between(old, other);
        }
        assert!(sim.until(|s| !s.has_lease(old)).unwrap(), "seed {seed}: a lease without end");
        // Never acknowledged, and for ever in the old leader's log until the others overwrite it.
        sim.begin_write_at(old, "/r/0").unwrap();
        sim.read_at(old, "/r/0").unwrap();
        let elected = |s: &Sim| others(old).any(|id| s.leads(id));
        assert!(sim.until(elected).unwrap(), "seed {seed}: nobody leads on the other side");
        let new = others(old).find(|id| sim.leads(*id)).unwrap();
        for i in 0..3 {
            assert!(sim.write_at(new, &format!("/r/{}", i % 2)).unwrap(), "seed {seed}");
        }
        let newest = sim.checker.newest();
        assert_eq!(sim.reads(), 1, "seed {seed}: the old leader answers without asking");
        sim.watch_all_at(old).unwrap();
        assert_eq!(sim.watch_at(old, newest).unwrap(), 0, "seed {seed}: a watch went back in time");
        sim.join();
        assert!(sim.until(|s| s.reads() == 0).unwrap(), "seed {seed}: a read has no answer");
        assert!(sim.write_at(new, "/r/0").unwrap() || sim.leader() != Some(new), "seed {seed}");
        sim.finish().unwrap();
        let fresh = sim.checker.newest() - newest;
        assert_eq!(sim.watch_at(old, newest).unwrap() as u64, fresh, "seed {seed}");
        for id in 1..=3 {
            sim.watch_all_at(id).unwrap();
        }
    }
}

/// A member that was away is sent a snapshot; while it takes that over, the next one is written, and the log before it
/// forgotten.
#[test]
fn two_snapshots_in_a_row() {
    for seed in 0..SEEDS {
        let (mut sim, leader) = group(seed);
        let away = others(leader).next().unwrap();
        write(&mut sim, "/r/a");
        sim.crash_at(away);
        for round in 0..4 {
            for i in 0..3 {
                write(&mut sim, &format!("/r/{i}"));
            }
            for id in (1..=3).filter(|id| *id != away) {
                sim.snapshot_at(id).unwrap();
            }
            if round == 1 {
                sim.start_at(away).unwrap();
            }
        }
        sim.finish().unwrap();
        assert!(sim.installs > 0, "seed {seed}: it needed no snapshot");
    }
}

/// What sits above a follower sees everything of the old leader's time once the new one answers.
#[test]
fn no_stale_read_after_a_change_of_leader() {
    for seed in 0..SEEDS {
        let (mut sim, mut leader) = group(seed);
        for _ in 0..3 {
            write(&mut sim, "/r/a");
            sim.crash_at(leader);
            for id in others(leader) {
                sim.read_at(id, "/r/a").unwrap();
            }
            assert!(sim.until(|s| s.reads() == 0).unwrap(), "seed {seed}: a read has no answer");
            sim.start_at(leader).unwrap();
            write(&mut sim, "/r/b");
            leader = sim.leader().unwrap();
        }
        sim.finish().unwrap();
    }
}

//! Changes of the members that meet each other, and changes of the leader.

use tokio::sync::oneshot::error::TryRecvError;

use super::sim::{Mutation, Sim};
use crate::StoreError;
use crate::embedded::core::NOT_LEADING;
use crate::embedded::members::{Change, Peer};

const SEEDS: u64 = 20;

fn add(id: u64) -> Change {
    Change::Add { id, peer: Peer { name: format!("m{id}"), address: format!("m{id}:1") } }
}

/// Up to the moment at which somebody leads: nothing of the new term is applied yet.
fn elected(seed: u64) -> (Sim, u64) {
    let mut sim = Sim::new(seed, 3, Mutation::None);
    assert!(sim.until(|s| s.leader().is_some()).unwrap(), "nobody leads");
    let leader = sim.leader().unwrap();
    (sim, leader)
}

/// A leader that was just elected does not know whether a change is in its log, and nobody has made one.
#[test]
fn a_change_right_after_an_election_waits() {
    for seed in 0..SEEDS {
        let (mut sim, first) = elected(seed);
        assert!(sim.write_at(first, "/r/a").unwrap());
        let second = first % 3 + 1;
        sim.transfer_at(first, second).unwrap();
        assert!(sim.until(|s| s.leader() == Some(second)).unwrap(), "seed {seed}: no other leads");
        let mut removed = sim.change_at(second, Change::Remove { id: first }).unwrap();
        assert_eq!(removed.try_recv().unwrap_err(), TryRecvError::Empty, "seed {seed}");
        assert!(
            sim.until(|s| s.members_at(second).is_some_and(|m| !m.voters().contains(&first))).unwrap(),
            "seed {seed}: {:?}",
            removed.try_recv()
        );
        assert!(removed.try_recv().unwrap().unwrap().is_removed(first));
    }
}

/// Changes that meet are made one after the other. One whose asker has gone is not made; one that makes no sense is
/// refused in its turn and does not hold up the next.
#[test]
fn changes_that_meet_are_made_in_turn() {
    for seed in 0..SEEDS {
        let (mut sim, leader) = elected(seed);
        let mut four = sim.change_at(leader, add(4)).unwrap();
        drop(sim.change_at(leader, add(5)).unwrap());
        let mut again = sim.change_at(leader, add(4)).unwrap();
        let mut six = sim.change_at(leader, add(6)).unwrap();
        let done = sim.until(|s| s.members_at(leader).is_some_and(|m| m.learners() == [4, 6])).unwrap();
        assert!(done, "seed {seed}: {:?}", sim.members_at(leader));
        assert_eq!(four.try_recv().unwrap().unwrap().learners(), [4]);
        assert!(matches!(again.try_recv().unwrap(), Err(StoreError::Refused(_))));
        assert_eq!(six.try_recv().unwrap().unwrap().learners(), [4, 6]);
    }
}

/// The queue has an end.
#[test]
fn too_many_changes_are_refused() {
    let (mut sim, leader) = elected(1);
    for other in (1..=3).filter(|id| *id != leader) {
        sim.cut_between(leader, other);
    }
    // One is under way, the others wait.
    let mut under_way = sim.change_at(leader, add(9)).unwrap();
    let mut waiting: Vec<_> = (10..26).map(|id| sim.change_at(leader, add(id)).unwrap()).collect();
    let mut one_more = sim.change_at(leader, add(26)).unwrap();
    assert!(matches!(one_more.try_recv().unwrap(), Err(StoreError::Refused(_))));
    // Room is made by those that go.
    drop(waiting.pop());
    let mut one_more = sim.change_at(leader, add(27)).unwrap();
    assert_eq!(one_more.try_recv().unwrap_err(), TryRecvError::Empty);
    waiting.push(one_more);
    // Whoever waits hears of it when this one leads no more, and can ask the next.
    assert!(sim.until(|s| !s.leads(leader)).unwrap());
    assert!(matches!(under_way.try_recv().unwrap(), Err(StoreError::Unknown(_))));
    for mut answer in waiting {
        match answer.try_recv().unwrap() {
            Err(StoreError::Unavailable(why)) => assert_eq!(why, NOT_LEADING),
            other => panic!("{other:?}"),
        }
    }
}

//! Which faults happen when: decided by the seed alone.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Which server; who leads is only known then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Leader,
    Follower,
    All,
}

/// How the network between servers fails. Clients still reach all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server and the others do not hear each other.
    Apart,
    /// The server does not hear the others.
    Deaf,
    /// The others do not hear the server.
    Mute,
    /// The server and one other do not hear each other; a third hears both.
    Pair,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Signal 9, and a new start.
    Kill(Target),
    /// Signals STOP and CONT.
    Pause(Target),
    Partition(Target, Cut),
    /// So many of a hundred packets between servers are lost.
    Loss(u8),
    DiskFull(Target),
    /// The clock is so many seconds ahead, or behind, for a while.
    Clock(Target, i32),
    /// The disk keeps what was synced, nothing else; then a new start.
    PowerCut(Target),
}

/// One fault of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Since the begin of the run, at the earliest.
    pub at: Duration,
    pub fault: Fault,
    /// How long it lasts.
    pub length: Duration,
}

/// The faults of a run of so many seconds. Every kind comes before any comes again, so that a short run has most.
pub fn plan(seed: u64, seconds: u64, clocks: bool) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let mut left: Vec<u8> = Vec::new();
    let mut at = 2000;
    // The last seconds are for coming to rest.
    while at + 6000 < seconds * 1000 {
        if left.is_empty() {
            left = (0..13).filter(|k| clocks || !matches!(k, 11 | 12)).collect();
        }
        let kind = left.swap_remove(rng.random_range(0..left.len()));
        let any = if rng.random_bool(0.5) { Target::Leader } else { Target::Follower };
        let fault = match kind {
            0 => Fault::Kill(Target::Leader),
            1 => Fault::Kill(Target::Follower),
            2 => Fault::Kill(Target::All),
            3 => Fault::Pause(any),
            4 => Fault::Partition(any, Cut::Apart),
            5 => Fault::Partition(any, Cut::Deaf),
            6 => Fault::Partition(any, Cut::Mute),
            7 => Fault::Partition(any, Cut::Pair),
            8 => Fault::Loss(rng.random_range(5..40)),
            9 => Fault::DiskFull(any),
            10 => Fault::PowerCut(if rng.random_bool(0.5) { Target::All } else { any }),
            11 => Fault::Clock(any, rng.random_range(5..7200)),
            _ => Fault::Clock(any, -rng.random_range(5..7200)),
        };
        let length = rng.random_range(500..5000);
        steps.push(Step { at: Duration::from_millis(at), fault, length: Duration::from_millis(length) });
        at += length + rng.random_range(1000..3000);
    }
    steps
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |t: &Target| match t {
            Target::Leader => "the leader",
            Target::Follower => "a follower",
            Target::All => "all servers",
        };
        match self {
            Fault::Kill(t) => write!(f, "kill -9 of {}", who(t)),
            Fault::Pause(t) => write!(f, "pause of {}", who(t)),
            Fault::Partition(t, Cut::Apart) => write!(f, "partition: {} apart", who(t)),
            Fault::Partition(t, Cut::Deaf) => write!(f, "partition: {} hears nobody", who(t)),
            Fault::Partition(t, Cut::Mute) => write!(f, "partition: nobody hears {}", who(t)),
            Fault::Partition(t, Cut::Pair) => write!(f, "partition: {} and one other", who(t)),
            Fault::Loss(percent) => write!(f, "loss of {percent} % of the packets"),
            Fault::DiskFull(t) => write!(f, "full disk of {}", who(t)),
            Fault::Clock(t, seconds) => write!(f, "clock of {} off by {seconds:+} s", who(t)),
            Fault::PowerCut(t) => write!(f, "power cut of {}", who(t)),
        }
    }
}

impl Fault {
    /// What kind of fault, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill(_) => "kill -9",
            Fault::Pause(_) => "pauses",
            Fault::Partition(_, Cut::Apart | Cut::Pair) => "partitions",
            Fault::Partition(..) => "one-way partitions",
            Fault::Loss(_) => "packet losses",
            Fault::DiskFull(_) => "full disks",
            Fault::Clock(..) => "clock jumps",
            Fault::PowerCut(_) => "power cuts",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_seed_decides() {
        assert_eq!(plan(7, 300, true), plan(7, 300, true));
        assert_ne!(plan(7, 300, true), plan(8, 300, true));
        let last = *plan(7, 300, true).last().unwrap();
        assert!(last.at < Duration::from_secs(294));
    }

    #[test]
    fn every_kind_comes() {
        for seed in 0..10 {
            let kinds: BTreeSet<_> = plan(seed, 80, true).iter().map(|s| s.fault.kind()).collect();
            assert_eq!(kinds.len(), 8, "{kinds:?}");
            let without = plan(seed, 200, false);
            assert!(without.iter().all(|s| !matches!(s.fault, Fault::Clock(..))));
        }
    }
}

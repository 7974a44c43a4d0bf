//! Whether this member's disk is too slow to lead: while a leader waits for its disk, the others hear nothing of it.

use std::time::{Duration, Instant};

/// A mean of syncs above this is slow: half of the time after which the others elect another.
const SLOW: Duration = Duration::from_millis(250);
/// Syncs that are seen before anything is said.
const ENOUGH: u32 = 8;
/// Between two attempts to hand over: the others may be no faster.
const PAUSE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub struct Pace {
    /// Each sync counts an eighth.
    mean: Duration,
    seen: u32,
    told: Option<Instant>,
}

impl Pace {
    /// A sync took so long.
    pub fn synced(&mut self, took: Duration) {
        self.mean = (self.mean * 7 + took) / 8;
        self.seen = self.seen.saturating_add(1);
    }

    /// Whether it is time to hand over; says so at most once a minute.
    pub fn should_hand_over(&mut self, now: Instant) -> bool {
        let due = self.told.is_none_or(|at| now.duration_since(at) >= PAUSE);
        if self.seen < ENOUGH || self.mean < SLOW || !due {
            return false;
        }
        self.told = Some(now);
        self.seen = 0;
        true
    }

    /// Time of a sync, on average.
    pub fn mean(&self) -> Duration {
        self.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_sync_is_none_many_are() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for _ in 0..20 {
            pace.synced(Duration::from_millis(2));
        }
        pace.synced(Duration::from_millis(1500));
        assert!(!pace.should_hand_over(start), "{:?}", pace.mean());
        for _ in 0..10 {
            pace.synced(Duration::from_millis(400));
        }
        assert!(pace.should_hand_over(start));
        assert!(!pace.should_hand_over(start));
        for _ in 0..10 {
            pace.synced(Duration::from_millis(400));
        }
        assert!(!pace.should_hand_over(start + Duration::from_secs(59)));
        assert!(pace.should_hand_over(start + Duration::from_secs(60)));
        for _ in 0..30 {
            pace.synced(Duration::from_millis(1));
        }
        assert!(!pace.should_hand_over(start + Duration::from_secs(300)));
    }
}

//! Automatic compaction: remembers which revision was the newest at which time, so that history older than the
//! retention can go. Does nothing, and wakes nobody, while nothing is written.

use std::collections::VecDeque;

use crate::Revision;

/// Samples of the revision over time, in Unix seconds.
pub struct AutoCompaction {
    retention: u64,
    samples: VecDeque<(u64, Revision)>,
    /// Something was written since the last sample.
    dirty: bool,
}

impl AutoCompaction {
    /// Keeps `retention` seconds of history; zero keeps all.
    pub fn new(retention: u64) -> AutoCompaction {
        AutoCompaction { retention, samples: VecDeque::new(), dirty: false }
    }

    /// Five samples make up the retention.
    fn interval(&self) -> u64 {
        (self.retention / 5).max(1)
    }

    /// Notes that the revision may have grown.
    pub fn wrote(&mut self) {
        self.dirty = true;
    }

    /// When to ask [`AutoCompaction::due`] next.
    pub fn next(&self) -> Option<u64> {
        if self.retention == 0 {
            return None;
        }
        let oldest = self.samples.front().map(|(at, _)| at + self.retention);
        let sample = self.dirty.then(|| self.samples.back().map_or(0, |(at, _)| at + self.interval()));
        oldest.into_iter().chain(sample).min()
    }

    /// The revision to compact at, if it is time.
    pub fn due(&mut self, now: u64, revision: Revision) -> Option<Revision> {
        if self.retention == 0 {
            return None;
        }
        if self.dirty && self.samples.back().is_none_or(|(at, _)| at + self.interval() <= now) {
            self.dirty = false;
            self.samples.push_back((now, revision));
        }
        let mut due = None;
        while let Some((at, revision)) = self.samples.front().copied()
            && at + self.retention <= now
        {
            due = Some(revision);
            self.samples.pop_front();
        }
        due.filter(|r| *r > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_kept_for_the_retention() {
        let mut c = AutoCompaction::new(300);
        assert_eq!(c.next(), None, "idle: never");
        c.wrote();
        assert_eq!(c.due(1000, 7), None);
        assert_eq!(c.next(), Some(1300));
        c.wrote();
        assert_eq!(c.due(1030, 8), None, "too early for a second sample");
        assert_eq!(c.next(), Some(1060));
        assert_eq!(c.due(1060, 9), None);
        assert_eq!(c.due(1299, 9), None);
        assert_eq!(c.due(1300, 9), Some(7));
        assert_eq!(c.due(2000, 9), Some(9));
        assert_eq!(c.next(), None);
    }

    #[test]
    fn zero_keeps_all() {
        let mut c = AutoCompaction::new(0);
        c.wrote();
        assert_eq!((c.due(5, 5), c.next()), (None, None));
    }
}

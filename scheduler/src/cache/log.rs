//! The latest changes of nodes, so that what was computed per node is brought up to date by looking at those that
//! changed since.

use std::collections::VecDeque;

use super::Slot;

/// Changes remembered; whoever is further behind starts over.
const KEPT: usize = 8192;

/// A log of slots whose node, pods or nominations changed.
#[derive(Debug, Default)]
pub struct ChangeLog {
    recent: VecDeque<Slot>,
    /// Number of changes so far.
    end: u64,
}

impl ChangeLog {
    pub(super) fn push(&mut self, slot: Slot) {
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(slot);
        self.end += 1;
    }

    /// The position after the latest change.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// What changed since `position`, with repetitions; `None` when that is too long ago.
    #[must_use]
    pub fn since(&self, position: u64) -> Option<impl Iterator<Item = Slot>> {
        let missed = usize::try_from(self.end - position).ok()?;
        let skip = self.recent.len().checked_sub(missed)?;
        Some(self.recent.iter().skip(skip).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_it_missed_or_starts_over() {
        let mut log = ChangeLog::default();
        log.push(3);
        let seen = log.end();
        log.push(4);
        log.push(3);
        assert_eq!(log.since(seen).expect("kept").collect::<Vec<_>>(), [4, 3]);
        assert_eq!(log.since(log.end()).expect("kept").count(), 0);
        (0..KEPT).for_each(|i| log.push(i));
        assert!(log.since(seen).is_none());
    }
}

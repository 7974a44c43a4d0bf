//! Exponential back-off per key with upstream's rules: the delay doubles at each use up to the maximum, and is
//! forgotten when the key was quiet for twice the maximum. Time is passed in.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

/// Back-off state of one pod's containers or images.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

impl Backoff {
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial: initial.min(max), max, entries: HashMap::new() }
    }

    fn expired(&self, entry: &Entry, event: Timestamp) -> bool {
        event.duration_since(entry.updated).unsigned_abs() > self.max * 2 && event > entry.updated
    }

    /// When the key may be tried again, if `event` (say, the container's end) still holds it back at `now`.
    pub fn blocked_until(
        &self,
        key: &str,
        event: Timestamp,
        now: Timestamp,
    ) -> Option<(Timestamp, Duration)> {
        let entry = self.entries.get(key)?;
        if self.expired(entry, event) {
            return None;
        }
        let until = event + entry.delay;
        (until > now).then_some((until, entry.delay))
    }

    /// Takes note of a new try at `now` that follows `event`.
    pub fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(e) if !self.expired(e, event) => (e.delay * 2).min(self.max),
            _ => self.initial,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_maximum_and_forgets() {
        let secs = Duration::from_secs;
        let mut b = Backoff::new(secs(10), secs(300));
        let mut now = Timestamp::from_second(1_000).unwrap();
        assert!(b.blocked_until("a", now, now).is_none(), "the first restart is immediate");
        let mut seen = Vec::new();
        for _ in 0..7 {
            b.next("a", now, now);
            let (until, delay) = b.blocked_until("a", now, now).unwrap();
            seen.push(delay.as_secs());
            now = until;
            assert!(b.blocked_until("a", now - delay, now).is_none());
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        let later = now + secs(601);
        assert!(b.blocked_until("a", later, later).is_none());
        b.next("a", later, later);
        assert_eq!(b.blocked_until("a", later, later).unwrap().1, secs(10));
    }
}

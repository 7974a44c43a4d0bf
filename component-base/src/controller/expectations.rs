//! Expectations: what a controller has asked the server to create or delete and not yet seen come back by watch.
//!
//! A controller that acts on its cache must not act twice because the cache lags. It records what it asked for here,
//! its event handlers tick the records off, and it holds still while records are open. Records expire after five
//! minutes, so that a lost event delays a controller but never stops it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const EXPIRES_AFTER: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
struct Entry {
    adds: i64,
    deletes: HashSet<String>,
    since: Instant,
}

/// Open creations and deletions per controller key.
#[derive(Debug, Default)]
pub struct Expectations {
    entries: Mutex<HashMap<String, Entry>>,
}

impl Expectations {
    /// No open records.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the controller may act on `key`: nothing is open, or what is open has expired.
    pub fn satisfied(&self, key: &str, now: Instant) -> bool {
        self.entries.lock().get(key).is_none_or(|e| {
            (e.adds <= 0 && e.deletes.is_empty()) || now.saturating_duration_since(e.since) > EXPIRES_AFTER
        })
    }

    /// Replaces the records of `key`: so many creations and these deletions (any unique name) are about to be asked for.
    pub fn expect(&self, key: &str, adds: usize, deletes: impl IntoIterator<Item = String>, now: Instant) {
        let entry = Entry { adds: adds as i64, deletes: deletes.into_iter().collect(), since: now };
        self.entries.lock().insert(key.to_owned(), entry);
    }

    /// A creation came back by watch, or failed.
    pub fn creation_observed(&self, key: &str) {
        if let Some(e) = self.entries.lock().get_mut(key) {
            e.adds -= 1;
        }
    }

    /// Several creations will never be asked for.
    pub fn lower_adds(&self, key: &str, by: usize) {
        if let Some(e) = self.entries.lock().get_mut(key) {
            e.adds -= by as i64;
        }
    }

    /// A deletion came back by watch, or failed.
    pub fn deletion_observed(&self, key: &str, name: &str) {
        if let Some(e) = self.entries.lock().get_mut(key) {
            e.deletes.remove(name);
        }
    }

    /// Drops all records of `key`: its owner is gone.
    pub fn forget(&self, key: &str) {
        self.entries.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_until_everything_came_back() {
        let e = Expectations::new();
        let now = Instant::now();
        assert!(e.satisfied("a", now));
        e.expect("a", 2, ["x".to_owned()], now);
        e.creation_observed("a");
        e.deletion_observed("a", "x");
        assert!(!e.satisfied("a", now));
        e.creation_observed("a");
        assert!(e.satisfied("a", now));
    }

    #[test]
    fn a_deletion_counts_once() {
        let e = Expectations::new();
        let now = Instant::now();
        e.expect("a", 0, ["x".to_owned(), "y".to_owned()], now);
        e.deletion_observed("a", "x");
        e.deletion_observed("a", "x");
        assert!(!e.satisfied("a", now));
    }

    #[test]
    fn expires_and_forgets() {
        let e = Expectations::new();
        let now = Instant::now();
        e.expect("a", 1, [], now);
        assert!(!e.satisfied("a", now + Duration::from_secs(299)));
        assert!(e.satisfied("a", now + Duration::from_secs(301)));
        e.forget("a");
        assert!(e.satisfied("a", now));
    }
}

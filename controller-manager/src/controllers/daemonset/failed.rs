//! How soon a failed pod is deleted again on the same node: after 1 s, then twice as long each time, 15 min at most.
//! A kubelet may refuse a pod as fast as it can be made.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

const BASE: SignedDuration = SignedDuration::from_secs(1);
const MAX: SignedDuration = SignedDuration::from_mins(15);

/// The wait on a node, and since when.
type Wait = (SignedDuration, Timestamp);

/// Waits by daemon set (its uid), then by node.
#[derive(Debug, Default)]
pub struct FailedPods(Mutex<HashMap<String, HashMap<String, Wait>>>);

impl FailedPods {
    /// What is left to wait before a failed pod on `node` may be deleted.
    pub fn left(&self, set: &str, node: &str, now: Timestamp) -> Option<SignedDuration> {
        let all = self.0.lock();
        let (wait, since) = all.get(set)?.get(node)?;
        Some(*wait - now.duration_since(*since)).filter(|left| left.is_positive())
    }

    /// A failed pod on `node` is deleted now.
    pub fn note(&self, set: &str, node: &str, now: Timestamp) {
        let mut all = self.0.lock();
        let nodes = all.entry(set.to_owned()).or_default();
        // Long quiet: the trouble is over.
        nodes.retain(|_, (_, since)| now.duration_since(*since) < MAX * 2);
        let next = nodes.get(node).map_or(BASE, |(wait, _)| (*wait * 2).min(MAX));
        nodes.insert(node.to_owned(), (next, now));
    }

    /// The daemon set is gone, or its template is another.
    pub fn forget(&self, set: &str) {
        self.0.lock().remove(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_forgotten() {
        let f = FailedPods::default();
        let at = |s: i64| Timestamp::from_second(10_000 + s).unwrap_or_default();
        assert_eq!(f.left("a", "n", at(0)), None);
        f.note("a", "n", at(0));
        assert_eq!(f.left("a", "n", at(0)), Some(BASE));
        assert_eq!(f.left("a", "n", at(1)), None);
        f.note("a", "n", at(1));
        assert_eq!(f.left("a", "n", at(1)), Some(BASE * 2));
        assert_eq!(f.left("a", "m", at(1)), None);
        for n in 0..20 {
            f.note("a", "n", at(2 + n));
        }
        assert_eq!(f.left("a", "n", at(21)), Some(MAX));
        f.note("a", "n", at(100_000));
        assert_eq!(f.left("a", "n", at(100_000)), Some(BASE));
        f.forget("a");
        assert_eq!(f.left("a", "n", at(100_000)), None);
    }
}

//! Writes whose effect the cache has not seen yet. A controller that makes objects with generated names must hold
//! still until its own last writes come back, or it would make them again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

/// A lost event must not stop a controller for good.
const EXPIRES_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum Expected {
    Generation(i64),
    Gone,
}

/// What was written under a key, by uid, and when.
type Open = HashMap<String, (Expected, Instant)>;

/// Open writes by owner key, then by uid of what was written.
#[derive(Debug, Default)]
pub struct Pending(Mutex<HashMap<String, Open>>);

impl Pending {
    /// The server answered a create or update with this object.
    pub fn wrote(&self, key: &str, written: &ObjectMeta, now: Instant) {
        self.put(key, written, Expected::Generation(written.generation.unwrap_or(0)), now);
    }

    /// The server accepted a deletion.
    pub fn deleted(&self, key: &str, object: &ObjectMeta, now: Instant) {
        self.put(key, object, Expected::Gone, now);
    }

    fn put(&self, key: &str, object: &ObjectMeta, expected: Expected, now: Instant) {
        if let Some(uid) = object.uid.clone() {
            self.0.lock().entry(key.to_owned()).or_default().insert(uid, (expected, now));
        }
    }

    /// How long to wait before acting on `key`, given what the cache holds of it; `None`: act now.
    pub fn wait<'a>(
        &self,
        key: &str,
        cached: impl IntoIterator<Item = &'a ObjectMeta>,
        now: Instant,
    ) -> Option<Duration> {
        let mut all = self.0.lock();
        let open = all.get_mut(key)?;
        let there: HashMap<&str, i64> =
            cached.into_iter().filter_map(|m| Some((m.uid.as_deref()?, m.generation.unwrap_or(0)))).collect();
        open.retain(|uid, (expected, since)| {
            let seen = match expected {
                Expected::Generation(g) => there.get(uid.as_str()).is_some_and(|have| have >= g),
                Expected::Gone => !there.contains_key(uid.as_str()),
            };
            !seen && now.saturating_duration_since(*since) < EXPIRES_AFTER
        });
        let left = open
            .values()
            .map(|(_, since)| EXPIRES_AFTER.saturating_sub(now.saturating_duration_since(*since)));
        let left = left.max();
        if left.is_none() {
            all.remove(key);
        }
        left
    }

    /// The owner is gone.
    pub fn forget(&self, key: &str) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, generation: i64) -> ObjectMeta {
        ObjectMeta { uid: Some(uid.into()), generation: Some(generation), ..ObjectMeta::default() }
    }

    #[test]
    fn holds_until_the_cache_has_caught_up() {
        let p = Pending::default();
        let now = Instant::now();
        assert_eq!(p.wait("s", [], now), None);
        p.wrote("s", &meta("a", 2), now);
        assert!(p.wait("s", [&meta("a", 1)], now).is_some());
        assert_eq!(p.wait("s", [&meta("a", 2)], now), None);
        p.deleted("s", &meta("a", 2), now);
        assert!(p.wait("s", [&meta("a", 2)], now).is_some());
        assert_eq!(p.wait("s", [], now), None);
        p.wrote("s", &meta("b", 1), now);
        assert_eq!(p.wait("s", [], now + Duration::from_secs(31)), None, "expired");
    }
}

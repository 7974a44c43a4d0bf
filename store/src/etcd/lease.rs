//! Which lease a key with a time to live gets. Leases are dear to etcd, so keys written within a short time share one,
//! as upstream's API server has it; they live longer by at most that time.

use std::time::{Duration, Instant};

/// Keys on one lease; etcd removes all of them at once.
const KEYS: u64 = 1000;

/// The last lease that was granted.
#[derive(Debug)]
pub struct Leases {
    reuse: Duration,
    last: Option<Lease>,
}

#[derive(Debug)]
struct Lease {
    id: i64,
    ends: Instant,
    keys: u64,
}

impl Leases {
    /// `reuse`: for how long a lease is shared, at most; a twentieth of the time to live where that is less.
    pub fn new(reuse: Duration) -> Leases {
        Leases { reuse, last: None }
    }

    fn shared_for(&self, ttl_seconds: u64) -> u64 {
        (ttl_seconds / 20).min(self.reuse.as_secs())
    }

    /// Seconds to ask of etcd for keys that live `ttl_seconds`.
    pub fn ttl_to_grant(&self, ttl_seconds: u64) -> u64 {
        ttl_seconds.saturating_add(self.shared_for(ttl_seconds))
    }

    /// The last lease, if a key of `ttl_seconds` may go on it.
    pub fn reuse(&mut self, ttl_seconds: u64, now: Instant) -> Option<i64> {
        let longest = self.ttl_to_grant(ttl_seconds);
        let last = self.last.as_mut()?;
        let left = last.ends.saturating_duration_since(now);
        let fits = left > Duration::from_secs(ttl_seconds) && left <= Duration::from_secs(longest);
        if !fits || last.keys >= KEYS {
            return None;
        }
        last.keys += 1;
        Some(last.id)
    }

    /// Notes a lease granted for one key at `now`.
    pub fn granted(&mut self, id: i64, ttl_seconds: u64, now: Instant) {
        self.last = Some(Lease { id, ends: now + Duration::from_secs(ttl_seconds), keys: 1 });
    }

    /// The last lease is gone.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_same_minute_share_a_lease() {
        let mut leases = Leases::new(Duration::from_secs(60));
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(leases.reuse(3600, start), None);
        assert_eq!(leases.ttl_to_grant(3600), 3660);
        leases.granted(7, 3660, start);
        assert_eq!(leases.reuse(3600, at(1)), Some(7));
        assert_eq!(leases.reuse(3600, at(59)), Some(7));
        assert_eq!(leases.reuse(3600, at(60)), None, "it would end too early");
        assert_eq!(leases.reuse(1800, at(1)), None, "it would end too late");
        leases.forget();
        assert_eq!(leases.reuse(3600, at(1)), None);
    }

    #[test]
    fn short_times_are_not_stretched_and_a_lease_has_a_bound() {
        let mut leases = Leases::new(Duration::from_secs(60));
        let now = Instant::now();
        assert_eq!((leases.ttl_to_grant(1), leases.ttl_to_grant(100)), (1, 105));
        leases.granted(1, 3660, now);
        let uses = (0..2000).filter(|_| leases.reuse(3600, now).is_some()).count();
        assert_eq!(uses, 999, "a thousand with the first");
    }
}

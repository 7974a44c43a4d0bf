//! Bounds how many requests run at a time, reads and writes apart, as `--max-requests-inflight` and
//! `--max-mutating-requests-inflight` say.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::request::{RequestInfo, UserInfo};

/// Requests of one kind.
struct Kind {
    /// Zero: no bound.
    limit: i64,
    running: AtomicI64,
    /// The most at a time since this was last asked for.
    high: AtomicI64,
}

/// The two kinds, reads first.
pub struct InFlight([Arc<Kind>; 2]);

/// A place among the running requests; dropping it frees the place.
pub struct Permit(Option<Arc<Kind>>);

impl Permit {
    /// A place that counts for nothing.
    pub fn free() -> Self {
        Self(None)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(k) = &self.0 {
            k.running.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl InFlight {
    /// The limits; zero is none.
    pub fn new(reads: usize, writes: usize) -> Self {
        let kind = |n: usize| {
            let limit = i64::try_from(n).unwrap_or(0);
            Arc::new(Kind { limit, running: AtomicI64::new(0), high: AtomicI64::new(0) })
        };
        Self([kind(reads), kind(writes)])
    }

    /// A place for this request, or none when the server is full. Administrators always get one.
    pub fn enter(&self, info: &RequestInfo, user: &UserInfo) -> Option<Permit> {
        let mutating = !matches!(info.verb.as_str(), "get" | "list" | "watch" | "head");
        let kind = &self.0[usize::from(mutating)];
        let permit = Permit(Some(Arc::clone(kind)));
        let running = kind.running.fetch_add(1, Ordering::AcqRel) + 1;
        if kind.limit > 0 && running > kind.limit {
            // Dropping the permit gives the place back; administrators take it beyond the limit.
            return user.in_group("system:masters").then_some(permit);
        }
        kind.high.fetch_max(running, Ordering::Relaxed);
        Some(permit)
    }

    /// The most at a time since the last call, of reads and of writes.
    pub fn take_highs(&self) -> [i64; 2] {
        [0, 1].map(|i| {
            let k = &self.0[i];
            let now = k.running.load(Ordering::Relaxed);
            k.high.swap(now, Ordering::Relaxed).max(now)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let f = InFlight::new(1, 0);
        let read = RequestInfo { verb: "get".into(), ..Default::default() };
        let write = RequestInfo { verb: "create".into(), ..Default::default() };
        let user = UserInfo::default();
        let first = f.enter(&read, &user).expect("free");
        assert!(f.enter(&read, &user).is_none());
        assert!(f.enter(&write, &user).is_some());
        let admin = UserInfo { groups: vec!["system:masters".into()], ..Default::default() };
        assert!(f.enter(&read, &admin).is_some());
        drop(first);
        assert!(f.enter(&read, &user).is_some());
    }
}

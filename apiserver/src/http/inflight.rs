//! Bounds how many requests run at a time, reads and writes apart, as `--max-requests-inflight` and
//! `--max-mutating-requests-inflight` say.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::request::{RequestInfo, UserInfo};

/// The two limits; zero is none.
pub struct InFlight {
    reads: Option<Arc<Semaphore>>,
    writes: Option<Arc<Semaphore>>,
}

/// A place among the running requests; dropping it frees the place.
pub struct Permit(#[allow(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

impl Permit {
    /// A place that counts for nothing.
    pub fn free() -> Self {
        Self(None)
    }
}

impl InFlight {
    pub fn new(reads: usize, writes: usize) -> Self {
        let limit = |n: usize| (n > 0).then(|| Arc::new(Semaphore::new(n)));
        Self { reads: limit(reads), writes: limit(writes) }
    }

    /// A place for this request, or none when the server is full. Administrators always get one.
    pub fn enter(&self, info: &RequestInfo, user: &UserInfo) -> Option<Permit> {
        let mutating = !matches!(info.verb.as_str(), "get" | "list" | "watch");
        let limit = if mutating { &self.writes } else { &self.reads };
        let Some(s) = limit else { return Some(Permit(None)) };
        match Arc::clone(s).try_acquire_owned() {
            Ok(p) => Some(Permit(Some(p))),
            Err(_) if user.in_group("system:masters") => Some(Permit(None)),
            Err(_) => None,
        }
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

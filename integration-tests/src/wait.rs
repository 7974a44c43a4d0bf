//! Waiting for something to come true in a running cluster.

use std::time::{Duration, Instant};

/// Asks `check` until it gives a value, for `seconds` at most, and returns it.
///
/// # Panics
/// With `what` and the last complaint of `check`, if the time is over.
#[track_caller]
pub fn eventually<T>(what: &str, seconds: u64, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match check() {
            Ok(value) => return value,
            Err(e) if Instant::now() > deadline => panic!("not within {seconds} s: {what}: {e}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

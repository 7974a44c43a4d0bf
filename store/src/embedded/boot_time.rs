//! A clock that never goes back, knows nothing of the date, and goes on while the machine sleeps: what leases are
//! measured with. The standard library's monotonic clock stands still meanwhile.
// `clock_gettime` has no safe wrapper among the features of `nix` that the workspace uses.
#![allow(unsafe_code)]

use std::time::Duration;

use nix::libc;

/// Time since the machine was started; `None` where the kernel does not say.
pub fn now() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec` to a place that is one.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) } != 0;
    if failed {
        return None;
    }
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let first = now().unwrap();
        std::thread::sleep(Duration::from_millis(2));
        assert!(now().unwrap() >= first + Duration::from_millis(2));
    }
}

//! The allocator of all daemons, and what gives back the memory that only start-up or a busy time needed.
//!
//! Requests are made of thousands of small objects that one thread allocates and another frees. The C library's
//! allocator took a third of a write's time for them, much of it waiting for its locks; jemalloc's thread caches take a
//! tenth, in little more memory once they are kept small ([`MALLOC_CONF`]).
//!
//! A daemon starts by reading flags, certificates and every object once. The code that did so stays mapped and the
//! allocator keeps what was freed, several times what the daemon needs from then on; the same is left of large lists and
//! of many objects that have gone. [`settle`] hands both back to the kernel: code comes back from the page cache when it
//! runs again, freed heap pages when they are used again. That is done when a busy time is over, never within one.
//!
//! `unsafe` is confined to this module: two calls into C whose conditions are checked here, and the name by
//! which jemalloc finds its options.
#![allow(unsafe_code)]

use std::ptr::null_mut;
use std::time::Duration;

use nix::libc;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's options (its manual's `TUNING`), which `_RJEM_MALLOC_CONF` in the environment overrides. Two arenas: there
/// are few threads, and what one frees the others can use. Small thread caches, of small objects only: there is one for
/// each thread. Freed pages go back to the kernel within a second of work.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 91] =
    b"narenas:2,lg_tcache_max:12,tcache_nslots_small_max:20,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

/// The control that purges all arenas (4096 stands for all).
const PURGE: &std::ffi::CStr = c"arena.4096.purge";

/// How often a daemon looks at how busy it was.
const LOOK: Duration = Duration::from_secs(3);
/// Processor time between two looks in which nothing much happens: somewhat over a percent.
const QUIET: Duration = Duration::from_millis(40);
/// Processor time between two looks after which there is something to give back.
const BUSY: Duration = Duration::from_millis(60);

/// Gives memory back whenever a busy time, the start being the first, is over. Runs as long as the daemon.
pub async fn settle_when_quiet() {
    let (mut before, mut due) = (processor_time(), true);
    loop {
        tokio::time::sleep(LOOK).await;
        let now = processor_time();
        let used = now.saturating_sub(before);
        before = now;
        if due && used < QUIET {
            // A large heap takes a while, and no other task is to wait behind it. It cannot panic.
            let _ = tokio::task::spawn_blocking(settle).await;
        }
        due = is_due(due, used);
    }
}

/// Whether there is something to give back at the next look, if `used` was spent since the last one.
fn is_due(due: bool, used: Duration) -> bool {
    used > BUSY || (due && used >= QUIET)
}

/// What the process has spent since its start.
fn processor_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Hands unused heap and unmodified file pages back. Costs a millisecond, more with a large heap, and some page faults
/// afterwards.
pub fn settle() {
    // SAFETY: the name is a string that ends in zero; this control reads no value and gives none.
    unsafe {
        tikv_jemalloc_sys::mallctl(PURGE.as_ptr(), null_mut(), null_mut(), null_mut(), 0);
    }
    // Absent where /proc is not mounted: nothing is given back then.
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for mapping in droppable(&smaps) {
        // SAFETY: the pages are a private, read-only mapping of a file of which no page was ever written (the kernel
        // counts no anonymous memory in it), so reading them again yields the same bytes.
        unsafe {
            libc::madvise(mapping.start as *mut _, mapping.end - mapping.start, libc::MADV_DONTNEED);
        }
    }
}

/// A range of addresses.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
}

/// The mappings of files in a `/proc/PID/smaps` that nobody can write and nobody has written: code and constants, but not
/// what the loader relocated.
fn droppable(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(size) = line.strip_prefix("Anonymous:") {
            let untouched = size.trim() == "0 kB";
            found.extend(current.take().filter(|_| untouched));
        } else if let Some(mapping) = file_mapping(line) {
            current = mapping;
        }
    }
    found
}

/// For the first line of an entry: the mapping, if it is a private read-only one of a file. None for other lines.
fn file_mapping(line: &str) -> Option<Option<Mapping>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let permissions = words.next()?;
    let path = words.nth(3).unwrap_or_default();
    let fits = matches!(permissions, "r--p" | "r-xp") && path.starts_with('/');
    Some(fits.then_some(Mapping { start, end }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 r--p 00000000 fe:00 12 /usr/bin/kubelet
Rss: 8 kB
Anonymous: 0 kB
3000-9000 r-xp 00002000 fe:00 12 /usr/bin/kubelet
Rss: 8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
9000-a000 r--p 00008000 fe:00 12 /usr/bin/kubelet
Anonymous: 4 kB
a000-b000 rw-p 00009000 fe:00 12 /usr/bin/kubelet
Anonymous: 0 kB
b000-c000 rw-p 00000000 00:00 0 [heap]
Anonymous: 4 kB
d000-e000 r-xp 00000000 00:00 0 [vdso]
Anonymous: 0 kB
";

    #[test]
    fn only_clean_file_pages_are_dropped() {
        let found = droppable(SMAPS);
        assert_eq!(found, [Mapping { start: 0x1000, end: 0x3000 }, Mapping { start: 0x3000, end: 0x9000 }]);
    }

    #[test]
    fn a_busy_time_makes_it_due_until_all_is_quiet() {
        let ms = Duration::from_millis;
        assert!(is_due(false, ms(61)) && is_due(true, ms(61)));
        assert!(is_due(true, ms(40)), "still more than nothing");
        assert!(!is_due(false, ms(40)), "nothing to speak of");
        assert!(!is_due(true, ms(14)), "done");
        assert!(processor_time() > Duration::ZERO);
    }

    #[test]
    fn everything_works_after_it() {
        let before = vec![7u8; 1 << 20];
        settle();
        assert!(before.iter().all(|b| *b == 7));
        assert_eq!(droppable("").len(), 0);
        settle();
    }
}

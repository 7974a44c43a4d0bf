//! Gives back the memory that only start-up needed.
//!
//! A daemon starts by reading flags, certificates and every object once. The code that did so stays mapped and the
//! allocator keeps what was freed, several times what the daemon needs from then on. [`settle`] hands both back to the
//! kernel: code comes back from the page cache when it runs again, freed heap pages when they are used again.
//!
//! `unsafe` is confined to this module: two calls into the C library whose conditions are checked here.
#![allow(unsafe_code)]

use nix::libc;

/// Hands unused heap and unmodified file pages back. Costs a millisecond, and some page faults afterwards.
pub fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; glibc locks each arena while it looks for free pages in it.
    unsafe {
        libc::malloc_trim(0);
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
    fn everything_works_after_it() {
        let before = vec![7u8; 1 << 20];
        settle();
        assert!(before.iter().all(|b| *b == 7));
        assert_eq!(droppable("").len(), 0);
        settle();
    }
}

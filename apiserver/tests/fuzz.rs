//! The fuzz targets on the kept corpus and on a bounded number of mutations of it: nothing that a client sends may
//! panic, hang, or take memory without bound. `COXSWAIN_FUZZ_RUNS` sets how many mutations there are per target;
//! `COXSWAIN_FUZZ_SEED` repeats a run.
//!
//! The corpus is in `fuzz/corpus/TARGET/`, a file per input. What a fuzzer found, once mended, is kept there.

#[path = "../fuzz/src/lib.rs"]
mod entries;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Mutations per target. Some targets do much with one input.
const RUNS: u64 = 400;
/// Longest time that one input may take: far more than any needs, even where many tests run.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the process may grow by, in MiB, over all inputs of a target.
const MEMORY: u64 = 400;

/// SplitMix64: what comes out of a seed is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }
}

/// Pieces that parsers take for something.
const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "1e999",
    "9223372036854775808",
    "\\u0000",
    "\\ud800",
    "0.1Ki",
    "&a ",
    "*a",
    "- ",
    "\n  ",
    "!!binary ",
    "$patch",
    "/-",
    "~1",
    "..",
    "\0",
    "k8s\0",
    "é",
    "x=y",
    "!=",
    " in (",
    ")",
    "object.",
    ".map(x, x)",
    " + ",
    "size(",
    "'a'",
    "?",
    "type",
    "properties",
    "items",
    "@.",
    "*",
];

/// One small change, or several.
fn mutate(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(out.len() + 1);
        match random.below(7) {
            0 if at < out.len() => out[at] ^= 1 << random.below(8),
            1 if at < out.len() => out[at] = random.next() as u8,
            2 => {
                let token = TOKENS[random.below(TOKENS.len())];
                out.splice(at..at, token.bytes());
            }
            3 => {
                let end = (at + random.below(16)).min(out.len());
                out.drain(at..end);
            }
            // A piece twice: lists grow, structures nest.
            4 => {
                let end = (at + random.below(64)).min(out.len());
                let piece = out[at..end].to_vec();
                for _ in 0..=random.below(8) {
                    out.splice(at..at, piece.iter().copied());
                }
            }
            5 => {
                let from = random.below(other.len() + 1);
                out.truncate(at);
                out.extend_from_slice(&other[from..]);
            }
            _ => out.truncate(at),
        }
    }
    out
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut out: Vec<_> = files
        .map(|f| f.expect("a file").path())
        .map(|p| {
            let bytes = std::fs::read(&p).expect("an input");
            (p, bytes)
        })
        .collect();
    out.sort();
    out
}

/// The most memory that the process ever had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel's word");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Runs one input; says which it was if that goes wrong.
fn run(entry: fn(&[u8]), what: &str, input: &[u8]) {
    let started = Instant::now();
    let done = std::panic::catch_unwind(|| entry(input));
    let shown = || String::from_utf8_lossy(&input[..input.len().min(2000)]).into_owned();
    assert!(done.is_ok(), "{what} panics on {:?}", shown());
    let took = started.elapsed();
    assert!(took < PATIENCE, "{what} took {took:?} for {:?}", shown());
}

/// All in one test: the peak of memory is the process's.
#[test]
fn no_input_does_harm() {
    let (runs, seed) = (setting("COXSWAIN_FUZZ_RUNS", RUNS), setting("COXSWAIN_FUZZ_SEED", 1));
    // As much stack as the server's threads have.
    let all = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        for (target, entry) in entries::ALL {
            let corpus = corpus(target);
            assert!(!corpus.is_empty(), "{target} has no corpus");
            let before = peak();
            for (path, input) in &corpus {
                run(*entry, &format!("{target}: {}", path.display()), input);
            }
            let mut random = Random(seed);
            for n in 0..runs {
                let (_, a) = &corpus[random.below(corpus.len())];
                let (_, b) = &corpus[random.below(corpus.len())];
                let input = mutate(a, b, &mut random);
                run(*entry, &format!("{target}, seed {seed}, run {n}"), &input);
            }
            let grown = peak() - before;
            assert!(grown < MEMORY, "{target} took {grown} MiB");
        }
    });
    all.expect("a thread").join().expect("all inputs pass");
}

#[test]
fn every_target_is_run() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut targets: Vec<String> = std::fs::read_dir(dir)
        .expect("targets")
        .map(|f| f.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    targets.sort();
    let mut known: Vec<&str> = entries::ALL.iter().map(|(n, _)| *n).collect();
    known.sort_unstable();
    assert_eq!(targets, known);
}

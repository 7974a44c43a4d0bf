//! Daemons as background processes: started once, found again by their pid file, stopped by pid. A pid file holds
//! pid and start time, so that a pid that the kernel gave to another program is never touched.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::{self, Layout};

/// Starts `command` as daemon `name` in its own session, log to the layout's file; does nothing if it runs.
///
/// # Errors
/// The program cannot be started.
pub fn start(layout: &Layout, name: &str, mut command: Command) -> anyhow::Result<()> {
    if running(layout, name) {
        return Ok(());
    }
    let path = layout.log(name);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let child = command.spawn().with_context(|| format!("starting {name} ({:?})", command.get_program()))?;
    let pid = child.id();
    let started = start_time(pid).unwrap_or_default();
    layout::write(&layout.pid_file(name), &format!("{pid} {started}\n"), 0o644)
}

/// A command that runs `program` inside a node's network namespace.
pub fn in_namespace(namespace: &str, program: &Path) -> Command {
    let mut c = Command::new("nsenter");
    c.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program);
    c
}

/// The pid of daemon `name`, if it runs.
pub fn pid(layout: &Layout, name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(layout.pid_file(name)).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let pid: u32 = pid.parse().ok()?;
    (start_time(pid)? == started && !is_dead(pid)).then_some(pid)
}

pub fn running(layout: &Layout, name: &str) -> bool {
    pid(layout, name).is_some()
}

/// Fails with the end of the log if daemon `name` has ended.
///
/// # Errors
/// It does not run.
pub fn ensure_alive(layout: &Layout, name: &str) -> anyhow::Result<()> {
    if running(layout, name) {
        return Ok(());
    }
    bail!("{name} has ended; {}", layout.log_tail(name))
}

/// Sends a signal to daemon `name`, if it runs.
pub fn signal(layout: &Layout, name: &str, signal: Signal) -> bool {
    let Some(pid) = pid(layout, name).and_then(|p| i32::try_from(p).ok()) else { return false };
    kill(Pid::from_raw(pid), signal).is_ok()
}

/// Ends daemon `name`: SIGTERM, and SIGKILL after `grace`. Returns once it is gone.
pub fn stop(layout: &Layout, name: &str, grace: Duration) {
    if signal(layout, name, Signal::SIGTERM) && !wait_gone(layout, name, grace) {
        signal(layout, name, Signal::SIGKILL);
        wait_gone(layout, name, Duration::from_secs(5));
    }
    // Absent when it never started.
    let _ = std::fs::remove_file(layout.pid_file(name));
}

fn wait_gone(layout: &Layout, name: &str, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while running(layout, name) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Every daemon that has a pid file.
pub fn known(layout: &Layout) -> Vec<String> {
    let Ok(dir) = std::fs::read_dir(layout.state.join("run")) else { return Vec::new() };
    dir.filter_map(|e| e.ok()?.file_name().to_str()?.strip_suffix(".pid").map(str::to_owned)).collect()
}

/// The process's start time in clock ticks since boot: with the pid, its unique name.
fn start_time(pid: u32) -> Option<String> {
    stat_field(pid, 19)
}

/// Whether every thread has ended. A killed process whose first thread is a zombie still holds its files and locks
/// while another thread finishes a system call.
fn is_dead(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|t| {
        let state = stat_of(&t.path().join("stat"), 0);
        state.is_none_or(|s| matches!(s.as_str(), "Z" | "X"))
    })
}

/// Field `i` after the command name of `/proc/PID/stat` (0 is the state).
fn stat_field(pid: u32, i: usize) -> Option<String> {
    stat_of(&Path::new("/proc").join(pid.to_string()).join("stat"), i)
}

fn stat_of(file: &Path, i: usize) -> Option<String> {
    let stat = std::fs::read_to_string(file).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(i).map(str::to_owned)
}

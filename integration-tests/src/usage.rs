//! What a process takes of the machine.

use anyhow::Context as _;

/// Resident memory of a process in MB.
pub fn resident(pid: u32) -> anyhow::Result<f64> {
    memory(pid, "VmRSS:")
}

/// The most memory, in MB, that a process had resident since [`forget_peak`].
pub fn peak(pid: u32) -> anyhow::Result<f64> {
    memory(pid, "VmHWM:")
}

/// Lets the peak of a process's resident memory begin anew (proc(5), `clear_refs`).
pub fn forget_peak(pid: u32) -> anyhow::Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("resetting the peak of resident memory")
}

fn memory(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Processor time, in ms, that a process has used.
pub fn processor_time(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold spaces.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).context("reading /proc/…/stat");
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    Ok((ticks(11)? + ticks(12)?) * 1e3 / per_second)
}

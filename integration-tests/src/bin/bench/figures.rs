//! What figures are made of.

use std::time::Instant;

use anyhow::Context;

/// Prints one figure.
pub fn line(name: &str, value: f64, unit: &str) {
    // Small values keep the digits that tell them apart.
    let digits = if value.abs() < 10.0 { 3 } else { 1 };
    println!("{name} {value:.digits$} {unit}");
}

/// Milliseconds since then.
pub fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The middle of the values.
pub fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value that a share `q` of the values does not exceed; 0 if there are none.
pub fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * q) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(0.0)
}

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
pub fn cpu(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold spaces.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).context("reading /proc/…/stat");
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    Ok((ticks(11)? + ticks(12)?) * 1e3 / per_second)
}

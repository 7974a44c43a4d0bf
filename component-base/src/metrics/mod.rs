//! The metrics registry of a daemon and the text form that Prometheus scrapes.

mod choice;

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

pub use choice::{Choice, MetricsFlags, hidden_version};

/// A shareable registry; clones register into and render the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    choice: RwLock<Choice>,
}

impl Default for Metrics {
    /// A registry with the `process_*` metrics that every component exposes.
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        Self(Arc::new(Inner { registry: Mutex::new(registry), choice: RwLock::default() }))
    }
}

impl Metrics {
    /// Registers metrics. Counters get `_total` appended when rendered: name them without.
    pub fn register(&self, f: impl FnOnce(&mut Registry)) {
        f(&mut self.0.registry.lock());
    }

    /// Says what of it is shown (see [`MetricsFlags`]).
    pub fn choose(&self, choice: Choice) {
        *self.0.choice.write() = choice;
    }

    /// Everything in the text form that upstream's components show.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.0.registry.lock());
        let text = classic(&out);
        let choice = self.0.choice.read();
        if choice.is_everything() { text } else { choice.apply(&text) }
    }
}

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Counters that upstream named before counters ended in `_total`.
const UNSUFFIXED: &[&str] = &["authenticated_user_requests", "authentication_attempts"];

/// From OpenMetrics, which is what the library writes, to the text form of Prometheus: a counter's help and type name
/// its series, and whole numbers in `le` have no fraction, as Go prints them.
fn classic(open: &str) -> String {
    let mut out = String::with_capacity(open.len() + open.len() / 16);
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // Written with the type, which decides the name.
            help = rest.split_once(' ');
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|r| r.split_once(' ')) {
            let suffix = if kind == "counter" && !UNSUFFIXED.contains(&name) { "_total" } else { "" };
            let kind = if kind == "unknown" { "untyped" } else { kind };
            if let Some((_, text)) = help.take().filter(|(n, _)| *n == name) {
                // The library ends every sentence with a full stop.
                let text = text.strip_suffix('.').filter(|t| t.ends_with('.')).unwrap_or(text);
                out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            continue;
        }
        let bare =
            UNSUFFIXED.iter().find(|n| line.strip_prefix(**n).is_some_and(|r| r.starts_with("_total")));
        let line = match bare {
            Some(n) => {
                out.push_str(n);
                &line[n.len() + "_total".len()..]
            }
            None => line,
        };
        match line
            .find(".0\"")
            .filter(|at| line[..*at].rfind('"').is_some_and(|q| line[..q].ends_with("le=")))
        {
            Some(at) => {
                out.push_str(&line[..at]);
                out.push_str(&line[at + 2..]);
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[derive(Debug)]
struct Process;

/// Ticks per second of the times in `/proc`; Linux fixes it for user space.
const TICKS: f64 = 100.0;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut counter = |name: &str, help: &str, value: f64| -> Result<(), std::fmt::Error> {
            let c = ConstCounter::new(value);
            let e = encoder.encode_descriptor(name, help, None, c.metric_type())?;
            c.encode(e)
        };
        let stat = stat();
        if let Some((cpu, _)) = stat {
            counter("process_cpu_seconds", "Total user and system CPU time spent in seconds.", cpu)?;
        }
        if let Some((received, sent)) = network() {
            let help = "Number of bytes received by the process over the network.";
            counter("process_network_receive_bytes", help, received)?;
            let help = "Number of bytes sent by the process over the network.";
            counter("process_network_transmit_bytes", help, sent)?;
        }
        let mut gauge = |name: &str, help: &str, value: f64| -> Result<(), std::fmt::Error> {
            let g = ConstGauge::new(value);
            let e = encoder.encode_descriptor(name, help, None, g.metric_type())?;
            g.encode(e)
        };
        if let Some((_, start)) = stat {
            let help = "Start time of the process since unix epoch in seconds.";
            gauge("process_start_time_seconds", help, start)?;
        }
        if let Some((resident, virt)) = memory() {
            gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident)?;
            gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", virt)?;
        }
        if let Some((files, address_space)) = limits() {
            gauge("process_max_fds", "Maximum number of open file descriptors.", files)?;
            let help = "Maximum amount of virtual memory available in bytes.";
            gauge("process_virtual_memory_max_bytes", help, address_space)?;
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Number of open file descriptors.", fds.count() as f64)?;
        }
        Ok(())
    }
}

/// CPU time in seconds, and the start in seconds since the epoch.
fn stat() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // What follows the name, which may have spaces in it.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(((number(11)? + number(12)?) / TICKS, boot + number(19)? / TICKS))
}

/// Bytes received and sent in the network namespace of the process, as upstream's library counts them.
fn network() -> Option<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/self/net/netstat").ok()?;
    let mut lines = text.lines().filter(|l| l.starts_with("IpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let of = |name: &str| {
        let at = names.split(' ').position(|n| n == name)?;
        values.split(' ').nth(at)?.parse::<f64>().ok()
    };
    Some((of("InOctets")?, of("OutOctets")?))
}

/// The bounds on open files and on address space; the latter the highest number where there is none, as upstream shows it.
fn limits() -> Option<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let of = |name: &str| {
        let soft = text.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?;
        if soft == "unlimited" { Some(u64::MAX as f64) } else { soft.parse::<f64>().ok() }
    };
    Some((of("Max open files")?, of("Max address space")?))
}

fn memory() -> Option<(f64, f64)> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split(' ').filter_map(|x| x.parse::<f64>().ok());
    let virt = pages.next()?;
    let resident = pages.next()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()?? as f64;
    Some((resident * page, virt * page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
        let m = Metrics::default();
        let (n, named, h) =
            (Counter::<u64>::default(), Counter::<u64>::default(), Histogram::new([0.5, 2.0]));
        n.inc();
        named.inc();
        h.observe(1.0);
        m.register(|r| {
            r.register("things", "Things that were done.", n);
            r.register("authentication_attempts", "Counter of authenticated attempts", named);
            r.register("sizes", "Sizes", h);
        });
        let text = m.render();
        for line in [
            "# HELP things_total Things that were done.",
            "# TYPE things_total counter",
            "things_total 1",
            "# TYPE authentication_attempts counter",
            "authentication_attempts 1",
            "sizes_bucket{le=\"0.5\"} 0",
            "sizes_bucket{le=\"2\"} 1",
            "sizes_bucket{le=\"+Inf\"} 1",
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("# EOF"));
        for name in ["process_start_time_seconds", "process_max_fds", "process_network_receive_bytes_total"] {
            let value = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
            assert!(value.trim().parse::<f64>().expect("a number") > 0.0, "{name}{value}");
        }
    }
}

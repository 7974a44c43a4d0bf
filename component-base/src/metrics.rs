//! The metrics registry of a daemon and the text form that Prometheus scrapes.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// A shareable registry; clones register into and render the same metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    /// A registry with the `process_*` metrics that every component exposes.
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        Self(Arc::new(Mutex::new(registry)))
    }
}

impl Metrics {
    /// Registers metrics. Counters get `_total` appended when rendered: name them without.
    pub fn register(&self, f: impl FnOnce(&mut Registry)) {
        f(&mut self.0.lock());
    }

    /// Everything in OpenMetrics text form.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.0.lock());
        out
    }
}

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: f64| -> Result<(), std::fmt::Error> {
            let g = ConstGauge::new(value);
            let e = encoder.encode_descriptor(name, help, None, g.metric_type())?;
            g.encode(e)
        };
        if let Some((resident, virt)) = memory() {
            gauge("process_resident_memory_bytes", "Resident memory size in bytes", resident)?;
            gauge("process_virtual_memory_bytes", "Virtual memory size in bytes", virt)?;
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Number of open file descriptors", fds.count() as f64)?;
        }
        Ok(())
    }
}

fn memory() -> Option<(f64, f64)> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split(' ').filter_map(|x| x.parse::<f64>().ok());
    let virt = pages.next()?;
    let resident = pages.next()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()?? as f64;
    Some((resident * page, virt * page))
}

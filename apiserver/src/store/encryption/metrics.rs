//! Metrics of encryption at rest, under upstream's names.

use std::time::Duration;

use component_base::metrics::Metrics as Shared;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    transformation_type: &'static str,
    transformer_prefix: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    transformation_type: &'static str,
    transformer_prefix: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: &'static str,
}

/// See the module.
#[derive(Debug)]
pub struct Metrics {
    operations: Family<OperationLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    reloads: Family<StatusLabels, Counter>,
    /// Data keys that a KMS plugin had to be asked for.
    pub cache_misses: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            operations: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(5e-6, 2.0, 25))),
            reloads: Family::default(),
            cache_misses: Counter::default(),
        }
    }
}

impl Metrics {
    /// Adds all to the server's metrics.
    pub fn register(&self, shared: &Shared) {
        shared.register(|r| {
            r.register(
                "apiserver_storage_transformation_operations",
                "Total number of transformations. Successful transformation will have a status 'OK' and a varied status string when the transformation fails",
                self.operations.clone(),
            );
            r.register(
                "apiserver_storage_transformation_duration_seconds",
                "Latencies in seconds of value transformation operations",
                self.durations.clone(),
            );
            r.register(
                "apiserver_storage_envelope_transformation_cache_misses",
                "Total number of cache misses while accessing key decryption key(KEK)",
                self.cache_misses.clone(),
            );
            r.register(
                "apiserver_encryption_config_controller_automatic_reloads",
                "Total number of reload successes and failures of encryption configuration",
                self.reloads.clone(),
            );
        });
    }

    pub(super) fn transformed(&self, kind: &'static str, prefix: &str, ok: bool, took: Duration) {
        let status = if ok { "OK" } else { "Unknown" };
        let labels =
            OperationLabels { transformation_type: kind, transformer_prefix: prefix.to_owned(), status };
        self.operations.get_or_create(&labels).inc();
        let labels = DurationLabels { transformation_type: kind, transformer_prefix: prefix.to_owned() };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A reload of the configuration file.
    pub fn reloaded(&self, ok: bool) {
        let status = if ok { "success" } else { "failure" };
        self.reloads.get_or_create(&StatusLabels { status }).inc();
    }
}

//! Metrics under upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Ip {
    pub ip_family: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Code {
    pub code: &'static str,
}

/// The proxy's metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub sync: Family<Ip, Histogram>,
    pub full_sync: Family<Ip, Histogram>,
    pub partial_sync: Family<Ip, Histogram>,
    pub last: Family<Ip, Gauge<f64, std::sync::atomic::AtomicU64>>,
    pub last_queued: Family<Ip, Gauge<f64, std::sync::atomic::AtomicU64>>,
    pub service_changes: Counter,
    pub endpoint_changes: Counter,
    pub failures: Family<Ip, Counter>,
    /// Rules of services installed.
    pub rules: Family<Ip, Gauge>,
    /// Rules written by the last sync.
    pub rules_last: Family<Ip, Gauge>,
    pub healthz: Family<Code, Counter>,
    pub livez: Family<Code, Counter>,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            sync: Family::new_with_constructor(seconds),
            full_sync: Family::new_with_constructor(seconds),
            partial_sync: Family::new_with_constructor(seconds),
            last: Family::default(),
            last_queued: Family::default(),
            service_changes: Counter::default(),
            endpoint_changes: Counter::default(),
            failures: Family::default(),
            rules: Family::default(),
            rules_last: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
        }
    }
}

impl Metrics {
    /// Registers everything; `mode` names the backend where upstream's names do.
    pub fn register(&self, r: &mut Registry, mode: &str) {
        let name = |n: &str| format!("kubeproxy_sync_{n}");
        r.register(name("proxy_rules_duration_seconds"), "SyncProxyRules latency", self.sync.clone());
        r.register(
            name("full_proxy_rules_duration_seconds"),
            "SyncProxyRules latency for full resyncs",
            self.full_sync.clone(),
        );
        r.register(
            name("partial_proxy_rules_duration_seconds"),
            "SyncProxyRules latency for partial syncs",
            self.partial_sync.clone(),
        );
        r.register(
            name("proxy_rules_last_timestamp_seconds"),
            "The last time proxy rules were successfully synced",
            self.last.clone(),
        );
        r.register(
            name("proxy_rules_last_queued_timestamp_seconds"),
            "The last time a sync of proxy rules was queued",
            self.last_queued.clone(),
        );
        r.register(
            name("proxy_rules_service_changes"),
            "Cumulative proxy rules Service changes",
            self.service_changes.clone(),
        );
        r.register(
            name("proxy_rules_endpoint_changes"),
            "Cumulative proxy rules Endpoint changes",
            self.endpoint_changes.clone(),
        );
        let failures =
            if mode == "iptables" { "iptables_restore_failures" } else { "nftables_sync_failures" };
        r.register(
            name(&format!("proxy_rules_{failures}")),
            "Cumulative proxy rule writes that failed",
            self.failures.clone(),
        );
        r.register(
            format!("kubeproxy_sync_proxy_rules_{mode}"),
            "Number of rules of services owned by kube-proxy",
            self.rules.clone(),
        );
        r.register(
            format!("kubeproxy_sync_proxy_rules_{mode}_last"),
            "Number of rules written in the last sync",
            self.rules_last.clone(),
        );
        r.register("kubeproxy_proxy_healthz", "Cumulative proxy healthz answers", self.healthz.clone());
        r.register("kubeproxy_proxy_livez", "Cumulative proxy livez answers", self.livez.clone());
    }
}

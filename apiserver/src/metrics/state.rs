//! What is read from the server when it is scraped: sizes of caches, what it was built from.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::allocate::{Services, Usage};
use crate::cache::Numbers;
use crate::registry::Registry;
use crate::registry::storage::Storage;

type Out = Result<(), std::fmt::Error>;
type Labels = Vec<(&'static str, String)>;
/// Name, help, and the number to show.
type Read<T> = (&'static str, &'static str, fn(&Numbers) -> T);

/// See the module.
pub struct State {
    registry: Weak<Registry>,
    services: Services,
    handshake_errors: Arc<AtomicU64>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl State {
    /// Shows the state in the server's registry of metrics.
    pub fn register(
        registry: &Arc<Registry>,
        services: Services,
        handshake_errors: &Arc<AtomicU64>,
        metrics: &component_base::metrics::Metrics,
    ) {
        let s = Self {
            registry: Arc::downgrade(registry),
            services,
            handshake_errors: Arc::clone(handshake_errors),
        };
        metrics.register(|r| r.register_collector(Box::new(s)));
    }
}

fn gauge(
    e: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels, f64)>,
) -> Out {
    let kind = ConstGauge::new(0f64);
    let mut m = e.encode_descriptor(name, help, None, kind.metric_type())?;
    for (labels, value) in series {
        if labels.is_empty() {
            return ConstGauge::new(value).encode(m);
        }
        ConstGauge::new(value).encode(m.encode_family(&labels)?)?;
    }
    Ok(())
}

fn counter(
    e: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels, u64)>,
) -> Out {
    let kind = ConstCounter::new(0u64);
    let mut m = e.encode_descriptor(name, help, None, kind.metric_type())?;
    for (labels, value) in series {
        if labels.is_empty() {
            return ConstCounter::new(value).encode(m);
        }
        ConstCounter::new(value).encode(m.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Collector for State {
    fn encode(&self, mut e: DescriptorEncoder<'_>) -> Out {
        build(&mut e)?;
        counter(
            &mut e,
            "apiserver_tls_handshake_errors",
            "Number of requests dropped with 'TLS handshake error from' error",
            [(Vec::new(), self.handshake_errors.load(Ordering::Relaxed))],
        )?;
        allocators(&mut e, &self.services.usage())?;
        match self.registry.upgrade() {
            Some(r) => caches(&mut e, &r),
            None => Ok(()),
        }
    }
}

fn build(e: &mut DescriptorEncoder<'_>) -> Out {
    use component_base::version::{GIT_VERSION, MAJOR, MINOR, platform};
    let text = |s: &str| s.to_owned();
    gauge(
        e,
        "kubernetes_build_info",
        "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
        [(
            vec![
                ("build_date", text("1970-01-01T00:00:00Z")),
                ("compiler", text("rustc")),
                ("git_commit", String::new()),
                ("git_tree_state", text("clean")),
                ("git_version", text(GIT_VERSION)),
                ("go_version", String::new()),
                ("major", text(MAJOR)),
                ("minor", text(MINOR)),
                ("platform", platform()),
            ],
            1.0,
        )],
    )?;
    gauge(
        e,
        "version_info",
        "Provides the compatibility version info of the component. The component label is the name of the component, usually kube, but is relevant for aggregated-apiservers.",
        [(
            vec![
                ("binary", format!("{MAJOR}.{MINOR}")),
                ("component", text("kube")),
                ("emulation", format!("{MAJOR}.{MINOR}")),
                ("min_compat", format!("{MAJOR}.35")),
            ],
            1.0,
        )],
    )
}

fn allocators(e: &mut DescriptorEncoder<'_>, u: &Usage) -> Out {
    let cidr = |c: &str| ("cidr", c.to_owned());
    gauge(
        e,
        "kube_apiserver_clusterip_allocator_allocated_ips",
        "Gauge measuring the number of allocated IPs for Services",
        u.ranges.iter().map(|(c, taken, _)| (vec![cidr(c)], *taken as f64)),
    )?;
    gauge(
        e,
        "kube_apiserver_clusterip_allocator_available_ips",
        "Gauge measuring the number of available IPs for Services",
        u.ranges.iter().map(|(c, _, free)| (vec![cidr(c)], *free as f64)),
    )?;
    // Which of two ranges an address is from is not counted: the first stands for both.
    let first = u.ranges.first().map(|(c, ..)| c.as_str()).unwrap_or_default();
    let scope = |s: &str| ("scope", s.to_owned());
    let [ip_static, ip_dynamic, port_static, port_dynamic] = u.allocations;
    counter(
        e,
        "kube_apiserver_clusterip_allocator_allocation",
        "Number of Cluster IPs allocations",
        [(vec![cidr(first), scope("static")], ip_static), (vec![cidr(first), scope("dynamic")], ip_dynamic)],
    )?;
    gauge(
        e,
        "kube_apiserver_nodeport_allocator_allocated_ports",
        "Gauge measuring the number of allocated NodePorts for Services",
        [(Vec::new(), u.ports_taken as f64)],
    )?;
    gauge(
        e,
        "kube_apiserver_nodeport_allocator_available_ports",
        "Gauge measuring the number of available NodePorts for Services",
        [(Vec::new(), u.ports_free as f64)],
    )?;
    counter(
        e,
        "kube_apiserver_nodeport_allocator_allocation",
        "Number of NodePort allocations",
        [(vec![scope("static")], port_static), (vec![scope("dynamic")], port_dynamic)],
    )
}

fn caches(e: &mut DescriptorEncoder<'_>, r: &Registry) -> Out {
    let mut seen = HashSet::new();
    let mut all: Vec<(Arc<Storage>, Numbers)> = Vec::new();
    for s in r.table().iter().filter_map(|r| r.storage.as_ref()) {
        // Versions of a resource share its storage.
        if seen.insert(s.prefix.clone())
            && let Some(n) = s.cache.numbers()
        {
            all.push((Arc::clone(s), n));
        }
    }
    let labels = |s: &Storage| vec![("group", s.group.to_string()), ("resource", s.resource.to_string())];
    let gauges: [Read<f64>; 4] = [
        (
            "apiserver_resource_objects",
            "Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
            |n| n.objects as f64,
        ),
        (
            "apiserver_resource_size_estimate_bytes",
            "Estimated size of stored objects in database. Estimate is based on sum of last observed sizes of serialized objects. In case of a fetching error, the value will be -1.",
            |n| n.bytes as f64,
        ),
        ("watch_cache_capacity", "Total capacity of watch cache broken by resource type.", |n| {
            n.capacity as f64
        }),
        (
            "apiserver_watch_cache_resource_version",
            "Current resource version of watch cache broken by resource type.",
            |n| n.revision as f64,
        ),
    ];
    for (name, help, value) in gauges {
        gauge(e, name, help, all.iter().map(|(s, n)| (labels(s), value(n))))?;
    }
    let named = |s: &Storage| vec![("resource", crate::status::qualified(s.group, s.resource))];
    gauge(
        e,
        "apiserver_storage_objects",
        "Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        all.iter().map(|(s, n)| (named(s), n.objects as f64)),
    )?;
    let counters: [Read<u64>; 4] = [
        (
            "apiserver_watch_cache_events_received",
            "Counter of events received in watch cache broken by resource type.",
            |n| n.received,
        ),
        (
            "apiserver_watch_cache_events_dispatched",
            "Counter of events dispatched in watch cache broken by resource type.",
            |n| n.dispatched,
        ),
        (
            "apiserver_watch_cache_initializations",
            "Counter of watch cache initializations broken by resource type.",
            |n| n.fills,
        ),
        ("apiserver_storage_events_received", "Number of etcd events received split by kind.", |n| {
            n.received
        }),
    ];
    for (name, help, value) in counters {
        counter(e, name, help, all.iter().map(|(s, n)| (labels(s), value(n))))?;
    }
    counter(
        e,
        "watch_cache_capacity_increase",
        "Total number of watch cache capacity increase events broken by resource type.",
        all.iter().map(|(s, n)| (labels(s), n.grown)),
    )
}

//! What single parts of the server count. These are of the process, so that code deep inside needs no handle; every
//! server of the process shows the same.

use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::requests::exponential;
use crate::admission;
use crate::status::ApiResult;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Plugin {
    name: &'static str,
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Step {
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
    group: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupResource {
    group: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Indexed {
    group: String,
    resource: String,
    index: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Versioned {
    group: String,
    version: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scoped {
    group: String,
    version: String,
    resource: String,
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Streaming {
    subresource: String,
    proxy_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GraphAction {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LogUsage {
    usage: &'static str,
}

/// One judgement of a pod, or of what makes pods, by the pod security standards.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Evaluation {
    /// `allow`, `deny` or `error`.
    pub decision: &'static str,
    /// `enforce`, `audit` or `warn`.
    pub mode: &'static str,
    pub policy_level: String,
    pub policy_version: String,
    /// `create` or `update`.
    pub request_operation: &'static str,
    /// `pod` or `controller`.
    pub resource: &'static str,
    pub subresource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Body {
    group: String,
    resource: String,
    verb: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

struct Parts {
    plugins: Histograms<Plugin>,
    steps: Histograms<Step>,
    store: Family<Operation, Counter>,
    store_seconds: Histograms<Operation>,
    cached_lists: Family<Indexed, Counter>,
    cached_fetched: Family<Indexed, Counter>,
    cached_returned: Family<GroupResource, Counter>,
    stored_lists: Family<GroupResource, Counter>,
    stored_fetched: Family<GroupResource, Counter>,
    stored_evaluated: Family<GroupResource, Counter>,
    stored_returned: Family<GroupResource, Counter>,
    watch_events: Family<Versioned, Counter>,
    watch_sizes: Histograms<Versioned>,
    init_events: Family<GroupResource, Counter>,
    watch_lists: Histograms<Scoped>,
    streams: Family<Streaming, Counter>,
    graph: Histograms<GraphAction>,
    insecure_logs: Family<LogUsage, Counter>,
    evaluations: Family<Evaluation, Counter>,
    bodies: Histograms<Body>,
}

static PARTS: LazyLock<Parts> = LazyLock::new(|| {
    fn admission() -> Histogram {
        Histogram::new([0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0])
    }
    fn store() -> Histogram {
        Histogram::new([
            0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0,
            15.0, 20.0, 30.0, 45.0, 60.0,
        ])
    }
    Parts {
        plugins: Family::new_with_constructor(admission),
        steps: Family::new_with_constructor(admission),
        store: Family::default(),
        store_seconds: Family::new_with_constructor(store),
        cached_lists: Family::default(),
        cached_fetched: Family::default(),
        cached_returned: Family::default(),
        stored_lists: Family::default(),
        stored_fetched: Family::default(),
        stored_evaluated: Family::default(),
        stored_returned: Family::default(),
        watch_events: Family::default(),
        watch_sizes: Family::new_with_constructor(|| Histogram::new(exponential(1024.0, 2.0, 8))),
        init_events: Family::default(),
        watch_lists: Family::new_with_constructor(|| {
            Histogram::new([0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0])
        }),
        streams: Family::default(),
        graph: Family::new_with_constructor(|| Histogram::new(exponential(0.0001, 2.0, 12))),
        insecure_logs: Family::default(),
        evaluations: Family::default(),
        bodies: Family::new_with_constructor(|| {
            Histogram::new((0..31).map(|i| 50_000.0 + 100_000.0 * f64::from(i)))
        }),
    }
});

/// Shows these metrics in a server's registry.
pub fn register(registry: &component_base::metrics::Metrics) {
    let p = &*PARTS;
    registry.register(|r| {
        r.register(
            "apiserver_admission_controller_admission_duration_seconds",
            "Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
            p.plugins.clone(),
        );
        r.register(
            "apiserver_admission_step_admission_duration_seconds",
            "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
            p.steps.clone(),
        );
        r.register("etcd_requests", "Etcd request counts for each operation and object type.", p.store.clone());
        r.register(
            "etcd_request_duration_seconds",
            "Etcd request latency in seconds for each operation and object type.",
            p.store_seconds.clone(),
        );
        r.register(
            "apiserver_cache_list",
            "Number of LIST requests served from watch cache",
            p.cached_lists.clone(),
        );
        r.register(
            "apiserver_cache_list_fetched_objects",
            "Number of objects read from watch cache in the course of serving a LIST request",
            p.cached_fetched.clone(),
        );
        r.register(
            "apiserver_cache_list_returned_objects",
            "Number of objects returned for a LIST request from watch cache",
            p.cached_returned.clone(),
        );
        r.register(
            "apiserver_storage_list",
            "Number of LIST requests served from storage",
            p.stored_lists.clone(),
        );
        r.register(
            "apiserver_storage_list_fetched_objects",
            "Number of objects read from storage in the course of serving a LIST request",
            p.stored_fetched.clone(),
        );
        r.register(
            "apiserver_storage_list_evaluated_objects",
            "Number of objects tested in the course of serving a LIST request from storage",
            p.stored_evaluated.clone(),
        );
        r.register(
            "apiserver_storage_list_returned_objects",
            "Number of objects returned for a LIST request from storage",
            p.stored_returned.clone(),
        );
        r.register(
            "apiserver_watch_events",
            "Number of events sent in watch clients",
            p.watch_events.clone(),
        );
        r.register(
            "apiserver_watch_events_sizes",
            "Watch event size distribution in bytes",
            p.watch_sizes.clone(),
        );
        r.register(
            "apiserver_init_events",
            "Counter of init events processed in watch cache broken by resource type.",
            p.init_events.clone(),
        );
        r.register(
            "apiserver_watch_list_duration_seconds",
            "Response latency distribution in seconds for watch list requests broken by group, version, resource and scope.",
            p.watch_lists.clone(),
        );
        r.register(
            "apiserver_websocket_streaming_requests",
            "Total number of WebSocket streaming requests received by the API server, partitioned by the subresource (e.g. exec, attach, portforward) and the type of proxy.",
            p.streams.clone(),
        );
        r.register(
            "node_authorizer_graph_actions_duration_seconds",
            "Histogram of duration of graph actions in node authorizer.",
            p.graph.clone(),
        );
        r.register(
            "kube_apiserver_pod_logs_insecure_backend",
            "Total number of requests for pods/logs sliced by usage type: enforce_tls, skip_tls_allowed, skip_tls_denied",
            p.insecure_logs.clone(),
        );
        r.register(
            "pod_security_evaluations",
            "Number of policy evaluations that occurred, not counting ignored or exempt requests.",
            p.evaluations.clone(),
        );
        r.register(
            "apiserver_request_body_size_bytes",
            "Apiserver request body size in bytes broken out by resource and verb.",
            p.bodies.clone(),
        );
    });
}

fn rejected<T>(r: &ApiResult<T>) -> &'static str {
    if r.is_err() { "true" } else { "false" }
}

/// The series of one plugin that tell of one type of call, `admit` or `validate`, each made with its first use.
pub struct PluginSeries {
    name: &'static str,
    r#type: &'static str,
    /// By operation, and whether it was rejected.
    made: [[OnceLock<Histogram>; 2]; 4],
}

impl PluginSeries {
    pub fn new(name: &'static str, r#type: &'static str) -> Self {
        Self { name, r#type, made: Default::default() }
    }

    /// The plugin looked at one write.
    pub fn observe<T>(&self, operation: admission::Operation, result: &ApiResult<T>, took: Duration) {
        let series = self.made[operation as usize][usize::from(result.is_err())].get_or_init(|| {
            let (name, r#type) = (self.name, self.r#type);
            let l = Plugin { name, r#type, operation: operation.label(), rejected: rejected(result) };
            PARTS.plugins.get_or_create_owned(&l)
        });
        series.observe(took.as_secs_f64());
    }
}

/// All plugins looked at one write.
pub fn step<T>(r#type: &'static str, operation: &'static str, result: &ApiResult<T>, took: Duration) {
    let l = Step { r#type, operation, rejected: rejected(result) };
    PARTS.steps.get_or_create(&l).observe(took.as_secs_f64());
}

/// Something was asked of the store: `get`, `list`, `create`, `update` or `delete`.
pub fn store(operation: &'static str, group: &str, resource: &str, took: Duration) {
    let l = Operation { operation, group: group.to_owned(), resource: resource.to_owned() };
    PARTS.store.get_or_create(&l).inc();
    PARTS.store_seconds.get_or_create(&l).observe(took.as_secs_f64());
}

/// A list that was served from memory.
pub fn cached_list(group: &str, resource: &str, looked_at: usize, returned: usize) {
    let own = |s: &str| s.to_owned();
    let indexed = Indexed { group: own(group), resource: own(resource), index: "" };
    let plain = GroupResource { group: own(group), resource: own(resource) };
    PARTS.cached_lists.get_or_create(&indexed).inc();
    PARTS.cached_fetched.get_or_create(&indexed).inc_by(looked_at as u64);
    PARTS.cached_returned.get_or_create(&plain).inc_by(returned as u64);
}

/// A list that was read from the store.
pub fn stored_list(group: &str, resource: &str, looked_at: usize, returned: usize) {
    let l = GroupResource { group: group.to_owned(), resource: resource.to_owned() };
    PARTS.stored_lists.get_or_create(&l).inc();
    PARTS.stored_fetched.get_or_create(&l).inc_by(looked_at as u64);
    PARTS.stored_evaluated.get_or_create(&l).inc_by(looked_at as u64);
    PARTS.stored_returned.get_or_create(&l).inc_by(returned as u64);
}

/// The series of one watch.
pub struct WatchSeries {
    events: Counter,
    sizes: Histogram,
    labels: Versioned,
}

impl WatchSeries {
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        let labels =
            Versioned { group: group.to_owned(), version: version.to_owned(), resource: resource.to_owned() };
        Self {
            events: PARTS.watch_events.get_or_create_owned(&labels),
            sizes: PARTS.watch_sizes.get_or_create_owned(&labels),
            labels,
        }
    }

    pub fn event(&self, bytes: usize) {
        self.events.inc();
        self.sizes.observe(bytes as f64);
    }

    /// The state with which the watch began was sent.
    pub fn initialized(&self, events: u64) {
        let l = GroupResource { group: self.labels.group.clone(), resource: self.labels.resource.clone() };
        PARTS.init_events.get_or_create(&l).inc_by(events);
    }

    /// A client that asked for the state by way of the watch has it.
    pub fn listed(&self, scope: &'static str, took: Duration) {
        let l = &self.labels;
        let l = Scoped {
            group: l.group.clone(),
            version: l.version.clone(),
            resource: l.resource.clone(),
            scope,
        };
        PARTS.watch_lists.get_or_create(&l).observe(took.as_secs_f64());
    }
}

/// A WebSocket that carries exec, attach or port-forward.
pub fn stream(subresource: &str, proxy_type: &'static str) {
    let l = Streaming { subresource: subresource.to_owned(), proxy_type };
    PARTS.streams.get_or_create(&l).inc();
}

/// The body of a write.
pub fn body(group: &str, resource: &str, verb: &'static str, bytes: usize) {
    let l = Body { group: group.to_owned(), resource: resource.to_owned(), verb };
    PARTS.bodies.get_or_create(&l).observe(bytes as f64);
}

/// The node authorizer's graph took a change.
pub fn graph(operation: &'static str, took: Duration) {
    PARTS.graph.get_or_create(&GraphAction { operation }).observe(took.as_secs_f64());
}

/// Logs of a pod were asked for; whether the kubelet's certificate matters.
pub fn pod_logs(skip_tls: bool) {
    let usage = if skip_tls { "skip_tls_allowed" } else { "enforce_tls" };
    PARTS.insecure_logs.get_or_create(&LogUsage { usage }).inc();
}

/// A pod was judged.
pub fn evaluation(e: &Evaluation) {
    PARTS.evaluations.get_or_create(e).inc();
}

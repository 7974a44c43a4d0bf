//! The server's metrics, under upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::app::App;
use crate::http::request_info;
use crate::request::RequestInfo;

const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

/// Labels of one request; all static, so that counting allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    component: &'static str,
    dry_run: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    verb: &'static str,
    dry_run: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    component: &'static str,
    code: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

/// A request being measured.
pub struct Observed {
    labels: RequestLabels,
    long_running: bool,
    kind: KindLabels,
}

/// All metrics of the server.
pub struct Metrics {
    shared: component_base::metrics::Metrics,
    requests: Family<CodeLabels, Counter>,
    durations: Family<RequestLabels, Histogram, fn() -> Histogram>,
    inflight: Family<KindLabels, Gauge>,
    long_running: Family<RequestLabels, Gauge>,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Default for Metrics {
    fn default() -> Self {
        let shared = component_base::metrics::Metrics::default();
        let m = Self {
            shared: shared.clone(),
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            inflight: Family::default(),
            long_running: Family::default(),
        };
        shared.register(|r| {
            r.register(
                "apiserver_request",
                "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code",
                m.requests.clone(),
            );
            r.register(
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component",
                m.durations.clone(),
            );
            r.register(
                "apiserver_current_inflight_requests",
                "Maximal number of currently used inflight request limit of this apiserver per request kind in last second",
                m.inflight.clone(),
            );
            r.register(
                "apiserver_longrunning_requests",
                "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component",
                m.long_running.clone(),
            );
        });
        m
    }
}

fn verb_label(v: &str) -> &'static str {
    match v {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "proxy" => "CONNECT",
        "post" => "POST",
        "put" => "PUT",
        "head" => "HEAD",
        "options" => "OPTIONS",
        _ => "other",
    }
}

impl Metrics {
    /// The registry that other parts add theirs to.
    pub fn shared(&self) -> &component_base::metrics::Metrics {
        &self.shared
    }

    /// Everything as text.
    pub fn render(&self) -> String {
        self.shared.render()
    }

    /// Begins to measure a request.
    pub fn begin(&self, app: &App, info: &RequestInfo) -> Observed {
        let table = app.registry.table();
        let r = table.get(&info.api_group, &info.api_version, &info.resource);
        let r = r.filter(|_| info.is_resource);
        let sub = r.and_then(|r| r.subresource(&info.subresource)).map_or("", |s| s.name);
        let scope = match () {
            () if !info.is_resource => "",
            () if !info.name.is_empty() => "resource",
            () if !info.namespace.is_empty() => "namespace",
            () => "cluster",
        };
        let labels = RequestLabels {
            verb: verb_label(&info.verb),
            group: r.map_or("", |r| r.group),
            version: r.map_or("", |r| r.version),
            resource: r.map_or("", |r| r.resource),
            subresource: sub,
            scope,
            component: "apiserver",
            dry_run: "",
        };
        let mutating = !matches!(info.verb.as_str(), "get" | "list" | "watch");
        let kind = KindLabels { request_kind: if mutating { "mutating" } else { "readOnly" } };
        let long_running = request_info::is_long_running(info);
        if long_running {
            self.long_running.get_or_create(&labels).inc();
        } else {
            self.inflight.get_or_create(&kind).inc();
        }
        Observed { labels, long_running, kind }
    }

    /// Ends the measurement with the answer's code.
    pub fn end(&self, o: Observed, code: u16, took: Duration) {
        let l = o.labels;
        let counted = CodeLabels {
            verb: l.verb,
            dry_run: l.dry_run,
            group: l.group,
            version: l.version,
            resource: l.resource,
            subresource: l.subresource,
            scope: l.scope,
            component: l.component,
            code,
        };
        self.requests.get_or_create(&counted).inc();
        if o.long_running {
            self.long_running.get_or_create(&l).dec();
        } else {
            self.inflight.get_or_create(&o.kind).dec();
            self.durations.get_or_create(&l).observe(took.as_secs_f64());
        }
    }
}

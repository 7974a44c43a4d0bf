//! What every request counts. One look-up by its labels finds all its series; the labels are static, so that counting
//! allocates nothing.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http_body::Body as _;
use parking_lot::RwLock;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::app::App;
use crate::http::deprecation::Deprecated;
use crate::http::query::Query;
use crate::http::{Response, request_info};
use crate::request::RequestInfo;

const SECONDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
const FILTER_SECONDS: [f64; 13] =
    [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0, 10.0, 15.0, 30.0];

/// Upper bounds that grow by a factor.
pub fn exponential(start: f64, factor: f64, count: i32) -> impl Iterator<Item = f64> {
    (0..count).map(move |i| start * factor.powi(i))
}

/// Labels of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Labels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    dry_run: &'static str,
}

/// Which of the labels a metric has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shown {
    labels: Labels,
    dry_run: bool,
    code: Option<u16>,
}

impl EncodeLabelSet for Shown {
    fn encode(&self, e: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        let l = &self.labels;
        let mut pairs = vec![("component", "apiserver")];
        if self.dry_run {
            pairs.push(("dry_run", l.dry_run));
        }
        pairs.extend([
            ("group", l.group),
            ("resource", l.resource),
            ("scope", l.scope),
            ("subresource", l.subresource),
        ]);
        let code = self.code.map(|c| c.to_string());
        if let Some(c) = &code {
            pairs.insert(0, ("code", c));
            // Upstream's distributions tell their own components apart here.
            pairs.push(("system_client", ""));
        }
        pairs.extend([("verb", l.verb), ("version", l.version)]);
        pairs.as_slice().encode(e)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    request_kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FilterLabel {
    filter: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ValidationLabel {
    field_validation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeprecatedLabels {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: String,
    removed_release: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The series of one set of labels, each made with its first use.
#[derive(Default)]
struct Series {
    codes: RwLock<Vec<(u16, Counter)>>,
    duration: OnceLock<Histogram>,
    sli: OnceLock<Histogram>,
    size: OnceLock<Histogram>,
    running: OnceLock<Gauge>,
}

/// The families.
pub struct Requests {
    series: RwLock<HashMap<Labels, Arc<Series>>>,
    total: Family<Shown, Counter>,
    durations: Histograms<Shown>,
    sli: Histograms<Shown>,
    sizes: Histograms<Shown>,
    long_running: Family<Shown, Gauge>,
    terminations: Family<Shown, Counter>,
    in_flight: Family<Kind, Gauge>,
    in_queue: Family<Kind, Gauge>,
    filters: Histograms<FilterLabel>,
    validations: Histograms<ValidationLabel>,
    deprecated: Family<DeprecatedLabels, Gauge>,
}

/// A request being measured.
pub struct Observed {
    labels: Labels,
    series: Arc<Series>,
    long_running: bool,
    /// What a write asks to do about unknown fields.
    validation: Option<&'static str>,
}

/// Ends the measurement of what runs long.
struct End {
    requests: Arc<Requests>,
    observed: Observed,
    code: u16,
    started: Instant,
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(g) = self.observed.series.running.get() {
            g.dec();
        }
        self.requests.count(&self.observed, self.code, self.started.elapsed());
    }
}

fn verb_label(info: &RequestInfo, apply: bool) -> &'static str {
    if info.is_resource && matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "portforward") {
        return "CONNECT";
    }
    match info.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if apply => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "proxy" => "CONNECT",
        "head" => "HEAD",
        "options" => "OPTIONS",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match () {
        () if !info.is_resource => "",
        () if !info.name.is_empty() || info.verb == "create" => "resource",
        () if !info.namespace.is_empty() => "namespace",
        () => "cluster",
    }
}

impl Requests {
    pub fn new(registry: &component_base::metrics::Metrics) -> Arc<Self> {
        fn seconds() -> Histogram {
            Histogram::new(SECONDS)
        }
        let m = Self {
            series: RwLock::default(),
            total: Family::default(),
            durations: Family::new_with_constructor(seconds),
            sli: Family::new_with_constructor(seconds),
            sizes: Family::new_with_constructor(|| Histogram::new(exponential(1000.0, 10.0, 7))),
            long_running: Family::default(),
            terminations: Family::default(),
            in_flight: Family::default(),
            in_queue: Family::default(),
            filters: Family::new_with_constructor(|| Histogram::new(FILTER_SECONDS)),
            validations: Family::new_with_constructor(seconds),
            deprecated: Family::default(),
        };
        registry.register(|r| {
            r.register(
                "apiserver_request",
                "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
                m.total.clone(),
            );
            r.register(
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
                m.durations.clone(),
            );
            r.register(
                "apiserver_request_sli_duration_seconds",
                "Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
                m.sli.clone(),
            );
            r.register(
                "apiserver_response_sizes",
                "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
                m.sizes.clone(),
            );
            r.register(
                "apiserver_longrunning_requests",
                "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
                m.long_running.clone(),
            );
            r.register(
                "apiserver_request_terminations",
                "Number of requests which apiserver terminated in self-defense.",
                m.terminations.clone(),
            );
            r.register(
                "apiserver_current_inflight_requests",
                "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
                m.in_flight.clone(),
            );
            r.register(
                "apiserver_current_inqueue_requests",
                "Maximal number of queued requests in this apiserver per request kind in last second.",
                m.in_queue.clone(),
            );
            r.register(
                "apiserver_request_filter_duration_seconds",
                "Request filter latency distribution in seconds, for each filter type",
                m.filters.clone(),
            );
            r.register(
                "field_validation_request_duration_seconds",
                "Response latency distribution in seconds for each field validation value",
                m.validations.clone(),
            );
            r.register(
                "apiserver_requested_deprecated_apis",
                "Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
                m.deprecated.clone(),
            );
        });
        Arc::new(m)
    }

    pub fn begin(&self, app: &App, info: &RequestInfo, query: &Query, apply: bool) -> Observed {
        let table = app.registry.table();
        let r = table.get(&info.api_group, &info.api_version, &info.resource);
        let r = r.filter(|_| info.is_resource);
        let health = ["/healthz", "/livez", "/readyz"].into_iter().find(|p| info.path == *p);
        let sub = match r {
            Some(r) => r.subresource(&info.subresource).map_or("", |s| s.name),
            None => health.unwrap_or(""),
        };
        let labels = Labels {
            verb: verb_label(info, apply),
            group: r.map_or("", |r| r.group),
            version: r.map_or("", |r| r.version),
            resource: r.map_or("", |r| r.resource),
            subresource: sub,
            scope: scope(info),
            dry_run: if query.get("dryRun") == Some("All") { "All" } else { "" },
        };
        let known = self.series.read().get(&labels).cloned();
        let series = known.unwrap_or_else(|| Arc::clone(self.series.write().entry(labels).or_default()));
        let long_running = request_info::is_long_running(info);
        if long_running {
            let shown = Shown { labels, dry_run: false, code: None };
            series.running.get_or_init(|| self.long_running.get_or_create_owned(&shown)).inc();
        }
        let validated = matches!(info.verb.as_str(), "create" | "update" | "patch") && info.is_resource;
        let validation = validated.then(|| match query.get("fieldValidation") {
            None => "",
            Some("Ignore") => "Ignore",
            Some("Warn") => "Warn",
            Some("Strict") => "Strict",
            Some(_) => "invalid",
        });
        Observed { labels, series, long_running, validation }
    }

    fn count(&self, o: &Observed, code: u16, took: Duration) {
        let (s, labels) = (&o.series, o.labels);
        let known = s.codes.read().iter().find(|(c, _)| *c == code).map(|(_, n)| n.clone());
        let counter = known.unwrap_or_else(|| {
            let shown = Shown { labels, dry_run: true, code: Some(code) };
            let n = self.total.get_or_create_owned(&shown);
            s.codes.write().push((code, n.clone()));
            n
        });
        counter.inc();
        let shown = Shown { labels, dry_run: true, code: None };
        s.duration.get_or_init(|| self.durations.get_or_create_owned(&shown)).observe(took.as_secs_f64());
        if labels.verb != "WATCH" && labels.verb != "CONNECT" {
            let shown = Shown { labels: Labels { dry_run: "", ..labels }, dry_run: false, code: None };
            s.sli.get_or_init(|| self.sli.get_or_create_owned(&shown)).observe(took.as_secs_f64());
        }
    }

    pub fn end(self: &Arc<Self>, o: Observed, response: Response, started: Instant) -> Response {
        let code = response.status().as_u16();
        if o.long_running {
            let end = End { requests: Arc::clone(self), observed: o, code, started };
            return response.map(|b| b.followed_by(end));
        }
        let took = started.elapsed();
        self.count(&o, code, took);
        if let Some(field_validation) = o.validation {
            let l = ValidationLabel { field_validation };
            self.validations.get_or_create(&l).observe(took.as_secs_f64());
        }
        if matches!(o.labels.verb, "GET" | "LIST")
            && let Some(n) = response.body().size_hint().exact()
        {
            let shown = Shown { labels: Labels { dry_run: "", ..o.labels }, dry_run: false, code: None };
            o.series.size.get_or_init(|| self.sizes.get_or_create_owned(&shown)).observe(n as f64);
        }
        response
    }

    pub fn terminated(&self, o: &Observed, code: u16) {
        let labels = Labels { dry_run: "", ..o.labels };
        self.terminations.get_or_create(&Shown { labels, dry_run: false, code: Some(code) }).inc();
    }

    pub fn filter(&self, filter: &'static str, took: Duration) {
        self.filters.get_or_create(&FilterLabel { filter }).observe(took.as_secs_f64());
    }

    pub fn deprecated(&self, d: &Deprecated, info: &RequestInfo) {
        let l = DeprecatedLabels {
            group: d.group,
            version: d.version,
            resource: d.resource,
            subresource: info.subresource.clone(),
            removed_release: d.removed_release,
        };
        self.deprecated.get_or_create(&l).set(1);
    }

    pub fn set_in_flight(&self, executing: [i64; 2], waiting: [i64; 2]) {
        for (i, request_kind) in ["readOnly", "mutating"].into_iter().enumerate() {
            self.in_flight.get_or_create(&Kind { request_kind }).set(executing[i]);
            self.in_queue.get_or_create(&Kind { request_kind }).set(waiting[i]);
        }
    }
}

//! `apiserver_flowcontrol_*`: what requests count as they pass, and what is read from the levels when scraped.

use std::sync::{Arc, OnceLock, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;

use super::Controller;
use super::config::LevelView;
use super::queueset::Load;
use super::timing::Timing;

const SECONDS: [f64; 15] =
    [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0];
const LENGTHS: [f64; 9] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0];
const SEATS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
const WATCHES: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Flow {
    priority_level: String,
    flow_schema: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Wait {
    priority_level: String,
    flow_schema: String,
    execute: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Execution {
    priority_level: String,
    flow_schema: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reject {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The families.
#[derive(Clone)]
pub struct Metrics {
    dispatched: Family<Flow, Counter>,
    rejected: Family<Reject, Counter>,
    waited: Histograms<Wait>,
    executed: Histograms<Execution>,
    lengths: Histograms<Flow>,
    seats: Histograms<Flow>,
    watches: Histograms<Flow>,
}

/// The members of one flow schema and level. Each comes to be with its first use, as upstream's do.
#[derive(Clone)]
pub struct FlowMetrics {
    families: Metrics,
    flow: Flow,
    pub dispatched: Counter,
    lazy: Arc<[OnceLock<Histogram>; 7]>,
}

impl Metrics {
    pub fn new(registry: &component_base::metrics::Metrics) -> Self {
        fn seconds() -> Histogram {
            Histogram::new(SECONDS)
        }
        let m = Self {
            dispatched: Family::default(),
            rejected: Family::default(),
            waited: Family::new_with_constructor(seconds),
            executed: Family::new_with_constructor(seconds),
            lengths: Family::new_with_constructor(|| Histogram::new(LENGTHS)),
            seats: Family::new_with_constructor(|| Histogram::new(SEATS)),
            watches: Family::new_with_constructor(|| Histogram::new(WATCHES)),
        };
        registry.register(|r| {
            r.register(
                "apiserver_flowcontrol_dispatched_requests",
                "Number of requests executed by API Priority and Fairness subsystem",
                m.dispatched.clone(),
            );
            r.register(
                "apiserver_flowcontrol_rejected_requests",
                "Number of requests rejected by API Priority and Fairness subsystem",
                m.rejected.clone(),
            );
            r.register(
                "apiserver_flowcontrol_request_wait_duration_seconds",
                "Length of time a request spent waiting in its queue",
                m.waited.clone(),
            );
            r.register(
                "apiserver_flowcontrol_request_execution_seconds",
                "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
                m.executed.clone(),
            );
            r.register(
                "apiserver_flowcontrol_request_queue_length_after_enqueue",
                "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
                m.lengths.clone(),
            );
            r.register(
                "apiserver_flowcontrol_work_estimated_seats",
                "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness",
                m.seats.clone(),
            );
            r.register(
                "apiserver_flowcontrol_watch_count_samples",
                "count of watchers for mutating requests in API Priority and Fairness",
                m.watches.clone(),
            );
        });
        m
    }

    /// The handles of one flow, so that requests look nothing up.
    pub fn of_flow(&self, level: &str, schema: &str) -> FlowMetrics {
        let flow = Flow { priority_level: level.to_owned(), flow_schema: schema.to_owned() };
        FlowMetrics {
            families: self.clone(),
            dispatched: self.dispatched.get_or_create_owned(&flow),
            flow,
            lazy: Arc::default(),
        }
    }

    pub fn rejected(&self, level: &str, schema: &str, reason: &'static str) {
        let l = Reject { priority_level: level.to_owned(), flow_schema: schema.to_owned(), reason };
        self.rejected.get_or_create(&l).inc();
    }
}

impl FlowMetrics {
    fn get(&self, i: usize, make: impl FnOnce(Flow) -> Histogram) -> &Histogram {
        self.lazy[i].get_or_init(|| make(self.flow.clone()))
    }

    /// How long a request waited that was then executed or not.
    pub fn waited(&self, execute: bool) -> &Histogram {
        self.get(usize::from(execute), |f| {
            let execute = if execute { "true" } else { "false" };
            let l = Wait { priority_level: f.priority_level, flow_schema: f.flow_schema, execute };
            self.families.waited.get_or_create_owned(&l)
        })
    }

    fn executed(&self, i: usize, r#type: &'static str) -> &Histogram {
        self.get(i, |f| {
            let l = Execution { priority_level: f.priority_level, flow_schema: f.flow_schema, r#type };
            self.families.executed.get_or_create_owned(&l)
        })
    }

    pub fn executed_regular(&self) -> &Histogram {
        self.executed(2, "regular")
    }

    pub fn executed_watch(&self) -> &Histogram {
        self.executed(3, "watch")
    }

    pub fn queue_length(&self) -> &Histogram {
        self.get(4, |f| self.families.lengths.get_or_create_owned(&f))
    }

    pub fn seats(&self) -> &Histogram {
        self.get(5, |f| self.families.seats.get_or_create_owned(&f))
    }

    pub fn watch_count(&self, n: usize) {
        self.get(6, |f| self.families.watches.get_or_create_owned(&f)).observe(n as f64);
    }
}

/// What is read from the levels when somebody asks.
#[derive(Debug)]
pub struct Collected(Weak<Controller>);

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").finish_non_exhaustive()
    }
}

type Out = Result<(), std::fmt::Error>;

/// Level and schema.
type FlowKey = (Arc<str>, Arc<str>);

const PREFIX: &str = "apiserver_flowcontrol_";

impl Collected {
    pub fn register(c: &Arc<Controller>, registry: &component_base::metrics::Metrics) {
        registry.register(|r| r.register_collector(Box::new(Self(Arc::downgrade(c)))));
    }
}

impl Collector for Collected {
    fn encode(&self, mut e: DescriptorEncoder<'_>) -> Out {
        let Some(c) = self.0.upgrade() else { return Ok(()) };
        let views = c.views();
        levels(&mut e, &c, &views)?;
        flows(&mut e, &c, &views)?;
        histograms(&mut e, &c, &views)
    }
}

fn gauge(
    e: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Vec<(&'static str, String)>, f64)>,
) -> Out {
    let kind = ConstGauge::new(0f64);
    let name = format!("{PREFIX}{name}");
    let mut m = e.encode_descriptor(&name, help, None, kind.metric_type())?;
    for (labels, value) in series {
        if labels.is_empty() {
            return ConstGauge::new(value).encode(m);
        }
        ConstGauge::new(value).encode(m.encode_family(&labels)?)?;
    }
    Ok(())
}

fn levels(e: &mut DescriptorEncoder<'_>, c: &Controller, views: &[LevelView]) -> Out {
    type Value = fn(&LevelView) -> f64;
    let simple: [(&str, &str, Value); 9] = [
        (
            "nominal_limit_seats",
            "Nominal number of execution seats configured for each priority level",
            |v| v.limits.nominal as f64,
        ),
        (
            "lower_limit_seats",
            "Configured lower bound on number of execution seats available to each priority level",
            |v| v.limits.lower as f64,
        ),
        (
            "upper_limit_seats",
            "Configured upper bound on number of execution seats available to each priority level",
            |v| v.limits.upper as f64,
        ),
        (
            "current_limit_seats",
            "current derived number of execution seats available to each priority level",
            |v| v.limits.current as f64,
        ),
        (
            "demand_seats_high_watermark",
            "High watermark, over last adjustment period, of demand_seats",
            |v| v.demand.high,
        ),
        (
            "demand_seats_average",
            "Time-weighted average, over last adjustment period, of demand_seats",
            |v| v.demand.average,
        ),
        (
            "demand_seats_stdev",
            "Time-weighted standard deviation, over last adjustment period, of demand_seats",
            |v| v.demand.deviation,
        ),
        ("demand_seats_smoothed", "Smoothed seat demands", |v| v.demand.smoothed),
        ("target_seats", "Seat allocation targets", |v| v.target),
    ];
    let level = |v: &LevelView| ("priority_level", v.level.name.to_string());
    for (name, help, value) in simple {
        gauge(e, name, help, views.iter().map(|v| (vec![level(v)], value(v))))?;
    }
    let fair = c.levels.lock().fair_fraction;
    let help = "Fair fraction of server's concurrency to allocate to each priority level that can use it";
    gauge(e, "seat_fair_frac", help, [(Vec::new(), fair)])?;
    let now = c.now();
    let r = |v: &LevelView| (vec![level(v)], v.level.queues.lock().current_r(now));
    gauge(e, "current_r", "R(time of last change)", views.iter().map(r))?;
    let d = |v: &LevelView| v.level.queues.lock().dispatch;
    gauge(e, "dispatch_r", "R(time of last dispatch)", views.iter().map(|v| (vec![level(v)], d(v).r)))?;
    gauge(
        e,
        "latest_s",
        "S(most recently dispatched request)",
        views.iter().map(|v| (vec![level(v)], d(v).s)),
    )?;
    let bounds = |pick: fn(super::queueset::Dispatch) -> (f64, f64)| {
        views.iter().flat_map(move |v| {
            let (lo, hi) = pick(d(v));
            let of = |b: &str| vec![("bound", b.to_owned()), level(v)];
            [(of("min"), lo), (of("max"), hi)]
        })
    };
    let help = "min and max, over queues, of S(oldest waiting request in queue)";
    gauge(e, "next_s_bounds", help, bounds(|d| d.s_bounds))?;
    let help = "min and max, over queues, of S(oldest waiting request in queue) - estimated work in progress";
    gauge(e, "next_discounted_s_bounds", help, bounds(|d| d.discounted_bounds))
}

fn flows(e: &mut DescriptorEncoder<'_>, c: &Controller, views: &[LevelView]) -> Out {
    let mut loads: Vec<(FlowKey, Load)> = Vec::new();
    for s in &c.config.load().schemas {
        let key = (Arc::clone(&s.level.name), Arc::clone(&s.name));
        if !loads.iter().any(|(k, _)| *k == key) {
            loads.push((key, Load::default()));
        }
    }
    for v in views {
        v.level.queues.lock().load(|schema, l| {
            let of_flow = |k: &FlowKey| k.0 == v.level.name && k.1 == *schema;
            let at = match loads.iter().position(|(k, _)| of_flow(k)) {
                Some(at) => at,
                None => {
                    loads.push(((Arc::clone(&v.level.name), Arc::clone(schema)), Load::default()));
                    loads.len() - 1
                }
            };
            let sum = &mut loads[at].1;
            sum.executing += l.executing;
            sum.executing_seats += l.executing_seats;
            sum.waiting += l.waiting;
            sum.waiting_seats += l.waiting_seats;
        });
    }
    type Value = fn(&Load) -> u64;
    let gauges: [(&str, &str, Value); 4] = [
        (
            "current_executing_requests",
            "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
            |l| l.executing,
        ),
        (
            "current_executing_seats",
            "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
            |l| l.executing_seats,
        ),
        (
            "current_inqueue_requests",
            "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
            |l| l.waiting,
        ),
        (
            "current_inqueue_seats",
            "Number of seats currently pending in queues of the API Priority and Fairness subsystem",
            |l| l.waiting_seats,
        ),
    ];
    for (name, help, value) in gauges {
        let series = loads.iter().map(|((level, schema), l)| {
            let labels = vec![("flow_schema", schema.to_string()), ("priority_level", level.to_string())];
            (labels, value(l) as f64)
        });
        gauge(e, name, help, series)?;
    }
    Ok(())
}

fn timing(
    m: &mut prometheus_client::encoding::MetricEncoder<'_>,
    labels: &[(&'static str, String)],
    t: &mut Timing,
    now: super::Time,
) -> Out {
    let (sum, count, buckets) = t.read(now);
    let labels: Vec<(&'static str, String)> = labels.to_vec();
    m.encode_family(&labels)?
        .encode_histogram::<prometheus_client::encoding::NoLabelSet>(sum, count, &buckets, None)
}

fn histograms(e: &mut DescriptorEncoder<'_>, c: &Controller, views: &[LevelView]) -> Out {
    use prometheus_client::metrics::MetricType::Histogram as Kind;
    let now = c.now();
    let name = |v: &LevelView| ("priority_level", v.level.name.to_string());
    let phase = |p: &str| ("phase", p.to_owned());
    let mut m = e.encode_descriptor(
        "apiserver_flowcontrol_priority_level_request_utilization",
        "Observations, at the end of every nanosecond, of number of requests (as a fraction of the relevant limit) waiting or in any stage of execution (but only initial stage for WATCHes)",
        None,
        Kind,
    )?;
    for v in views {
        let mut q = v.level.queues.lock();
        timing(&mut m, &[phase("executing"), name(v)], &mut q.meters.executing, now)?;
        timing(&mut m, &[phase("waiting"), name(v)], &mut q.meters.waiting, now)?;
    }
    let mut m = e.encode_descriptor(
        "apiserver_flowcontrol_priority_level_seat_utilization",
        "Observations, at the end of every nanosecond, of utilization of seats for any stage of execution (but only initial stage for WATCHes)",
        None,
        Kind,
    )?;
    for v in views {
        timing(&mut m, &[phase("executing"), name(v)], &mut v.level.queues.lock().meters.seats, now)?;
    }
    let mut m = e.encode_descriptor(
        "apiserver_flowcontrol_demand_seats",
        "Observations, at the end of every nanosecond, of (the number of seats each priority level could use) / (nominal number of seats for that level)",
        None,
        Kind,
    )?;
    for v in views {
        timing(&mut m, &[name(v)], &mut v.level.queues.lock().meters.demand, now)?;
    }
    let mut m = e.encode_descriptor(
        "apiserver_flowcontrol_read_vs_write_current_requests",
        "Observations, at the end of every nanosecond, of the number of requests (as a fraction of the relevant limit) waiting or in regular stage of execution",
        None,
        Kind,
    )?;
    for (p, kinds) in [("executing", &c.executing), ("waiting", &c.waiting)] {
        for (kind, t) in ["readOnly", "mutating"].iter().zip(&kinds.timings) {
            timing(&mut m, &[phase(p), ("request_kind", (*kind).to_owned())], &mut t.lock(), now)?;
        }
    }
    Ok(())
}

//! The entry of requests: which flow, how many seats, now or later or not at all.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;

use super::Time;
use super::config::{Config, Levels, Schema};
use super::estimate::{self, Stats};
use super::metrics::Metrics;
use super::queueset::{Rejection, Start, Ticket, Work};
use super::timing::Timing;
use super::watchers::Watchers;
use crate::http::query::Query;
use crate::http::request_info;
use crate::request::{RequestInfo, UserInfo};

/// No request waits longer than this.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The response header that names a FlowSchema by uid.
pub const FLOW_SCHEMA_HEADER: &str = "x-kubernetes-pf-flowschema-uid";
/// The response header that names a PriorityLevelConfiguration by uid.
pub const PRIORITY_LEVEL_HEADER: &str = "x-kubernetes-pf-prioritylevel-uid";

const KIND_BUCKETS: &[f64] =
    &[0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];

/// Requests in one phase, reads and writes apart.
pub struct Kinds {
    counts: [AtomicI64; 2],
    /// The highest numbers since they were last asked for.
    highs: [AtomicI64; 2],
    pub timings: [Mutex<Timing>; 2],
}

impl Kinds {
    fn new() -> Self {
        let timing = || Mutex::new(Timing::new(KIND_BUCKETS, 0));
        Self { counts: Default::default(), highs: Default::default(), timings: [timing(), timing()] }
    }

    fn add(&self, now: Time, mutating: bool, delta: i64) {
        let i = usize::from(mutating);
        let n = self.counts[i].fetch_add(delta, Ordering::Relaxed) + delta;
        self.highs[i].fetch_max(n, Ordering::Relaxed);
        self.timings[i].lock().set(now, n as f64);
    }

    /// The most at a time since the last call, of reads and of writes.
    pub fn take_highs(&self) -> [i64; 2] {
        [0, 1].map(|i| {
            let now = self.counts[i].load(Ordering::Relaxed);
            self.highs[i].swap(now, Ordering::Relaxed).max(now)
        })
    }
}

tokio::task_local! {
    static HELD: Mutex<Option<Permit>>;
}

/// Runs a handler that may take the permit over, as watches do: they hold it until they are set up.
pub async fn holding<F: Future>(permit: Option<Permit>, f: F) -> F::Output {
    match permit {
        Some(p) => HELD.scope(Mutex::new(Some(p)), f).await,
        None => f.await,
    }
}

/// The permit of the request that this task serves; the first who asks gets it.
pub fn take_held() -> Option<Permit> {
    HELD.try_with(|p| p.lock().take()).ok().flatten()
}

/// Priority and fairness of one server.
pub struct Controller {
    pub(super) config: ArcSwap<Config>,
    pub(super) levels: Mutex<Levels>,
    pub watchers: Arc<Watchers>,
    pub metrics: Metrics,
    pub executing: Kinds,
    pub waiting: Kinds,
    hasher: RandomState,
    start: Instant,
    /// What `start` was on the clock.
    pub(super) started_at: SystemTime,
}

/// A request as it comes in.
pub struct Entry<'a> {
    pub info: &'a RequestInfo,
    pub user: &'a UserInfo,
    pub query: &'a Query,
    /// How much there is of the resource that a list or watch asks for.
    pub stats: Option<Stats>,
    /// How long it may take altogether; none where it has no end.
    pub timeout: Option<Duration>,
}

/// The classification, as response headers.
#[derive(Clone)]
pub struct Class {
    pub schema: HeaderValue,
    pub level: HeaderValue,
}

/// A refusal.
pub struct Refused {
    pub class: Class,
    /// Seconds.
    pub retry_after: u32,
}

impl Class {
    fn of(s: &Schema) -> Self {
        Self { schema: s.uid.clone(), level: s.level_uid.clone() }
    }

    /// Tells the client how its request was classified.
    pub fn tell(&self, headers: &mut http::HeaderMap) {
        headers.insert(FLOW_SCHEMA_HEADER, self.schema.clone());
        headers.insert(PRIORITY_LEVEL_HEADER, self.level.clone());
    }
}

/// Seats; dropping it frees them.
pub struct Permit {
    controller: Arc<Controller>,
    schema: Arc<Schema>,
    ticket: Ticket,
    since: Time,
    mutating: bool,
    watch: bool,
}

impl Permit {
    pub fn class(&self) -> Class {
        Class::of(&self.schema)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let c = &self.controller;
        let now = c.now();
        c.executing.add(now, self.mutating, -1);
        let took = Duration::from_nanos(now.saturating_sub(self.since)).as_secs_f64();
        let m = &self.schema.metrics;
        if self.watch { m.executed_watch() } else { m.executed_regular() }.observe(took);
        free(c, &self.schema, self.ticket, now);
    }
}

/// Ends a running request: wakes who is next, and frees the last seats later where there are such.
fn free(c: &Arc<Controller>, schema: &Arc<Schema>, ticket: Ticket, now: Time) {
    let (woken, later) = schema.level.queues.lock().finish(now, ticket);
    wake(woken);
    let Some(after) = later else { return };
    let (c, level) = (Arc::clone(c), Arc::clone(&schema.level));
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            runtime.spawn(async move {
                tokio::time::sleep(Duration::from_nanos(after)).await;
                let woken = level.queues.lock().release(c.now(), ticket);
                wake(woken);
            });
        }
        // The runtime is being shut down.
        Err(_) => wake(level.queues.lock().release(now, ticket)),
    }
}

fn wake(waiters: Vec<super::config::Wake>) {
    for w in waiters {
        // Who does not listen any more frees its seats by itself.
        let _ = w.send(());
    }
}

/// A place in a queue; dropped when the client has gone.
struct Waiting<'a> {
    controller: &'a Arc<Controller>,
    schema: &'a Arc<Schema>,
    ticket: Ticket,
    mutating: bool,
    done: bool,
}

impl Waiting<'_> {
    /// True: it may not run.
    fn give_up(&mut self, timed_out: bool) -> bool {
        self.done = true;
        let now = self.controller.now();
        self.controller.waiting.add(now, self.mutating, -1);
        self.schema.level.queues.lock().cancel(now, self.ticket, timed_out)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.done && !self.give_up(false) {
            free(self.controller, self.schema, self.ticket, self.controller.now());
        }
    }
}

impl Controller {
    /// `seats`: what the server runs at a time; a positive number.
    pub fn new(seats: u64, registry: &component_base::metrics::Metrics) -> Arc<Self> {
        let metrics = Metrics::new(registry);
        let mut levels = Levels::new(seats);
        let (config, _) = levels.digest(0, &[], &[], &metrics);
        let c = Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            levels: Mutex::new(levels),
            watchers: Arc::default(),
            metrics,
            executing: Kinds::new(),
            waiting: Kinds::new(),
            hasher: RandomState::new(),
            start: Instant::now(),
            started_at: SystemTime::now(),
        });
        for k in [&c.executing, &c.waiting] {
            for t in &k.timings {
                t.lock().set_denominator(0, seats as f64);
            }
        }
        super::metrics::Collected::register(&c, registry);
        c
    }

    pub fn now(&self) -> Time {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The schema of a request, and its level.
    pub fn classify(&self, info: &RequestInfo, user: &UserInfo) -> Option<Arc<Schema>> {
        let config = self.config.load();
        let found = config.schemas.iter().find(|s| s.matcher.matches(info, user));
        found.or_else(|| config.schemas.last()).cloned()
    }

    fn work(&self, e: &Entry<'_>, schema: &Schema, mutating: bool) -> Work {
        let max = schema.level.max_seats.load(Ordering::Relaxed);
        let work = match e.info.verb.as_str() {
            _ if !e.info.is_resource => Work::ONE,
            "list" | "watch" => estimate::list(e.info, e.query, e.stats, max),
            _ if mutating => {
                let n = self.watchers.interested(e.info);
                schema.metrics.watch_count(n);
                estimate::write(e.info, n, max)
            }
            _ => Work::ONE,
        };
        schema.metrics.seats().observe(f64::from(work.seats()));
        work
    }

    /// Waits for seats. The permit is held while the request runs (a watch: until it is set up).
    pub async fn enter(self: &Arc<Self>, e: &Entry<'_>) -> Result<Option<Permit>, Refused> {
        let Some(schema) = self.classify(e.info, e.user) else { return Ok(None) };
        let mutating = !matches!(e.info.verb.as_str(), "get" | "list" | "watch" | "head");
        let work = self.work(e, &schema, mutating);
        let distinguisher = if schema.queues { schema.matcher.distinguisher.of(e.info, e.user) } else { "" };
        let hash = if schema.queues { self.hasher.hash_one((&*schema.name, distinguisher)) } else { 0 };
        let details = super::dump::details(distinguisher, e.info, e.user);
        let now = self.now();
        let mut receiver = None;
        let start = {
            let mut q = schema.level.queues.lock();
            let start = q.start(now, work, hash, &schema.name, details, || {
                let (tx, rx) = tokio::sync::oneshot::channel();
                receiver = Some(rx);
                tx
            });
            if matches!(start, Start::Wait(..)) {
                let woken = q.dispatch_all(now);
                drop(q);
                wake(woken);
            }
            start
        };
        let ticket = match (start, receiver) {
            (Start::Execute(t), _) => {
                if schema.queues {
                    schema.metrics.queue_length().observe(1.0);
                }
                t
            }
            (Start::Wait(t, length), Some(rx)) => {
                schema.metrics.queue_length().observe(length as f64);
                self.wait(e, &schema, t, mutating, rx, now).await?
            }
            (Start::Wait(t, _), None) => {
                debug_assert!(false, "who waits was given a receiver");
                t
            }
            (Start::Reject(why), _) => return Err(self.refuse(&schema, why, now)),
        };
        let since = self.now();
        self.executing.add(since, mutating, 1);
        if !schema.exempt {
            schema
                .metrics
                .waited(true)
                .observe(Duration::from_nanos(since.saturating_sub(now)).as_secs_f64());
        }
        schema.metrics.dispatched.inc();
        let watch = e.info.is_resource && e.info.verb == "watch";
        Ok(Some(Permit { controller: Arc::clone(self), schema, ticket, since, mutating, watch }))
    }

    async fn wait(
        self: &Arc<Self>,
        e: &Entry<'_>,
        schema: &Arc<Schema>,
        ticket: Ticket,
        mutating: bool,
        rx: tokio::sync::oneshot::Receiver<()>,
        arrived: Time,
    ) -> Result<Ticket, Refused> {
        self.waiting.add(arrived, mutating, 1);
        let mut place = Waiting { controller: self, schema, ticket, mutating, done: false };
        let limit = e.timeout.map_or(MAX_WAIT, |t| (t / 4).min(MAX_WAIT));
        let granted = matches!(tokio::time::timeout(limit, rx).await, Ok(Ok(())));
        if place.give_up(!granted) {
            return Err(self.refuse(schema, Rejection::TimeOut, arrived));
        }
        Ok(ticket)
    }

    fn refuse(&self, schema: &Arc<Schema>, why: Rejection, arrived: Time) -> Refused {
        let waited = Duration::from_nanos(self.now().saturating_sub(arrived));
        if !schema.exempt {
            schema.metrics.waited(false).observe(waited.as_secs_f64());
        }
        self.metrics.rejected(&schema.level.name, &schema.name, why.reason());
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unix = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
        Refused { class: Class::of(schema), retry_after: schema.level.dropped.lock().record(unix) }
    }

    /// Whether this request takes no part: it runs long, and is no watch.
    pub fn passes(info: &RequestInfo) -> bool {
        request_info::is_long_running(info) && !(info.is_resource && info.verb == "watch")
    }
}

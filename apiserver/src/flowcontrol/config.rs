//! All levels and schemas together: rebuilt whenever an object changes, read by every request without a lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::HeaderValue;
use parking_lot::Mutex;
use serde_json::Value;

use super::Time;
use super::borrow::{self, Demand, Item};
use super::classify::Matcher;
use super::dropped::Dropped;
use super::level::Spec;
use super::metrics::{FlowMetrics, Metrics};
use super::queueset::{QueueSet, Response};
use crate::lookup::text;

/// Wakes a request that waits.
pub type Wake = tokio::sync::oneshot::Sender<()>;

const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
/// The share of a level's seats that one request may take, in percent.
const MAX_SEATS_PERCENT: f64 = 0.15;

/// One priority level. Lives as long as anything of it runs, across changes of its object.
pub struct Level {
    pub name: Arc<str>,
    pub queues: Mutex<QueueSet<Wake>>,
    pub dropped: Mutex<Dropped>,
    /// The most seats that one request may take; zero for no such bound.
    pub max_seats: AtomicU32,
}

/// Limits of a level, in seats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub nominal: u64,
    pub lower: u64,
    pub upper: u64,
    pub current: u64,
}

/// What the configuration knows of a level.
struct State {
    level: Arc<Level>,
    spec: Spec,
    uid: String,
    /// Its object is gone; it stays until nothing of it is left.
    quiescing: bool,
    limits: Limits,
    demand: Demand,
    target: f64,
}

/// A FlowSchema as requests meet it.
pub struct Schema {
    pub name: Arc<str>,
    pub uid: HeaderValue,
    pub matcher: Matcher,
    pub level: Arc<Level>,
    pub level_uid: HeaderValue,
    pub exempt: bool,
    /// More than one queue: which one matters.
    pub queues: bool,
    pub metrics: FlowMetrics,
}

/// What requests read.
#[derive(Default)]
pub struct Config {
    /// In matching order; the last matches everything.
    pub schemas: Vec<Arc<Schema>>,
}

/// A condition that a FlowSchema should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dangling {
    pub schema: String,
    pub dangling: bool,
    pub level: String,
}

impl Dangling {
    /// The condition without its time.
    pub fn condition(&self) -> Value {
        let level = &self.level;
        let about =
            format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
        let (status, reason, message) = if self.dangling {
            ("True", "NotFound", format!("{about} but there is no such object"))
        } else {
            ("False", "Found", format!("{about} and it exists"))
        };
        serde_json::json!({"type": "Dangling", "status": status, "reason": reason, "message": message})
    }
}

/// All levels.
pub struct Levels {
    seats: u64,
    nominal_sum: u64,
    states: BTreeMap<Arc<str>, State>,
    pub fair_fraction: f64,
    /// Schemas of which rejections were counted keep their metrics.
    flows: BTreeMap<(Arc<str>, Arc<str>), FlowMetrics>,
}

/// A level as metrics and debug tables show it.
pub struct LevelView {
    pub level: Arc<Level>,
    pub quiescing: bool,
    pub limits: Limits,
    pub demand: Demand,
    pub target: f64,
}

fn header(uid: &str) -> HeaderValue {
    HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn catch_all_schema() -> Value {
    let everything = serde_json::json!([
        {"kind": "Group", "group": {"name": "system:unauthenticated"}},
        {"kind": "Group", "group": {"name": "system:authenticated"}},
    ]);
    mandatory(CATCH_ALL, 10_000, everything, serde_json::json!({"type": "ByUser"}))
}

fn exempt_schema() -> Value {
    let masters = serde_json::json!([{"kind": "Group", "group": {"name": "system:masters"}}]);
    mandatory(EXEMPT, 1, masters, Value::Null)
}

fn mandatory(name: &str, precedence: u32, subjects: Value, distinguisher: Value) -> Value {
    serde_json::json!({
        "metadata": {"name": name},
        "spec": {
            "matchingPrecedence": precedence,
            "priorityLevelConfiguration": {"name": name},
            "distinguisherMethod": distinguisher,
            "rules": [{
                "subjects": subjects,
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }],
        },
    })
}

impl Levels {
    /// `seats`: what the server runs at a time.
    pub fn new(seats: u64) -> Self {
        Self { seats, nominal_sum: 0, states: BTreeMap::new(), fair_fraction: 0.0, flows: BTreeMap::new() }
    }

    /// Takes all objects as they are now. Who must be woken is, on return; what each FlowSchema's condition should be
    /// comes with the new configuration.
    pub fn digest(
        &mut self,
        now: Time,
        levels: &[Arc<Value>],
        schemas: &[Arc<Value>],
        metrics: &Metrics,
    ) -> (Config, Vec<Dangling>) {
        self.take_levels(now, levels);
        self.set_limits();
        self.adjust(now);
        self.take_schemas(schemas, metrics)
    }

    fn take_levels(&mut self, now: Time, objects: &[Arc<Value>]) {
        let mut seen: Vec<&str> = Vec::new();
        for o in objects {
            let name = text(o, "/metadata/name");
            match Spec::parse(o) {
                Ok(spec) => {
                    seen.push(name);
                    self.put(now, name, spec, text(o, "/metadata/uid"));
                }
                Err(e) => {
                    tracing::warn!(
                        priority_level = name,
                        error = e,
                        "a PriorityLevelConfiguration is ignored"
                    );
                }
            }
        }
        // These two exist whether or not there is an object, as last seen.
        for (name, spec) in [(EXEMPT, Spec::EXEMPT), (CATCH_ALL, Spec::CATCH_ALL)] {
            if !seen.contains(&name) {
                seen.push(name);
                if !self.states.contains_key(name) {
                    self.put(now, name, spec, "");
                }
            }
        }
        self.states.retain(|name, s| {
            s.quiescing = !seen.contains(&&**name);
            !s.quiescing || !s.level.queues.lock().is_idle() || Arc::strong_count(&s.level) > 2
        });
    }

    fn put(&mut self, now: Time, name: &str, spec: Spec, uid: &str) {
        if let Some(s) = self.states.get_mut(name) {
            s.spec = spec;
            uid.clone_into(&mut s.uid);
            return;
        }
        let name: Arc<str> = name.into();
        let level = Arc::new(Level {
            name: Arc::clone(&name),
            queues: Mutex::new(QueueSet::new(now)),
            dropped: Mutex::default(),
            max_seats: AtomicU32::new(0),
        });
        let state = State {
            level,
            spec,
            uid: uid.to_owned(),
            quiescing: false,
            limits: Limits::default(),
            demand: Demand::default(),
            target: 0.0,
        };
        self.states.insert(name, state);
    }

    fn set_limits(&mut self) {
        let shares: f64 = self.states.values().map(|s| f64::from(s.spec.shares)).sum();
        let seats = self.seats as f64;
        let mut sum = 0;
        for s in self.states.values_mut() {
            let nominal = if shares > 0.0 { (seats * f64::from(s.spec.shares) / shares).ceil() } else { 0.0 };
            let percent = |p: u32| (nominal * f64::from(p) / 100.0).round() as u64;
            let lendable = percent(s.spec.lendable_percent);
            let nominal = nominal as u64;
            s.limits.nominal = nominal;
            s.limits.lower = nominal - lendable.min(nominal);
            s.limits.upper = nominal + s.spec.borrowing_percent.map_or(self.seats, percent);
            sum += nominal;
            let max = match s.spec.response {
                Response::Queue { hand, .. } => {
                    let share = (nominal as f64 * MAX_SEATS_PERCENT).ceil();
                    (share.min((nominal / hand.max(1) as u64) as f64).max(1.0)) as u32
                }
                _ => 0,
            };
            s.level.max_seats.store(max, Ordering::Relaxed);
        }
        self.nominal_sum = sum;
    }

    /// Divides the seats anew by what was asked for since the last time; upstream does so every ten seconds.
    pub fn adjust(&mut self, now: Time) {
        let mut items = Vec::new();
        let mut remaining = self.nominal_sum as f64;
        let (mut lower_sum, mut floor_sum) = (0.0, 0.0);
        for s in self.states.values_mut() {
            let seen = s.level.queues.lock().take_demand(now);
            s.demand.update(seen);
            let lower = s.limits.lower as f64;
            if s.spec.is_exempt() {
                s.target = lower.max(s.demand.high);
                remaining -= s.target;
                continue;
            }
            let floor = s.floor();
            s.target = floor.max(s.demand.smoothed);
            lower_sum += lower;
            floor_sum += floor;
            items.push(Item { target: s.target, lower: floor, upper: s.limits.upper as f64 });
        }
        let division = if remaining <= lower_sum {
            Division::Lower
        } else if remaining <= floor_sum {
            Division::Between((remaining - lower_sum) / (floor_sum - lower_sum))
        } else {
            match borrow::allocate(self.nominal_sum as f64, &items) {
                Some((seats, fair)) => Division::Fair(seats, fair),
                None => {
                    tracing::error!(?items, "seats cannot be divided among priority levels: limits stay");
                    Division::Stay
                }
            }
        };
        self.fair_fraction = if let Division::Fair(_, f) = &division { *f } else { 0.0 };
        let mut limited = 0;
        for s in self.states.values_mut() {
            let current = if s.spec.is_exempt() {
                s.target
            } else {
                let lower = s.limits.lower as f64;
                let i = limited;
                limited += 1;
                match &division {
                    Division::Lower => lower,
                    Division::Between(part) => lower + ((s.floor() - lower) * part).round(),
                    Division::Fair(seats, _) => seats.get(i).copied().unwrap_or(lower).round(),
                    Division::Stay if s.limits.current == 0 => s.limits.nominal as f64,
                    Division::Stay => s.limits.current as f64,
                }
            };
            s.limits.current = current as u64;
            let denominator = match s.limits.current {
                0 => ((self.seats as f64 / 10.0).round() as u64).max(1),
                n => n,
            };
            let woken = s.level.queues.lock().configure(now, s.spec.response, s.limits.current, denominator);
            for w in woken {
                // Who does not listen any more frees its seats by itself.
                let _ = w.send(());
            }
        }
    }

    fn take_schemas(&mut self, objects: &[Arc<Value>], metrics: &Metrics) -> (Config, Vec<Dangling>) {
        let mut conditions = Vec::new();
        let mut parsed: Vec<(&Value, Matcher)> = Vec::new();
        for o in objects {
            let matcher = Matcher::parse(o);
            let found = self.states.get(matcher.level.as_str()).is_some_and(|s| !s.quiescing);
            let wanted = Dangling {
                schema: text(o, "/metadata/name").to_owned(),
                dangling: !found,
                level: matcher.level.clone(),
            };
            let as_is = crate::lookup::items(o, "/status/conditions").iter().any(|c| {
                let w = wanted.condition();
                ["type", "status", "reason", "message"].iter().all(|k| c.get(*k) == w.get(*k))
            });
            if !as_is {
                conditions.push(wanted);
            }
            if found {
                parsed.push((o, matcher));
            }
        }
        let (exempt, catch_all) = (exempt_schema(), catch_all_schema());
        parsed.sort_by(|(a, x), (b, y)| {
            (x.precedence, text(a, "/metadata/name")).cmp(&(y.precedence, text(b, "/metadata/name")))
        });
        let has = |name: &str| parsed.iter().any(|(o, _)| text(o, "/metadata/name") == name);
        let (add_exempt, add_catch_all) = (!has(EXEMPT), !has(CATCH_ALL));
        if add_exempt {
            parsed.insert(0, (&exempt, Matcher::parse(&exempt)));
        }
        if add_catch_all {
            parsed.push((&catch_all, Matcher::parse(&catch_all)));
        }
        let mut schemas = Vec::new();
        for (o, matcher) in parsed {
            let Some(s) = self.states.get(matcher.level.as_str()) else { continue };
            let name: Arc<str> = text(o, "/metadata/name").into();
            let flow = (Arc::clone(&s.level.name), Arc::clone(&name));
            let flow_metrics =
                self.flows.entry(flow).or_insert_with(|| metrics.of_flow(&s.level.name, &name)).clone();
            schemas.push(Arc::new(Schema {
                name,
                uid: header(text(o, "/metadata/uid")),
                matcher,
                level: Arc::clone(&s.level),
                level_uid: header(&s.uid),
                exempt: s.spec.is_exempt(),
                queues: matches!(s.spec.response, Response::Queue { queues, .. } if queues > 1),
                metrics: flow_metrics,
            }));
        }
        // Whatever matches nothing else goes there.
        if let Some(i) = schemas.iter().position(|s| &*s.name == CATCH_ALL) {
            let fallback = Arc::clone(&schemas[i]);
            schemas.push(fallback);
        }
        (Config { schemas }, conditions)
    }

    /// Levels whose object is gone and of which nothing is left go with the next digest.
    pub fn has_reapable(&self) -> bool {
        self.states.values().any(|s| s.quiescing && s.level.queues.lock().is_idle())
    }

    pub fn views(&self) -> Vec<LevelView> {
        let view = |s: &State| LevelView {
            level: Arc::clone(&s.level),
            quiescing: s.quiescing,
            limits: s.limits,
            demand: s.demand,
            target: s.target,
        };
        self.states.values().map(view).collect()
    }
}

enum Division {
    Lower,
    Between(f64),
    Fair(Vec<f64>, f64),
    Stay,
}

impl State {
    /// What the level may not be taken: what it used lately, as far as that is its own, or what it never lends.
    fn floor(&self) -> f64 {
        (self.limits.lower as f64).max((self.limits.nominal as f64).min(self.demand.high))
    }
}

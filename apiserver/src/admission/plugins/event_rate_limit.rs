//! `EventRateLimit`: bounds how many events are written, in all, by namespace, by user, or by source and object, with
//! a token bucket each. The least recently used buckets are forgotten when there are too many.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::field::{Error, ErrorList, Path};
use crate::lookup::text;
use crate::status::{ApiError, ApiResult};

/// Buckets of a limit whose configuration does not say.
const BUCKETS: usize = 4096;
const TYPES: [&str; 4] = ["Server", "Namespace", "User", "SourceAndObject"];

/// The plugin's configuration (`eventratelimit.admission.k8s.io/v1alpha1`).
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Configuration {
    limits: Vec<Limit>,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Limit {
    #[serde(rename = "type")]
    kind: String,
    qps: i32,
    burst: i32,
    #[serde(rename = "cacheSize")]
    cache_size: i32,
}

impl Configuration {
    /// Everything wrong with it.
    pub fn validate(&self) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("limits");
        if self.limits.is_empty() {
            errors.push(Error::invalid(&path, Value::Null, "must not be empty"));
        }
        for (i, l) in self.limits.iter().enumerate() {
            let at = path.index(i);
            if !TYPES.contains(&l.kind.as_str()) {
                errors.push(Error::not_supported(&at.child("type"), &l.kind, &TYPES));
            }
            for (name, value) in [("burst", l.burst), ("qps", l.qps)] {
                if value <= 0 {
                    errors.push(Error::invalid(&at.child(name), value, "must be positive"));
                }
            }
            if l.kind != "Server" && l.cache_size < 0 {
                errors.push(Error::invalid(&at.child("cacheSize"), l.cache_size, "must not be negative"));
            }
        }
        errors
    }
}

/// Tokens flow in at a rate, up to a bound.
struct Bucket {
    tokens: f64,
    filled: Instant,
    /// When it was last used, as a key of the cache's order.
    used: u64,
}

/// The buckets of one limit.
struct Buckets {
    limit: Limit,
    room: usize,
    by_key: HashMap<String, Bucket>,
    /// Keys by last use.
    order: BTreeMap<u64, String>,
    clock: u64,
}

impl Buckets {
    fn new(limit: Limit) -> Self {
        let room = match (limit.kind.as_str(), usize::try_from(limit.cache_size)) {
            ("Server", _) => 1,
            (_, Ok(n)) if n > 0 => n,
            _ => BUCKETS,
        };
        Self { limit, room, by_key: HashMap::new(), order: BTreeMap::new(), clock: 0 }
    }

    /// Takes a token of `key`, if there is one.
    fn take(&mut self, key: &str, now: Instant) -> bool {
        self.clock += 1;
        let burst = f64::from(self.limit.burst);
        if !self.by_key.contains_key(key) {
            if self.by_key.len() >= self.room
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.by_key.remove(&oldest);
            }
            self.by_key.insert(key.to_owned(), Bucket { tokens: burst, filled: now, used: self.clock });
        }
        let Some(b) = self.by_key.get_mut(key) else { return false };
        self.order.remove(&b.used);
        b.used = self.clock;
        self.order.insert(self.clock, key.to_owned());
        let passed = now.saturating_duration_since(b.filled).as_secs_f64();
        b.tokens = (b.tokens + passed * f64::from(self.limit.qps)).min(burst);
        b.filled = now;
        let enough = b.tokens >= 1.0;
        if enough {
            b.tokens -= 1.0;
        }
        enough
    }
}

struct EventRateLimit {
    limits: Vec<Mutex<Buckets>>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    let limits = env.configs.event_rate_limit.limits.iter();
    Arc::new(EventRateLimit { limits: limits.map(|l| Mutex::new(Buckets::new(l.clone()))).collect() })
}

fn key(kind: &str, attrs: &Attributes<'_>, event: &Value) -> String {
    match kind {
        "Namespace" => attrs.namespace.to_owned(),
        "User" => attrs.user.name.clone(),
        "SourceAndObject" => [
            "/source/component",
            "/source/host",
            "/involvedObject/kind",
            "/involvedObject/namespace",
            "/involvedObject/name",
            "/involvedObject/uid",
            "/involvedObject/apiVersion",
        ]
        .iter()
        .map(|p| text(event, p))
        .collect(),
        _ => String::new(),
    }
}

#[async_trait]
impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let written = matches!(attrs.operation, Operation::Create | Operation::Update);
        let is_event = attrs.group.is_empty() && attrs.kind == "Event";
        let Some(event) = object.filter(|_| written && is_event && !attrs.dry_run) else { return Ok(()) };
        let now = Instant::now();
        let mut reached = Vec::new();
        for limit in &self.limits {
            let mut limit = limit.lock();
            let kind = limit.limit.kind.clone();
            let key = key(&kind, attrs, event);
            if !limit.take(&key, now) {
                reached.push(format!("limit reached on type {kind} for key {key}"));
            }
        }
        match reached.as_slice() {
            [] => Ok(()),
            [one] => Err(ApiError::too_many_requests(one.clone(), 0)),
            several => Err(ApiError::too_many_requests(format!("[{}]", several.join(", ")), 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use serde_json::json;

    fn limit(kind: &str, qps: i32, burst: i32, cache_size: i32) -> Limit {
        Limit { kind: kind.into(), qps, burst, cache_size }
    }

    #[test]
    fn buckets_fill_and_are_forgotten() {
        let mut b = Buckets::new(limit("Namespace", 2, 3, 2));
        let start = Instant::now();
        assert!((0..3).all(|_| b.take("a", start)) && !b.take("a", start));
        assert!(b.take("a", start + Duration::from_millis(500)), "two a second flow in");
        assert!(!b.take("a", start + Duration::from_millis(500)));
        let later = start + Duration::from_millis(500);
        assert!(b.take("b", later) && !b.take("a", later));
        assert!(b.take("c", later), "b, used longest ago, is forgotten");
        assert_eq!((b.by_key.len(), b.order.len()), (2, 2));
        assert!(b.by_key.contains_key("a") && !b.by_key.contains_key("b"));
    }

    #[test]
    fn configurations_are_checked() {
        let c: Configuration = serde_json::from_value(json!({"limits": [{"type": "X", "qps": 1}]})).unwrap();
        assert_eq!(
            c.validate().aggregate(),
            "[limits[0].type: Unsupported value: \"X\": supported values: \"Server\", \"Namespace\", \"User\", \"SourceAndObject\", limits[0].burst: Invalid value: 0: must be positive]"
        );
        assert!(!Configuration::default().validate().is_empty());
    }
}

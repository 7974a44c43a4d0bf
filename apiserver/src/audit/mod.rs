//! Audit (`audit.k8s.io/v1`): who asked for what, and what came of it, as events to a log file or a webhook.
//!
//! | file | what |
//! | --- | --- |
//! | `policy.rs` | which requests at which level |
//! | `event.rs` | the event as it is written |
//! | `context.rs` | the event of one request as it grows |
//! | `backend.rs` | batching, truncation, loss |
//! | `log.rs`, `rotate.rs`, `webhook.rs` | where events go |
//! | `flags.rs` | `--audit-*` |
//!
//! The context of the request that a task serves is found through [`annotate`]: whoever decides something about a
//! request says so there, wherever in the code it is. Where nothing is audited that costs a look at a thread-local.

pub mod backend;
pub mod context;
pub mod event;
pub mod flags;
pub mod log;
pub mod policy;
pub mod rotate;
pub mod webhook;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::request::UserInfo;

pub use backend::Backend;
pub use context::Context;
pub use flags::AuditFlags;
pub use policy::{Level, Policy};

tokio::task_local! {
    static CURRENT: Arc<Context>;
}

/// Adds an annotation to the audit event of the request that this task serves. The first value of a key stays.
/// `value` is only made where the request is audited.
pub fn annotate<V: Into<String>>(key: &str, value: impl FnOnce() -> V) {
    let _ = CURRENT.try_with(|c| c.annotate(key, value().into()));
}

/// The same for what only events of at least this level may hold.
pub fn annotate_at<V: Into<String>>(level: Level, key: &str, value: impl FnOnce() -> V) {
    let _ = CURRENT.try_with(|c| {
        if c.level() >= level {
            c.annotate(key, value().into());
        }
    });
}

/// Notes as whom the request goes on; `constraint` names what limits the impersonation, where it is limited.
pub fn impersonated(user: &UserInfo, constraint: &str) {
    let _ = CURRENT.try_with(|c| c.impersonated(user, constraint));
}

/// Notes the body that the client sent.
pub fn request_body(body: &Bytes, content_type: &str) {
    let _ = CURRENT.try_with(|c| c.request_body(body, content_type));
}

/// Runs what serves a request, with its audit context where it has one.
pub async fn scope<F: Future>(context: Option<Arc<Context>>, f: F) -> F::Output {
    match context {
        Some(c) => CURRENT.scope(c, f).await,
        None => f.await,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabel {
    level: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabel {
    plugin: &'static str,
}

/// `apiserver_audit_*`.
#[derive(Clone, Default)]
pub struct Metrics {
    pub events: Counter,
    pub rejected: Counter,
    levels: Family<LevelLabel, Counter>,
    errors: Family<PluginLabel, Counter>,
}

impl Metrics {
    pub fn new(registry: &component_base::metrics::Metrics) -> Self {
        let m = Self::default();
        registry.register(|r| {
            r.register(
                "apiserver_audit_event",
                "Counter of audit events generated and sent to the audit backend.",
                m.events.clone(),
            );
            r.register(
                "apiserver_audit_error",
                "Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
                m.errors.clone(),
            );
            r.register(
                "apiserver_audit_level",
                "Counter of policy levels for audit events (1 per request).",
                m.levels.clone(),
            );
            r.register(
                "apiserver_audit_requests_rejected",
                "Counter of apiserver requests rejected due to an error in audit logging backend.",
                m.rejected.clone(),
            );
        });
        m
    }

    /// Events that a plugin lost.
    pub fn lost(&self, plugin: &'static str, events: usize) {
        self.errors.get_or_create(&PluginLabel { plugin }).inc_by(events as u64);
    }
}

/// The policy and where events go.
pub struct Auditor {
    policy: Policy,
    backends: Vec<Backend>,
    pub metrics: Metrics,
}

impl Auditor {
    pub fn new(policy: Policy, backends: Vec<Backend>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { policy, backends, metrics })
    }

    /// Begins the audit of a request, where the policy wants it.
    pub fn begin(self: &Arc<Self>, r: &context::Received<'_>) -> Option<Arc<Context>> {
        let rule = self.policy.evaluate(r.user, r.info);
        self.metrics.levels.get_or_create(&LevelLabel { level: rule.level.name() }).inc();
        (rule.level != Level::None).then(|| Arc::new(Context::new(Arc::clone(self), rule, r)))
    }

    /// False: an event could not be stored, and its request may not be served.
    fn process(&self, event: &Arc<event::Event>) -> bool {
        self.metrics.events.inc();
        let mut stored = true;
        for b in &self.backends {
            stored &= b.process(event);
        }
        stored
    }

    /// Sends what still waits; to be called when no request runs any more.
    pub async fn close(&self) {
        for b in &self.backends {
            b.close().await;
        }
    }
}

//! The authorizers' metrics, under upstream's names.

use std::time::Duration;

use component_base::metrics::Metrics as Shared;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::Decision;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    decision: &'static str,
    name: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    name: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionLabels {
    name: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    status: &'static str,
}

/// See the module.
#[derive(Debug)]
pub struct Metrics {
    decisions: Family<DecisionLabels, Counter>,
    attempts: Family<ResultLabels, Counter>,
    durations: Family<ResultLabels, Histogram, fn() -> Histogram>,
    webhook_evaluations: Family<WebhookLabels, Counter>,
    webhook_durations: Family<WebhookLabels, Histogram, fn() -> Histogram>,
    webhook_fail_open: Family<WebhookLabels, Counter>,
    condition_failures: Family<ConditionLabels, Counter>,
    condition_exclusions: Family<ConditionLabels, Counter>,
    condition_durations: Family<ConditionLabels, Histogram, fn() -> Histogram>,
    reloads: Family<ReloadLabels, Counter>,
    last_reload: Family<ReloadLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            decisions: Family::default(),
            attempts: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15))),
            webhook_evaluations: Family::default(),
            webhook_durations: Family::new_with_constructor(default_buckets),
            webhook_fail_open: Family::default(),
            condition_failures: Family::default(),
            condition_exclusions: Family::default(),
            condition_durations: Family::new_with_constructor(|| {
                Histogram::new([0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25])
            }),
            reloads: Family::default(),
            last_reload: Family::default(),
        }
    }
}

/// The buckets of Prometheus' client library.
fn default_buckets() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

impl Metrics {
    /// Adds all to the server's metrics.
    pub fn register(&self, shared: &Shared) {
        shared.register(|r| {
            r.register(
                "apiserver_authorization_decisions",
                "Total number of terminal decisions made by an authorizer split by authorizer type, name, and decision",
                self.decisions.clone(),
            );
            r.register(
                "authorization_attempts",
                "Counter of authorization attempts broken down by result",
                self.attempts.clone(),
            );
            r.register(
                "authorization_duration_seconds",
                "Authorization duration in seconds broken out by result",
                self.durations.clone(),
            );
            r.register(
                "apiserver_authorization_webhook_evaluations",
                "Round-trips to authorization webhooks",
                self.webhook_evaluations.clone(),
            );
            r.register(
                "apiserver_authorization_webhook_duration_seconds",
                "Request latency in seconds",
                self.webhook_durations.clone(),
            );
            r.register(
                "apiserver_authorization_webhook_evaluations_fail_open",
                "NoOpinion results due to webhook timeout or error",
                self.webhook_fail_open.clone(),
            );
            r.register(
                "apiserver_authorization_match_condition_evaluation_errors",
                "Total number of errors when an authorization webhook encounters a match condition error",
                self.condition_failures.clone(),
            );
            r.register(
                "apiserver_authorization_match_condition_exclusions",
                "Total number of exclusions when an authorization webhook is skipped because match conditions exclude it",
                self.condition_exclusions.clone(),
            );
            r.register(
                "apiserver_authorization_match_condition_evaluation_seconds",
                "Authorization match condition evaluation time in seconds",
                self.condition_durations.clone(),
            );
            r.register(
                "apiserver_authorization_config_controller_automatic_reloads",
                "Total number of automatic reloads of authorization configuration split by status",
                self.reloads.clone(),
            );
            r.register(
                "apiserver_authorization_config_controller_automatic_reload_last_timestamp_seconds",
                "Timestamp of the last automatic reload of authorization configuration split by status",
                self.last_reload.clone(),
            );
        });
    }

    /// One authorizer's answer; only those that end the round count.
    pub(super) fn decided(&self, kind: &'static str, name: &str, decision: &Decision) {
        let decision = match decision {
            Decision::Allow(_) => "allowed",
            d if d.is_denied() => "denied",
            _ => return,
        };
        self.decisions.get_or_create(&DecisionLabels { decision, name: name.to_owned(), r#type: kind }).inc();
    }

    /// The decision on a whole request.
    pub(super) fn attempted(&self, decision: &Decision, took: Duration) {
        let result = match decision {
            Decision::Allow(_) => "allowed",
            Decision::Failed(_) => "error",
            Decision::Deny(_) => "denied",
            Decision::NoOpinion(_) => "no-opinion",
        };
        let labels = ResultLabels { result };
        self.attempts.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(super) fn webhook_called(&self, name: &str, result: &'static str, took: Duration) {
        let labels = WebhookLabels { name: name.to_owned(), result };
        self.webhook_evaluations.get_or_create(&labels).inc();
        self.webhook_durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(super) fn webhook_failed_open(&self, name: &str, result: &'static str) {
        self.webhook_fail_open.get_or_create(&WebhookLabels { name: name.to_owned(), result }).inc();
    }

    pub(super) fn conditions_evaluated(&self, name: &str, result: &Result<bool, String>, took: Duration) {
        let labels = ConditionLabels { name: name.to_owned(), r#type: "Webhook" };
        self.condition_durations.get_or_create(&labels).observe(took.as_secs_f64());
        match result {
            Ok(true) => {}
            Ok(false) => drop(self.condition_exclusions.get_or_create(&labels).inc()),
            Err(_) => drop(self.condition_failures.get_or_create(&labels).inc()),
        }
    }

    /// A reload of the configuration file at `now` (seconds since the epoch).
    pub fn reloaded(&self, ok: bool, now: i64) {
        let labels = ReloadLabels { status: if ok { "success" } else { "failure" } };
        self.reloads.get_or_create(&labels).inc();
        self.last_reload.get_or_create(&labels).set(now);
    }
}

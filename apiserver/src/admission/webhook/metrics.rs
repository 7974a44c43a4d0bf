//! Metrics of admission webhooks, under upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    code: u16,
    rejected: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    error_type: &'static str,
    rejection_code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailedOpen {
    name: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Conditions {
    name: String,
    kind: &'static str,
    r#type: &'static str,
    operation: &'static str,
}

/// What happened to one call.
pub struct Observed<'a> {
    pub hook: &'a str,
    /// `admit` or `validating`
    pub phase: &'static str,
    pub operation: &'static str,
    pub took: Duration,
    pub code: u16,
    pub rejected: bool,
}

/// See the module.
pub struct Metrics {
    durations: Family<Called, Histogram, fn() -> Histogram>,
    requests: Family<Answered, Counter>,
    /// A gauge, since a counter would be called `…_count_total`.
    rejections: Family<Rejected, Gauge>,
    /// A gauge for the same reason.
    failed_open: Family<FailedOpen, Gauge>,
    exclusions: Family<Conditions, Counter>,
    evaluation_errors: Family<Conditions, Counter>,
}

fn histogram() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            durations: Family::new_with_constructor(histogram),
            requests: Family::default(),
            rejections: Family::default(),
            failed_open: Family::default(),
            exclusions: Family::default(),
            evaluation_errors: Family::default(),
        }
    }
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, metrics: &component_base::metrics::Metrics) {
        metrics.register(|r| {
            r.register(
                "apiserver_admission_webhook_admission_duration_seconds",
                "Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit)",
                self.durations.clone(),
            );
            r.register(
                "apiserver_admission_webhook_request",
                "Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation",
                self.requests.clone(),
            );
            r.register(
                "apiserver_admission_webhook_rejection_count",
                "Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation",
                self.rejections.clone(),
            );
            r.register(
                "apiserver_admission_webhook_fail_open_count",
                "Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit)",
                self.failed_open.clone(),
            );
            r.register(
                "apiserver_admission_match_condition_exclusions",
                "Admission match condition evaluation exclusions count, identified by name of resource containing the match condition",
                self.exclusions.clone(),
            );
            r.register(
                "apiserver_admission_match_condition_evaluation_errors",
                "Admission match condition evaluation errors count, identified by name of resource containing the match condition",
                self.evaluation_errors.clone(),
            );
        });
    }

    /// Notes a call.
    pub fn observe(&self, o: &Observed<'_>) {
        let rejected = if o.rejected { "true" } else { "false" };
        let name = o.hook.to_owned();
        let labels = Called { name: name.clone(), r#type: o.phase, operation: o.operation, rejected };
        self.durations.get_or_create(&labels).observe(o.took.as_secs_f64());
        let code = o.code.min(600);
        let labels = Answered { name, r#type: o.phase, operation: o.operation, code, rejected };
        self.requests.get_or_create(&labels).inc();
    }

    /// Notes a refused request.
    pub fn reject(
        &self,
        hook: &str,
        phase: &'static str,
        operation: &'static str,
        error_type: &'static str,
        code: u16,
    ) {
        let labels = Rejected {
            name: hook.to_owned(),
            r#type: phase,
            operation,
            error_type,
            rejection_code: code.min(600),
        };
        self.rejections.get_or_create(&labels).inc();
    }

    /// Notes a failed call that did not matter.
    pub fn fail_open(&self, hook: &str, phase: &'static str) {
        self.failed_open.get_or_create(&FailedOpen { name: hook.to_owned(), r#type: phase }).inc();
    }

    /// Notes a webhook that its conditions kept out.
    pub fn exclude(&self, hook: &str, phase: &'static str, operation: &'static str) {
        let labels = Conditions { name: hook.to_owned(), kind: "webhook", r#type: phase, operation };
        self.exclusions.get_or_create(&labels).inc();
    }

    /// Notes conditions that could not be evaluated.
    pub fn evaluation_error(&self, hook: &str, phase: &'static str, operation: &'static str) {
        let labels = Conditions { name: hook.to_owned(), kind: "webhook", r#type: phase, operation };
        self.evaluation_errors.get_or_create(&labels).inc();
    }
}

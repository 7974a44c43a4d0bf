//! Metrics of admission policies, under upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Checked {
    policy: String,
    policy_binding: String,
    error_type: &'static str,
    enforcement_action: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Mutated {
    policy: String,
    policy_binding: String,
    error_type: &'static str,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    Allow,
    Deny,
    Audit,
    Warn,
}

impl Enforcement {
    fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
            Self::Warn => "warn",
        }
    }
}

/// The kind of an error, by its sentence.
fn error_type(failed: Option<&str>) -> &'static str {
    match failed {
        None => "no_error",
        Some(m) if m.starts_with("compilation") => "compile_error",
        Some(m) if m.starts_with("validation failed due to running out of cost budget") => "out_of_budget",
        Some(_) => "invalid_error",
    }
}

fn histogram() -> Histogram {
    Histogram::new([0.000_000_5, 0.001, 0.01, 0.1, 1.0])
}

/// Metrics of validating policies.
pub struct Validating {
    checks: Family<Checked, Counter>,
    durations: Family<Checked, Histogram, fn() -> Histogram>,
}

/// Metrics of mutating policies.
pub struct Mutating {
    checks: Family<Mutated, Counter>,
    durations: Family<Mutated, Histogram, fn() -> Histogram>,
}

/// See the module.
pub struct Metrics {
    pub validating: Validating,
    pub mutating: Mutating,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            validating: Validating {
                checks: Family::default(),
                durations: Family::new_with_constructor(histogram),
            },
            mutating: Mutating {
                checks: Family::default(),
                durations: Family::new_with_constructor(histogram),
            },
        }
    }
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, metrics: &component_base::metrics::Metrics) {
        metrics.register(|r| {
            r.register(
                "apiserver_validating_admission_policy_check",
                "Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken",
                self.validating.checks.clone(),
            );
            r.register(
                "apiserver_validating_admission_policy_check_duration_seconds",
                "Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken",
                self.validating.durations.clone(),
            );
            r.register(
                "apiserver_mutating_admission_policy_check",
                "Mutation admission policy check total, labeled by policy and further identified by binding",
                self.mutating.checks.clone(),
            );
            r.register(
                "apiserver_mutating_admission_policy_check_duration_seconds",
                "Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding",
                self.mutating.durations.clone(),
            );
        });
    }
}

impl Validating {
    /// Notes a check; `failed` is the error of an expression that could not be evaluated.
    pub fn observe(
        &self,
        policy: &str,
        binding: &str,
        what: Enforcement,
        failed: Option<&str>,
        took: Duration,
    ) {
        let labels = Checked {
            policy: policy.to_owned(),
            policy_binding: binding.to_owned(),
            error_type: error_type(failed),
            enforcement_action: what.label(),
        };
        self.checks.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

impl Mutating {
    /// Notes a mutation, and its error if it failed.
    pub fn observe(&self, policy: &str, binding: &str, failed: Option<&str>, took: Duration) {
        let labels = Mutated {
            policy: policy.to_owned(),
            policy_binding: binding.to_owned(),
            error_type: error_type(failed),
        };
        self.checks.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

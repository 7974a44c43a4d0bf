//! Metrics of conversion webhooks, under upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::requests::exponential;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Converted {
    crd_name: String,
    from_version: String,
    to_version: String,
    succeeded: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    result: &'static str,
    failure_type: &'static str,
}

/// What can go wrong with a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Call,
    Malformed,
    Partial,
    InvalidObject,
    NoObjects,
}

impl Failure {
    fn label(self) -> &'static str {
        match self {
            Self::Call => "conversion_webhook_call_failure",
            Self::Malformed => "conversion_webhook_malformed_response_failure",
            Self::Partial => "conversion_webhook_partial_response_failure",
            Self::InvalidObject => "conversion_webhook_invalid_converted_object_failure",
            Self::NoObjects => "conversion_webhook_no_objects_returned_failure",
        }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Metrics {
    conversions: Family<Converted, Histogram, fn() -> Histogram>,
    calls: Family<Called, Counter>,
    call_seconds: Family<Called, Histogram, fn() -> Histogram>,
}

fn conversion() -> Histogram {
    Histogram::new(exponential(0.001, 2.0, 15))
}

fn call() -> Histogram {
    Histogram::new([0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            conversions: Family::new_with_constructor(conversion),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(call),
        }
    }
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, metrics: &component_base::metrics::Metrics) {
        metrics.register(|r| {
            r.register(
                "apiserver_crd_conversion_webhook_duration_seconds",
                "CRD webhook conversion duration in seconds",
                self.conversions.clone(),
            );
            r.register(
                "apiserver_conversion_webhook_request",
                "Counter for conversion webhook requests with success/failure and failure error type",
                self.calls.clone(),
            );
            r.register(
                "apiserver_conversion_webhook_duration_seconds",
                "Conversion webhook request latency",
                self.call_seconds.clone(),
            );
        });
    }

    /// Notes a conversion of objects of the definition `crd` between two versions, and how its call ended.
    pub fn observe(&self, crd: &str, from: &str, to: &str, took: Duration, failure: Option<Failure>) {
        let converted = Converted {
            crd_name: crd.to_owned(),
            from_version: from.to_owned(),
            to_version: to.to_owned(),
            succeeded: if failure.is_none() { "true" } else { "false" },
        };
        self.conversions.get_or_create(&converted).observe(took.as_secs_f64());
        let called = Called {
            result: if failure.is_none() { "success" } else { "failure" },
            failure_type: failure.map_or("", Failure::label),
        };
        self.calls.get_or_create(&called).inc();
        self.call_seconds.get_or_create(&called).observe(took.as_secs_f64());
    }
}

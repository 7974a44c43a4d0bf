//! Metrics of in-place resizes, under upstream's names.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use component_base::metrics::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use super::{Trigger, model::Operation};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Requested {
    resource: &'static str,
    requirement: &'static str,
    operation: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Success {
    success: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RetryTrigger {
    retry_trigger: &'static str,
}

/// Handles of the metrics.
#[derive(Clone)]
pub struct ResizeMetrics {
    requested: Family<Requested, Counter>,
    duration: Family<Success, Histogram, fn() -> Histogram>,
    pending: Family<Reason, Gauge>,
    in_progress: Arc<Gauge>,
    accepted: Family<RetryTrigger, Counter>,
}

fn milliseconds() -> Histogram {
    Histogram::new([10.0, 50.0, 100.0, 500.0, 1e3, 2e3, 5e3, 10e3, 20e3, 30e3, 60e3, 120e3, 300e3, 600e3])
}

impl Default for ResizeMetrics {
    fn default() -> Self {
        Self {
            requested: Family::default(),
            duration: Family::new_with_constructor(milliseconds),
            pending: Family::default(),
            in_progress: Arc::default(),
            accepted: Family::default(),
        }
    }
}

impl ResizeMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let m = Self::default();
        metrics.register(|r| {
            r.register(
                "kubelet_container_requested_resizes",
                "Number of requested resizes of containers, each resource and requirement on its own",
                m.requested.clone(),
            );
            r.register(
                "kubelet_pod_resize_duration_milliseconds",
                "Duration in milliseconds to actuate a pod resize",
                m.duration.clone(),
            );
            r.register(
                "kubelet_pod_pending_resizes",
                "Number of pending resizes for pods",
                m.pending.clone(),
            );
            r.register(
                "kubelet_pod_in_progress_resizes",
                "Number of in-progress resizes for pods",
                (*m.in_progress).clone(),
            );
            r.register(
                "kubelet_pod_deferred_accepted_resizes",
                "Cumulative number of resizes that were accepted after being deferred",
                m.accepted.clone(),
            );
        });
        m
    }

    /// A changed spec asks for this.
    pub fn requested(&self, (resource, requirement, operation): Operation) {
        self.requested.get_or_create(&Requested { resource, requirement, operation }).inc();
    }

    /// Containers and the pod's cgroup were given what is allocated, or that failed.
    pub fn actuated(&self, took: Duration, success: bool) {
        let label = Success { success: if success { "true" } else { "false" } };
        self.duration.get_or_create(&label).observe(took.as_millis() as f64);
    }

    /// A resize that was deferred has been allocated.
    pub fn accepted(&self, trigger: Trigger) {
        self.accepted.get_or_create(&RetryTrigger { retry_trigger: trigger.name() }).inc();
    }

    /// How many pods wait, by reason, and how many resizes are under way.
    pub fn set(&self, pending: &BTreeMap<String, i64>, in_progress: i64) {
        self.pending.clear();
        for (reason, n) in pending {
            self.pending.get_or_create(&Reason { reason: reason.clone() }).set(*n);
        }
        self.in_progress.set(in_progress);
    }
}

//! Metrics under upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Attempt {
    pub profile: String,
    pub result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct QueueLabel {
    pub queue: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Incoming {
    pub queue: &'static str,
    pub event: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RejectedBy {
    pub plugin: &'static str,
    pub profile: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Operation {
    pub operation: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CacheLabel {
    pub r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Tries {
    pub attempts: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ClaimCreate {
    pub status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DeviceWait {
    pub profile: String,
    pub driver: String,
    pub status: &'static str,
}

/// The scheduler's metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub attempts: Family<Attempt, Counter>,
    pub attempt_seconds: Family<Attempt, Histogram>,
    pub algorithm_seconds: Histogram,
    pub sli_seconds: Family<Tries, Histogram>,
    pub pod_attempts: Histogram,
    pub pending: Family<QueueLabel, Gauge>,
    pub incoming: Family<Incoming, Counter>,
    pub unschedulable: Family<RejectedBy, Gauge>,
    pub tasks: Family<Operation, Gauge>,
    pub cache_size: Family<CacheLabel, Gauge>,
    pub preemption_attempts: Counter,
    pub preemption_victims: Histogram,
    pub claim_creates: Family<ClaimCreate, Counter>,
    pub device_allocations: Family<DeviceWait, Counter>,
    pub device_waits: Family<DeviceWait, Histogram>,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn device_wait() -> Histogram {
    Histogram::new(exponential_buckets(0.1, 2.0, 14))
}

fn sli() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            attempt_seconds: Family::new_with_constructor(seconds),
            algorithm_seconds: seconds(),
            sli_seconds: Family::new_with_constructor(sli),
            pod_attempts: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            pending: Family::default(),
            incoming: Family::default(),
            unschedulable: Family::default(),
            tasks: Family::default(),
            cache_size: Family::default(),
            preemption_attempts: Counter::default(),
            preemption_victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            claim_creates: Family::default(),
            device_allocations: Family::default(),
            device_waits: Family::new_with_constructor(device_wait),
        }
    }
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, r: &mut Registry) {
        r.register(
            "scheduler_schedule_attempts",
            "Number of attempts to schedule pods, by the result",
            self.attempts.clone(),
        );
        r.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "Latency of a scheduling attempt, decision and binding",
            self.attempt_seconds.clone(),
        );
        r.register(
            "scheduler_scheduling_algorithm_duration_seconds",
            "Latency of the decision",
            self.algorithm_seconds.clone(),
        );
        r.register(
            "scheduler_pod_scheduling_sli_duration_seconds",
            "Latency from the moment a pod enters the queue until it is bound",
            self.sli_seconds.clone(),
        );
        r.register(
            "scheduler_pod_scheduling_attempts",
            "Number of attempts it took to schedule a pod",
            self.pod_attempts.clone(),
        );
        r.register("scheduler_pending_pods", "Number of pending pods, by queue", self.pending.clone());
        r.register(
            "scheduler_queue_incoming_pods",
            "Number of pods added to the queues, by event and queue",
            self.incoming.clone(),
        );
        r.register(
            "scheduler_unschedulable_pods",
            "Number of unschedulable pods, by the plugins that rejected them; a pod counts for each of them",
            self.unschedulable.clone(),
        );
        r.register(
            "scheduler_goroutines",
            "Number of tasks running now, by what they do: binding",
            self.tasks.clone(),
        );
        r.register("scheduler_cache_size", "Number of nodes, pods and assumed pods", self.cache_size.clone());
        r.register(
            "scheduler_preemption_attempts",
            "Number of attempts to preempt pods",
            self.preemption_attempts.clone(),
        );
        r.register(
            "scheduler_preemption_victims",
            "Number of victims of a preemption",
            self.preemption_victims.clone(),
        );
        r.register(
            "scheduler_resourceclaim_creates",
            "Number of ResourceClaims the scheduler asked to create, by result",
            self.claim_creates.clone(),
        );
        r.register(
            "scheduler_dra_bindingconditions_allocations",
            "Number of devices that had to be got ready before a pod was bound, by driver and result",
            self.device_allocations.clone(),
        );
        r.register(
            "scheduler_dra_bindingconditions_wait_duration_seconds",
            "Time spent waiting for devices to be got ready",
            self.device_waits.clone(),
        );
    }
}

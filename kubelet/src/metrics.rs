//! The kubelet's own metrics, under upstream's names.

use std::{sync::Arc, time::Duration};

use component_base::metrics::Metrics;
use k8s_openapi::api::core::v1::PodStatus;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets, exponential_buckets_range},
    },
};

use crate::status::terminations;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Operation {
    operation_type: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    container_state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct NodeName {
    node: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Devices {
    operation_name: &'static str,
    is_error: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Terminated {
    container_type: &'static str,
    exit_code: i32,
    reason: String,
}

type Durations = Family<Operation, Histogram, fn() -> Histogram>;

/// Handles of the registered metrics.
#[derive(Clone)]
pub struct KubeletMetrics {
    operations: Family<Operation, Counter>,
    errors: Family<Operation, Counter>,
    durations: Durations,
    running_pods: Gauge,
    running_containers: Family<State, Gauge>,
    start_duration: Arc<Histogram>,
    devices: Family<Devices, Histogram, fn() -> Histogram>,
    terminated: Family<Terminated, Counter>,
}

fn device_buckets() -> Histogram {
    Histogram::new(exponential_buckets_range(0.1, 40.0, 15))
}

fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.5, 14))
}

impl KubeletMetrics {
    pub fn register(metrics: &Metrics, node: &str) -> Self {
        let m = Self {
            operations: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(buckets),
            running_pods: Gauge::default(),
            running_containers: Family::default(),
            start_duration: Arc::new(buckets()),
            devices: Family::new_with_constructor(device_buckets),
            terminated: Family::default(),
        };
        let name: Family<NodeName, Gauge> = Family::default();
        name.get_or_create(&NodeName { node: node.to_owned() }).set(1);
        metrics.register(|r| {
            r.register("kubelet_node_name", "The node's name. The count is always 1", name);
            r.register(
                "kubelet_runtime_operations",
                "Cumulative number of runtime operations by operation type",
                m.operations.clone(),
            );
            r.register(
                "kubelet_runtime_operations_errors",
                "Cumulative number of runtime operation errors by operation type",
                m.errors.clone(),
            );
            r.register(
                "kubelet_runtime_operations_duration_seconds",
                "Duration in seconds of runtime operations by operation type",
                m.durations.clone(),
            );
            r.register(
                "kubelet_running_pods",
                "Number of pods that have a running pod sandbox",
                m.running_pods.clone(),
            );
            r.register(
                "kubelet_running_containers",
                "Number of containers currently running",
                m.running_containers.clone(),
            );
            r.register(
                "kubelet_pod_start_duration_seconds",
                "Duration in seconds from the kubelet seeing a pod to it running",
                (*m.start_duration).clone(),
            );
            r.register(
                "dra_operations_duration_seconds",
                "Duration in seconds of preparing and unpreparing all ResourceClaims of a pod",
                m.devices.clone(),
            );
            r.register(
                "kubelet_terminated_containers",
                "Cumulative number of container terminations.",
                m.terminated.clone(),
            );
        });
        m
    }

    /// One call to the runtime.
    pub fn runtime_operation(&self, name: &str, took: Duration, failed: bool) {
        let label = Operation { operation_type: name.to_owned() };
        self.operations.get_or_create(&label).inc();
        if failed {
            self.errors.get_or_create(&label).inc();
        }
        self.durations.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// All claims of a pod were prepared (`PrepareResources`) or unprepared (`UnprepareResources`), or not.
    pub fn devices(&self, operation_name: &'static str, took: Duration, failed: bool) {
        let label = Devices { operation_name, is_error: failed.to_string() };
        self.devices.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// A pod's status changes: the containers that have ended are counted.
    pub fn status_changed(&self, old: &PodStatus, new: &PodStatus) {
        for (container_type, end) in terminations::between(old, new) {
            let reason = end.reason.clone().unwrap_or_default();
            let label = Terminated { container_type, exit_code: end.exit_code, reason };
            self.terminated.get_or_create(&label).inc();
        }
    }

    /// What runs at present.
    pub fn set_running(&self, pods: i64, running: i64, exited: i64) {
        self.running_pods.set(pods);
        for (state, n) in [("running", running), ("exited", exited)] {
            self.running_containers.get_or_create(&State { container_state: state.into() }).set(n);
        }
    }

    pub fn pod_started(&self, took: Duration) {
        self.start_duration.observe(took.as_secs_f64());
    }
}

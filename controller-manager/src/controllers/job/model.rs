//! What a job and its pods say: defaults, labels, annotations, conditions.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use crate::util::{meta, pods};

/// Keeps a pod that has ended until it was counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of the completion index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation: how often pods of this index failed before this one.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The same for failures that a policy said not to count.
pub const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Environment variable with the index.
pub const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";
/// Value of `managedBy` that means this controller.
const OURS: &str = "kubernetes.io/job-controller";

pub const COMPLETE: &str = "Complete";
pub const FAILED: &str = "Failed";
pub const FAILURE_TARGET: &str = "FailureTarget";
pub const CRITERIA_MET: &str = "SuccessCriteriaMet";
pub const SUSPENDED: &str = "Suspended";

/// The spec; every stored job has one.
pub fn spec(job: &Job) -> JobSpec {
    job.spec.clone().unwrap_or_default()
}

pub fn indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub fn suspended(spec: &JobSpec) -> bool {
    spec.suspend == Some(true)
}

/// Who else manages the job, if somebody does.
pub fn managed_elsewhere(job: &Job) -> Option<&str> {
    job.spec.as_ref()?.managed_by.as_deref().filter(|m| *m != OURS)
}

/// Whether a pod is replaced only once it has failed, not when it begins to terminate.
pub fn only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

pub fn condition<'a>(status: Option<&'a JobStatus>, type_: &str) -> Option<&'a JobCondition> {
    status?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

pub fn is_true(status: Option<&JobStatus>, type_: &str) -> bool {
    condition(status, type_).is_some_and(|c| c.status == "True")
}

/// Whether it has ended, well or badly.
pub fn finished(job: &Job) -> bool {
    [COMPLETE, FAILED].iter().any(|t| is_true(job.status.as_ref(), t))
}

pub fn new_condition(type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(meta::api_time(now)),
        last_transition_time: Some(meta::api_time(now)),
    }
}

/// Sets a condition. Says whether anything changed; what was never true is not made false.
pub fn set_condition(status: &mut JobStatus, new: JobCondition) -> bool {
    let all = status.conditions.get_or_insert_default();
    match all.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) if old.status == new.status && old.reason == new.reason && old.message == new.message => {
            false
        }
        Some(old) => {
            *old = new;
            true
        }
        None if new.status == "False" => false,
        None => {
            all.push(new);
            true
        }
    }
}

/// The completion index of a pod; `None` where it has none that is a number.
pub fn index(pod: &Pod) -> Option<i32> {
    meta::annotation(&pod.metadata, INDEX)?.parse().ok().filter(|i| *i >= 0)
}

/// The index, if it is one the job still has.
pub fn valid_index(pod: &Pod, spec: &JobSpec) -> Option<i32> {
    index(pod).filter(|i| *i < spec.completions.unwrap_or(0))
}

/// Whether the pod waits to be counted.
pub fn tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// Whether the pod counts as failed. A pod that is being deleted does, because it may never get to say so; unless the
/// job wants to wait for its end.
pub fn failed(pod: &Pod, spec: &JobSpec) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod.metadata.deletion_timestamp.is_some() && !only_failed(spec),
    }
}

/// Failures of the index before this pod: counted ones, ignored ones. Nonsense counts as none.
pub fn index_failures(pod: &Pod) -> (i32, i32) {
    let number = |key| {
        meta::annotation(&pod.metadata, key)
            .and_then(|v| v.parse().ok())
            .filter(|n: &i32| *n >= 0)
            .unwrap_or(0)
    };
    (number(FAILURES), number(IGNORED))
}

//! What the job controller measures, under upstream's names.

use std::time::Duration;

use component_base::metrics::Metrics as Registry;
use k8s_openapi::api::batch::v1::{JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::model;
use crate::util::pods;

type Labels<const N: usize> = [(&'static str, String); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;

fn sync_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.004, 2.0, 15))
}

/// Counters and times of the job controller.
#[derive(Clone, Debug)]
pub struct JobMetrics {
    syncs: Counters<3>,
    seconds: Family<Labels<3>, Histogram, fn() -> Histogram>,
    finished: Counters<3>,
    pods_finished: Counters<2>,
    pods_created: Counters<2>,
    tracked: Counters<1>,
}

impl Default for JobMetrics {
    fn default() -> Self {
        Self {
            syncs: Family::default(),
            seconds: Family::new_with_constructor(sync_seconds),
            finished: Family::default(),
            pods_finished: Family::default(),
            pods_created: Family::default(),
            tracked: Family::default(),
        }
    }
}

fn mode(spec: &JobSpec) -> (&'static str, String) {
    ("completion_mode", if model::indexed(spec) { "Indexed".into() } else { "NonIndexed".into() })
}

fn amount(n: i32) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

impl JobMetrics {
    /// Shows them.
    pub fn register(&self, registry: &Registry) {
        registry.register(|r| {
            r.register("job_controller_job_syncs", "The number of job syncs", self.syncs.clone());
            let help = "The time it took to sync a job";
            r.register("job_controller_job_sync_duration_seconds", help, self.seconds.clone());
            r.register("job_controller_jobs_finished", "The number of finished jobs", self.finished.clone());
            let help = "The number of finished Pods that are fully tracked";
            r.register("job_controller_job_pods_finished", help, self.pods_finished.clone());
            let help = "The number of Pods created by the Job controller labelled with a reason for the Pod creation";
            r.register("job_controller_job_pods_creation", help, self.pods_created.clone());
            let help = "The number of terminated pods (phase=Failed|Succeeded) that have the finalizer batch.kubernetes.io/job-tracking";
            r.register("job_controller_terminated_pods_tracking_finalizer", help, self.tracked.clone());
        });
    }

    /// A job was looked at.
    pub fn synced(&self, spec: &JobSpec, ok: bool, action: &str, took: Duration) {
        let result = if ok { "success" } else { "error" };
        let labels = [mode(spec), ("result", result.into()), ("action", action.into())];
        self.syncs.get_or_create(&labels).inc();
        self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A job ended.
    pub fn ended(&self, spec: &JobSpec, succeeded: bool, reason: &str) {
        let result = if succeeded { "succeeded" } else { "failed" };
        let labels = [mode(spec), ("result", result.into()), ("reason", reason.into())];
        self.finished.get_or_create(&labels).inc();
    }

    /// A job's counts were written.
    pub fn counted(&self, spec: &JobSpec, old: Option<&JobStatus>, new: Option<&JobStatus>) {
        let read =
            |s: Option<&JobStatus>| s.map_or((0, 0), |s| (s.succeeded.unwrap_or(0), s.failed.unwrap_or(0)));
        let (old, new) = (read(old), read(new));
        for (result, n) in [("succeeded", new.0 - old.0), ("failed", new.1 - old.1)] {
            if n > 0 {
                self.pods_finished.get_or_create(&[mode(spec), ("result", result.into())]).inc_by(amount(n));
            }
        }
    }

    /// Pods were made, and some could not be.
    pub fn created(&self, reason: &str, made: i32, failed: i32) {
        for (status, n) in [("succeeded", made), ("failed", failed)] {
            if n > 0 {
                let labels = [("reason", reason.to_owned()), ("status", status.into())];
                self.pods_created.get_or_create(&labels).inc_by(amount(n));
            }
        }
    }

    /// A pod changed: counts those that ended and wait to be counted.
    pub fn pod_changed(&self, old: Option<&Pod>, new: Option<&Pod>) {
        let waits = |p: Option<&Pod>| p.is_some_and(|p| pods::is_terminal(p) && model::tracked(p));
        let event = match (waits(old), waits(new)) {
            (false, true) => "add",
            (true, false) => "delete",
            _ => return,
        };
        self.tracked.get_or_create(&[("event", event.into())]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodStatus;

    #[test]
    fn names_and_labels_are_upstreams() {
        let (metrics, registry) = (JobMetrics::default(), Registry::default());
        metrics.register(&registry);
        let spec = JobSpec { completion_mode: Some("Indexed".into()), ..JobSpec::default() };
        metrics.synced(&spec, true, "tracking", Duration::from_millis(5));
        metrics.ended(&spec, true, "CompletionsReached");
        let status = JobStatus { succeeded: Some(3), failed: Some(1), ..JobStatus::default() };
        metrics.counted(&spec, None, Some(&status));
        metrics.counted(&spec, Some(&status), Some(&status));
        metrics.created("new", 4, 0);
        let mut pod = Pod::default();
        pod.metadata.finalizers = Some(vec![model::FINALIZER.into()]);
        pod.status = Some(PodStatus { phase: Some("Failed".into()), ..PodStatus::default() });
        metrics.pod_changed(None, Some(&pod));
        metrics.pod_changed(Some(&pod), None);
        let shown = registry.render();
        for line in [
            r#"job_controller_job_syncs_total{completion_mode="Indexed",result="success",action="tracking"} 1"#,
            r#"job_controller_jobs_finished_total{completion_mode="Indexed",result="succeeded",reason="CompletionsReached"} 1"#,
            r#"job_controller_job_pods_finished_total{completion_mode="Indexed",result="succeeded"} 3"#,
            r#"job_controller_job_pods_finished_total{completion_mode="Indexed",result="failed"} 1"#,
            r#"job_controller_job_pods_creation_total{reason="new",status="succeeded"} 4"#,
            r#"job_controller_terminated_pods_tracking_finalizer_total{event="add"} 1"#,
            r#"job_controller_terminated_pods_tracking_finalizer_total{event="delete"} 1"#,
            "job_controller_job_sync_duration_seconds_count",
        ] {
            assert!(shown.contains(line), "{line} in {shown}");
        }
    }
}

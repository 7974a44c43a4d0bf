//! How long to wait before failed pods are replaced: 10 s after the first failure, doubling, 10 min at most.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::model;
use crate::util::{meta, pods};

const BASE: SignedDuration = SignedDuration::from_secs(10);
const MAX: SignedDuration = SignedDuration::from_mins(10);

/// Failures in a row, as far as this process has seen them: after a restart waits begin anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    failures: u32,
    last: Option<Timestamp>,
}

impl Record {
    /// Takes pods into account that ended since. A success ends the row.
    #[must_use]
    pub fn after<'a>(
        self,
        succeeded: impl Iterator<Item = &'a Pod>,
        failed: impl Iterator<Item = &'a Pod>,
    ) -> Self {
        let success = succeeded.map(finished_at).max();
        let mut next = if success.is_some() { Self::default() } else { self };
        for at in failed.map(finished_at).filter(|at| success.is_none_or(|s| *at > s)) {
            next.failures = next.failures.saturating_add(1);
            next.last = next.last.max(Some(at));
        }
        next
    }

    /// What is left of the wait; `None`: go on.
    pub fn left(self, now: Timestamp) -> Option<SignedDuration> {
        remaining(self.failures, self.last?, now)
    }
}

/// What is left of the wait of an index whose last pod was `pod`.
pub fn left_of_index(pod: &Pod, now: Timestamp) -> Option<SignedDuration> {
    let (counted, ignored) = model::index_failures(pod);
    remaining(counted.saturating_add(ignored).saturating_add(1).unsigned_abs(), finished_at(pod), now)
}

fn remaining(failures: u32, last: Timestamp, now: Timestamp) -> Option<SignedDuration> {
    let doublings = failures.checked_sub(1)?.min(10);
    let wait = BASE.checked_mul(1 << doublings).map_or(MAX, |w| w.min(MAX));
    Some(wait - now.duration_since(last)).filter(|left| left.is_positive())
}

/// When a pod ended: its containers know best, else the moment it stopped being ready, else that of its deletion.
pub fn finished_at(pod: &Pod) -> Timestamp {
    let not_ready = || {
        pods::condition(pod, "Ready")
            .filter(|c| c.status == "False")
            .and_then(|c| c.last_transition_time.as_ref())
            .map(|t| t.0)
    };
    let deleted = || {
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        at.checked_sub(SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0)))
            .ok()
    };
    containers_ended(pod).or_else(not_ready).or_else(deleted).unwrap_or_else(|| meta::created(&pod.metadata))
}

/// When the last container ended, sidecars included; `None` if one has not, or there is none.
fn containers_ended(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ended =
        |c: &ContainerStatus| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0);
    let sidecars: Vec<&str> = pods::sidecars(pod).collect();
    let init =
        status.init_container_statuses.iter().flatten().filter(|c| sidecars.contains(&c.name.as_str()));
    let all: Option<Vec<Timestamp>> =
        status.container_statuses.iter().flatten().chain(init).map(ended).collect();
    all?.into_iter().max()
}

/// Whether containers that are restarted in place have failed often enough.
pub fn too_many_restarts<'a>(spec: &JobSpec, pods: impl Iterator<Item = &'a Pod>) -> bool {
    let policy = spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let restarts: i64 = pods
        .filter(|p| matches!(pods::phase(p), "Running" | "Pending"))
        .filter_map(|p| p.status.as_ref())
        .flat_map(|s| s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten()))
        .map(|c| i64::from(c.restart_count))
        .sum();
    restarts >= i64::from(spec.backoff_limit.unwrap_or(6)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{
        ContainerState, ContainerStateTerminated, PodSpec, PodStatus, PodTemplateSpec,
    };

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(100_000 + s).unwrap_or_default()
    }

    fn ended(s: i64) -> Pod {
        let terminated = ContainerStateTerminated {
            finished_at: Some(meta::api_time(at(s))),
            ..ContainerStateTerminated::default()
        };
        let c = ContainerStatus {
            state: Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() }),
            ..ContainerStatus::default()
        };
        Pod {
            status: Some(PodStatus { container_statuses: Some(vec![c]), ..PodStatus::default() }),
            ..Pod::default()
        }
    }

    #[test]
    fn waits_double_and_a_success_ends_them() {
        let none = || [].iter();
        let secs = |r: Record, now| r.left(at(now)).map(|d| d.as_secs());
        let one = Record::default().after(none(), [ended(0)].iter());
        assert_eq!(secs(one, 3), Some(7));
        assert_eq!(secs(one, 11), None);
        let three = one.after(none(), [ended(20), ended(15)].iter());
        assert_eq!(secs(three, 20), Some(40));
        let mut many = three;
        for _ in 0..50 {
            many = many.after(none(), [ended(20)].iter());
        }
        assert_eq!(secs(many, 20), Some(600));
        assert_eq!(many.after([ended(30)].iter(), none()), Record::default());
        let later = many.after([ended(30)].iter(), [ended(29), ended(31)].iter());
        assert_eq!(secs(later, 31), Some(10), "one failure after the success");
        assert_eq!(many.after(none(), none()), many);
    }

    #[test]
    fn ends_without_containers() {
        let mut p = Pod::default();
        p.metadata.creation_timestamp = Some(meta::api_time(at(1)));
        assert_eq!(finished_at(&p), at(1));
        p.metadata.deletion_timestamp = Some(meta::api_time(at(40)));
        p.metadata.deletion_grace_period_seconds = Some(30);
        assert_eq!(finished_at(&p), at(10));
        let mut running = ended(5);
        running.metadata.creation_timestamp = Some(meta::api_time(at(2)));
        let s = running.status.get_or_insert_default();
        s.container_statuses.get_or_insert_default().push(ContainerStatus::default());
        assert_eq!(finished_at(&running), at(2), "one container still runs");
    }

    #[test]
    fn restarts_in_place_count() {
        let pod = |phase: &str, n| {
            let c = ContainerStatus { restart_count: n, ..ContainerStatus::default() };
            Pod {
                status: Some(PodStatus {
                    phase: Some(phase.into()),
                    container_statuses: Some(vec![c]),
                    ..PodStatus::default()
                }),
                ..Pod::default()
            }
        };
        let spec = |limit| JobSpec {
            backoff_limit: Some(limit),
            template: PodTemplateSpec {
                spec: Some(PodSpec { restart_policy: Some("OnFailure".into()), ..PodSpec::default() }),
                ..PodTemplateSpec::default()
            },
            ..JobSpec::default()
        };
        let past = |limit, pods: &[Pod]| too_many_restarts(&spec(limit), pods.iter());
        assert!(!past(3, &[pod("Running", 2), pod("Failed", 9)]));
        assert!(past(3, &[pod("Running", 2), pod("Pending", 1)]));
        assert!(past(0, &[pod("Running", 1)]));
        assert!(!past(0, &[pod("Running", 0)]));
        assert!(!too_many_restarts(&JobSpec::default(), [pod("Running", 99)].iter()));
    }
}

//! What a ReplicaSet and a ReplicationController have in common.

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use serde::Serialize;

use super::plan::Counts;
use crate::informers::Watched;
use crate::util::meta::api_time;
use crate::util::selector::Selector;

/// Why the number of pods could not be reached: reason and message of the `ReplicaFailure` condition.
pub type Failure = (&'static str, String);

/// A kind that keeps a number of equal pods.
pub trait Replicated: Watched + Serialize + kube::Resource<Scope = NamespaceResourceScope> {
    /// Service account, and source of events.
    const NAME: &'static str;
    /// Name of the queue's metrics.
    const QUEUE: &'static str;

    fn replicas(&self) -> i32;
    /// `None` where it selects nothing.
    fn selector(&self) -> anyhow::Result<Option<Selector>>;
    fn template(&self) -> PodTemplateSpec;
    fn min_ready(&self) -> i32;
    /// The object with its status brought up to date, or `None` if it is so already.
    fn with_status(&self, counts: Counts, failure: Option<Failure>, now: Timestamp) -> Option<Self>;
}

macro_rules! conditions {
    ($old:expr, $condition:ident, $failure:expr, $now:expr) => {{
        let mut conditions = $old.unwrap_or_default();
        match $failure {
            Some((reason, message)) if !conditions.iter().any(|c| c.type_ == "ReplicaFailure") => {
                conditions.push($condition {
                    type_: "ReplicaFailure".into(),
                    status: "True".into(),
                    reason: Some(reason.into()),
                    message: Some(message),
                    last_transition_time: Some(api_time($now)),
                });
            }
            Some(_) => {}
            None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        }
        Some(conditions).filter(|c| !c.is_empty())
    }};
}

impl Replicated for ReplicaSet {
    const NAME: &'static str = "replicaset-controller";
    const QUEUE: &'static str = "replicaset";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn selector(&self) -> anyhow::Result<Option<Selector>> {
        self.spec.as_ref().map(|s| Selector::new(&s.selector)).transpose()
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default()
    }

    fn min_ready(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn with_status(&self, counts: Counts, failure: Option<Failure>, now: Timestamp) -> Option<Self> {
        let old = self.status.clone().unwrap_or_default();
        let new = ReplicaSetStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            terminating_replicas: Some(counts.terminating),
            observed_generation: self.metadata.generation,
            conditions: conditions!(old.conditions.clone(), ReplicaSetCondition, failure, now),
        };
        (new != old).then(|| Self { status: Some(new), ..self.clone() })
    }
}

impl Replicated for ReplicationController {
    const NAME: &'static str = "replication-controller";
    const QUEUE: &'static str = "replicationmanager";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn selector(&self) -> anyhow::Result<Option<Selector>> {
        let selector = self.spec.as_ref().and_then(|s| s.selector.as_ref());
        Ok(selector.filter(|s| !s.is_empty()).map(|s| Selector::from_map(Some(s))))
    }

    fn template(&self) -> PodTemplateSpec {
        self.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default()
    }

    fn min_ready(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn with_status(&self, counts: Counts, failure: Option<Failure>, now: Timestamp) -> Option<Self> {
        let old = self.status.clone().unwrap_or_default();
        let new = ReplicationControllerStatus {
            replicas: counts.replicas,
            fully_labeled_replicas: some(counts.fully_labeled),
            ready_replicas: some(counts.ready),
            available_replicas: some(counts.available),
            observed_generation: self.metadata.generation,
            conditions: conditions!(old.conditions.clone(), ReplicationControllerCondition, failure, now),
        };
        (new != old).then(|| Self { status: Some(new), ..self.clone() })
    }
}

/// The API leaves zero counts out.
fn some(n: i32) -> Option<i32> {
    (n != 0).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_written_only_when_it_changes() {
        let set = ReplicaSet::default();
        let now = Timestamp::UNIX_EPOCH;
        let counts = Counts { replicas: 1, terminating: 0, ..Counts::default() };
        let failed = set.with_status(counts, Some(("FailedCreate", "quota".into())), now).expect("changed");
        assert_eq!(failed.with_status(counts, Some(("FailedCreate", "other".into())), now), None);
        let healed = failed.with_status(counts, None, now).expect("changed");
        assert_eq!(healed.status.and_then(|s| s.conditions), None);
    }
}

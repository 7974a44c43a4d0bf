//! Pods with the tracking finalizer that no job will count: their job is gone or over. Without help they would stay
//! for ever.

use std::sync::Arc;

use anyhow::Context as _;
use component_base::controller::informer::key_of;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Controller, model};
use crate::util::{errors, meta};

/// Strategic merge patch that takes the tracking finalizer off the pod of that uid.
pub fn strip_patch(uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "$deleteFromPrimitiveList/finalizers": [model::FINALIZER]}})
}

/// Whether nobody will ever count the pod; `owner` is the job that controls it.
pub fn nobodys(pod: &Pod, owner: Option<&Job>) -> bool {
    let of_a_job =
        meta::controller_of(&pod.metadata).is_none_or(|o| o.kind == "Job" && o.api_version == "batch/v1");
    let counted_here = owner.is_some_and(|j| model::managed_elsewhere(j).is_some() || !model::finished(j));
    model::tracked(pod) && of_a_job && !counted_here
}

impl Controller {
    /// Looks again at all pods of a job that is gone or over.
    pub(super) fn release_pods(&self, job: &Job) {
        for pod in self.pods.by_index(meta::BY_CONTROLLER, meta::uid(&job.metadata)) {
            if model::tracked(&pod) {
                self.orphans.add(key_of(pod.as_ref()));
            }
        }
    }

    pub(super) async fn free_orphan(&self, key: &str) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        let owner: Option<Arc<Job>> = self.owner(&pod);
        if !nobodys(&pod, owner.as_deref()) {
            return Ok(());
        }
        let patch = strip_patch(meta::uid(&pod.metadata));
        let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
        match self.pod_control.patch(namespace, name, &patch).await {
            // Gone, or another pod of that name by now.
            Err(e) if matches!(errors::code(&e), Some(404 | 409 | 422)) => Ok(()),
            other => other.with_context(|| format!("freeing the orphaned pod {key}")),
        }
    }
}

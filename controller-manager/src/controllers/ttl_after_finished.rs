//! Deletes finished jobs when their time to live has passed.

use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::informer::{key_of, split_key};
use component_base::controller::queue::WorkQueue;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use crate::context::{Context, synced};
use crate::util::errors;

/// When the job may be deleted; `None`: never, or it has not finished.
fn expires(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let finished = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    finished.last_transition_time.as_ref()?.0.checked_add(SignedDuration::from_secs(ttl.into())).ok()
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let jobs = ctx.informers.of::<Job>();
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    jobs.on_change(move |d| {
        if !d.is_deleted() && expires(d.object()).is_some() {
            q.add(key_of(d.object().as_ref()));
        }
    });
    let client = ctx.client("ttl-after-finished-controller")?;
    let (store, q) = (jobs.store(), queue.clone());
    let workers = ctx.flags.concurrent_ttl_after_finished_syncs;
    ctx.work("ttl_jobs_to_delete", &queue, workers, vec![synced(&jobs)], move |key| {
        let (client, store, queue) = (client.clone(), store.clone(), q.clone());
        async move {
            let Some(at) = store.get(&key).and_then(|j| expires(&j)) else { return Ok(()) };
            let left = at.duration_since(Timestamp::now());
            if left.is_positive() {
                queue.add_after(key, Duration::try_from(left).unwrap_or_default());
                return Ok(());
            }
            let (namespace, name) = split_key(&key);
            let api: Api<Job> = Api::namespaced(client, namespace.unwrap_or_default());
            // The time to live may have been changed a moment ago: the server knows.
            let fresh = api.get_opt(name).await.with_context(|| format!("re-reading job {key}"))?;
            let Some(fresh) = fresh.filter(|j| expires(j).is_some_and(|t| t <= Timestamp::now())) else {
                return Ok(());
            };
            let same = Preconditions {
                uid: fresh.metadata.uid.clone(),
                resource_version: fresh.metadata.resource_version.clone(),
            };
            tracing::info!(job = key, "deleting finished job, its time to live has passed");
            match api.delete(name, &DeleteParams::foreground().preconditions(same)).await {
                Err(e) if errors::not_found(&e) => Ok(()),
                other => other.map(|_| ()).with_context(|| format!("deleting job {key}")),
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::meta::api_time;
    use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus};

    #[test]
    fn counted_from_the_end() {
        let mut job = Job {
            spec: Some(JobSpec { ttl_seconds_after_finished: Some(10), ..JobSpec::default() }),
            ..Job::default()
        };
        assert_eq!(expires(&job), None, "still running");
        job.status = Some(JobStatus {
            conditions: Some(vec![JobCondition {
                type_: "Complete".into(),
                status: "True".into(),
                last_transition_time: Some(api_time(Timestamp::UNIX_EPOCH)),
                ..JobCondition::default()
            }]),
            ..JobStatus::default()
        });
        assert_eq!(expires(&job), Timestamp::from_second(10).ok());
        job.spec = Some(JobSpec::default());
        assert_eq!(expires(&job), None);
    }
}

//! Jobs: run pods until enough of them have succeeded.
//!
//! Reads jobs and pods; writes pods (create, delete, owner references, the tracking finalizer) and the jobs' status.
//! [`plan`] decides about pods and about the end, [`account`] counts what ended, [`sync`] puts both in order; this file
//! watches. [`orphans`] frees pods that no job will ever count.
//!
//! A job is looked at only when the cache shows its last status that was written here: counting from an older one
//! would count twice.

mod account;
mod backoff;
mod indexes;
mod metrics;
mod model;
mod orphans;
mod plan;
mod policy;
mod removals;
mod sync;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use component_base::controller::events::{EventRecorder, EventType};
use component_base::controller::informer::{Delta, Store, key_of};
use component_base::controller::queue::{Backoff, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

use self::backoff::Record;
use self::sync::{Hands, Memory};
use crate::context::{Context, synced};
use crate::util::pod_control::PodControl;
use crate::util::selector::Selector;
use crate::util::written::Written;
use crate::util::{claim, meta};

const NAME: &str = "job-controller";
/// Pods of a job tend to change together: looks at the job are that far apart.
const BATCH: Duration = Duration::from_millis(250);
/// How failing syncs come back.
const RETRY: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

struct Controller {
    client: Client,
    pod_control: PodControl,
    events: EventRecorder,
    jobs: Store<Job>,
    pods: Store<Pod>,
    memory: Memory,
    records: Mutex<HashMap<String, Record>>,
    written: Written,
    queue: WorkQueue<String>,
    orphans: WorkQueue<String>,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let client = ctx.client(NAME)?;
    let events = ctx.events.for_component(NAME);
    let jobs = ctx.informers.of::<Job>();
    let all_pods = ctx.informers.of::<Pod>();
    all_pods.store().add_index(meta::BY_CONTROLLER, meta::index_by_controller);
    let c = Arc::new(Controller {
        pod_control: PodControl::new(client.clone(), events.clone()),
        client,
        events,
        jobs: jobs.store(),
        pods: all_pods.store(),
        memory: Memory::default(),
        records: Mutex::default(),
        written: Written::default(),
        queue: WorkQueue::new(RETRY),
        orphans: WorkQueue::new(RETRY),
    });
    c.memory.metrics.register(ctx.registry());
    let this = c.clone();
    jobs.on_change(move |d| this.job_changed(d));
    let this = c.clone();
    all_pods.on_change(move |d| this.pod_changed(d));
    let workers = ctx.flags.concurrent_job_syncs;
    let this = c.clone();
    ctx.work("job", &c.queue, workers, vec![synced(&jobs), synced(&all_pods)], move |key| {
        let c = this.clone();
        async move { c.sync(&key).await.with_context(|| format!("job {key}")) }
    });
    let queue = c.orphans.clone();
    ctx.work("job_orphan_pod", &queue, workers, vec![synced(&jobs), synced(&all_pods)], move |key| {
        let c = c.clone();
        async move { c.free_orphan(&key).await }
    });
    Ok(())
}

impl Controller {
    /// The job that controls the pod, if it is still the same object.
    fn owner(&self, pod: &Pod) -> Option<Arc<Job>> {
        meta::controller_in(&self.jobs, &pod.metadata)
    }

    fn job_changed(&self, d: &Delta<Job>) {
        let job = d.object();
        let key = key_of(job.as_ref());
        if d.is_deleted() {
            self.forget(&key);
            self.written.forget(&key);
            self.release_pods(job);
            return self.queue.add(key);
        }
        if model::finished(job) {
            self.forget(&key);
            // All were counted; this is for pods that the cache did not show then.
            return self.release_pods(job);
        }
        match d.old() {
            Some(old) if old.metadata.generation == job.metadata.generation => {
                self.queue.add_after(key, BATCH);
            }
            _ => self.queue.add(key),
        }
    }

    fn forget(&self, key: &str) {
        self.memory.forget(key);
        self.records.lock().remove(key);
    }

    fn pod_changed(&self, d: &Delta<Pod>) {
        let pod = d.object();
        let uid = meta::uid(&pod.metadata);
        let now = Some(pod.as_ref()).filter(|_| !d.is_deleted());
        self.memory.metrics.pod_changed(d.old().map(Arc::as_ref), now);
        let going = d.is_deleted() || pod.metadata.deletion_timestamp.is_some();
        let free = d.is_deleted() || !model::tracked(pod);
        if let Some(old) =
            d.old().filter(|o| meta::controller_of(&o.metadata) != meta::controller_of(&pod.metadata))
            && let Some(before) = self.owner(old)
        {
            let key = key_of(before.as_ref());
            if free {
                self.memory.removals.observed(&key, uid);
            }
            self.queue.add_after(key, BATCH);
        }
        let job = self.owner(pod);
        if !free && job.as_ref().is_none_or(|j| model::finished(j)) {
            self.orphans.add(key_of(pod.as_ref()));
        }
        if let Some(job) = job {
            let key = key_of(job.as_ref());
            if going {
                self.memory.expectations.deletion_observed(&key, &key_of(pod.as_ref()));
            } else if matches!(d, Delta::Added(_)) {
                self.memory.expectations.creation_observed(&key);
            }
            if free {
                self.memory.removals.observed(&key, uid);
            }
            self.queue.add_after(key, BATCH);
        } else if !going && meta::controller_of(&pod.metadata).is_none() {
            self.wake_matching(pod);
        }
    }

    /// An orphan may be adopted by any job that selects it.
    fn wake_matching(&self, pod: &Pod) {
        if pod.metadata.labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
            return;
        }
        for job in self.jobs.in_namespace(meta::namespace(&pod.metadata)) {
            let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
            let matches = selector.is_some_and(|s| {
                Selector::new(s).is_ok_and(|s| !s.is_empty() && s.matches(pod.metadata.labels.as_ref()))
            });
            if matches && !model::finished(&job) {
                self.queue.add_after(key_of(job.as_ref()), BATCH);
            }
        }
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(job) = self.jobs.get(key) else {
            self.forget(key);
            return Ok(());
        };
        if model::finished(&job) || model::managed_elsewhere(&job).is_some() {
            return Ok(());
        }
        if !self.written.visible(key, &job.metadata) {
            // Its arrival wakes the job.
            return Ok(());
        }
        let Some(spec) = job.spec.as_ref() else { return Ok(()) };
        if !matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let message = "Skipped Job sync because completion mode is unknown";
            self.events.warning(&meta::reference(job.as_ref()), "UnknownCompletionMode", message);
            return Ok(());
        }
        // Asked before the pods are read: one that arrives between the two is a reason to look again, no surprise.
        let caught_up = self.memory.expectations.satisfied(key, Instant::now());
        let pods = self.claim(&job).await?;
        let mut record = self.records.lock().get(key).copied().unwrap_or_default();
        let before = record;
        let now = Timestamp::now();
        let looked = sync::look(self, &self.memory, &job, &pods, &mut record, now, caught_up).await;
        if record != before {
            self.records.lock().insert(key.to_owned(), record);
        }
        let looked = looked?;
        if looked.ended.is_some() {
            self.forget(key);
        }
        if let Some(again) = looked.again.and_then(|d| Duration::try_from(d).ok()) {
            self.queue.add_after(key.to_owned(), again.max(BATCH));
        }
        Ok(())
    }

    /// The pods of the job, after adopting and releasing.
    async fn claim(&self, job: &Arc<Job>) -> anyhow::Result<Vec<Arc<Pod>>> {
        let selector = match job.spec.as_ref().and_then(|s| s.selector.as_ref()) {
            Some(s) => Selector::new(s).context("selector")?,
            None => return Ok(Vec::new()),
        };
        let mut related = self.pods.by_index(meta::BY_CONTROLLER, meta::uid(&job.metadata));
        let namespace = meta::namespace(&job.metadata);
        related.extend(self.pods.by_index(meta::BY_CONTROLLER, &meta::orphans_of(namespace)));
        claim::take(&self.client, job.as_ref(), &selector, related, Some(model::FINALIZER)).await
    }
}

impl Hands for Controller {
    async fn create(&self, job: &Job, pod: Pod) -> kube::Result<Option<Pod>> {
        self.pod_control.create(meta::namespace(&job.metadata), &pod, &meta::reference(job)).await
    }

    async fn delete(&self, job: &Job, pod: &Pod) -> kube::Result<bool> {
        let name = meta::name(&pod.metadata);
        self.pod_control.delete(meta::namespace(&pod.metadata), name, &meta::reference(job)).await
    }

    async fn strip(&self, pod: &Pod) -> kube::Result<()> {
        let patch = orphans::strip_patch(meta::uid(&pod.metadata));
        self.pod_control.patch(meta::namespace(&pod.metadata), meta::name(&pod.metadata), &patch).await
    }

    async fn write_status(&self, job: &Job) -> kube::Result<Job> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), meta::namespace(&job.metadata));
        let written = api.replace_status(meta::name(&job.metadata), &PostParams::default(), job).await?;
        self.written.wrote(&key_of(job), &written.metadata);
        Ok(written)
    }

    fn event(&self, job: &Job, warning: bool, reason: &str, message: &str) {
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        self.events.event(&meta::reference(job), type_, reason, message);
    }
}

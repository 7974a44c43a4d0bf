//! One look at a job: decide, deal with pods, count. Everything that is written goes through [`Hands`], so that tests
//! can run it against a world of their own.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use component_base::controller::expectations::Expectations;
use component_base::controller::informer::key_of;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::account::{self, Done};
use super::backoff::Record;
use super::metrics::JobMetrics;
use super::model;
use super::plan::{self, Act, Decision, NewPod, Seen};
use super::removals::Removals;
use crate::util::{errors, meta, pod_control, pods};

/// The writes of a look.
pub trait Hands: Sync {
    /// Makes a pod; `None` where the namespace is going away.
    fn create(&self, job: &Job, pod: Pod) -> impl Future<Output = kube::Result<Option<Pod>>> + Send;
    /// Deletes a pod; `false` if it was gone.
    fn delete(&self, job: &Job, pod: &Pod) -> impl Future<Output = kube::Result<bool>> + Send;
    /// Takes the tracking finalizer off a pod.
    fn strip(&self, pod: &Pod) -> impl Future<Output = kube::Result<()>> + Send;
    /// Writes the status; answers what the server has now.
    fn write_status(&self, job: &Job) -> impl Future<Output = kube::Result<Job>> + Send;
    /// Tells about the job.
    fn event(&self, job: &Job, warning: bool, reason: &str, message: &str);
}

/// What this process remembers of its own writes.
#[derive(Debug, Default)]
pub struct Memory {
    pub expectations: Expectations,
    pub removals: Removals,
    pub metrics: JobMetrics,
}

impl Memory {
    /// The job is gone, or over.
    pub fn forget(&self, key: &str) {
        self.expectations.forget(key);
        self.removals.forget(key);
    }
}

/// What a look came to.
#[derive(Debug, Default)]
pub struct Looked {
    /// When to look again.
    pub again: Option<SignedDuration>,
    /// The last condition, if the job ended.
    pub ended: Option<JobCondition>,
}

/// Looks at an unfinished job with its pods (adopted ones included). `record` is kept up to date.
///
/// # Errors
/// A write failed: look again, what was written stands.
pub async fn look(
    hands: &impl Hands,
    memory: &Memory,
    job: &Job,
    pods: &[Arc<Pod>],
    record: &mut Record,
    now: Timestamp,
    caught_up: bool,
) -> anyhow::Result<Looked> {
    let begun = Instant::now();
    let stripped: HashSet<String> = memory.removals.open(&key_of(job));
    let seen = Seen { job, pods, stripped: &stripped, caught_up, record: *record, now };
    let decision = plan::decide(&seen);
    let (spec, action) = (decision.spec.clone(), decision.action());
    let result = carry_out(hands, memory, &seen, decision, record).await;
    memory.metrics.synced(&spec, result.is_ok(), action, begun.elapsed());
    result
}

async fn carry_out(
    hands: &impl Hands,
    memory: &Memory,
    seen: &Seen<'_>,
    mut decision: Decision,
    record: &mut Record,
) -> anyhow::Result<Looked> {
    let (job, now, key) = (seen.job, seen.now, key_of(seen.job));
    let spec = decision.spec.clone();
    let act = std::mem::replace(&mut decision.act, Act::Nothing);
    let (again, new_record) = (decision.again, decision.record);
    let (done, failure) = perform(hands, memory, job, &key, act).await;
    memory.metrics.created(decision.creation_reason(), done.made, done.not_made);
    let counted = |old: &Job, new: &Job| {
        memory.metrics.counted(&spec, old.status.as_ref(), new.status.as_ref());
    };

    let mut account = account::account(seen, decision, done);
    for (reason, message) in account.events.drain(..) {
        hands.event(job, false, reason, message);
    }
    if account.flush {
        let written = hands.write_status(&account.job).await.context("noting pods that ended")?;
        counted(job, &written);
        account.flushed(written);
        *record = new_record;
    }
    let strip = std::mem::take(&mut account.strip);
    memory.removals.expect(&key, strip.iter().map(|p| meta::uid(&p.metadata).to_owned()));
    let removed = join_all(strip.iter().map(|p| hands.strip(p))).await;
    let mut stuck = None;
    for (pod, removed) in strip.iter().zip(removed) {
        let uid = meta::uid(&pod.metadata);
        match removed {
            Ok(()) => account.stripped(uid),
            Err(e) => {
                memory.removals.observed(&key, uid);
                match errors::not_found(&e) {
                    true => account.stripped(uid),
                    false => stuck = Some(e),
                }
            }
        }
    }
    let before = account.job.clone();
    account.settle();
    if let Some(e) = stuck {
        if account.flush {
            hands.write_status(&account.job).await.context("counting pods")?;
            counted(&before, &account.job);
        }
        return Err(anyhow::Error::from(e).context("taking the tracking finalizer off a pod"));
    }
    let ended = account.conclude(now);
    if account.flush {
        hands.write_status(&account.job).await.context("counting pods")?;
        counted(&before, &account.job);
        if let Some(end) = &ended {
            let reason = end.reason.as_deref().unwrap_or_default();
            memory.metrics.ended(&spec, end.type_ == model::COMPLETE, reason);
            tell_end(hands, &account.job, end);
        }
    }
    match failure {
        Some(e) => Err(anyhow::Error::from(e).context("making or deleting pods")),
        None => Ok(Looked { again, ended }),
    }
}

fn tell_end(hands: &impl Hands, job: &Job, end: &JobCondition) {
    if end.type_ != model::COMPLETE {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        return hands.event(job, true, &text(&end.reason), &text(&end.message));
    }
    let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
    if job.spec.as_ref().and_then(|s| s.completions).is_some_and(|n| succeeded > n) {
        let message = "Too many succeeded pods running after completion count reached";
        hands.event(job, true, "TooManySucceededPods", message);
    }
    hands.event(job, false, "Completed", "Job completed");
}

async fn perform(
    hands: &impl Hands,
    memory: &Memory,
    job: &Job,
    key: &str,
    act: Act,
) -> (Done, Option<kube::Error>) {
    match act {
        Act::Nothing => (Done::default(), None),
        Act::Create(new) => create(hands, memory, job, key, &new).await,
        Act::Stop(pods) => delete(hands, job, &pods, false, |_| {}).await,
        Act::Remove(pods) => {
            memory.expectations.expect(key, 0, pods.iter().map(|p| key_of(p.as_ref())), Instant::now());
            let not_coming = |p: &Pod| memory.expectations.deletion_observed(key, &key_of(p));
            delete(hands, job, &pods, true, not_coming).await
        }
    }
}

async fn create(
    hands: &impl Hands,
    memory: &Memory,
    job: &Job,
    key: &str,
    new: &[NewPod],
) -> (Done, Option<kube::Error>) {
    memory.expectations.expect(key, new.len(), [], Instant::now());
    let mut done = Done::default();
    let mut left = new;
    for size in pod_control::batches(new.len()) {
        let (batch, rest) = left.split_at(size);
        left = rest;
        let made = join_all(batch.iter().map(|n| hands.create(job, pod_of(job, n)))).await;
        let came = made.iter().filter(|m| matches!(m, Ok(Some(_)))).count();
        memory.expectations.lower_adds(key, size - came);
        done.made = done.made.saturating_add(plan::count(came));
        done.not_made += plan::count(made.iter().filter(|m| m.is_err()).count());
        if let Some(error) = made.into_iter().find_map(Result::err) {
            memory.expectations.lower_adds(key, left.len());
            return (done, Some(error));
        }
    }
    (done, None)
}

async fn delete(
    hands: &impl Hands,
    job: &Job,
    pods: &[Arc<Pod>],
    strip: bool,
    not_coming: impl Fn(&Pod),
) -> (Done, Option<kube::Error>) {
    let all = join_all(pods.iter().map(|pod| async move {
        if strip && model::tracked(pod) {
            match hands.strip(pod).await {
                Err(e) if errors::not_found(&e) => return Ok(false),
                other => other?,
            }
        }
        hands.delete(job, pod).await
    }));
    let (mut done, mut failure) = (Done::default(), None);
    for (pod, result) in pods.iter().zip(all.await) {
        if !matches!(result, Ok(true)) {
            not_coming(pod);
        }
        match result {
            Ok(_) => {
                done.removed += 1;
                done.removed_ready += i32::from(pods::is_ready(pod));
            }
            Err(e) => failure = Some(e),
        }
    }
    (done, failure)
}

/// The pod to make for a place in the job.
pub fn pod_of(job: &Job, new: &NewPod) -> Pod {
    let name = meta::name(&job.metadata);
    let template = model::spec(job).template;
    let mut pod = pod_control::from_template(&template, name, meta::controller_ref(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == model::FINALIZER) {
        finalizers.push(model::FINALIZER.into());
    }
    let Some(index) = new.index else { return pod };
    let suffix = format!("-{index}-");
    // The server cuts longer prefixes, and would lose the index.
    let base: String = name.chars().take(58usize.saturating_sub(suffix.len())).collect();
    pod.metadata.generate_name = Some(format!("{base}{suffix}"));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(model::INDEX.into(), index.to_string());
    if let Some((counted, ignored)) = new.failures {
        annotations.insert(model::FAILURES.into(), counted.to_string());
        if ignored > 0 {
            annotations.insert(model::IGNORED.into(), ignored.to_string());
        }
    }
    pod.metadata.labels.get_or_insert_default().insert(model::INDEX.into(), index.to_string());
    if let Some(spec) = pod.spec.as_mut() {
        spec.hostname = Some(format!("{name}-{index}"));
        for c in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            let env = c.env.get_or_insert_default();
            if !env.iter().any(|e| e.name == model::INDEX_ENV) {
                env.push(index_variable());
            }
        }
    }
    pod
}

fn index_variable() -> EnvVar {
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{}']", model::INDEX),
        ..ObjectFieldSelector::default()
    };
    EnvVar {
        name: model::INDEX_ENV.into(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}

//! Pure part: whether the job is over, and which pods to make or delete now.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::backoff::{self, Record};
use super::indexes::Indexes;
use super::model::{self, COMPLETE, CRITERIA_MET, FAILED, FAILURE_TARGET};
use super::policy::{self, Verdict};
use crate::util::{meta, pods};

/// Pods made or deleted in one go, at most.
const BURST: usize = 500;

/// What is known when a job is looked at.
pub struct Seen<'a> {
    pub job: &'a Job,
    /// The job's pods, whatever state they are in.
    pub pods: &'a [Arc<Pod>],
    /// Uids of pods whose finalizer we took away; the cache may not show it yet.
    pub stripped: &'a HashSet<String>,
    /// Whether the cache shows all our own creations and deletions.
    pub caught_up: bool,
    pub record: Record,
    pub now: Timestamp,
}

impl Decision {
    /// What a look that decides this is called in metrics.
    pub fn action(&self) -> &'static str {
        match self.act {
            Act::Create(_) => "pods_created",
            Act::Remove(_) => "pods_deleted",
            Act::Nothing if self.managed => "tracking",
            Act::Nothing | Act::Stop(_) => "reconciling",
        }
    }

    /// Why pods are made, for metrics.
    pub fn creation_reason(&self) -> &'static str {
        if self.spec.pod_replacement_policy.as_deref() == Some("Failed") && self.failed > 0 {
            "recreate_failed"
        } else if self.failed > 0 || self.terminating > 0 {
            "recreate_terminating_or_failed"
        } else {
            "new"
        }
    }
}

impl Seen<'_> {
    /// Whether the pod still waits to be counted.
    pub fn held(&self, pod: &Pod) -> bool {
        model::tracked(pod) && !self.stripped.contains(meta::uid(&pod.metadata))
    }
}

/// A pod to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPod {
    /// Its index, in an indexed job.
    pub index: Option<i32>,
    /// Failures of the index so far (counted, ignored), where the job limits them per index.
    pub failures: Option<(i32, i32)>,
}

/// What to do with pods.
#[derive(Clone, Debug)]
pub enum Act {
    Nothing,
    Create(Vec<NewPod>),
    /// Too many: deleted without being counted as failed, so their finalizer goes first.
    Remove(Vec<Arc<Pod>>),
    /// The job is over: these still run. They are counted, so their finalizer stays.
    Stop(Vec<Arc<Pod>>),
}

/// How what there is compares to what was asked for.
#[derive(Debug)]
pub struct Decision {
    pub spec: JobSpec,
    /// The status to build on: `startTime` is set.
    pub status: JobStatus,
    /// Succeeded so far, pods not yet counted included.
    pub succeeded: i32,
    /// Failed so far, the same way.
    pub failed: i32,
    /// Indexes that had succeeded by the status.
    pub done_before: Indexes,
    /// Indexes that have succeeded.
    pub done: Indexes,
    /// Indexes that failed for good, where the job limits failures per index.
    pub failed_indexes: Option<Indexes>,
    /// Failed pods that are kept until their index has a new pod, which takes over the number of failures.
    pub kept: HashSet<String>,
    pub record: Record,
    /// How the job ends: `SuccessCriteriaMet`, `FailureTarget`, or `Failed` where the target was noted before.
    pub finish: Option<JobCondition>,
    pub act: Act,
    /// Whether the number of pods was compared with the wanted one.
    pub managed: bool,
    pub active: i32,
    pub ready: i32,
    pub terminating: i32,
    /// When to look again.
    pub again: Option<SignedDuration>,
}

pub(super) fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Decides about a job that is not finished.
pub fn decide(seen: &Seen<'_>) -> Decision {
    let (spec, now) = (model::spec(seen.job), seen.now);
    let mut status = seen.job.status.clone().unwrap_or_default();
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let old_succeeded: HashSet<String> = uncounted.succeeded.into_iter().flatten().collect();
    let old_failed: HashSet<String> = uncounted.failed.into_iter().flatten().collect();
    let active: Vec<Arc<Pod>> = seen.pods.iter().filter(|p| pods::is_active(p)).cloned().collect();
    let counted_in = |p: &Pod, known: &HashSet<String>| {
        seen.held(p)
            && !known.contains(meta::uid(&p.metadata))
            && (!model::indexed(&spec) || model::valid_index(p, &spec).is_some())
    };
    let succeeded_now: Vec<&Pod> = seen
        .pods
        .iter()
        .map(Arc::as_ref)
        .filter(|p| pods::phase(p) == "Succeeded" && counted_in(p, &old_succeeded))
        .collect();
    let failed_now: Vec<&Pod> = seen
        .pods
        .iter()
        .map(Arc::as_ref)
        .filter(|p| model::failed(p, &spec) && counted_in(p, &old_failed))
        .collect();
    let policy = spec.pod_failure_policy.as_ref();
    let failed = status.failed.unwrap_or(0)
        + count(old_failed.len())
        + count(failed_now.iter().filter(|p| policy::judge(policy, p).counts()).count());
    if status.start_time.is_none() && !model::suspended(&spec) {
        status.start_time = Some(meta::api_time(now));
    }
    let mut d = Decision {
        succeeded: status.succeeded.unwrap_or(0) + count(succeeded_now.len()) + count(old_succeeded.len()),
        failed,
        done_before: Indexes::default(),
        done: Indexes::default(),
        failed_indexes: None,
        kept: HashSet::new(),
        record: seen.record.after(succeeded_now.iter().copied(), failed_now.iter().copied()),
        finish: None,
        act: Act::Nothing,
        managed: false,
        active: count(active.len()),
        ready: count(active.iter().filter(|p| pods::is_ready(p)).count()),
        terminating: count(seen.pods.iter().filter(|p| terminating(p)).count()),
        again: None,
        spec,
        status,
    };
    d.finish = noted_end(seen, &d).or_else(|| limit_reached(seen, &mut d));
    let mut kept = BTreeMap::new();
    if model::indexed(&d.spec) {
        count_indexes(seen, &mut d);
        if d.finish.is_none() {
            d.finish = indexes_failed(&d, now);
        }
        if d.failed_indexes.is_some() {
            kept = kept_pods(seen, &d, &active);
            d.kept = kept.values().map(|p| meta::uid(&p.metadata).to_owned()).collect();
        }
        if d.finish.is_none() {
            let completions = d.spec.completions.unwrap_or(0);
            d.finish = policy::success(d.spec.success_policy.as_ref(), completions, &d.done)
                .map(|m| model::new_condition(CRITERIA_MET, "True", "SuccessPolicy", &m, now));
        }
    }
    if d.finish.is_some() {
        d.act = Act::Stop(active);
    } else if seen.caught_up && seen.job.metadata.deletion_timestamp.is_none() {
        d.managed = true;
        d.act = manage(seen, &mut d, &active, &kept);
    }
    d
}

fn terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !pods::is_terminal(pod)
}

/// An end that was noted before, or that a pod's failure means by the policy.
fn noted_end(seen: &Seen<'_>, d: &Decision) -> Option<JobCondition> {
    if model::is_true(Some(&d.status), CRITERIA_MET) {
        return model::condition(Some(&d.status), CRITERIA_MET).cloned();
    }
    if let Some(target) = model::condition(Some(&d.status), FAILURE_TARGET).filter(|c| c.status == "True") {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let (reason, message) = (text(&target.reason), text(&target.message));
        return Some(model::new_condition(FAILED, "True", &reason, &message, seen.now));
    }
    let policy = d.spec.pod_failure_policy.as_ref()?;
    let message =
        seen.pods.iter().filter(|p| model::failed(p, &d.spec)).find_map(|p| {
            match policy::judge(Some(policy), p) {
                Verdict::FailJob(message) => Some(message),
                _ => None,
            }
        })?;
    Some(model::new_condition(FAILURE_TARGET, "True", "PodFailurePolicy", &message, seen.now))
}

/// Too many failures, or too much time.
fn limit_reached(seen: &Seen<'_>, d: &mut Decision) -> Option<JobCondition> {
    let failure =
        |reason, message| Some(model::new_condition(FAILURE_TARGET, "True", reason, message, seen.now));
    if d.failed > d.spec.backoff_limit.unwrap_or(6)
        || backoff::too_many_restarts(&d.spec, seen.pods.iter().map(Arc::as_ref))
    {
        return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    let limit = d.spec.active_deadline_seconds.filter(|_| !model::suspended(&d.spec))?;
    let begun = d.status.start_time.as_ref()?.0;
    let left = SignedDuration::from_secs(limit) - seen.now.duration_since(begun);
    if left.is_positive() {
        d.again = Some(left);
        return None;
    }
    failure("DeadlineExceeded", "Job was active longer than specified deadline")
}

/// Fills in which indexes are done and which failed.
fn count_indexes(seen: &Seen<'_>, d: &mut Decision) {
    let completions = d.spec.completions.unwrap_or(0);
    let with_index = |want: &dyn Fn(&Pod) -> bool| -> Indexes {
        seen.pods
            .iter()
            .filter(|p| model::tracked(p) && want(p))
            .filter_map(|p| model::valid_index(p, &d.spec))
            .collect()
    };
    let known = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default(), completions);
    let before = known(&d.status.completed_indexes);
    let done = before.union(&with_index(&|p| pods::phase(p) == "Succeeded"));
    let failed = d
        .spec
        .backoff_limit_per_index
        .map(|limit| known(&d.status.failed_indexes).union(&with_index(&|p| index_lost(p, &d.spec, limit))));
    d.succeeded = done.len();
    (d.done_before, d.done, d.failed_indexes) = (before, done, failed);
}

/// Whether this pod's failure is the last its index may have.
fn index_lost(pod: &Pod, spec: &JobSpec, limit: i32) -> bool {
    if !model::failed(pod, spec) {
        return false;
    }
    match policy::judge(spec.pod_failure_policy.as_ref(), pod) {
        Verdict::FailIndex => true,
        verdict => verdict.counts() && model::index_failures(pod).0 >= limit,
    }
}

fn indexes_failed(d: &Decision, now: Timestamp) -> Option<JobCondition> {
    let lost = d.failed_indexes.as_ref()?.len();
    let failure = |reason, message| Some(model::new_condition(FAILURE_TARGET, "True", reason, message, now));
    if d.spec.max_failed_indexes.is_some_and(|max| lost > max) {
        return failure(
            "MaxFailedIndexesExceeded",
            "Job has exceeded the specified maximal number of failed indexes",
        );
    }
    if lost > 0 && lost + d.done.len() >= d.spec.completions.unwrap_or(0) {
        return failure("FailedIndexes", "Job has failed indexes");
    }
    None
}

/// Per index without a pod that runs, succeeded or was the last: the failed pod that failed most often, then latest.
fn kept_pods(seen: &Seen<'_>, d: &Decision, active: &[Arc<Pod>]) -> BTreeMap<i32, Arc<Pod>> {
    let running: HashSet<i32> = active.iter().filter_map(|p| model::index(p)).collect();
    let rank = |p: &Pod| {
        let (counted, ignored) = model::index_failures(p);
        (i64::from(counted) + i64::from(ignored), backoff::finished_at(p))
    };
    let mut kept: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    for pod in seen.pods.iter().filter(|p| seen.held(p) && model::failed(p, &d.spec)) {
        let Some(index) = model::valid_index(pod, &d.spec) else { continue };
        let lost = d.failed_indexes.as_ref().is_some_and(|f| f.contains(index));
        if d.done.contains(index) || lost || running.contains(&index) {
            continue;
        }
        let slot = kept.entry(index).or_insert_with(|| pod.clone());
        if rank(pod) > rank(slot) {
            *slot = pod.clone();
        }
    }
    kept
}

/// Compares the number of running pods with the wanted one.
fn manage(seen: &Seen<'_>, d: &mut Decision, active: &[Arc<Pod>], kept: &BTreeMap<i32, Arc<Pod>>) -> Act {
    let spec = &d.spec;
    let running = count(active.len());
    let parallelism = spec.parallelism.unwrap_or(1).max(0);
    let wanted = match spec.completions {
        _ if model::suspended(spec) => 0,
        // One success is enough: the others may end, but nothing new begins.
        None if d.succeeded > 0 => running,
        None => parallelism,
        Some(n) => (n - d.succeeded).clamp(0, parallelism),
    };
    let mut surplus = surplus(spec, active, usize::try_from(running - wanted).unwrap_or(0));
    if !model::suspended(spec) {
        surplus.truncate(BURST);
    }
    if !surplus.is_empty() {
        return Act::Remove(surplus);
    }
    let waiting = if model::only_failed(spec) { d.terminating } else { 0 };
    let lacking = usize::try_from(wanted - waiting - running).unwrap_or(0).min(BURST);
    if lacking == 0 {
        return Act::Nothing;
    }
    let per_index = spec.backoff_limit_per_index.is_some();
    if !per_index && let Some(left) = d.record.left(seen.now) {
        d.again = Some(d.again.map_or(left, |a| a.min(left)));
        return Act::Nothing;
    }
    if !model::indexed(spec) {
        return Act::Create(vec![NewPod { index: None, failures: None }; lacking]);
    }
    let mut waits = Vec::new();
    let mut make = Vec::new();
    for index in pending_indexes(seen, d, active, lacking) {
        let last = kept.get(&index);
        if let Some(left) = last.filter(|_| per_index).and_then(|p| backoff::left_of_index(p, seen.now)) {
            waits.push(left);
            continue;
        }
        let failures = per_index.then(|| last.map_or((0, 0), |p| failures_after(p, spec)));
        make.push(NewPod { index: Some(index), failures });
    }
    let soonest = if make.is_empty() { waits.into_iter().min() } else { None };
    d.again = [d.again, soonest].into_iter().flatten().min();
    if make.is_empty() { Act::Nothing } else { Act::Create(make) }
}

/// The numbers of failures that the pod after a failed one starts with.
fn failures_after(pod: &Pod, spec: &JobSpec) -> (i32, i32) {
    let (counted, ignored) = model::index_failures(pod);
    if policy::judge(spec.pod_failure_policy.as_ref(), pod).counts() {
        (counted.saturating_add(1), ignored)
    } else {
        (counted, ignored.saturating_add(1))
    }
}

/// The lowest indexes that need a pod.
fn pending_indexes(seen: &Seen<'_>, d: &Decision, active: &[Arc<Pod>], lacking: usize) -> Vec<i32> {
    let mut taken = d.done.union(&active.iter().filter_map(|p| model::index(p)).collect());
    if model::only_failed(&d.spec) {
        let ending = seen.pods.iter().filter(|p| terminating(p)).filter_map(|p| model::index(p));
        taken = taken.union(&ending.collect());
    }
    if let Some(failed) = &d.failed_indexes {
        taken = taken.union(failed);
    }
    taken.missing(lacking, d.spec.completions.unwrap_or(0))
}

/// Pods that must go: those without a place (no index, one out of range, one that another has), and then the least
/// advanced, until at least `at_least` go.
fn surplus(spec: &JobSpec, active: &[Arc<Pod>], at_least: usize) -> Vec<Arc<Pod>> {
    let mut order = active.to_vec();
    order.sort_by_cached_key(|p| pods::progress(p));
    if !model::indexed(spec) {
        order.truncate(at_least);
        return order;
    }
    let mut best: HashMap<i32, usize> = HashMap::new();
    for (n, pod) in order.iter().enumerate() {
        if let Some(index) = model::valid_index(pod, spec) {
            best.insert(index, n);
        }
    }
    let placed: HashSet<usize> = best.into_values().collect();
    let (keep, mut go): (Vec<_>, Vec<_>) =
        order.into_iter().enumerate().partition(|(n, _)| placed.contains(n));
    let more = at_least.saturating_sub(go.len());
    go.extend(keep.into_iter().take(more));
    go.into_iter().map(|(_, p)| p).collect()
}

/// The condition that a finished job gets, once all is counted.
pub fn final_condition(finish: &JobCondition, now: Timestamp) -> JobCondition {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let type_ = if finish.type_ == CRITERIA_MET { COMPLETE } else { FAILED };
    model::new_condition(type_, "True", &text(&finish.reason), &text(&finish.message), now)
}

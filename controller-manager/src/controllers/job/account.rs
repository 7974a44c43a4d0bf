//! Pure part: counting pods that ended, each exactly once.
//!
//! A pod's finalizer keeps it until the status knows of it. First its uid is written to `uncountedTerminatedPods`, then
//! its finalizer is taken away, then uid becomes count; a crash between any two of these steps loses and repeats
//! nothing. Indexed jobs need no uids of succeeded pods: the index itself is counted once.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::Indexes;
use super::model::{self, COMPLETE, CRITERIA_MET, FAILURE_TARGET};
use super::plan::{Decision, Seen, count, final_condition};
use super::policy;
use crate::util::{meta, pods};

/// Uids in a status, at most: keeps it below some 20 KB, and lets other jobs have their turn.
const MAX_UNCOUNTED: usize = 500;

/// What came of the pods that were to be made or deleted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub made: i32,
    pub not_made: i32,
    pub removed: i32,
    pub removed_ready: i32,
}

/// A job's status before finalizers are taken away.
#[derive(Debug)]
pub struct Accounted {
    pub job: Job,
    /// Whether the status must be written first.
    pub flush: bool,
    /// The pods whose finalizers go then.
    pub strip: Vec<Arc<Pod>>,
    /// Uids of pods that still have a finalizer.
    held: HashSet<String>,
    /// The last condition, `Complete` or `Failed`.
    finish: Option<JobCondition>,
    /// Whether all pods that could be counted were.
    whole: bool,
    /// Events: reason and message.
    pub events: Vec<(&'static str, &'static str)>,
}

/// Brings the status up to date after the pods were dealt with.
pub fn account(seen: &Seen<'_>, mut d: Decision, done: Done) -> Accounted {
    let old = seen.job.status.clone().unwrap_or_default();
    let mut status = std::mem::take(&mut d.status);
    let mut flush = false;
    let mut events = Vec::new();
    let running = d.active;
    d.active += done.made - done.removed;
    d.ready -= done.removed_ready;
    d.terminating += done.removed;
    if d.finish.is_some() {
        if done.removed != running || !seen.caught_up {
            // Some pod may still run that nobody has stopped, or that the cache does not show: not yet.
            d.finish = None;
        }
    } else {
        let complete = match d.spec.completions {
            None => d.succeeded > 0 && d.active == 0,
            Some(n) => d.succeeded >= n && d.active == 0,
        };
        if complete {
            let message = "Reached expected number of succeeded pods";
            d.finish =
                Some(model::new_condition(CRITERIA_MET, "True", "CompletionsReached", message, seen.now));
        } else if d.managed
            && let Some(event) = note_suspension(&mut status, &d, seen.now)
        {
            events.push(event);
            flush = true;
        }
    }
    flush |= status.active.unwrap_or(0) != d.active
        || status.ready != Some(d.ready)
        || status.terminating != Some(d.terminating);
    status.active = Some(d.active).filter(|n| *n != 0);
    status.ready = Some(d.ready);
    status.terminating = Some(d.terminating);
    status.uncounted_terminated_pods.get_or_insert_default();

    let held: HashSet<String> =
        seen.pods.iter().filter(|p| seen.held(p)).map(|p| meta::uid(&p.metadata).to_owned()).collect();
    flush |= turn_into_counts(&mut status, &held);
    let (strip, new_done, whole) = collect(seen, &d, &mut status, &mut flush);
    if model::indexed(&d.spec) {
        let all = d.done_before.union(&new_done);
        status.succeeded = Some(all.len()).filter(|n| *n != 0);
        status.completed_indexes = Some(all.to_string()).filter(|t| !t.is_empty());
        status.failed_indexes = d.failed_indexes.as_ref().map(Indexes::to_string);
        flush |= status.completed_indexes.as_deref().unwrap_or_default()
            != old.completed_indexes.as_deref().unwrap_or_default()
            || status.failed_indexes != old.failed_indexes;
    }
    let finish = d.finish.map(|finish| {
        let interim = finish.type_ == CRITERIA_MET || finish.type_ == FAILURE_TARGET;
        if interim && !model::is_true(Some(&status), &finish.type_) {
            flush = true;
            model::set_condition(&mut status, finish.clone());
        }
        final_condition(&finish, seen.now)
    });
    Accounted {
        job: Job { status: Some(status), ..seen.job.clone() },
        flush,
        strip,
        held,
        finish,
        whole,
        events,
    }
}

/// `Suspended` as the spec has it, with the event to raise when that is new.
fn note_suspension(
    status: &mut JobStatus,
    d: &Decision,
    now: Timestamp,
) -> Option<(&'static str, &'static str)> {
    if model::suspended(&d.spec) {
        let c = model::new_condition(model::SUSPENDED, "True", "JobSuspended", "Job suspended", now);
        return model::set_condition(status, c).then(|| {
            status.start_time = None;
            ("Suspended", "Job suspended")
        });
    }
    let c = model::new_condition(model::SUSPENDED, "False", "JobResumed", "Job resumed", now);
    model::set_condition(status, c).then(|| {
        // The deadline counts only the time since the job was resumed.
        status.start_time = Some(meta::api_time(now));
        ("Resumed", "Job resumed")
    })
}

/// Uids of pods that have no finalizer any more become numbers. Says whether there were any.
fn turn_into_counts(status: &mut JobStatus, held: &HashSet<String>) -> bool {
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let settle = |uids: &mut Option<Vec<String>>, number: &mut Option<i32>| {
        let all = uids.take().unwrap_or_default();
        let before = all.len();
        let left: Vec<String> = all.into_iter().filter(|u| held.contains(u)).collect();
        let settled = count(before - left.len());
        if settled > 0 {
            *number = Some(number.unwrap_or(0).saturating_add(settled));
        }
        *uids = Some(left).filter(|l| !l.is_empty());
        settled > 0
    };
    let succeeded = settle(&mut uncounted.succeeded, &mut status.succeeded);
    settle(&mut uncounted.failed, &mut status.failed) || succeeded
}

/// Notes pods that ended and are not noted yet: those whose finalizers may go, newly succeeded indexes, and whether
/// none had to be left for the next time.
fn collect(
    seen: &Seen<'_>,
    d: &Decision,
    status: &mut JobStatus,
    flush: &mut bool,
) -> (Vec<Arc<Pod>>, Indexes, bool) {
    let indexed = model::indexed(&d.spec);
    let ending = d.finish.as_ref();
    let lost = ending.is_some_and(|f| f.type_ != CRITERIA_MET);
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let (ok, bad) = (uncounted.succeeded.get_or_insert_default(), uncounted.failed.get_or_insert_default());
    let (known_ok, known_bad): (HashSet<String>, HashSet<String>) =
        (ok.iter().cloned().collect(), bad.iter().cloned().collect());
    let mut strip = Vec::new();
    let mut new_done = Vec::new();
    let mut whole = true;
    let mut order: Vec<&Arc<Pod>> = seen.pods.iter().filter(|p| seen.held(p)).collect();
    order.sort_by_key(|p| model::index(p));
    for pod in order {
        let uid = meta::uid(&pod.metadata).to_owned();
        let succeeded = pods::phase(pod) == "Succeeded";
        let failed = model::failed(pod, &d.spec);
        let over = seen.job.metadata.deletion_timestamp.is_some() || ending.is_some();
        if !(over || succeeded || (failed && !d.kept.contains(&uid))) {
            continue;
        }
        strip.push(pod.clone());
        let index = model::valid_index(pod, &d.spec);
        if succeeded && !known_bad.contains(&uid) {
            if !indexed && !known_ok.contains(&uid) {
                ok.push(uid);
                *flush = true;
            } else if let Some(i) = index.filter(|i| indexed && !d.done_before.contains(*i)) {
                new_done.push(i);
                *flush = true;
            }
        } else if (failed || lost)
            && !known_bad.contains(&uid)
            && (!indexed || index.is_some())
            && policy::judge(d.spec.pod_failure_policy.as_ref(), pod).counts()
        {
            bad.push(uid);
            *flush = true;
        }
        if new_done.len() + ok.len() + bad.len() >= MAX_UNCOUNTED {
            whole = false;
            break;
        }
    }
    if ok.is_empty() {
        uncounted.succeeded = None;
    }
    if uncounted.failed.as_ref().is_some_and(Vec::is_empty) {
        uncounted.failed = None;
    }
    (strip, new_done.into_iter().collect(), whole)
}

impl Accounted {
    /// The status was written: `job` is what the server has now.
    pub fn flushed(&mut self, job: Job) {
        self.job = job;
        self.flush = false;
    }

    /// The finalizer of this pod is gone.
    pub fn stripped(&mut self, uid: &str) {
        self.held.remove(uid);
    }

    /// Counts pods whose finalizers are gone.
    pub fn settle(&mut self) {
        let status = self.job.status.get_or_insert_default();
        self.flush |= turn_into_counts(status, &self.held);
    }

    /// Ends the job, unless some pod is not counted or not gone yet. Returns its last condition if it ends now.
    pub fn conclude(&mut self, now: Timestamp) -> Option<JobCondition> {
        let finish = self.finish.clone().filter(|_| self.whole)?;
        let status = self.job.status.get_or_insert_default();
        let open = status
            .uncounted_terminated_pods
            .as_ref()
            .is_some_and(|u| u.succeeded.iter().chain(&u.failed).any(|l| !l.is_empty()));
        if open || status.terminating.unwrap_or(0) > 0 {
            return None;
        }
        if finish.type_ == COMPLETE {
            status.completion_time = Some(meta::api_time(now));
        }
        model::set_condition(status, finish.clone());
        self.flush = true;
        Some(finish)
    }
}

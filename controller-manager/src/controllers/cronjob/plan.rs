//! Pure part: which times were missed, what is due, and what the status says about jobs that ended.

use std::collections::HashSet;
use std::sync::Arc;

use component_base::cron::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::util::meta;

/// Annotation of jobs: the time they were due.
pub const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Added to waits, so that a clock that is a little behind does not wake too early.
const SLACK: SignedDuration = SignedDuration::from_millis(100);
/// From so many missed times on, something is wrong.
const MANY: i64 = 100;

/// An event: whether a warning, reason, message.
pub type Event = (bool, &'static str, String);

/// Whether a job has ended, and how.
pub fn ended(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let last =
        conditions.iter().find(|c| c.status == "True" && matches!(c.type_.as_str(), "Complete" | "Failed"));
    last.map(|c| c.type_.as_str())
}

fn active(status: &CronJobStatus) -> &[ObjectReference] {
    status.active.as_deref().unwrap_or_default()
}

fn is_active(status: &CronJobStatus, uid: &str) -> bool {
    active(status).iter().any(|r| r.uid.as_deref() == Some(uid))
}

/// Takes a job off the list of active ones.
pub fn drop_active(status: &mut CronJobStatus, uid: &str) {
    if let Some(list) = status.active.as_mut() {
        list.retain(|r| r.uid.as_deref() != Some(uid));
    }
    status.active.take_if(|l| l.is_empty());
}

/// Active jobs that the cache does not show: they are gone, or it lags.
pub fn unseen<'a>(status: &'a CronJobStatus, jobs: &[Arc<Job>]) -> Vec<&'a ObjectReference> {
    let seen: HashSet<Option<&str>> = jobs.iter().map(|j| j.metadata.uid.as_deref()).collect();
    active(status).iter().filter(|r| !seen.contains(&r.uid.as_deref())).collect()
}

/// Brings the status up to date with its jobs; `missing` are uids of active jobs that are gone.
pub fn follow(status: &mut CronJobStatus, jobs: &[Arc<Job>], missing: &HashSet<String>) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for job in jobs {
        let (name, uid) = (meta::name(&job.metadata), meta::uid(&job.metadata));
        let known = is_active(status, uid);
        let Some(end) = ended(job) else {
            if !known {
                let message = format!("Saw a job that the controller did not create or forgot: {name}");
                events.push((true, "UnexpectedJob", message));
            }
            continue;
        };
        if known {
            drop_active(status, uid);
            let message = format!("Saw completed job: {name}, condition: {end}");
            events.push((false, "SawCompletedJob", message));
        }
        let at = job.status.as_ref().and_then(|s| s.completion_time.clone()).filter(|_| end == "Complete");
        if at.as_ref().map(|t| t.0) > status.last_successful_time.as_ref().map(|t| t.0) {
            status.last_successful_time = at;
        }
    }
    for gone in active(status).to_vec().iter().filter(|r| r.uid.as_ref().is_some_and(|u| missing.contains(u)))
    {
        let name = gone.name.as_deref().unwrap_or_default();
        events.push((false, "MissingJob", format!("Active job went missing: {name}")));
        drop_active(status, gone.uid.as_deref().unwrap_or_default());
    }
    events
}

/// Ended jobs beyond the limits of the history, those that began first.
pub fn expired(cj: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = &cj.spec;
    let limits =
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    let mut gone = Vec::new();
    for (end, limit) in limits {
        let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { continue };
        let mut these: Vec<&Arc<Job>> = jobs
            .iter()
            .filter(|j| ended(j) == Some(end) && j.metadata.deletion_timestamp.is_none())
            .collect();
        these.sort_by_key(|j| {
            let begun = j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
            (begun.is_none(), begun, meta::name(&j.metadata).to_owned())
        });
        let surplus = these.len().saturating_sub(limit);
        gone.extend(these.into_iter().take(surplus).cloned());
    }
    gone
}

/// How many times have passed unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    None,
    Few,
    Many,
}

/// The last time that is due, if any, after the earliest that counts (first).
fn last_due(
    cj: &CronJob,
    now: Timestamp,
    schedule: &Schedule,
    zone: &TimeZone,
    with_deadline: bool,
) -> Result<(Timestamp, Option<Timestamp>, Missed), String> {
    let last = cj.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()).map(|t| t.0);
    let mut earliest = last.unwrap_or_else(|| meta::created(&cj.metadata));
    let deadline = cj.spec.starting_deadline_seconds.filter(|_| with_deadline);
    if let Some(limit) = deadline.and_then(|d| now.checked_sub(SignedDuration::from_secs(d)).ok()) {
        earliest = earliest.max(limit);
    }
    let nonsense = || "time difference between two schedules is less than 1 second".to_owned();
    let first = schedule.next(earliest, zone).ok_or_else(nonsense)?;
    if now < first {
        return Ok((earliest, None, Missed::None));
    }
    let second = schedule.next(first, zone).ok_or_else(nonsense)?;
    if now < second {
        return Ok((earliest, Some(first), Missed::None));
    }
    let between = second.duration_since(first).as_secs();
    if between < 1 {
        return Err(nonsense());
    }
    // A rough count, by the distance of the first two: times may have been missed for years.
    let missed = now.duration_since(first).as_secs() / between + 1;
    let skip = SignedDuration::from_secs((missed - 2).saturating_mul(between));
    let mut found = None;
    let mut next = schedule.next(first.checked_add(skip).unwrap_or(first), zone);
    while let Some(at) = next.filter(|t| *t <= now) {
        found = Some(at);
        next = schedule.next(at, zone);
    }
    Ok((earliest, found, if missed > MANY { Missed::Many } else { Missed::Few }))
}

/// How long to wait for the next time.
pub fn wait(cj: &CronJob, now: Timestamp, schedule: &Schedule, zone: &TimeZone) -> Option<SignedDuration> {
    let from = match last_due(cj, now, schedule, zone, false) {
        Ok((_, Some(due), _)) => due,
        Ok((earliest, None, Missed::None)) => earliest,
        Ok((_, None, _)) | Err(_) => now,
    };
    Some(schedule.next(from, zone)?.duration_since(now) + SLACK)
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing, until the next time, if there is one.
    Nothing,
    /// Begin the job of this time, after deleting those that run if `replace`.
    Start { at: Timestamp, replace: bool },
    /// The schedule makes no sense: nothing until it is changed.
    Never,
}

/// Decides what is due. `status` is up to date.
pub fn due(
    cj: &CronJob,
    status: &CronJobStatus,
    now: Timestamp,
    schedule: &Schedule,
    zone: &TimeZone,
    events: &mut Vec<Event>,
) -> Due {
    let spec = &cj.spec;
    let (at, missed) = match last_due(cj, now, schedule, zone, true) {
        Ok((_, Some(at), missed)) => (at, missed),
        Ok((_, None, _)) => return Due::Nothing,
        Err(e) => {
            events.push((true, "InvalidSchedule", format!("invalid schedule: {} : {e}", spec.schedule)));
            return Due::Never;
        }
    };
    if missed == Missed::Many {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        events.push((true, "TooManyMissedTimes", message.into()));
    }
    let end = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    if end.and_then(|d| at.checked_add(d).ok()).is_some_and(|end| end < now) {
        let when = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        events.push((true, "MissSchedule", format!("Missed scheduled time to start a job: {when}")));
        return Due::Nothing;
    }
    let name = job_name(cj, at);
    let begun = active(status).iter().any(|r| r.name.as_deref() == Some(&name));
    if begun || status.last_schedule_time.as_ref().is_some_and(|t| t.0 == at) {
        return Due::Nothing;
    }
    let busy = !active(status).is_empty();
    if busy && spec.concurrency_policy.as_deref() == Some("Forbid") {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
        events.push((false, "JobAlreadyActive", message.into()));
        return Due::Nothing;
    }
    Due::Start { at, replace: busy && spec.concurrency_policy.as_deref() == Some("Replace") }
}

/// The name of the job of a time: it can't be made twice.
pub fn job_name(cj: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", meta::name(&cj.metadata), at.as_second().div_euclid(60))
}

/// The job of a time; `zone` is the one in which that is written on it.
pub fn job(cj: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = cj.spec.job_template.clone();
    let from = template.metadata.unwrap_or_default();
    let when = at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    let when = when.strip_suffix("+00:00").map_or(when.clone(), |utc| format!("{utc}Z"));
    let mut annotations = from.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.into(), when);
    let metadata = ObjectMeta {
        name: Some(job_name(cj, at)),
        namespace: cj.metadata.namespace.clone(),
        labels: from.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![meta::controller_ref(cj)]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: template.spec, status: None }
}

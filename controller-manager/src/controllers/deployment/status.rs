//! The status of a deployment: counts, and the conditions `Available`, `Progressing` and `ReplicaFailure`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::model::{
    self, max_unavailable, progress_deadline, replicas, rs_actual, rs_available, rs_ready, rs_replicas,
};
use crate::util::meta::{self, api_time};

pub const AVAILABLE: &str = "Available";
pub const PROGRESSING: &str = "Progressing";
pub const FAILURE: &str = "ReplicaFailure";
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(api_time(now)),
        last_transition_time: Some(api_time(now)),
    }
}

/// The condition of a type.
pub fn get<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// Puts a condition in, unless status and reason are as before.
pub fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    let list = status.conditions.get_or_insert_default();
    if let Some(old) = list.iter().find(|c| c.type_ == new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    list.retain(|c| c.type_ != new.type_);
    list.push(new);
}

/// Takes a condition out.
pub fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(list) = status.conditions.as_mut() {
        list.retain(|c| c.type_ != type_);
    }
    status.conditions = status.conditions.take().filter(|c| !c.is_empty());
}

/// Sets `Progressing`.
pub fn set_progress(d: &mut Deployment, status: &str, reason: &str, message: String, now: Timestamp) {
    set(d.status.get_or_insert_default(), condition(PROGRESSING, status, reason, message, now));
}

/// Keeps `Progressing` in step with pausing. Says whether anything changed.
pub fn check_paused(d: &mut Deployment, now: Timestamp) -> bool {
    if progress_deadline(d).is_none() {
        return false;
    }
    let current = d.status.as_ref().and_then(|s| get(s, PROGRESSING)).and_then(|c| c.reason.clone());
    if current.as_deref() == Some(TIMED_OUT) {
        return false;
    }
    let noted = current.as_deref() == Some("DeploymentPaused");
    match (model::paused(d), noted) {
        (true, false) => set_progress(d, "Unknown", "DeploymentPaused", "Deployment is paused".into(), now),
        (false, true) => set_progress(d, "Unknown", "DeploymentResumed", "Deployment is resumed".into(), now),
        _ => return false,
    }
    true
}

fn some(n: i32) -> Option<i32> {
    (n != 0).then_some(n)
}

/// Counts and `Available`; the other conditions as they are.
pub fn calculate(
    d: &Deployment,
    sets: &[ReplicaSet],
    new: Option<usize>,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |f: fn(&ReplicaSet) -> i32| sets.iter().map(f).sum::<i32>();
    let available = sum(rs_available);
    let old = d.status.clone().unwrap_or_default();
    let terminating: Vec<i32> =
        sets.iter().filter_map(|s| s.status.as_ref().and_then(|s| s.terminating_replicas)).collect();
    let mut status = DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: some(sum(rs_actual)),
        updated_replicas: some(new.map_or(0, |i| rs_actual(&sets[i]))),
        ready_replicas: some(sum(rs_ready)),
        available_replicas: some(available),
        unavailable_replicas: some((sum(rs_replicas) - available).max(0)),
        terminating_replicas: (!terminating.is_empty()).then(|| terminating.iter().sum()),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = available >= replicas(d) - max_unavailable(d);
    let availability = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, condition(AVAILABLE, availability.0, availability.1, availability.2.into(), now));
    status
}

/// Whether everything is as wanted.
pub fn complete(d: &Deployment, s: &DeploymentStatus) -> bool {
    let wanted = replicas(d);
    s.updated_replicas.unwrap_or(0) == wanted
        && s.replicas.unwrap_or(0) == wanted
        && s.available_replicas.unwrap_or(0) == wanted
        && s.observed_generation >= d.metadata.generation
}

/// Whether there is more of the new, or less of the old, than before.
fn progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |o: Option<i32>| o.unwrap_or(0);
    let stale = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || stale(new) < stale(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// When the deadline of the current rollout is, if one runs.
fn deadline(d: &Deployment, s: &DeploymentStatus) -> Option<Timestamp> {
    let limit = progress_deadline(d)?;
    let since = get(s, PROGRESSING)?.last_update_time.as_ref()?.0;
    since.checked_add(SignedDuration::from_secs(limit)).ok()
}

fn timed_out(d: &Deployment, s: &DeploymentStatus, now: Timestamp) -> bool {
    match get(s, PROGRESSING).and_then(|c| c.reason.as_deref()) {
        None | Some(NEW_AVAILABLE) => false,
        Some(TIMED_OUT) => progress_deadline(d).is_some(),
        Some(_) => deadline(d, s).is_some_and(|t| t < now),
    }
}

/// The whole status after a step of a rollout.
pub fn rollout(d: &Deployment, sets: &[ReplicaSet], new: Option<usize>, now: Timestamp) -> DeploymentStatus {
    let mut status = calculate(d, sets, new, now);
    let before = d.status.clone().unwrap_or_default();
    if progress_deadline(d).is_none() {
        remove(&mut status, PROGRESSING);
    }
    let current = get(&before, PROGRESSING).cloned();
    let finished = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_AVAILABLE));
    if progress_deadline(d).is_some() && !finished {
        let subject = match new {
            Some(i) => format!("ReplicaSet \"{}\"", meta::name(&sets[i].metadata)),
            None => format!("Deployment \"{}\"", meta::name(&d.metadata)),
        };
        if complete(d, &status) {
            let message = format!("{subject} has successfully progressed.");
            set(&mut status, condition(PROGRESSING, "True", NEW_AVAILABLE, message, now));
        } else if progressing(&before, &status) {
            let message = format!("{subject} is progressing.");
            let mut c = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
            if let Some(current) = current.filter(|c| c.status == "True") {
                c.last_transition_time = current.last_transition_time;
            }
            // Taken out first, so that the time of the last progress moves on.
            remove(&mut status, PROGRESSING);
            set(&mut status, c);
        } else if timed_out(d, &status, now) {
            let message = format!("{subject} has timed out progressing.");
            set(&mut status, condition(PROGRESSING, "False", TIMED_OUT, message, now));
        }
    }
    match failure_of(sets, new, now) {
        Some(c) => set(&mut status, c),
        None => remove(&mut status, FAILURE),
    }
    status
}

/// The failure a replica set reports: the new one's first.
fn failure_of(sets: &[ReplicaSet], new: Option<usize>, now: Timestamp) -> Option<DeploymentCondition> {
    let order = new.into_iter().chain((0..sets.len()).filter(|i| Some(*i) != new));
    order
        .filter_map(|i| sets[i].status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == FAILURE))
        .next()
        .map(|c| DeploymentCondition {
            type_: FAILURE.into(),
            status: c.status.clone(),
            reason: c.reason.clone(),
            message: c.message.clone(),
            last_transition_time: c.last_transition_time.clone(),
            last_update_time: c.last_transition_time.clone().or_else(|| Some(api_time(now))),
        })
}

/// When to look again so that a stuck rollout is noticed.
pub fn check_after(d: &Deployment, s: &DeploymentStatus, now: Timestamp) -> Option<SignedDuration> {
    let reason = get(s, PROGRESSING)?.reason.as_deref();
    if complete(d, s) || reason == Some(TIMED_OUT) || model::paused(d) {
        return None;
    }
    let left = now.until(deadline(d, s)?).ok().and_then(|s| SignedDuration::try_from(s).ok())?;
    Some(left.max(SignedDuration::ZERO) + SignedDuration::from_secs(1))
}

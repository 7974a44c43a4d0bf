//! What a deployment and its replica sets say about each other: revisions, annotations, limits.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::util::{meta, values};

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
pub const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
pub const HASH: &str = "pod-template-hash";

/// Annotations that belong to one object and are never copied to the other.
const OWN: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAX, ROLLBACK_TO];
/// Room for old revision numbers in [`HISTORY`].
const HISTORY_MAX: usize = 2000;

pub fn replicas(d: &Deployment) -> i32 {
    d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub fn template(d: &Deployment) -> PodTemplateSpec {
    d.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default()
}

pub fn paused(d: &Deployment) -> bool {
    d.spec.as_ref().and_then(|s| s.paused).unwrap_or(false)
}

pub fn is_recreate(d: &Deployment) -> bool {
    d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

pub fn min_ready(d: &Deployment) -> Option<i32> {
    d.spec.as_ref().and_then(|s| s.min_ready_seconds).filter(|s| *s != 0)
}

/// Seconds without progress after which a rollout counts as failed; the largest number means never.
pub fn progress_deadline(d: &Deployment) -> Option<i64> {
    d.spec.as_ref().and_then(|s| s.progress_deadline_seconds).filter(|s| *s != i32::MAX).map(i64::from)
}

/// Surge and unavailability allowed in a rolling update: (0, 0) would never move, so it becomes (0, 1).
fn fence(d: &Deployment) -> (i32, i32) {
    if is_recreate(d) {
        return (0, 0);
    }
    let rolling = d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let total = replicas(d);
    let surge =
        rolling.and_then(|r| r.max_surge.as_ref()).and_then(|v| values::scaled(v, total, true)).unwrap_or(0);
    let down = rolling
        .and_then(|r| r.max_unavailable.as_ref())
        .and_then(|v| values::scaled(v, total, false))
        .unwrap_or(0);
    if surge == 0 && down == 0 { (0, 1) } else { (surge, down) }
}

/// How many pods there may be above the wanted number.
pub fn max_surge(d: &Deployment) -> i32 {
    fence(d).0
}

/// How many of the wanted pods may be missing.
pub fn max_unavailable(d: &Deployment) -> i32 {
    if is_recreate(d) || replicas(d) == 0 { 0 } else { fence(d).1.min(replicas(d)) }
}

pub fn rs_replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// Pods the replica set has by its own account.
pub fn rs_actual(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |s| s.replicas)
}

pub fn rs_ready(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
}

pub fn rs_available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Available pods the replica set will still have at its present size: right after a change of size its own account is
/// out of date.
pub fn rs_surely_available(rs: &ReplicaSet) -> i32 {
    rs_available(rs).min(rs_replicas(rs))
}

pub fn rs_number(rs: &ReplicaSet, annotation: &str) -> Option<i32> {
    meta::annotation(&rs.metadata, annotation)?.parse().ok()
}

/// The revision of a replica set; none counts as zero.
pub fn revision(rs: &ReplicaSet) -> i64 {
    meta::annotation(&rs.metadata, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut t = template.clone();
    let m = t.metadata.get_or_insert_default();
    if let Some(labels) = m.labels.as_mut() {
        labels.remove(HASH);
    }
    m.labels = m.labels.take().filter(|l| !l.is_empty());
    m.annotations = m.annotations.take().filter(|a| !a.is_empty());
    m.creation_timestamp = None;
    t
}

/// Whether two pod templates are the same but for the hash label.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    without_hash(a) == without_hash(b)
}

/// The replica set of the deployment's current template: the oldest, should there be several.
pub fn find_new(d: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let wanted = template(d);
    (0..sets.len())
        .filter(|&i| {
            sets[i].spec.as_ref().and_then(|s| s.template.as_ref()).is_some_and(|t| same_template(t, &wanted))
        })
        .min_by_key(|&i| age_key(&sets[i]))
}

/// Sorts from old to young; names break ties.
pub fn age_key(rs: &ReplicaSet) -> (jiff::Timestamp, String) {
    (meta::created(&rs.metadata), meta::name(&rs.metadata).to_owned())
}

/// Copies the deployment's annotations to its replica set and gives it the revision. Says whether anything changed.
pub fn annotate_new(d: &Deployment, rs: &mut ReplicaSet, new_revision: i64, exists: bool) -> bool {
    let annotations = rs.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (k, v) in d.metadata.annotations.iter().flatten() {
        if !OWN.contains(&k.as_str()) && annotations.get(k) != Some(v) {
            annotations.insert(k.clone(), v.clone());
            changed = true;
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = match old.as_deref().filter(|o| !o.is_empty()).map(str::parse::<i64>) {
        None => 0,
        Some(Ok(n)) => n,
        // Somebody wrote nonsense there: leave it to them.
        Some(Err(_)) => return changed,
    };
    if old_number < new_revision {
        annotations.insert(REVISION.into(), new_revision.to_string());
        changed = true;
        if old_number > 0 {
            let mut history: Vec<String> = annotations
                .get(HISTORY)
                .map(|h| h.split(',').map(str::to_owned).collect())
                .unwrap_or_default();
            history.retain(|h| !h.is_empty());
            history.push(old_number.to_string());
            while history.join(",").len() > HISTORY_MAX {
                history.remove(0);
            }
            annotations.insert(HISTORY.into(), history.join(","));
        }
    }
    if !exists {
        changed |= annotate_size(rs, replicas(d), replicas(d) + max_surge(d));
    }
    changed
}

/// Notes the size of the deployment on a replica set, for proportional scaling. Says whether anything changed.
pub fn annotate_size(rs: &mut ReplicaSet, desired: i32, max: i32) -> bool {
    let annotations = rs.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [(DESIRED, desired.to_string()), (MAX, max.to_string())] {
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.into(), value);
            changed = true;
        }
    }
    changed
}

/// Template and annotations of an earlier revision, put back on the deployment.
pub fn restore(d: &mut Deployment, rs: &ReplicaSet) {
    let mut old = rs.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    if let Some(labels) = old.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH);
    }
    if let Some(spec) = d.spec.as_mut() {
        spec.template = old;
    }
    let mine = d.metadata.annotations.take().unwrap_or_default();
    let own = |(k, _): &(String, String)| OWN.contains(&k.as_str());
    let mut result: BTreeMap<String, String> = mine.into_iter().filter(own).collect();
    let theirs = rs.metadata.annotations.clone().unwrap_or_default();
    result.extend(theirs.into_iter().filter(|kv| !own(kv)));
    d.metadata.annotations = Some(result);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_move_into_the_history() {
        let d = Deployment::default();
        let mut rs = ReplicaSet::default();
        assert!(annotate_new(&d, &mut rs, 1, false));
        assert!(!annotate_new(&d, &mut rs, 1, true));
        assert!(annotate_new(&d, &mut rs, 3, true));
        assert!(annotate_new(&d, &mut rs, 4, true));
        assert_eq!(revision(&rs), 4);
        assert_eq!(meta::annotation(&rs.metadata, HISTORY), Some("1,3"));
        assert_eq!(rs_number(&rs, DESIRED), Some(1));
    }
}

//! What an update of a pod may change: hardly anything.

use k8s_openapi::api::core::v1::{Container, PodSpec, Toleration};

use super::scheduling;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, same, text};
use crate::kinds::validate::text as rules;

/// Fields that may change, as upstream lists them.
const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A change through the endpoint of the pod itself.
pub fn main(new: &PodSpec, old: &PodSpec, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if !containers(&new.containers, &old.containers, &path.child("containers"), &mut errors)
        || !containers(
            items(&new.init_containers),
            items(&old.init_containers),
            &path.child("initContainers"),
            &mut errors,
        )
        || !deadline(new, old, &path.child("activeDeadlineSeconds"), &mut errors)
    {
        return errors;
    }
    tolerations(items(&new.tolerations), items(&old.tolerations), &path.child("tolerations"), &mut errors);
    for (i, g) in items(&new.scheduling_gates).iter().enumerate() {
        if !items(&old.scheduling_gates).contains(g) {
            errors.push(Error::forbidden(
                &path.child("schedulingGates").index(i).child("name"),
                format!("only deletion is allowed, but found new scheduling gate '{}'", g.name),
            ));
        }
    }
    if same(new, old) {
        return errors;
    }
    let munged = with_allowed_changes_undone(new, old);
    if !same(&munged, old) {
        errors.push(Error::forbidden(
            path,
            format!("{MAY_CHANGE}\n{}", super::super::diff::diff(old, &munged)),
        ));
    }
    errors
}

/// False if nothing further can be compared.
fn containers(new: &[Container], old: &[Container], path: &Path, errors: &mut ErrorList) -> bool {
    if new.len() != old.len() {
        errors.push(Error::forbidden(path, "pod updates may not add or remove containers"));
        return false;
    }
    for (i, c) in new.iter().enumerate() {
        let at = path.index(i).child("image");
        let image = text(&c.image);
        if image.is_empty() {
            errors.push(Error::required(&at, ""));
        }
        if image.trim() != image {
            errors.push(Error::invalid(&at, image, "must not have leading or trailing whitespace"));
        }
    }
    true
}

fn deadline(new: &PodSpec, old: &PodSpec, path: &Path, errors: &mut ErrorList) -> bool {
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errors.push(Error::invalid(path, n, rules::between(0, i64::from(i32::MAX))));
            false
        }
        (Some(n), Some(was)) if was < n => {
            errors.push(Error::invalid(path, n, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            let none: Option<i64> = None;
            errors.push(Error::invalid(path, none, "must not update from a positive integer to nil value"));
            true
        }
        _ => true,
    }
}

fn tolerations(new: &[Toleration], old: &[Toleration], path: &Path, errors: &mut ErrorList) {
    let kept = |o: &Toleration| {
        new.iter().any(|n| Toleration { toleration_seconds: n.toleration_seconds, ..o.clone() } == *n)
    };
    if !old.iter().all(kept) {
        errors.push(Error::forbidden(
            path,
            "existing toleration can not be modified except its tolerationSeconds",
        ));
        return;
    }
    scheduling::tolerations(new, path, errors);
}

/// The new spec with what may change put back: what differs then may not.
fn with_allowed_changes_undone(new: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut s = new.clone();
    for (n, o) in s.containers.iter_mut().zip(&old.containers) {
        n.image = o.image.clone();
    }
    for (n, o) in s.init_containers.iter_mut().flatten().zip(items(&old.init_containers)) {
        n.image = o.image.clone();
    }
    s.active_deadline_seconds = old.active_deadline_seconds;
    s.scheduling_gates = old.scheduling_gates.clone();
    s.tolerations = old.tolerations.clone();
    if old.termination_grace_period_seconds.is_some_and(|n| n < 0)
        && s.termination_grace_period_seconds == Some(1)
    {
        s.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if !items(&old.scheduling_gates).is_empty() {
        undo_gated_changes(&mut s, old);
    }
    s
}

/// While a pod is gated, its node selector and node affinity may still be narrowed.
fn undo_gated_changes(s: &mut PodSpec, old: &PodSpec) {
    let added_only = old
        .node_selector
        .iter()
        .flatten()
        .all(|(k, v)| s.node_selector.as_ref().and_then(|n| n.get(k)) == Some(v));
    if added_only {
        s.node_selector = old.node_selector.clone();
    }
    let before = old.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    let bound =
        before.as_ref().is_some_and(|n| n.required_during_scheduling_ignored_during_execution.is_some());
    if bound {
        return;
    }
    match (&mut s.affinity, &old.affinity) {
        (Some(a), None) if a.pod_affinity.is_none() && a.pod_anti_affinity.is_none() => s.affinity = None,
        (Some(a), _) => a.node_affinity = before,
        (None, _) => {}
    }
}

/// Ephemeral containers may be added, never taken away or changed.
pub fn ephemeral(new: &PodSpec, old: &PodSpec, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = path.child("ephemeralContainers");
    for o in items(&old.ephemeral_containers) {
        match items(&new.ephemeral_containers).iter().find(|n| n.name == o.name) {
            None => errors.push(Error::forbidden(
                &path,
                format!("existing ephemeral containers \"{}\" may not be removed\n", o.name),
            )),
            Some(n) if !same(n, o) => errors.push(Error::forbidden(
                &path,
                format!(
                    "existing ephemeral containers \"{}\" may not be changed\n{}",
                    o.name,
                    super::super::diff::diff(o, n)
                ),
            )),
            Some(_) => {}
        }
    }
    errors
}

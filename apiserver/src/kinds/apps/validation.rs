//! Checks that workloads share: the selector takes the template's pods, which restart for ever.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec;
use crate::kinds::semantic::text;
use crate::kinds::validate::printed::{json, object};
use crate::kinds::validate::{numbers, selector};
use crate::registry::strategy::Context;

/// Where the selector of every workload of the group is.
pub const SELECTOR: &str = "/spec/selector";

/// The selector, if the client sent one.
pub fn given<'a>(cx: &Context, s: &'a LabelSelector) -> Option<&'a LabelSelector> {
    if cx.lacks(SELECTOR) { None } else { Some(s) }
}

/// A selector that is there and says something. `kind` as in messages. False if it is malformed, and so can be
/// held against no labels.
pub fn label_selector(s: Option<&LabelSelector>, kind: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let Some(s) = s else {
        errors.push(Error::required(path, ""));
        return true;
    };
    let wrong = selector::label_selector(Some(s), path);
    let well_formed = wrong.is_empty();
    errors.extend(wrong);
    if selector::is_empty(s) {
        errors.push(selector::invalid(s, path, &format!("empty selector is invalid for {kind}")));
    }
    if !well_formed {
        let why = if kind == "statefulset" { "" } else { "invalid label selector" };
        errors.push(selector::invalid(s, path, why));
    }
    well_formed
}

/// Warnings of a fresh workload's template.
pub fn template_warnings(cx: &mut Context, meta: &ObjectMeta, t: &PodTemplateSpec, path: &Path) {
    if let (true, Some(s)) = (text(&meta.resource_version).is_empty(), &t.spec) {
        let blank = ObjectMeta::default();
        let of = t.metadata.as_ref().unwrap_or(&blank);
        podspec::warnings::warnings(path, s, of, &mut cx.warnings);
    }
}

/// The template: selected, valid, restarting always, without deadline. `kind` as in messages.
pub fn template(
    t: &PodTemplateSpec,
    select: Option<&LabelSelector>,
    kind: &str,
    path: &Path,
    errors: &mut ErrorList,
) {
    let labels = t.metadata.as_ref().and_then(|m| m.labels.as_ref());
    // No selector at all takes nothing; an empty one would take everything.
    if !select.is_some_and(|s| selector::is_empty(s) || selector::matches(s, labels)) {
        errors.push(Error::invalid(
            &path.child("metadata").child("labels"),
            labels,
            "`selector` does not match template `labels`",
        ));
    }
    errors.extend(podspec::validate::template(t, path));
    if kind == "StatefulSet" {
        // Upstream tells these twice.
        errors.extend(podspec::validate::template_meta(t, path));
    }
    always_restarts(t, kind, path, errors);
}

/// Pods of a workload run until the workload stops them.
pub fn always_restarts(t: &PodTemplateSpec, kind: &str, path: &Path, errors: &mut ErrorList) {
    let Some(s) = &t.spec else { return };
    let at = path.child("spec");
    if text(&s.restart_policy) != "Always" {
        errors.push(Error::not_supported(&at.child("restartPolicy"), text(&s.restart_policy), &["Always"]));
    }
    if s.active_deadline_seconds.is_some() {
        errors.push(Error::forbidden(
            &at.child("activeDeadlineSeconds"),
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        ));
    }
}

/// How many pods more and how many less than wanted a rollout may have.
pub fn rolling(
    unavailable: Option<&IntOrString>,
    surge: Option<&IntOrString>,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (field, v) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        if let Some(v) = v {
            errors.extend(numbers::positive_int_or_percent(v, &path.child(field)));
        }
    }
}

/// A rollout strategy in upstream's internal form, as its messages show it: `rolling` is `maxUnavailable`, `maxSurge`.
pub fn shown_strategy(
    strategy: &str,
    rolling: Option<(Option<&IntOrString>, Option<&IntOrString>)>,
) -> String {
    let rolling = rolling.map_or("null".to_owned(), |(unavailable, surge)| {
        object(&[("MaxUnavailable", json(&unavailable)), ("MaxSurge", json(&surge))])
    });
    object(&[("Type", json(strategy)), ("RollingUpdate", rolling)])
}

/// Counts of a status: none negative, no part above `replicas`.
pub fn status_counts(
    generation: Option<i64>,
    replicas: Option<i32>,
    parts: &[(&str, Option<i32>)],
    path: &Path,
    errors: &mut ErrorList,
) {
    counts(&[("replicas", replicas.map(i64::from))], path, errors);
    for (field, n) in parts {
        counts(&[(field, n.map(i64::from))], path, errors);
    }
    counts(&[("observedGeneration", generation)], path, errors);
    let all = replicas.unwrap_or(0);
    for (field, n) in parts.iter().map(|(field, n)| (field, n.unwrap_or(0))).filter(|(_, n)| *n > all) {
        errors.push(Error::invalid(&path.child(field), n, "cannot be greater than status.replicas"));
    }
}

/// Counts that are never negative.
pub fn counts(list: &[(&str, Option<i64>)], path: &Path, errors: &mut ErrorList) {
    for (field, n) in list {
        errors.extend(numbers::non_negative_opt(*n, &path.child(field)));
    }
}

//! What may be wrong with a job.

use k8s_openapi::api::batch::v1::{Job, JobSpec, PodFailurePolicyRule};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec;
use crate::kinds::semantic::{items, same, text};
use crate::kinds::validate::{immutable, invalid_each, numbers, selector, text as rules};

/// Pods that an indexed job may run at once.
const MAX_INDEXED: i32 = 100_000;

/// The job, with what is particular to jobs that are no template.
pub fn job(job: &Job) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(s) = &job.spec else { return errors };
    let path = Path::new("spec");
    generated_selector(job, s, &mut errors);
    spec(s, &path, &mut errors);
    if s.selector.is_none() {
        errors.push(Error::required(&path.child("selector"), ""));
    } else {
        errors.extend(selector::label_selector(s.selector.as_ref(), &path.child("selector")));
        let labels = s.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        if s.selector.as_ref().is_some_and(|l| !selector::matches(l, labels)) {
            errors.push(Error::invalid(
                &path.child("template").child("metadata").child("labels"),
                labels,
                "`selector` does not match template `labels`",
            ));
        }
    }
    let indexed = s.completion_mode.as_deref() == Some("Indexed");
    if let (true, Some(n)) = (indexed, s.completions.filter(|n| *n > 0)) {
        let name = text(&job.metadata.name);
        let host = format!("{name}-{}", n - 1);
        if !rules::dns1123_label(&host).is_empty() {
            errors.push(Error::invalid(
                &Path::new("metadata").child("name"),
                name,
                format!("will not able to create pod with invalid DNS label: {host}"),
            ));
        }
    }
    errors
}

/// Labels that the server writes are the server's.
fn generated_selector(job: &Job, s: &JobSpec, errors: &mut ErrorList) {
    if s.manual_selector == Some(true) {
        return;
    }
    let blank = Default::default();
    let labels = s.template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&blank);
    let at = Path::new("spec").child("template").child("metadata").child("labels");
    let (uid, name) = (text(&job.metadata.uid), text(&job.metadata.name));
    for (key, want) in [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ] {
        match labels.get(key) {
            Some(v) if v != want => {
                errors.push(Error::invalid(&at.key(key), v, format!("must be '{want}'")));
            }
            None => errors.push(Error::required(&at.key(key), format!("must be '{want}'"))),
            Some(_) => {}
        }
    }
}

fn domain_prefixed(value: &str, path: &Path, errors: &mut ErrorList) {
    match value.split_once('/') {
        _ if value.is_empty() => errors.push(Error::required(path, "")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            errors.extend(invalid_each(path, host, rules::dns1123_subdomain(host)));
        }
        _ => errors.push(Error::invalid(
            path,
            value,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )),
    }
}

/// Spec of a job or of a template of one.
pub fn spec(s: &JobSpec, path: &Path, errors: &mut ErrorList) {
    for (field, n) in [
        ("parallelism", s.parallelism.map(i64::from)),
        ("completions", s.completions.map(i64::from)),
        ("activeDeadlineSeconds", s.active_deadline_seconds),
        ("backoffLimit", s.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", s.ttl_seconds_after_finished.map(i64::from)),
        ("backoffLimitPerIndex", s.backoff_limit_per_index.map(i64::from)),
        ("maxFailedIndexes", s.max_failed_indexes.map(i64::from)),
    ] {
        errors.extend(numbers::non_negative_opt(n, &path.child(field)));
    }
    if s.max_failed_indexes.is_some() && s.backoff_limit_per_index.is_none() {
        errors
            .push(Error::required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if let Some(m) = &s.managed_by {
        let at = path.child("managedBy");
        domain_prefixed(m, &at, errors);
        if m.len() > 63 {
            errors.push(Error::too_long(&at, 63));
        }
    }
    indexes(s, path, errors);
    if let Some(p) = &s.pod_failure_policy {
        let at = path.child("podFailurePolicy").child("rules");
        if p.rules.len() > 20 {
            errors.push(Error::too_many(&at, p.rules.len(), 20));
        }
        for (i, r) in p.rules.iter().enumerate() {
            failure_rule(r, &at.index(i), errors);
        }
    }
    let indexed = s.completion_mode.as_deref() == Some("Indexed");
    if let Some(p) = &s.success_policy
        && !indexed
    {
        errors.push(Error::invalid(&path.child("successPolicy"), p, "requires indexed completion mode"));
    }
    if let Some(p) = &s.pod_replacement_policy {
        let at = path.child("podReplacementPolicy");
        let valid: &[&str] =
            if s.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        if !valid.contains(&p.as_str()) {
            errors.push(Error::not_supported(&at, p, valid));
        }
    }
    errors.extend(podspec::validate::template(&s.template, &path.child("template")));
    restart(s, path, errors);
}

fn indexes(s: &JobSpec, path: &Path, errors: &mut ErrorList) {
    match s.completion_mode.as_deref() {
        Some("Indexed") => {
            if s.completions.is_none() {
                errors.push(Error::required(&path.child("completions"), "when completion mode is Indexed"));
            }
            if let Some(n) = s.parallelism.filter(|n| *n > MAX_INDEXED) {
                let why =
                    format!("must be less than or equal to {MAX_INDEXED} when completion mode is Indexed");
                errors.push(Error::invalid(&path.child("parallelism"), n, why));
            }
            let at = path.child("maxFailedIndexes");
            if let (Some(n), Some(all)) = (s.max_failed_indexes, s.completions)
                && n > all
            {
                errors.push(Error::invalid(&at, n, "must be less than or equal to completions"));
            }
            if let Some(n) = s.max_failed_indexes.filter(|n| *n > MAX_INDEXED) {
                errors.push(Error::invalid(&at, n, format!("must be less than or equal to {MAX_INDEXED}")));
            }
        }
        other => {
            if let Some(o) = other.filter(|o| *o != "NonIndexed") {
                errors.push(Error::not_supported(
                    &path.child("completionMode"),
                    o,
                    &["NonIndexed", "Indexed"],
                ));
                return;
            }
            for (field, n) in [
                ("backoffLimitPerIndex", s.backoff_limit_per_index),
                ("maxFailedIndexes", s.max_failed_indexes),
            ] {
                if let Some(n) = n {
                    errors.push(Error::invalid(&path.child(field), n, "requires indexed completion mode"));
                }
            }
        }
    }
}

fn failure_rule(r: &PodFailurePolicyRule, path: &Path, errors: &mut ErrorList) {
    let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
    let at = path.child("action");
    if r.action.is_empty() {
        errors.push(Error::required(&at, format!("valid values: {}", quoted(&actions))));
    } else if !actions.contains(&r.action.as_str()) {
        errors.push(Error::not_supported(&at, &r.action, &actions));
    }
    if let Some(e) = &r.on_exit_codes {
        let at = path.child("onExitCodes");
        if !["In", "NotIn"].contains(&e.operator.as_str()) {
            errors.push(Error::not_supported(&at.child("operator"), &e.operator, &["In", "NotIn"]));
        }
        if e.values.is_empty() {
            errors.push(Error::invalid(&at.child("values"), &e.values, "at least one value is required"));
        } else if e.values.len() > 255 {
            errors.push(Error::too_many(&at.child("values"), e.values.len(), 255));
        }
        if e.operator == "In" {
            for (i, _) in e.values.iter().enumerate().filter(|(_, v)| **v == 0) {
                errors.push(Error::invalid(
                    &at.child("values").index(i),
                    0,
                    "must not be 0 for the In operator",
                ));
            }
        }
    }
    for (i, c) in items(&r.on_pod_conditions).iter().enumerate() {
        let at = path.child("onPodConditions").index(i);
        errors.extend(invalid_each(&at.child("type"), &c.type_, rules::qualified_name(&c.type_)));
        podspec::validate::one_of(
            text(&c.status),
            &["False", "True", "Unknown"],
            &at.child("status"),
            errors,
        );
    }
    if r.on_exit_codes.is_some() && !items(&r.on_pod_conditions).is_empty() {
        errors.push(without_value(path, "specifying both OnExitCodes and OnPodConditions is not supported"));
    }
    if r.on_exit_codes.is_none() && items(&r.on_pod_conditions).is_empty() {
        errors.push(without_value(path, "specifying one of OnExitCodes and OnPodConditions is required"));
    }
}

/// `Invalid` that does not show the value.
fn without_value(path: &Path, why: &str) -> Error {
    let mut e = Error::invalid(path, "", "");
    e.value = why.to_owned();
    e
}

fn quoted(list: &[&str]) -> String {
    list.iter().map(|s| format!("\"{s}\"")).collect::<Vec<_>>().join(", ")
}

fn restart(s: &JobSpec, path: &Path, errors: &mut ErrorList) {
    let at = path.child("template").child("spec").child("restartPolicy");
    let policy = s.template.spec.as_ref().map(|s| text(&s.restart_policy)).unwrap_or_default();
    match policy {
        "" | "Always" => {
            errors.push(Error::required(&at, "valid values: \"OnFailure\", \"Never\""));
        }
        "OnFailure" if s.pod_failure_policy.is_some() => errors.push(Error::invalid(
            &at,
            policy,
            "only \"Never\" is supported when podFailurePolicy is specified",
        )),
        "OnFailure" | "Never" => {}
        other => errors.push(Error::not_supported(&at, other, &["OnFailure", "Never"])),
    }
}

/// What a change may not do to a job.
pub fn update(new: &JobSpec, old: &JobSpec) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = ErrorList::new();
    let at = path.child("completions");
    if new.completion_mode.as_deref() != Some("Indexed") {
        errors.extend(immutable(&new.completions, &old.completions, &at));
    } else if new.completions != old.completions
        && new.completions.is_some()
        && new.completions != new.parallelism
    {
        errors.push(Error::invalid(
            &at,
            new.completions,
            "can only be modified in tandem with spec.parallelism",
        ));
    }
    errors.extend(immutable(&new.selector, &old.selector, &path.child("selector")));
    // A suspended job that never ran may still be steered to other nodes.
    let steerable = old.suspend == Some(true);
    let mut template = new.template.clone();
    if steerable && let (Some(n), Some(o)) = (&mut template.spec, &old.template.spec) {
        n.node_selector = o.node_selector.clone();
        n.tolerations = o.tolerations.clone();
        n.scheduling_gates = o.scheduling_gates.clone();
        n.affinity = o.affinity.clone();
        template.metadata = old.template.metadata.clone();
    }
    if !same(&template, &old.template) {
        errors.extend(immutable(&new.template, &old.template, &path.child("template")));
    }
    errors.extend(immutable(&new.completion_mode, &old.completion_mode, &path.child("completionMode")));
    errors.extend(immutable(
        &new.pod_failure_policy,
        &old.pod_failure_policy,
        &path.child("podFailurePolicy"),
    ));
    errors.extend(immutable(
        &new.backoff_limit_per_index,
        &old.backoff_limit_per_index,
        &path.child("backoffLimitPerIndex"),
    ));
    errors.extend(immutable(&new.managed_by, &old.managed_by, &path.child("managedBy")));
    errors.extend(immutable(&new.success_policy, &old.success_policy, &path.child("successPolicy")));
    errors
}

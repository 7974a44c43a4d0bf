//! What may be wrong with a job.

mod success;
mod template;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, JobStatus, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec;
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{immutable, invalid_each, numbers, selector, text as rules};

/// Pods that an indexed job may run at once.
const MAX_INDEXED: i32 = 100_000;
/// Of more completions than [`MAX_INDEXED`], so many may run or fail at once.
const MAX_OF_MANY: i32 = 10_000;
/// Rules of a failure or success policy.
const MAX_RULES: usize = 20;
/// Exit codes of one rule.
const MAX_EXIT_CODES: usize = 255;

/// The job, with what is particular to jobs that are no template.
pub fn job(job: &Job) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(s) = &job.spec else { return errors };
    let path = Path::new("spec");
    generated_selector(job, s, &mut errors);
    selecting(s, &path, &mut errors);
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

/// Spec of a job that is no template, with what it selects.
fn selecting(s: &JobSpec, path: &Path, errors: &mut ErrorList) {
    spec(s, path, errors);
    let mut wrong = ErrorList::new();
    match &s.selector {
        None => errors.push(Error::required(&path.child("selector"), "")),
        Some(l) => wrong = selector::label_selector(Some(l), &path.child("selector")),
    }
    let labels = s.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    // No selector takes nothing; a malformed one cannot be held against the labels.
    let takes = s.selector.as_ref().is_some_and(|l| selector::matches(l, labels));
    let mismatch = wrong.is_empty() && !takes;
    errors.extend(wrong);
    if mismatch {
        errors.push(Error::invalid(
            &path.child("template").child("metadata").child("labels"),
            labels,
            "`selector` does not match template `labels`",
        ));
    }
}

/// Labels that the server writes are the server's.
fn generated_selector(job: &Job, s: &JobSpec, errors: &mut ErrorList) {
    // Without a name none was generated.
    let Some(select) = s.selector.as_ref().filter(|_| s.manual_selector != Some(true)) else { return };
    let blank = Default::default();
    let labels = s.template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&blank);
    let at = Path::new("spec").child("template").child("metadata").child("labels");
    let (uid, name) = (text(&job.metadata.uid), text(&job.metadata.name));
    let expected = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    for (key, want) in expected {
        match labels.get(key) {
            Some(v) if v != want => {
                errors.push(Error::invalid(&at.key(key), v, format!("must be '{want}'")));
            }
            None => errors.push(Error::required(&at.key(key), format!("must be '{want}'"))),
            Some(_) => {}
        }
    }
    let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let at = Path::new("spec").child("selector");
    if selector::label_selector(Some(select), &at).is_empty() && !selector::matches(select, Some(&expected)) {
        errors.push(selector::invalid(select, &at, "`selector` not auto-generated"));
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
        if p.rules.len() > MAX_RULES {
            errors.push(Error::too_many(&at, p.rules.len(), MAX_RULES));
        }
        for (i, r) in p.rules.iter().enumerate() {
            failure_rule(s, r, &at.index(i), errors);
        }
    }
    let indexed = s.completion_mode.as_deref() == Some("Indexed");
    if let Some(p) = &s.success_policy {
        let at = path.child("successPolicy");
        if indexed {
            success::policy(p, s.completions, &at, errors);
        } else {
            let mut e = Error::invalid(&at, "", "requires indexed completion mode");
            e.value = success::shown(p);
            errors.push(e);
        }
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
            many_completions(s, path, errors);
        }
        other => {
            let given = other.unwrap_or("NonIndexed");
            if given != "NonIndexed" {
                let at = path.child("completionMode");
                errors.push(Error::not_supported(&at, given, &["NonIndexed", "Indexed"]));
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

/// A job of very many indexes that retries each by itself must bound what its status may hold (KEP-3850).
fn many_completions(s: &JobSpec, path: &Path, errors: &mut ErrorList) {
    if s.completions.is_none_or(|n| n <= MAX_INDEXED) || s.backoff_limit_per_index.is_none() {
        return;
    }
    let bounded = |n: Option<i32>, field: &str, errors: &mut ErrorList| {
        if let Some(n) = n.filter(|n| *n > MAX_OF_MANY) {
            let why = format!(
                "must be less than or equal to {MAX_OF_MANY} when completions are above {MAX_INDEXED} and used with \
                 backoff limit per index"
            );
            errors.push(Error::invalid(&path.child(field), n, why));
        }
    };
    if s.max_failed_indexes.is_none() {
        let why = format!("must be specified when completions is above {MAX_INDEXED}");
        errors.push(Error::required(&path.child("maxFailedIndexes"), why));
    }
    bounded(s.parallelism, "parallelism", errors);
    bounded(s.max_failed_indexes, "maxFailedIndexes", errors);
}

fn failure_rule(spec: &JobSpec, r: &PodFailurePolicyRule, path: &Path, errors: &mut ErrorList) {
    let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
    let at = path.child("action");
    if r.action.is_empty() {
        errors.push(Error::required(&at, valid_values(&actions)));
    } else if r.action == "FailIndex" && spec.backoff_limit_per_index.is_none() {
        errors.push(Error::invalid(&at, &r.action, "requires the backoffLimitPerIndex to be set"));
    } else if !actions.contains(&r.action.as_str()) {
        errors.push(Error::not_supported(&at, &r.action, &actions));
    }
    if let Some(e) = &r.on_exit_codes {
        exit_codes(spec, e, &path.child("onExitCodes"), errors);
    }
    for (i, c) in items(&r.on_pod_conditions).iter().enumerate() {
        let at = path.child("onPodConditions").index(i);
        errors.extend(invalid_each(&at.child("type"), &c.type_, rules::qualified_name(&c.type_)));
        let (at, valid) = (at.child("status"), ["False", "True", "Unknown"]);
        match text(&c.status) {
            "" => errors.push(Error::required(&at, valid_values(&valid))),
            other => podspec::validate::one_of(other, &valid, &at, errors),
        }
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

fn valid_values(list: &[&str]) -> String {
    let quoted: Vec<String> = list.iter().map(|s| format!("\"{s}\"")).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn exit_codes(
    spec: &JobSpec,
    e: &PodFailurePolicyOnExitCodesRequirement,
    path: &Path,
    errors: &mut ErrorList,
) {
    let (at, operators) = (path.child("operator"), ["In", "NotIn"]);
    if e.operator.is_empty() {
        errors.push(Error::required(&at, valid_values(&operators)));
    } else if !operators.contains(&e.operator.as_str()) {
        errors.push(Error::not_supported(&at, &e.operator, &operators));
    }
    if let Some(name) = &e.container_name {
        let pod = spec.template.spec.as_ref();
        let mut containers =
            pod.into_iter().flat_map(|p| p.containers.iter().chain(items(&p.init_containers)));
        if !containers.any(|c| c.name == *name) {
            let why = "must be one of the container or initContainer names in the pod template";
            errors.push(Error::invalid(&path.child("containerName"), name, why));
        }
    }
    let at = path.child("values");
    if e.values.is_empty() {
        errors.push(Error::invalid(&at, None::<()>, "at least one value is required"));
    } else if e.values.len() > MAX_EXIT_CODES {
        errors.push(Error::too_many(&at, e.values.len(), MAX_EXIT_CODES));
    }
    for (i, code) in e.values.iter().enumerate() {
        if e.operator == "In" && *code == 0 {
            errors.push(Error::invalid(&at.index(i), 0, "must not be 0 for the In operator"));
        }
        if e.values[..i].contains(code) {
            errors.push(Error::duplicate(&at.index(i), code));
        }
    }
    if !e.values.is_sorted() {
        errors.push(Error::invalid(&at, &e.values, "must be ordered"));
    }
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

/// What a change may not do to a job. Upstream looks at the spec once more before it.
pub fn update(new: &JobSpec, old: &JobSpec, status: Option<&JobStatus>) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = ErrorList::new();
    selecting(new, &path, &mut errors);
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
    errors.extend(template::update(new, old, status, &path.child("template")));
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

//! Jobs. A job's pods carry its uid as a label, which it selects by, unless the client selects itself.

use k8s_openapi::api::batch::v1 as api;

use super::validation;
use crate::field::{ErrorList, Path};
use crate::kinds::apps::validation::template_warnings;
use crate::kinds::podspec::defaults::default_template;
use crate::kinds::semantic::{fill, spec_and_status};
use crate::kinds::validate::text as rules;
use crate::registry::strategy::{Context, Strategy};

/// Rules of jobs.
pub struct Job;

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// Defaults of a job spec that hold in a cron job's template too.
pub fn default_job_template_spec(spec: &mut api::JobSpec) {
    for rule in spec.pod_failure_policy.iter_mut().flat_map(|p| p.rules.iter_mut()) {
        for pattern in rule.on_pod_conditions.iter_mut().flatten() {
            fill(&mut pattern.status, "True");
        }
    }
    default_template(&mut spec.template);
}

/// Labels the template and selects by the label, so that no two jobs claim each other's pods.
fn generate_selector(job: &mut api::Job) {
    let Some(uid) = job.metadata.uid.clone() else { return };
    let name = job.metadata.name.clone().unwrap_or_default();
    let Some(spec) = &mut job.spec else { return };
    if spec.manual_selector == Some(true) {
        return;
    }
    let labels = spec.template.metadata.get_or_insert_with(Default::default);
    let labels = labels.labels.get_or_insert_with(Default::default);
    for l in NAME_LABELS {
        labels.entry(l.to_owned()).or_insert_with(|| name.clone());
    }
    for l in UID_LABELS {
        labels.entry(l.to_owned()).or_insert_with(|| uid.clone());
    }
    let selector = spec.selector.get_or_insert_with(Default::default);
    let selected = selector.match_labels.get_or_insert_with(Default::default);
    selected.entry(UID_LABELS[1].to_owned()).or_insert(uid);
}

fn default_labels(job: &mut api::Job) {
    let template = job.spec.as_ref().and_then(|s| s.template.metadata.as_ref());
    if let Some(labels) = template.and_then(|m| m.labels.clone())
        && job.metadata.labels.as_ref().is_none_or(|l| l.is_empty())
    {
        job.metadata.labels = Some(labels);
    }
}

impl Strategy for Job {
    type Object = api::Job;

    fn default(&self, job: &mut api::Job) {
        let spec = job.spec.get_or_insert_with(Default::default);
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        spec.parallelism.get_or_insert(1);
        let retries = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
        spec.backoff_limit.get_or_insert(retries);
        spec.completion_mode.get_or_insert_with(|| "NonIndexed".to_owned());
        spec.suspend.get_or_insert(false);
        let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy.get_or_insert_with(|| replacement.to_owned());
        spec.manual_selector.get_or_insert(false);
        default_job_template_spec(spec);
        job.status.get_or_insert_with(Default::default);
        default_labels(job);
    }

    fn prepare_create(&self, _cx: &mut Context, job: &mut api::Job) {
        // Labels that came from the template go on following it.
        let template = |job: &api::Job| {
            job.spec.as_ref().and_then(|s| s.template.metadata.as_ref()).and_then(|m| m.labels.clone())
        };
        let follows = template(job).is_some_and(|l| job.metadata.labels.as_ref() == Some(&l));
        generate_selector(job);
        if follows {
            job.metadata.labels = template(job);
        } else if template(job).iter().flatten().all(|(_, v)| rules::label_value(v).is_empty()) {
            // Of generated labels that are wrong it is told where they stand, in the template.
            default_labels(job);
        }
        job.status = Some(Default::default());
        crate::kinds::semantic::first_generation(&mut job.metadata);
    }

    fn prepare_update(&self, cx: &mut Context, job: &mut api::Job, old: &api::Job) {
        Base.prepare_update(cx, job, old);
    }

    fn validate(&self, cx: &mut Context, job: &api::Job) -> ErrorList {
        if cx.is_status() {
            return ErrorList::new();
        }
        let errors = validation::job(job);
        if let Some(s) = &job.spec {
            let at = Path::new("spec").child("template");
            template_warnings(cx, &job.metadata, &s.template, &at);
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, job: &api::Job, old: &api::Job) -> ErrorList {
        match (&job.spec, &old.spec) {
            (Some(n), Some(o)) if !cx.is_status() => validation::update(n, o, old.status.as_ref()),
            _ => ErrorList::new(),
        }
    }
}

/// The generic preparation, for the half of it that jobs use.
struct Base;

impl Strategy for Base {
    type Object = api::Job;
    spec_and_status!(Some(Default::default()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_selects_its_own_pods() {
        let mut job: api::Job =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "j", "uid": "u"}})).unwrap();
        Job.default(&mut job);
        Job.prepare_create(&mut Context::default(), &mut job);
        let spec = job.spec.unwrap();
        let selected = spec.selector.unwrap().match_labels.unwrap();
        assert_eq!(selected.get("batch.kubernetes.io/controller-uid").map(String::as_str), Some("u"));
        assert_eq!(spec.template.metadata.unwrap().labels.unwrap().len(), 4);
        assert_eq!(job.metadata.labels.unwrap().get("job-name").map(String::as_str), Some("j"));
    }
}

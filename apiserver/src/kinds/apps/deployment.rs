//! Deployments.

use k8s_openapi::api::apps::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::validation::{self, SELECTOR};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::defaults::default_template;
use crate::kinds::semantic::{fill, first_generation, next_generation, same, text};
use crate::kinds::validate::{immutable, numbers};
use crate::registry::strategy::{Context, Strategy};

/// Rules of deployments.
pub struct Deployment;

impl Strategy for Deployment {
    type Object = api::Deployment;

    fn default(&self, d: &mut api::Deployment) {
        let spec = d.spec.get_or_insert_with(Default::default);
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        let strategy = spec.strategy.get_or_insert_with(Default::default);
        fill(&mut strategy.type_, "RollingUpdate");
        if text(&strategy.type_) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_with(Default::default);
            let quarter = || IntOrString::String("25%".to_owned());
            rolling.max_unavailable.get_or_insert_with(quarter);
            rolling.max_surge.get_or_insert_with(quarter);
        }
        default_template(&mut spec.template);
        d.status.get_or_insert_with(Default::default);
    }

    fn prepare_create(&self, _cx: &mut Context, d: &mut api::Deployment) {
        d.status = Some(Default::default());
        first_generation(&mut d.metadata);
    }

    fn prepare_update(&self, cx: &mut Context, d: &mut api::Deployment, old: &api::Deployment) {
        if cx.is_status() {
            d.spec = old.spec.clone();
            d.metadata.labels = old.metadata.labels.clone();
        } else {
            d.status = old.status.clone();
        }
        // Annotations count too: they are copied to the replica sets.
        let changed = !same(&d.spec, &old.spec)
            || (cx.is_main() && !same(&d.metadata.annotations, &old.metadata.annotations));
        next_generation(&mut d.metadata, &old.metadata, changed);
    }

    fn optional(&self) -> &'static [&'static str] {
        &[SELECTOR]
    }

    fn validate(&self, cx: &mut Context, d: &api::Deployment) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &d.spec else { return errors };
        let path = Path::new("spec");
        errors.extend(numbers::non_negative_opt(s.replicas, &path.child("replicas")));
        let selector = validation::given(cx, &s.selector);
        if validation::label_selector(selector, "deployment", &path.child("selector"), &mut errors) {
            let at = path.child("template");
            validation::template(&s.template, selector, "ReplicaSet", &at, &mut errors);
        }
        if let Some(st) = &s.strategy {
            strategy(st, &path.child("strategy"), &mut errors);
        }
        let wait = s.min_ready_seconds.unwrap_or(0);
        errors.extend(numbers::non_negative(wait, &path.child("minReadySeconds")));
        errors
            .extend(numbers::non_negative_opt(s.revision_history_limit, &path.child("revisionHistoryLimit")));
        if let Some(n) = s.progress_deadline_seconds {
            let at = path.child("progressDeadlineSeconds");
            errors.extend(numbers::non_negative(n, &at));
            if n <= wait {
                errors.push(Error::invalid(&at, n, "must be greater than minReadySeconds"));
            }
        }
        validation::template_warnings(cx, &d.metadata, &s.template, &path.child("template"));
        errors
    }

    fn validate_update(&self, cx: &mut Context, d: &api::Deployment, old: &api::Deployment) -> ErrorList {
        if cx.is_status() {
            return status(d);
        }
        match (&d.spec, &old.spec) {
            (Some(n), Some(o)) => immutable(&n.selector, &o.selector, &Path::new("spec").child("selector")),
            _ => ErrorList::new(),
        }
    }
}

fn strategy(s: &api::DeploymentStrategy, path: &Path, errors: &mut ErrorList) {
    let at = path.child("rollingUpdate");
    match text(&s.type_) {
        "Recreate" => {
            if s.rolling_update.is_some() {
                errors.push(Error::forbidden(&at, "may not be specified when strategy `type` is 'Recreate'"));
            }
        }
        "RollingUpdate" => {
            let Some(r) = &s.rolling_update else {
                errors.push(Error::required(&at, "this should be defaulted and never be nil"));
                return;
            };
            validation::rolling(r.max_unavailable.as_ref(), r.max_surge.as_ref(), &at, errors);
            let zero = |v: &Option<IntOrString>| v.as_ref().is_none_or(|v| numbers::plain_value(v) == 0);
            if zero(&r.max_unavailable) && zero(&r.max_surge) {
                errors.push(Error::invalid(
                    &at.child("maxUnavailable"),
                    &r.max_unavailable,
                    "may not be 0 when `maxSurge` is 0",
                ));
            }
            if let Some(v) = &r.max_unavailable {
                errors.extend(numbers::not_more_than_100_percent(v, &at.child("maxUnavailable")));
            }
        }
        other => {
            // Upstream shows its internal form of the whole strategy.
            let mut e = Error::not_supported(path, "", &["Recreate", "RollingUpdate"]);
            let r = s.rolling_update.as_ref().map(|r| (r.max_unavailable.as_ref(), r.max_surge.as_ref()));
            e.value = validation::shown_strategy(other, r);
            errors.push(e);
        }
    }
}

fn status(d: &api::Deployment) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(s) = &d.status else { return errors };
    let path = Path::new("status");
    let all = s.replicas.unwrap_or(0);
    let wide = |n: Option<i32>| n.map(i64::from);
    validation::counts(
        &[
            ("observedGeneration", s.observed_generation),
            ("replicas", wide(s.replicas)),
            ("updatedReplicas", wide(s.updated_replicas)),
            ("readyReplicas", wide(s.ready_replicas)),
            ("availableReplicas", wide(s.available_replicas)),
            ("unavailableReplicas", wide(s.unavailable_replicas)),
        ],
        &path,
        &mut errors,
    );
    let parts = [
        ("updatedReplicas", s.updated_replicas),
        ("readyReplicas", s.ready_replicas),
        ("availableReplicas", s.available_replicas),
    ];
    for (field, n) in parts {
        if let Some(n) = n.filter(|n| *n > all) {
            errors.push(Error::invalid(&path.child(field), n, "cannot be greater than status.replicas"));
        }
    }
    errors
}

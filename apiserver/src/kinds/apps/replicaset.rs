//! Replica sets.

use k8s_openapi::api::apps::v1 as api;

use super::validation::{self, SELECTOR};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::defaults::default_template;
use crate::kinds::semantic::spec_and_status;
use crate::kinds::validate::{immutable, numbers};
use crate::registry::strategy::{Context, Strategy};

/// Rules of replica sets.
pub struct ReplicaSet;

impl Strategy for ReplicaSet {
    type Object = api::ReplicaSet;

    fn default(&self, rs: &mut api::ReplicaSet) {
        let spec = rs.spec.get_or_insert_with(Default::default);
        spec.replicas.get_or_insert(1);
        default_template(spec.template.get_or_insert_with(Default::default));
        rs.status.get_or_insert_with(Default::default);
    }

    spec_and_status!(Some(Default::default()));

    fn optional(&self) -> &'static [&'static str] {
        &[SELECTOR]
    }

    fn validate(&self, cx: &mut Context, rs: &api::ReplicaSet) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &rs.spec else { return errors };
        let path = Path::new("spec");
        errors.extend(numbers::non_negative_opt(s.replicas, &path.child("replicas")));
        errors.extend(numbers::non_negative_opt(s.min_ready_seconds, &path.child("minReadySeconds")));
        let selector = validation::given(cx, &s.selector);
        let well_formed =
            validation::label_selector(selector, "deployment", &path.child("selector"), &mut errors);
        if let Some(t) = &s.template {
            let at = path.child("template");
            if well_formed {
                validation::template(t, selector, "ReplicaSet", &at, &mut errors);
            }
            validation::template_warnings(cx, &rs.metadata, t, &at);
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, rs: &api::ReplicaSet, old: &api::ReplicaSet) -> ErrorList {
        if let Some(s) = rs.status.as_ref().filter(|_| cx.is_status()) {
            let mut errors = ErrorList::new();
            let (available, ready) = (s.available_replicas, s.ready_replicas);
            let parts = [
                ("fullyLabeledReplicas", s.fully_labeled_replicas),
                ("readyReplicas", ready),
                ("availableReplicas", available),
            ];
            let path = Path::new("status");
            validation::status_counts(s.observed_generation, Some(s.replicas), &parts, &path, &mut errors);
            if let Some(n) = available.filter(|n| *n > ready.unwrap_or(0)) {
                let at = path.child("availableReplicas");
                errors.push(Error::invalid(&at, n, "cannot be greater than readyReplicas"));
            }
            return errors;
        }
        match (&rs.spec, &old.spec) {
            (Some(n), Some(o)) if !cx.is_status() => {
                immutable(&n.selector, &o.selector, &Path::new("spec").child("selector"))
            }
            _ => ErrorList::new(),
        }
    }
}

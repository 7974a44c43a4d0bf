//! Replication controllers: what replica sets were before labels could be matched by sets.

use k8s_openapi::api::core::v1 as api;

use super::validation;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::defaults::default_template;
use crate::kinds::semantic::spec_and_status;
use crate::kinds::validate::numbers;
use crate::registry::strategy::{Context, Strategy};

/// Rules of replication controllers.
pub struct ReplicationController;

impl Strategy for ReplicationController {
    type Object = api::ReplicationController;

    fn default(&self, rc: &mut api::ReplicationController) {
        let spec = rc.spec.get_or_insert_with(Default::default);
        spec.replicas.get_or_insert(1);
        let labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone());
        if let Some(labels) = labels {
            if spec.selector.as_ref().is_none_or(|s| s.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if rc.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
                rc.metadata.labels = Some(labels);
            }
        }
        if let Some(t) = &mut spec.template {
            default_template(t);
        }
        rc.status.get_or_insert_with(Default::default);
    }

    spec_and_status!(Some(Default::default()));

    fn validate(&self, _cx: &mut Context, rc: &api::ReplicationController) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &rc.spec else { return errors };
        let path = Path::new("spec");
        errors.extend(numbers::non_negative_opt(s.min_ready_seconds, &path.child("minReadySeconds")));
        let blank = Default::default();
        let selector = s.selector.as_ref().unwrap_or(&blank);
        if selector.is_empty() {
            errors.push(Error::required(&path.child("selector"), ""));
        }
        errors.extend(numbers::non_negative_opt(s.replicas, &path.child("replicas")));
        let path = path.child("template");
        let Some(t) = &s.template else {
            errors.push(Error::required(&path, ""));
            return errors;
        };
        let labels = t.metadata.as_ref().and_then(|m| m.labels.as_ref());
        let taken = |(k, v): (&String, &String)| labels.and_then(|l| l.get(k)) == Some(v);
        if !selector.is_empty() && !selector.iter().all(taken) {
            errors.push(Error::invalid(
                &path.child("metadata").child("labels"),
                labels,
                "`selector` does not match template `labels`",
            ));
        }
        errors.extend(crate::kinds::podspec::validate::template(t, &path));
        validation::always_restarts(t, "ReplicationController", &path, &mut errors);
        errors
    }
}

//! Deployments.

use k8s_openapi::api::apps::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::kinds::podspec::defaults::default_template;
use crate::kinds::semantic::{fill, first_generation, next_generation, same, text};
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
}

//! Daemon sets.

use k8s_openapi::api::apps::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::kinds::podspec::defaults::default_template;
use crate::kinds::semantic::{fill, first_generation, next_generation, same, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of daemon sets.
pub struct DaemonSet;

/// Counts changes of the template, for clients of the first version of the kind.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(d: &api::DaemonSet) -> i64 {
    let written = d.metadata.annotations.as_ref().and_then(|a| a.get(TEMPLATE_GENERATION));
    written.and_then(|s| s.parse().ok()).unwrap_or(0)
}

fn set_template_generation(d: &mut api::DaemonSet, n: i64) {
    d.metadata
        .annotations
        .get_or_insert_with(Default::default)
        .insert(TEMPLATE_GENERATION.to_owned(), n.to_string());
}

impl Strategy for DaemonSet {
    type Object = api::DaemonSet;

    fn default(&self, d: &mut api::DaemonSet) {
        let spec = d.spec.get_or_insert_with(Default::default);
        spec.revision_history_limit.get_or_insert(10);
        let strategy = spec.update_strategy.get_or_insert_with(Default::default);
        fill(&mut strategy.type_, "RollingUpdate");
        if text(&strategy.type_) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_with(Default::default);
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        default_template(&mut spec.template);
        d.status.get_or_insert_with(Default::default);
    }

    fn prepare_create(&self, _cx: &mut Context, d: &mut api::DaemonSet) {
        d.status = Some(Default::default());
        first_generation(&mut d.metadata);
        if template_generation(d) < 1 {
            set_template_generation(d, 1);
        }
    }

    fn prepare_update(&self, cx: &mut Context, d: &mut api::DaemonSet, old: &api::DaemonSet) {
        if cx.is_status() {
            d.spec = old.spec.clone();
        } else {
            d.status = old.status.clone();
        }
        let template = |d: &api::DaemonSet| d.spec.as_ref().map(|s| s.template.clone());
        let moved = !same(&template(d), &template(old));
        set_template_generation(d, template_generation(old) + i64::from(moved));
        let changed = !same(&d.spec, &old.spec);
        next_generation(&mut d.metadata, &old.metadata, changed);
    }
}

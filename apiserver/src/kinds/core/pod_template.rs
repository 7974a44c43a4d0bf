//! Pod templates on their own.

use k8s_openapi::api::core::v1 as api;

use crate::field::{ErrorList, Path};
use crate::kinds::podspec::defaults::default_template;
use crate::kinds::podspec::validate;
use crate::kinds::semantic::{first_generation, next_generation, same};
use crate::registry::strategy::{Context, Strategy};

/// Rules of pod templates.
pub struct PodTemplate;

impl Strategy for PodTemplate {
    type Object = api::PodTemplate;

    fn default(&self, t: &mut api::PodTemplate) {
        default_template(t.template.get_or_insert_with(Default::default));
    }

    fn prepare_create(&self, _cx: &mut Context, t: &mut api::PodTemplate) {
        first_generation(&mut t.metadata);
    }

    fn prepare_update(&self, _cx: &mut Context, t: &mut api::PodTemplate, old: &api::PodTemplate) {
        let changed = !same(&t.template, &old.template);
        next_generation(&mut t.metadata, &old.metadata, changed);
    }

    fn validate(&self, _cx: &mut Context, t: &api::PodTemplate) -> ErrorList {
        let path = Path::new("template");
        t.template.as_ref().map_or_else(ErrorList::new, |t| validate::template(t, &path))
    }
}

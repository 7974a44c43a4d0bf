//! Ingresses and their classes.

use k8s_openapi::api::networking::v1 as api;

use super::validation;
use crate::field::{ErrorList, Path};
use crate::kinds::semantic::{first_generation, next_generation, same, spec_and_status};
use crate::kinds::validate::immutable;
use crate::registry::strategy::{Context, Strategy};

/// Rules of ingresses.
pub struct Ingress;

/// Rules of ingress classes.
pub struct IngressClass;

fn blank_status() -> Option<api::IngressStatus> {
    Some(api::IngressStatus { load_balancer: Some(Default::default()) })
}

impl Strategy for Ingress {
    type Object = api::Ingress;

    fn default(&self, i: &mut api::Ingress) {
        i.spec.get_or_insert_with(Default::default);
        i.status.get_or_insert_with(Default::default).load_balancer.get_or_insert_with(Default::default);
    }

    spec_and_status!(blank_status());

    fn validate(&self, _cx: &mut Context, i: &api::Ingress) -> ErrorList {
        i.spec.as_ref().map_or_else(ErrorList::new, validation::ingress)
    }
}

impl Strategy for IngressClass {
    type Object = api::IngressClass;

    fn default(&self, c: &mut api::IngressClass) {
        let spec = c.spec.get_or_insert_with(Default::default);
        if let Some(p) = &mut spec.parameters {
            p.scope.get_or_insert_with(|| "Cluster".to_owned());
        }
    }

    fn prepare_create(&self, _cx: &mut Context, c: &mut api::IngressClass) {
        first_generation(&mut c.metadata);
    }

    fn prepare_update(&self, _cx: &mut Context, c: &mut api::IngressClass, old: &api::IngressClass) {
        let changed = !same(&c.spec, &old.spec);
        next_generation(&mut c.metadata, &old.metadata, changed);
    }

    fn validate(&self, _cx: &mut Context, c: &api::IngressClass) -> ErrorList {
        c.spec.as_ref().map_or_else(ErrorList::new, validation::ingress_class)
    }

    fn validate_update(
        &self,
        _cx: &mut Context,
        c: &api::IngressClass,
        old: &api::IngressClass,
    ) -> ErrorList {
        let controller = |c: &api::IngressClass| c.spec.as_ref().and_then(|s| s.controller.clone());
        immutable(&controller(c), &controller(old), &Path::new("spec").child("controller"))
    }
}

//! Ingresses and their classes.

use k8s_openapi::api::networking::v1 as api;

use super::validation;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{first_generation, next_generation, same, spec_and_status};
use crate::kinds::validate::{address, immutable};
use crate::registry::strategy::{Context, Strategy};

/// Rules of ingresses.
pub struct Ingress;

/// Rules of ingress classes.
pub struct IngressClass;

fn blank_status() -> Option<api::IngressStatus> {
    Some(api::IngressStatus { load_balancer: Some(Default::default()) })
}

/// Where the class of an ingress was before it had a field.
const CLASS: &str = "kubernetes.io/ingress.class";

fn judged(cx: &Context, i: &api::Ingress, old: Option<&api::IngressSpec>) -> ErrorList {
    let untyped = |pointer: &str| cx.lacks(pointer);
    let options = validation::IngressOptions::new(old, &untyped);
    i.spec.as_ref().map_or_else(ErrorList::new, |s| validation::ingress(s, &options))
}

impl Strategy for Ingress {
    type Object = api::Ingress;

    fn default(&self, i: &mut api::Ingress) {
        i.spec.get_or_insert_with(Default::default);
        i.status.get_or_insert_with(Default::default).load_balancer.get_or_insert_with(Default::default);
    }

    spec_and_status!(blank_status());

    fn optional(&self) -> &'static [&'static str] {
        &["/spec/rules/*/http/paths/*/pathType"]
    }

    fn validate(&self, cx: &mut Context, i: &api::Ingress) -> ErrorList {
        if cx.updating {
            return ErrorList::new();
        }
        let mut errors = judged(cx, i, None);
        let class = i.metadata.annotations.as_ref().and_then(|a| a.get(CLASS));
        match (class, i.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref())) {
            (Some(annotated), Some(named)) if annotated != named => errors.push(Error::invalid(
                &Path::new("annotations").child(CLASS),
                annotated,
                "must match `ingressClassName` when both are specified",
            )),
            (Some(_), None) if errors.is_empty() => cx.warnings.push(format!(
                "annotation \"{CLASS}\" is deprecated, please use 'spec.ingressClassName' instead"
            )),
            _ => {}
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, i: &api::Ingress, old: &api::Ingress) -> ErrorList {
        if !cx.is_status() {
            return judged(cx, i, old.spec.as_ref());
        }
        let Some(s) = &i.status else { return ErrorList::new() };
        let balancer = s.load_balancer.as_ref().and_then(|b| b.ingress.as_ref());
        for (j, b) in balancer.into_iter().flatten().enumerate() {
            let at = Path::new("status").child("loadBalancer").child("ingress").index(j);
            cx.warnings.extend(b.ip.as_deref().and_then(|ip| address::ip_warning(ip, &at)));
        }
        validation::ingress_status(s, old.status.as_ref())
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

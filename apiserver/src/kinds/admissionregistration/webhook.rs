//! Webhook configurations.

use k8s_openapi::api::admissionregistration::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::validation::{self, Webhook};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{first_generation, items, next_generation, same};
use crate::registry::strategy::{Context, Strategy};

/// Rules of validating webhooks.
pub struct ValidatingWebhookConfiguration;

/// Rules of mutating webhooks.
pub struct MutatingWebhookConfiguration;

/// What both kinds of webhook are asked for.
struct Common<'a> {
    failure: &'a mut Option<String>,
    matching: &'a mut Option<String>,
    namespaces: &'a mut Option<LabelSelector>,
    objects: &'a mut Option<LabelSelector>,
    timeout: &'a mut Option<i32>,
    rules: &'a mut Option<Vec<api::RuleWithOperations>>,
    client: &'a mut api::WebhookClientConfig,
}

fn default_common(w: Common<'_>) {
    w.failure.get_or_insert_with(|| "Fail".to_owned());
    w.matching.get_or_insert_with(|| "Equivalent".to_owned());
    w.namespaces.get_or_insert_with(Default::default);
    w.objects.get_or_insert_with(Default::default);
    w.timeout.get_or_insert(10);
    for r in w.rules.iter_mut().flatten() {
        r.scope.get_or_insert_with(|| "*".to_owned());
    }
    if let Some(s) = &mut w.client.service {
        s.port.get_or_insert(443);
    }
}

/// Clients must say it, though not to have said so is another fault than to say nothing of it.
const SIDE_EFFECTS: &str = "/webhooks/*/sideEffects";

fn side_effects<'a>(cx: &Context, i: usize, given: &'a str) -> Option<&'a str> {
    Some(given).filter(|_| !cx.lacks(&format!("/webhooks/{i}/sideEffects")))
}

impl Strategy for ValidatingWebhookConfiguration {
    type Object = api::ValidatingWebhookConfiguration;

    fn optional(&self) -> &'static [&'static str] {
        &[SIDE_EFFECTS]
    }

    fn default(&self, c: &mut Self::Object) {
        for w in c.webhooks.iter_mut().flatten() {
            default_common(Common {
                failure: &mut w.failure_policy,
                matching: &mut w.match_policy,
                namespaces: &mut w.namespace_selector,
                objects: &mut w.object_selector,
                timeout: &mut w.timeout_seconds,
                rules: &mut w.rules,
                client: &mut w.client_config,
            });
        }
    }

    fn prepare_create(&self, _cx: &mut Context, c: &mut Self::Object) {
        first_generation(&mut c.metadata);
    }

    fn prepare_update(&self, _cx: &mut Context, c: &mut Self::Object, old: &Self::Object) {
        let changed = !same(&c.webhooks, &old.webhooks);
        next_generation(&mut c.metadata, &old.metadata, changed);
    }

    fn validate(&self, cx: &mut Context, c: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut names = std::collections::BTreeSet::new();
        for (i, w) in items(&c.webhooks).iter().enumerate() {
            let path = Path::new("webhooks").index(i);
            validation::webhook(
                &Webhook {
                    name: &w.name,
                    client: &w.client_config,
                    rules: items(&w.rules),
                    failure: &w.failure_policy,
                    matching: &w.match_policy,
                    side_effects: side_effects(cx, i, &w.side_effects),
                    timeout: w.timeout_seconds,
                    namespaces: &w.namespace_selector,
                    objects: &w.object_selector,
                    reviews: &w.admission_review_versions,
                    conditions: items(&w.match_conditions),
                    reinvocation: &None,
                },
                &path,
                &mut errors,
            );
            if !w.name.is_empty() && !names.insert(&w.name) {
                errors.push(Error::duplicate(&path.child("name"), &w.name));
            }
        }
        errors
    }
}

impl Strategy for MutatingWebhookConfiguration {
    type Object = api::MutatingWebhookConfiguration;

    fn optional(&self) -> &'static [&'static str] {
        &[SIDE_EFFECTS]
    }

    fn default(&self, c: &mut Self::Object) {
        for w in c.webhooks.iter_mut().flatten() {
            w.reinvocation_policy.get_or_insert_with(|| "Never".to_owned());
            default_common(Common {
                failure: &mut w.failure_policy,
                matching: &mut w.match_policy,
                namespaces: &mut w.namespace_selector,
                objects: &mut w.object_selector,
                timeout: &mut w.timeout_seconds,
                rules: &mut w.rules,
                client: &mut w.client_config,
            });
        }
    }

    fn prepare_create(&self, _cx: &mut Context, c: &mut Self::Object) {
        first_generation(&mut c.metadata);
    }

    fn prepare_update(&self, _cx: &mut Context, c: &mut Self::Object, old: &Self::Object) {
        let changed = !same(&c.webhooks, &old.webhooks);
        next_generation(&mut c.metadata, &old.metadata, changed);
    }

    fn validate(&self, cx: &mut Context, c: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut names = std::collections::BTreeSet::new();
        for (i, w) in items(&c.webhooks).iter().enumerate() {
            let path = Path::new("webhooks").index(i);
            validation::webhook(
                &Webhook {
                    name: &w.name,
                    client: &w.client_config,
                    rules: items(&w.rules),
                    failure: &w.failure_policy,
                    matching: &w.match_policy,
                    side_effects: side_effects(cx, i, &w.side_effects),
                    timeout: w.timeout_seconds,
                    namespaces: &w.namespace_selector,
                    objects: &w.object_selector,
                    reviews: &w.admission_review_versions,
                    conditions: items(&w.match_conditions),
                    reinvocation: &w.reinvocation_policy,
                },
                &path,
                &mut errors,
            );
            if !w.name.is_empty() && !names.insert(&w.name) {
                errors.push(Error::duplicate(&path.child("name"), &w.name));
            }
        }
        errors
    }
}

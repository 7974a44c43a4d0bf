//! Custom resource definitions: names, versions, and which version is stored.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as api;

use super::crd_validation;
use crate::field::ErrorList;
use crate::kinds::semantic::{first_generation, next_generation, same};
use crate::registry::strategy::{Context, Strategy};

/// Rules of custom resource definitions.
pub struct CustomResourceDefinition;

fn storage_version(crd: &api::CustomResourceDefinition) -> Option<String> {
    crd.spec.versions.iter().find(|v| v.storage).map(|v| v.name.clone())
}

/// Every version that objects may still be stored in is on record.
fn record_storage_version(crd: &mut api::CustomResourceDefinition) {
    let Some(version) = storage_version(crd) else { return };
    let status = crd.status.get_or_insert_with(Default::default);
    let stored = status.stored_versions.get_or_insert_with(Vec::new);
    if !stored.contains(&version) {
        stored.push(version);
    }
}

fn blank_status() -> api::CustomResourceDefinitionStatus {
    api::CustomResourceDefinitionStatus { accepted_names: Some(Default::default()), ..Default::default() }
}

impl Strategy for CustomResourceDefinition {
    type Object = api::CustomResourceDefinition;

    fn default(&self, crd: &mut Self::Object) {
        let names = &mut crd.spec.names;
        if names.singular.as_deref().unwrap_or_default().is_empty() {
            names.singular = Some(names.kind.to_lowercase()).filter(|s| !s.is_empty());
        }
        if names.list_kind.as_deref().unwrap_or_default().is_empty() && !names.kind.is_empty() {
            names.list_kind = Some(format!("{}List", names.kind));
        }
        let conversion = crd.spec.conversion.get_or_insert_with(|| api::CustomResourceConversion {
            strategy: "None".to_owned(),
            webhook: None,
        });
        let client = conversion.webhook.as_mut().and_then(|w| w.client_config.as_mut());
        if let Some(s) = client.and_then(|c| c.service.as_mut()) {
            s.port.get_or_insert(443);
        }
        let status = crd.status.get_or_insert_with(blank_status);
        status.accepted_names.get_or_insert_with(Default::default);
        if status.stored_versions.as_ref().is_none_or(Vec::is_empty) {
            record_storage_version(crd);
        }
    }

    fn prepare_create(&self, _cx: &mut Context, crd: &mut Self::Object) {
        crd.status = Some(blank_status());
        first_generation(&mut crd.metadata);
        record_storage_version(crd);
    }

    fn prepare_update(&self, cx: &mut Context, crd: &mut Self::Object, old: &Self::Object) {
        if cx.is_status() {
            crd.spec = old.spec.clone();
        } else {
            crd.status = old.status.clone();
            record_storage_version(crd);
        }
        let changed = !same(&crd.spec, &old.spec);
        next_generation(&mut crd.metadata, &old.metadata, changed);
    }

    fn validate(&self, cx: &mut Context, crd: &Self::Object) -> ErrorList {
        // An update is judged with the old definition at hand, which forgives its faults.
        if cx.updating {
            return ErrorList::new();
        }
        cx.warnings.extend(crd_validation::warnings(crd, None));
        crd_validation::validate(crd)
    }

    fn validate_update(&self, cx: &mut Context, crd: &Self::Object, old: &Self::Object) -> ErrorList {
        if cx.is_status() {
            return crd_validation::validate_status(crd);
        }
        cx.warnings.extend(crd_validation::warnings(crd, Some(old)));
        crd_validation::validate_update(crd, old)
    }
}

//! Storage classes and volume attributes classes.

use std::collections::BTreeMap;

use k8s_openapi::api::storage::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::one_of_if_given;
use crate::kinds::validate::{immutable, invalid_each, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of storage classes.
pub struct StorageClass;

/// Rules of volume attributes classes.
pub struct VolumeAttributesClass;

impl Strategy for StorageClass {
    type Object = api::StorageClass;

    fn default(&self, c: &mut api::StorageClass) {
        c.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
        c.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
    }

    fn validate(&self, _cx: &mut Context, c: &api::StorageClass) -> ErrorList {
        let mut errors = ErrorList::new();
        driver(&c.provisioner, &Path::new("provisioner"), &mut errors);
        parameters(c.parameters.as_ref(), true, &mut errors);
        let given = c.reclaim_policy.clone().filter(|p| !p.is_empty());
        one_of_if_given(&given, &["Delete", "Retain"], &Path::new("reclaimPolicy"), &mut errors);
        let at = Path::new("volumeBindingMode");
        one_of_if_given(&c.volume_binding_mode, &["Immediate", "WaitForFirstConsumer"], &at, &mut errors);
        errors
    }

    fn validate_update(
        &self,
        _cx: &mut Context,
        c: &api::StorageClass,
        old: &api::StorageClass,
    ) -> ErrorList {
        let mut errors = immutable(&c.parameters, &old.parameters, &Path::new("parameters"));
        errors.extend(immutable(&c.provisioner, &old.provisioner, &Path::new("provisioner")));
        errors.extend(immutable(&c.reclaim_policy, &old.reclaim_policy, &Path::new("reclaimPolicy")));
        let at = Path::new("volumeBindingMode");
        errors.extend(immutable(&c.volume_binding_mode, &old.volume_binding_mode, &at));
        errors
    }
}

fn driver(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
    } else {
        let lower = name.to_lowercase();
        errors.extend(invalid_each(path, &lower, text::qualified_name(&lower)));
    }
}

fn parameters(map: Option<&BTreeMap<String, String>>, may_be_empty: bool, errors: &mut ErrorList) {
    let path = Path::new("parameters");
    let blank = BTreeMap::new();
    let map = map.unwrap_or(&blank);
    if map.len() > 512 {
        errors.push(Error::too_long(&path, 512));
        return;
    }
    if map.is_empty() && !may_be_empty {
        errors.push(Error::required(&path, "must contain at least one key/value pair"));
    }
    if map.keys().any(String::is_empty) {
        errors.push(Error::invalid(&path, "", "field can not be empty."));
    }
    let size: usize = map.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > 256 * 1024 {
        errors.push(Error::too_long(&path, 256 * 1024));
    }
}

impl Strategy for VolumeAttributesClass {
    type Object = api::VolumeAttributesClass;

    fn validate(&self, _cx: &mut Context, c: &api::VolumeAttributesClass) -> ErrorList {
        let mut errors = ErrorList::new();
        driver(&c.driver_name, &Path::new("driverName"), &mut errors);
        parameters(c.parameters.as_ref(), false, &mut errors);
        errors
    }

    fn validate_update(
        &self,
        _cx: &mut Context,
        c: &api::VolumeAttributesClass,
        old: &api::VolumeAttributesClass,
    ) -> ErrorList {
        let mut errors = immutable(&c.driver_name, &old.driver_name, &Path::new("driverName"));
        errors.extend(immutable(&c.parameters, &old.parameters, &Path::new("parameters")));
        errors
    }
}

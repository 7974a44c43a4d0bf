//! Storage classes and volume attributes classes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::TopologySelectorTerm;
use k8s_openapi::api::storage::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::one_of_if_given;
use crate::kinds::podspec::warnings::label_advice;
use crate::kinds::semantic::{items, same};
use crate::kinds::validate::{immutable, invalid_each, selector, text};
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

    fn validate(&self, cx: &mut Context, c: &api::StorageClass) -> ErrorList {
        let mut errors = ErrorList::new();
        driver(&c.provisioner, &Path::new("provisioner"), &mut errors);
        parameters(c.parameters.as_ref(), true, &mut errors);
        let given = c.reclaim_policy.clone().filter(|p| !p.is_empty());
        one_of_if_given(&given, &["Delete", "Retain"], &Path::new("reclaimPolicy"), &mut errors);
        let at = Path::new("volumeBindingMode");
        one_of_if_given(&c.volume_binding_mode, &["Immediate", "WaitForFirstConsumer"], &at, &mut errors);
        topologies(items(&c.allowed_topologies), &Path::new("allowedTopologies"), &mut errors);
        if errors.is_empty() {
            cx.warnings.extend(deprecated_labels(items(&c.allowed_topologies)));
        }
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

/// Where volumes may be: no two terms say the same.
fn topologies(list: &[TopologySelectorTerm], path: &Path, errors: &mut ErrorList) {
    let mut seen = Vec::new();
    for (i, term) in list.iter().enumerate() {
        let path = path.index(i).child("matchLabelExpressions");
        let mut wanted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (j, r) in items(&term.match_label_expressions).iter().enumerate() {
            let path = path.index(j);
            if r.values.is_empty() {
                errors.push(Error::required(&path.child("values"), ""));
            }
            let mut values = BTreeSet::new();
            for (k, v) in r.values.iter().enumerate() {
                if !values.insert(v.as_str()) {
                    errors.push(Error::duplicate(&path.child("values").index(k), v));
                }
            }
            errors.extend(selector::label_name(&r.key, &path.child("key")));
            if wanted.insert(&r.key, values).is_some() {
                errors.push(Error::duplicate(&path.child("key"), &r.key));
            }
        }
        // Upstream starts with as many terms that say nothing, and tells each that is the same.
        let blank = if wanted.is_empty() { list.len() } else { 0 };
        for _ in 0..blank + seen.iter().filter(|s| **s == wanted).count() {
            errors.push(Error::duplicate(&path, ""));
        }
        seen.push(wanted);
    }
}

fn deprecated_labels(list: &[TopologySelectorTerm]) -> Vec<String> {
    let mut out = Vec::new();
    for (i, term) in list.iter().enumerate() {
        let path = Path::new("allowedTopologies").index(i).child("matchLabelExpressions");
        for (j, r) in items(&term.match_label_expressions).iter().enumerate() {
            if let Some(why) = label_advice(&r.key) {
                out.push(format!("{}: {why}", path.index(j).child("key")));
            }
        }
    }
    out
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
    if map.keys().any(String::is_empty) {
        errors.push(Error::invalid(&path, "", "field can not be empty."));
    }
    let size: usize = map.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > 256 * 1024 {
        errors.push(Error::too_long(&path, 256 * 1024));
    }
    if map.is_empty() && !may_be_empty {
        errors.push(Error::required(&path, "must contain at least one key/value pair"));
    }
}

fn attributes(c: &api::VolumeAttributesClass) -> ErrorList {
    let mut errors = ErrorList::new();
    driver(&c.driver_name, &Path::new("driverName"), &mut errors);
    parameters(c.parameters.as_ref(), false, &mut errors);
    errors
}

impl Strategy for VolumeAttributesClass {
    type Object = api::VolumeAttributesClass;

    fn validate(&self, cx: &mut Context, c: &api::VolumeAttributesClass) -> ErrorList {
        if cx.updating { ErrorList::new() } else { attributes(c) }
    }

    fn validate_update(
        &self,
        _cx: &mut Context,
        c: &api::VolumeAttributesClass,
        old: &api::VolumeAttributesClass,
    ) -> ErrorList {
        let mut errors = ErrorList::new();
        if c.driver_name != old.driver_name {
            errors.push(Error::forbidden(&Path::new("driverName"), "updates to driverName are forbidden."));
        }
        if !same(&c.parameters, &old.parameters) {
            errors.push(Error::forbidden(&Path::new("parameters"), "updates to parameters are forbidden."));
        }
        errors.extend(attributes(c));
        errors
    }
}

//! What may be wrong with a claim on a volume, in a claim of its own or in a template of one.

use k8s_openapi::api::core::v1::PersistentVolumeClaimSpec;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::one_of_if_given;
use crate::kinds::quantity::amount;
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, selector, text as rules};

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Ways of access: at least one; exclusive access by one pod stands alone.
pub fn access_modes(list: &[String], path: &Path, errors: &mut ErrorList) {
    if list.is_empty() {
        errors.push(Error::required(path, "at least 1 access mode is required"));
    }
    let mut exclusive = false;
    let mut others = false;
    for m in list {
        if !MODES.contains(&m.as_str()) {
            errors.push(Error::not_supported(path, m, &MODES));
        }
        exclusive |= m == "ReadWriteOncePod";
        others |= m != "ReadWriteOncePod";
    }
    if exclusive && others {
        errors.push(Error::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// Spec of a claim.
pub fn spec(s: &PersistentVolumeClaimSpec, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = path.child("accessModes");
    if items(&s.access_modes).is_empty() {
        errors.push(Error::required(&at, "at least 1 access mode is required"));
    }
    errors.extend(selector::label_selector(s.selector.as_ref(), &path.child("selector")));
    if !items(&s.access_modes).is_empty() {
        access_modes(items(&s.access_modes), &at, &mut errors);
    }
    let at = path.child("resources").key("storage");
    match s.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage")) {
        None => errors.push(Error::required(&at, "")),
        Some(q) => {
            let a = amount(q);
            if a.is_negative() || a.is_zero() {
                errors.push(Error::invalid(&at, &q.0, "must be greater than zero"));
            }
        }
    }
    let class = text(&s.storage_class_name);
    if !class.is_empty() {
        let at = path.child("storageClassName");
        errors.extend(invalid_each(&at, class, rules::dns1123_subdomain(class)));
    }
    one_of_if_given(&s.volume_mode, &["Block", "Filesystem"], &path.child("volumeMode"), &mut errors);
    if let Some(d) = &s.data_source {
        data_source(&d.kind, &d.name, d.api_group.as_deref(), &path.child("dataSource"), &mut errors);
    }
    if let Some(d) = &s.data_source_ref {
        data_source(&d.kind, &d.name, d.api_group.as_deref(), &path.child("dataSourceRef"), &mut errors);
    }
    if let Some(n) = s.volume_attributes_class_name.as_deref().filter(|n| !n.is_empty()) {
        let at = path.child("volumeAttributesClassName");
        errors.extend(invalid_each(&at, n, rules::dns1123_subdomain(n)));
    }
    errors
}

fn data_source(kind: &str, name: &str, group: Option<&str>, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    if kind.is_empty() {
        errors.push(Error::required(&path.child("kind"), ""));
    }
    if group.unwrap_or_default().is_empty() && kind != "PersistentVolumeClaim" {
        errors.push(Error::invalid(
            path,
            kind,
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        ));
    }
}

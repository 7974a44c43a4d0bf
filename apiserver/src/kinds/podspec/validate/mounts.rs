//! Volume mounts and devices of containers.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::container::Scope;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};

/// A path that leads down from where it starts.
pub fn descending(target: &str, path: &Path, errors: &mut ErrorList) {
    if target.starts_with('/') {
        errors.push(Error::invalid(path, target, "must be a relative path"));
    }
    no_backsteps(target, path, errors);
}

/// A path without `..`.
pub fn no_backsteps(target: &str, path: &Path, errors: &mut ErrorList) {
    if target.split('/').any(|p| p == "..") {
        errors.push(Error::invalid(path, target, "must not contain '..'"));
    }
}

/// A descending path that is no reserved name.
pub fn non_reserved(target: &str, path: &Path, errors: &mut ErrorList) {
    descending(target, path, errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(Error::invalid(path, target, "must not start with '..'"));
    }
}

/// Mounts, in the order of the list.
pub fn mounts(cx: &Scope<'_>, c: &Container, path: &Path, errors: &mut ErrorList) {
    let devices: BTreeMap<&str, &str> =
        items(&c.volume_devices).iter().map(|d| (d.name.as_str(), d.device_path.as_str())).collect();
    let mut taken = BTreeSet::new();
    for (i, m) in items(&c.volume_mounts).iter().enumerate() {
        let at = path.index(i);
        if m.name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        }
        if !cx.volumes.contains_key(m.name.as_str()) {
            errors.push(Error::not_found(&at.child("name"), &m.name));
        }
        if m.mount_path.is_empty() {
            errors.push(Error::required(&at.child("mountPath"), ""));
        }
        if !taken.insert(m.mount_path.as_str()) {
            errors.push(Error::invalid(&at.child("mountPath"), &m.mount_path, "must be unique"));
        }
        if devices.contains_key(m.name.as_str()) {
            errors.push(Error::invalid(
                &at.child("name"),
                &m.name,
                "must not already exist in volumeDevices",
            ));
        }
        if devices.values().any(|p| *p == m.mount_path) {
            errors.push(Error::invalid(
                &at.child("mountPath"),
                &m.mount_path,
                "must not already exist as a path in volumeDevices",
            ));
        }
        let (sub, expr) = (text(&m.sub_path), text(&m.sub_path_expr));
        if !sub.is_empty() {
            descending(sub, &path.child("subPath"), errors);
        }
        if !expr.is_empty() {
            if !sub.is_empty() {
                errors.push(Error::invalid(
                    &at.child("subPathExpr"),
                    expr,
                    "subPathExpr and subPath are mutually exclusive",
                ));
            }
            descending(expr, &path.child("subPathExpr"), errors);
        }
        propagation(m, c, &path.child("mountPropagation"), errors);
        recursive_read_only(m, &path.child("recursiveReadOnly"), errors);
    }
}

fn propagation(m: &VolumeMount, c: &Container, path: &Path, errors: &mut ErrorList) {
    let Some(p) = &m.mount_propagation else { return };
    let valid = ["Bidirectional", "HostToContainer", "None"];
    if !valid.contains(&p.as_str()) {
        errors.push(Error::not_supported(path, p, &valid));
    }
    let privileged = c.security_context.as_ref().is_some_and(|s| s.privileged == Some(true));
    if p == "Bidirectional" && !privileged {
        errors.push(Error::forbidden(
            path,
            "Bidirectional mount propagation is available only to privileged containers",
        ));
    }
}

fn recursive_read_only(m: &VolumeMount, path: &Path, errors: &mut ErrorList) {
    let Some(r) = &m.recursive_read_only else { return };
    match r.as_str() {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if m.read_only != Some(true) {
                errors.push(Error::forbidden(path, "may only be specified when readOnly is true"));
            }
            if m.mount_propagation.as_deref().is_some_and(|p| p != "None") {
                errors.push(Error::forbidden(
                    path,
                    "may only be specified when mountPropagation is None or not specified",
                ));
            }
        }
        _ => errors.push(Error::not_supported(path, r, &["Disabled", "Enabled", "IfPossible"])),
    }
}

/// Raw block devices.
pub fn devices(cx: &Scope<'_>, c: &Container, path: &Path, errors: &mut ErrorList) {
    let mounts = items(&c.volume_mounts);
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, d) in items(&c.volume_devices).iter().enumerate() {
        let at = path.index(i);
        let invalid = |field: &str, value: &str, why: &str| Error::invalid(&at.child(field), value, why);
        if d.name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        }
        if names.contains(&d.name) {
            errors.push(invalid("name", &d.name, "must be unique"));
        }
        match cx.volumes.get(d.name.as_str()) {
            None => errors.push(Error::not_found(&at.child("name"), &d.name)),
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                errors.push(invalid(
                    "name",
                    &d.name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                ));
            }
            Some(_) => {}
        }
        if d.device_path.is_empty() {
            errors.push(Error::required(&at.child("devicePath"), ""));
        }
        if paths.contains(&d.device_path) {
            errors.push(invalid("devicePath", &d.device_path, "must be unique"));
        }
        if d.device_path.split('/').any(|p| p == "..") {
            errors.push(invalid("devicePath", &d.device_path, "can not contain backsteps ('..')"));
        } else {
            paths.insert(&d.device_path);
        }
        if mounts.iter().any(|m| m.name == d.name) {
            errors.push(invalid("name", &d.name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|m| m.mount_path == d.device_path) {
            errors.push(invalid(
                "devicePath",
                &d.device_path,
                "must not already exist as a path in volumeMounts",
            ));
        }
        if !d.name.is_empty() {
            names.insert(&d.name);
        }
    }
}

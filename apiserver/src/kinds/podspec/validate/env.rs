//! Environment of containers.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector,
};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::quantity::amount;
use crate::kinds::semantic::text;
use crate::kinds::validate::{invalid_each, text as rules};

/// Fields of the pod that variables may show.
const POD_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Resources of a container that can be shown.
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Variables one by one.
pub fn vars(list: &[EnvVar], path: &Path, errors: &mut ErrorList) {
    for (i, v) in list.iter().enumerate() {
        let path = path.index(i);
        if v.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            errors.extend(invalid_each(&path.child("name"), &v.name, rules::env_name(&v.name)));
        }
        if let Some(from) = &v.value_from {
            value_from(from, !text(&v.value).is_empty(), &path.child("valueFrom"), errors);
        }
    }
}

fn value_from(from: &EnvVarSource, has_value: bool, path: &Path, errors: &mut ErrorList) {
    let mut sources = 0;
    if let Some(f) = &from.field_ref {
        sources += 1;
        field_ref(f, &POD_FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(r) = &from.resource_field_ref {
        sources += 1;
        resource_ref(r, false, &path.child("resourceFieldRef"), errors);
    }
    if let Some(r) = &from.config_map_key_ref {
        sources += 1;
        key_ref(&r.name, &r.key, &path.child("configMapKeyRef"), errors);
    }
    if let Some(r) = &from.secret_key_ref {
        sources += 1;
        key_ref(&r.name, &r.key, &path.child("secretKeyRef"), errors);
    }
    if let Some(r) = &from.file_key_ref {
        sources += 1;
        let path = path.child("fileKeyRef");
        for (field, value) in [("key", &r.key), ("volumeName", &r.volume_name), ("path", &r.path)] {
            if value.is_empty() {
                errors.push(Error::required(&path.child(field), ""));
            }
        }
    }
    if sources == 0 {
        errors.push(Error::invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ));
    } else if has_value {
        errors.push(Error::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(Error::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

fn key_ref(name: &str, key: &str, path: &Path, errors: &mut ErrorList) {
    errors.extend(invalid_each(&path.child("name"), name, rules::dns1123_subdomain(name)));
    if key.is_empty() {
        errors.push(Error::required(&path.child("key"), ""));
    } else {
        errors.extend(invalid_each(&path.child("key"), key, rules::config_key(key)));
    }
}

/// Splits `metadata.labels['app']` into field and subscript.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let inner = path.strip_suffix("']")?;
    inner.split_once("['")
}

/// Names that fields of pods go by in field references at all.
fn is_known_field(path: &str) -> bool {
    const MORE: [&str; 8] = [
        "metadata.annotations",
        "metadata.labels",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.podIP",
        "spec.hostname",
    ];
    POD_FIELDS.contains(&path) || MORE.contains(&path)
}

/// A field of the pod, one of `valid`.
pub fn field_ref(f: &ObjectFieldSelector, valid: &[&str], path: &Path, errors: &mut ErrorList) {
    let version = text(&f.api_version);
    if version.is_empty() {
        errors.push(Error::required(&path.child("apiVersion"), ""));
        return;
    }
    if f.field_path.is_empty() {
        errors.push(Error::required(&path.child("fieldPath"), ""));
        return;
    }
    let at = path.child("fieldPath");
    if version != "v1" {
        let why = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.push(Error::invalid(&at, &f.field_path, why));
        return;
    }
    if let Some((field, subscript)) = subscripted(&f.field_path) {
        match field {
            "metadata.annotations" => {
                let lower = subscript.to_lowercase();
                errors.extend(invalid_each(path, &lower, rules::qualified_name(&lower)));
            }
            "metadata.labels" => {
                errors.extend(invalid_each(path, subscript, rules::qualified_name(subscript)));
            }
            _ if !is_known_field(field) => errors.push(unknown_label(&at, &f.field_path)),
            _ => errors.push(Error::invalid(path, field, "does not support subscript")),
        }
        return;
    }
    if !is_known_field(&f.field_path) {
        errors.push(unknown_label(&at, &f.field_path));
    } else if !valid.contains(&f.field_path.as_str()) {
        errors.push(Error::not_supported(&at, &f.field_path, valid));
    }
}

fn unknown_label(at: &Path, field: &str) -> Error {
    Error::invalid(at, field, format!("error converting fieldPath: field label not supported: {field}"))
}

/// A resource of a container. In volumes the container is named.
pub fn resource_ref(r: &ResourceFieldSelector, in_volume: bool, path: &Path, errors: &mut ErrorList) {
    if in_volume && text(&r.container_name).is_empty() {
        errors.push(Error::required(&path.child("containerName"), ""));
    } else if r.resource.is_empty() {
        errors.push(Error::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&r.resource.as_str())
        && !r.resource.starts_with("limits.hugepages-")
        && !r.resource.starts_with("requests.hugepages-")
    {
        errors.push(Error::not_supported(&path.child("resource"), &r.resource, &RESOURCES));
    }
    divisor(r, path, errors);
}

fn divisor(r: &ResourceFieldSelector, path: &Path, errors: &mut ErrorList) {
    let Some(d) = &r.divisor else { return };
    if amount(d).is_zero() {
        return;
    }
    let Some((_, name)) = r.resource.split_once('.') else { return };
    let bytes = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (valid, told): (&[&str], &str) = match name {
        "cpu" => (&["1m", "1"], "1m and 1 are supported with the cpu resource"),
        "memory" => (&bytes, "memory resource"),
        "ephemeral-storage" => (&bytes, "local ephemeral storage resource"),
        _ if name.starts_with("hugepages-") => (&bytes, "hugepages resource"),
        _ => return,
    };
    if !valid.contains(&d.0.as_str()) {
        let why = if name == "cpu" {
            format!("only divisor's values {told}")
        } else {
            format!("only divisor's values {} are supported with the {told}", bytes.join(", "))
        };
        errors.push(Error::invalid(&path.child("divisor"), &r.resource, why));
    }
}

/// Variables taken over from whole objects.
pub fn sources(list: &[EnvFromSource], path: &Path, errors: &mut ErrorList) {
    for (i, s) in list.iter().enumerate() {
        let at = path.index(i);
        let prefix = text(&s.prefix);
        if !prefix.is_empty() {
            errors.extend(invalid_each(&at.child("prefix"), prefix, rules::env_name(prefix)));
        }
        let named = [
            ("configMapRef", s.config_map_ref.as_ref().map(|r| &r.name)),
            ("secretRef", s.secret_ref.as_ref().map(|r| &r.name)),
        ];
        let mut count = 0;
        for (field, name) in named {
            let Some(name) = name else { continue };
            count += 1;
            let at = at.child(field).child("name");
            if name.is_empty() {
                errors.push(Error::required(&at, ""));
            } else {
                errors.extend(invalid_each(&at, name, rules::dns1123_subdomain(name)));
            }
        }
        if count == 0 {
            errors.push(Error::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"));
        } else if count > 1 {
            errors.push(Error::invalid(path, "", "may not have more than one field specified at a time"));
        }
    }
}

//! Checks of `ObjectMeta`, the same for every kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};

use super::numbers::non_negative;
use super::{NameFn, immutable, invalid_each, selector, text};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::items;

/// Bytes of all annotations together.
const ANNOTATIONS_MAX: usize = 256 * 1024;
const FIELD_MANAGER_MAX: usize = 128;
const SUBRESOURCE_MAX: usize = 256;

/// Finalizers that need no domain before them.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Metadata of a fresh object.
pub fn object_meta(meta: &ObjectMeta, requires_namespace: bool, name_fn: NameFn, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let generate = meta.generate_name.as_deref().unwrap_or_default();
    if !generate.is_empty() {
        errors.extend(invalid_each(&path.child("generateName"), generate, name_fn(generate, true)));
    }
    let name = meta.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), "name or generateName is required"));
    } else {
        errors.extend(invalid_each(&path.child("name"), name, name_fn(name, false)));
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let at = path.child("namespace");
    match (requires_namespace, namespace.is_empty()) {
        (true, true) => errors.push(Error::required(&at, "")),
        (true, false) => errors.extend(invalid_each(&at, namespace, text::dns1123_label(namespace))),
        (false, false) => errors.push(Error::forbidden(&at, "not allowed on this type")),
        (false, true) => {}
    }
    errors.extend(non_negative(meta.generation.unwrap_or(0), &path.child("generation")));
    errors.extend(selector::labels(meta.labels.as_ref(), &path.child("labels")));
    errors.extend(annotations(meta, &path.child("annotations")));
    errors.extend(owner_references(items(&meta.owner_references), &path.child("ownerReferences")));
    errors.extend(finalizers(items(&meta.finalizers), &path.child("finalizers")));
    errors.extend(managed_fields(items(&meta.managed_fields), &path.child("managedFields")));
    for (i, f) in items(&meta.finalizers).iter().enumerate() {
        if !f.contains('/') && !STANDARD_FINALIZERS.contains(&f.as_str()) {
            errors.push(Error::invalid(
                &path.child("finalizers").index(i),
                f,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    errors
}

/// Metadata after a change.
pub fn object_meta_update(new: &ObjectMeta, old: &ObjectMeta, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = path.child("finalizers");
    if old.deletion_timestamp.is_some() {
        let mut extra: Vec<&str> = items(&new.finalizers)
            .iter()
            .filter(|f| !items(&old.finalizers).contains(f))
            .map(String::as_str)
            .collect();
        extra.sort_unstable();
        if !extra.is_empty() {
            let list = extra.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ");
            errors.push(Error::forbidden(
                &at,
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers \
                     []string{{{list}}}"
                ),
            ));
        }
    }
    if new.resource_version.as_deref().unwrap_or_default().is_empty() {
        errors.push(Error::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = new.generation.unwrap_or(0);
    if generation < old.generation.unwrap_or(0) {
        errors.push(Error::invalid(&path.child("generation"), generation, "must not be decremented"));
    }
    errors.extend(immutable(&new.name, &old.name, &path.child("name")));
    errors.extend(immutable(&new.namespace, &old.namespace, &path.child("namespace")));
    errors.extend(immutable(&new.uid, &old.uid, &path.child("uid")));
    errors.extend(immutable(
        &new.creation_timestamp,
        &old.creation_timestamp,
        &path.child("creationTimestamp"),
    ));
    errors.extend(immutable(
        &new.deletion_timestamp,
        &old.deletion_timestamp,
        &path.child("deletionTimestamp"),
    ));
    errors.extend(immutable(
        &new.deletion_grace_period_seconds,
        &old.deletion_grace_period_seconds,
        &path.child("deletionGracePeriodSeconds"),
    ));
    errors.extend(selector::labels(new.labels.as_ref(), &path.child("labels")));
    errors.extend(annotations(new, &path.child("annotations")));
    errors.extend(owner_references(items(&new.owner_references), &path.child("ownerReferences")));
    errors.extend(managed_fields(items(&new.managed_fields), &path.child("managedFields")));
    errors
}

/// Keys of annotations are label keys in any case; all of them together are bounded.
pub fn annotations(meta: &ObjectMeta, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (k, v) in meta.annotations.iter().flatten() {
        errors.extend(invalid_each(path, k, text::qualified_name(&k.to_lowercase())));
        size += k.len() + v.len();
    }
    if size > ANNOTATIONS_MAX {
        errors.push(Error::too_long(path, ANNOTATIONS_MAX as i64));
    }
    errors
}

fn owner_references(refs: &[OwnerReference], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut controller: Option<String> = None;
    for r in refs {
        let version = r.api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            errors.push(Error::invalid(
                &path.child("apiVersion"),
                &r.api_version,
                "version must not be empty",
            ));
        }
        for (field, value) in [("kind", &r.kind), ("name", &r.name), ("uid", &r.uid)] {
            if value.is_empty() {
                errors.push(Error::invalid(&path.child(field), value, "must not be empty"));
            }
        }
        if r.api_version == "v1" && r.kind == "Event" {
            errors.push(Error::invalid(path, r, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if r.controller == Some(true) {
            let this = format!("{}/{}", r.kind, r.name);
            match &controller {
                Some(first) => errors.push(Error::invalid(
                    path,
                    refs,
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for \
                         {first} and {this}"
                    ),
                )),
                None => controller = Some(this),
            }
        }
    }
    errors
}

/// Metadata of a template: labels and annotations, and nothing else.
pub fn template(meta: &ObjectMeta, path: &Path) -> ErrorList {
    let mut errors = annotations(meta, &path.child("annotations"));
    errors.extend(selector::labels(meta.labels.as_ref(), &path.child("labels")));
    let given = |s: &Option<String>| !s.as_deref().unwrap_or_default().is_empty();
    for (field, set) in [
        ("name", given(&meta.name)),
        ("generateName", given(&meta.generate_name)),
        ("namespace", given(&meta.namespace)),
        ("selfLink", given(&meta.self_link)),
        ("uID", given(&meta.uid)),
        ("resourceVersion", given(&meta.resource_version)),
        ("generation", meta.generation.unwrap_or(0) != 0),
        ("creationTimestamp", meta.creation_timestamp.is_some()),
        ("deletionTimestamp", meta.deletion_timestamp.is_some()),
        ("deletionGracePeriodSeconds", meta.deletion_grace_period_seconds.is_some()),
        ("ownerReferences", meta.owner_references.is_some()),
        ("finalizers", meta.finalizers.is_some()),
        ("managedFields", meta.managed_fields.is_some()),
    ] {
        if set {
            errors.push(Error::forbidden(&path.child(field), "cannot be set"));
        }
    }
    errors
}

/// Finalizers are label keys; waiting for dependents and orphaning them exclude each other.
pub fn finalizers(list: &[String], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for f in list {
        errors.extend(invalid_each(path, f, text::qualified_name(f)));
    }
    let has = |name: &str| list.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.push(Error::invalid(path, list, "finalizer orphan and foregroundDeletion cannot be both set"));
    }
    errors
}

fn managed_fields(list: &[ManagedFieldsEntry], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, m) in list.iter().enumerate() {
        let path = path.index(i);
        let operation = m.operation.as_deref().unwrap_or_default();
        if !matches!(operation, "Apply" | "Update") {
            errors.push(Error::invalid(&path.child("operation"), operation, "must be `Apply` or `Update`"));
        }
        let fields_type = m.fields_type.as_deref().unwrap_or_default();
        if !matches!(fields_type, "" | "FieldsV1") {
            errors.push(Error::invalid(&path.child("fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        errors.extend(field_manager(m.manager.as_deref().unwrap_or_default(), &path.child("manager")));
        if m.subresource.as_deref().unwrap_or_default().len() > SUBRESOURCE_MAX {
            errors.push(Error::too_long(&path.child("subresource"), SUBRESOURCE_MAX as i64));
        }
    }
    errors
}

/// Name of a field manager: short and printable.
pub fn field_manager(name: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if name.len() > FIELD_MANAGER_MAX {
        errors.push(Error::too_long(path, FIELD_MANAGER_MAX as i64));
    }
    for (i, c) in name.char_indices() {
        if c.is_control() {
            errors.push(Error::invalid(
                path,
                name,
                format!("invalid character U+{:04X} (at position {i})", c as u32),
            ));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn named(name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            resource_version: Some("1".into()),
            ..Default::default()
        }
    }

    #[test]
    fn a_fresh_object_needs_a_name_and_a_namespace() {
        let name_fn: NameFn = |s, _| text::dns1123_subdomain(s);
        let path = Path::new("metadata");
        assert!(object_meta(&named("a"), true, name_fn, &path).is_empty());
        let e = object_meta(&ObjectMeta::default(), true, name_fn, &path);
        assert_eq!(
            e.aggregate(),
            "[metadata.name: Required value: name or generateName is required, metadata.namespace: Required value]"
        );
        let e = object_meta(&named("a"), false, name_fn, &path);
        assert_eq!(e.aggregate(), "metadata.namespace: Forbidden: not allowed on this type");
    }

    #[test]
    fn two_controllers_are_one_too_many() {
        let owner = |n: &str| OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: n.into(),
            uid: "u".into(),
            controller: Some(true),
            ..Default::default()
        };
        let meta = ObjectMeta { owner_references: Some(vec![owner("a"), owner("b")]), ..named("x") };
        let e = object_meta_update(&meta, &named("x"), &Path::new("metadata"));
        assert!(e.aggregate().contains("for Pod/a and Pod/b"), "{}", e.aggregate());
    }

    #[test]
    fn no_finalizer_joins_once_deletion_began() {
        let old = ObjectMeta { deletion_timestamp: Some(Time(jiff::Timestamp::UNIX_EPOCH)), ..named("x") };
        let new = ObjectMeta { finalizers: Some(vec!["a/b".into()]), ..old.clone() };
        let e = object_meta_update(&new, &old, &Path::new("metadata"));
        assert!(e.aggregate().ends_with("found new finalizers []string{\"a/b\"}"), "{}", e.aggregate());
    }
}

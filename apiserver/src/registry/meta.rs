//! Validation of `metadata`, the same for every kind.

use serde_json::Value;

use super::names;
use super::object::{self, meta};
use super::resource::Resource;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::validate::{NameFn, text};

const ANNOTATIONS_LIMIT: usize = 256 * 1024;
const MANAGER_LIMIT: usize = 128;
/// Finalizers that need no domain before them.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Everything wrong with the metadata of a new object, after name generation.
pub fn validate(o: &Value, namespaced: bool, name_fn: NameFn) -> ErrorList {
    let mut e = ErrorList::new();
    let p = Path::new("metadata");
    let generate = object::meta_str(o, "generateName");
    if !generate.is_empty() {
        invalid(&mut e, &p.child("generateName"), generate, name_fn(generate, true));
    }
    let name = object::name(o);
    if name.is_empty() {
        e.push(Error::required(&p.child("name"), "name or generateName is required"));
    } else {
        invalid(&mut e, &p.child("name"), name, name_fn(name, false));
    }
    common(o, namespaced, &p, &mut e);
    e
}

/// Everything wrong with the metadata of `o` as the successor of `old`.
pub fn validate_update(o: &Value, old: &Value, namespaced: bool) -> ErrorList {
    let mut e = validate(o, namespaced, text::path_segment);
    let p = Path::new("metadata");
    if object::is_deleting(old) {
        let before: Vec<&str> = object::finalizers(old).collect();
        let mut extra: Vec<&str> = object::finalizers(o).filter(|f| !before.contains(f)).collect();
        extra.sort_unstable();
        extra.dedup();
        if !extra.is_empty() {
            let list: Vec<String> = extra.iter().map(|f| format!("\"{f}\"")).collect();
            e.push(Error::forbidden(
                &p.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    list.join(", ")
                ),
            ));
        }
    }
    if object::resource_version(o).is_empty() {
        e.push(Error::invalid(&p.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = |o: &Value| meta(o).get("generation").and_then(Value::as_i64).unwrap_or(0);
    if generation(o) < generation(old) {
        e.push(Error::invalid(&p.child("generation"), generation(o), "must not be decremented"));
    }
    for f in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"] {
        immutable(&mut e, &p, o, old, f);
    }
    let grace = "deletionGracePeriodSeconds";
    let (new, before) = (meta(o).get(grace), meta(old).get(grace));
    if new != before && before.is_some() {
        immutable(&mut e, &p, o, old, grace);
    }
    e
}

fn immutable(e: &mut ErrorList, p: &Path, o: &Value, old: &Value, f: &str) {
    let empty = Value::String(String::new());
    let (new, before) = (meta(o).get(f).unwrap_or(&empty), meta(old).get(f).unwrap_or(&empty));
    if new != before {
        e.push(Error::invalid(&p.child(f), new, "field is immutable"));
    }
}

fn invalid(e: &mut ErrorList, p: &Path, value: &str, messages: Vec<String>) {
    for m in messages {
        e.push(Error::invalid(p, value, m));
    }
}

fn common(o: &Value, namespaced: bool, p: &Path, e: &mut ErrorList) {
    let ns = object::namespace(o);
    if namespaced {
        if ns.is_empty() {
            e.push(Error::required(&p.child("namespace"), ""));
        } else if let Err(m) = names::dns1123_label(ns) {
            invalid(e, &p.child("namespace"), ns, m);
        }
    } else if !ns.is_empty() {
        e.push(Error::forbidden(&p.child("namespace"), "not allowed on this type"));
    }
    let m = meta(o);
    if let Some(g) = m.get("generation").and_then(Value::as_i64)
        && g < 0
    {
        e.push(Error::invalid(&p.child("generation"), g, "must be greater than or equal to 0"));
    }
    labels(m.get("labels"), &p.child("labels"), e);
    annotations(m.get("annotations"), &p.child("annotations"), e);
    owners(m.get("ownerReferences"), &p.child("ownerReferences"), e);
    finalizers(o, &p.child("finalizers"), e);
    managed_fields(m.get("managedFields"), &p.child("managedFields"), e);
}

/// Finalizers without a domain. Definitions, API services and custom resources may have them: the finalizer that
/// upstream puts on definitions is one.
pub fn qualified_finalizers(r: &Resource, o: &Value, e: &mut ErrorList) {
    if r.custom.is_some() || matches!(r.group, "apiextensions.k8s.io" | "apiregistration.k8s.io") {
        return;
    }
    let p = Path::new("metadata").child("finalizers");
    for (i, f) in object::finalizers(o).enumerate() {
        if !f.contains('/') && !STANDARD_FINALIZERS.contains(&f) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            e.push(Error::invalid(&p.index(i), f, why));
        }
    }
}

/// Checks a map of labels.
pub fn labels(v: Option<&Value>, p: &Path, e: &mut ErrorList) {
    for (k, v) in v.and_then(Value::as_object).into_iter().flatten() {
        if let Err(m) = names::qualified_name(k) {
            invalid(e, p, k, m);
        }
        let v = v.as_str().unwrap_or_default();
        if let Err(m) = names::label_value(v) {
            invalid(e, p, v, m);
        }
    }
}

/// Checks a map of annotations.
pub fn annotations(v: Option<&Value>, p: &Path, e: &mut ErrorList) {
    let mut size = 0;
    for (k, v) in v.and_then(Value::as_object).into_iter().flatten() {
        if let Err(m) = names::qualified_name(&k.to_lowercase()) {
            invalid(e, p, k, m);
        }
        size += k.len() + v.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        e.push(Error::too_long(p, ANNOTATIONS_LIMIT as i64));
    }
}

fn owners(v: Option<&Value>, p: &Path, e: &mut ErrorList) {
    let mut controller: Option<String> = None;
    let all = v.and_then(Value::as_array);
    for r in all.into_iter().flatten() {
        let field = |f: &str| r.get(f).and_then(Value::as_str).unwrap_or_default();
        let api_version = field("apiVersion");
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            e.push(Error::invalid(&p.child("apiVersion"), api_version, "version must not be empty"));
        }
        for f in ["kind", "name", "uid"] {
            if field(f).is_empty() {
                e.push(Error::invalid(&p.child(f), "", "must not be empty"));
            }
        }
        if api_version == "v1" && field("kind") == "Event" {
            e.push(Error::invalid(p, r, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if r.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{}/{}", field("kind"), field("name"));
            match &controller {
                Some(first) => e.push(Error::invalid(
                    p,
                    all,
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                )),
                None => controller = Some(this),
            }
        }
    }
}

fn finalizers(o: &Value, p: &Path, e: &mut ErrorList) {
    let (mut orphan, mut foreground) = (false, false);
    for f in object::finalizers(o) {
        if let Err(m) = names::qualified_name(f) {
            invalid(e, p, f, m);
        }
        orphan |= f == "orphan";
        foreground |= f == "foregroundDeletion";
    }
    if orphan && foreground {
        e.push(Error::invalid(
            p,
            meta(o).get("finalizers"),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

fn managed_fields(v: Option<&Value>, p: &Path, e: &mut ErrorList) {
    for (i, f) in v.and_then(Value::as_array).into_iter().flatten().enumerate() {
        let p = p.index(i);
        let field = |n: &str| f.get(n).and_then(Value::as_str).unwrap_or_default();
        if !matches!(field("operation"), "Apply" | "Update") {
            e.push(Error::invalid(&p.child("operation"), field("operation"), "must be `Apply` or `Update`"));
        }
        if !matches!(field("fieldsType"), "" | "FieldsV1") {
            e.push(Error::invalid(&p.child("fieldsType"), field("fieldsType"), "must be `FieldsV1`"));
        }
        manager(field("manager"), &p.child("manager"), e);
        if field("subresource").len() > 256 {
            e.push(Error::too_long(&p.child("subresource"), 256));
        }
    }
}

/// Checks the name of a field manager.
pub fn manager(name: &str, p: &Path, e: &mut ErrorList) {
    if name.len() > MANAGER_LIMIT {
        e.push(Error::too_long(p, MANAGER_LIMIT as i64));
    }
    if let Some((i, c)) = name.char_indices().find(|(_, c)| c.is_control()) {
        e.push(Error::invalid(p, name, format!("invalid character U+{:04X} (at position {i})", c as u32)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn subdomain(name: &str, _prefix: bool) -> Vec<String> {
        text::dns1123_subdomain(name)
    }

    #[test]
    fn create() {
        let ok = json!({"metadata": {"name": "a", "namespace": "n", "labels": {"k": "v"}}});
        assert!(validate(&ok, true, subdomain).is_empty());
        let bad = json!({"metadata": {"namespace": "n", "labels": {"k": "b c"}}});
        let e = validate(&bad, true, subdomain).aggregate();
        assert!(e.starts_with("[metadata.name: Required value: name or generateName is required, metadata.labels: Invalid value: \"b c\": a valid label"), "{e}");
        let cluster = json!({"metadata": {"name": "a", "namespace": "n"}});
        assert_eq!(
            validate(&cluster, false, subdomain).aggregate(),
            "metadata.namespace: Forbidden: not allowed on this type"
        );
    }

    #[test]
    fn update() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "5", "deletionTimestamp": "t", "finalizers": ["a.b/c"]}});
        let mut new = old.clone();
        assert!(validate_update(&new, &old, false).is_empty());
        new["metadata"]["uid"] = json!("2");
        new["metadata"]["finalizers"] = json!(["a.b/c", "a.b/d"]);
        assert_eq!(
            validate_update(&new, &old, false).aggregate(),
            "[metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a.b/d\"}, metadata.uid: Invalid value: \"2\": field is immutable]"
        );
    }
}

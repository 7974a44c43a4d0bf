//! Small accessors for API objects held as JSON values.

use serde_json::{Map, Value};

/// `metadata` of an object; an empty map where there is none.
pub fn meta(o: &Value) -> &Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    o.get("metadata").and_then(Value::as_object).unwrap_or(&EMPTY)
}

/// `metadata` of an object, created where there is none.
pub fn meta_mut(o: &mut Value) -> &mut Map<String, Value> {
    child_mut(root_mut(o), "metadata")
}

/// The object itself as a map; anything else is replaced by one.
pub fn root_mut(o: &mut Value) -> &mut Map<String, Value> {
    if !o.is_object() {
        *o = Value::Object(Map::new());
    }
    match o {
        Value::Object(m) => m,
        _ => unreachable!("made an object above"),
    }
}

/// The map under `key`, created where there is none.
pub fn child_mut<'a>(m: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    root_mut(m.entry(key).or_insert_with(|| Value::Object(Map::new())))
}

/// A string of `metadata`; empty where there is none.
pub fn meta_str<'a>(o: &'a Value, field: &str) -> &'a str {
    meta(o).get(field).and_then(Value::as_str).unwrap_or_default()
}

pub fn name(o: &Value) -> &str {
    meta_str(o, "name")
}

pub fn namespace(o: &Value) -> &str {
    meta_str(o, "namespace")
}

pub fn uid(o: &Value) -> &str {
    meta_str(o, "uid")
}

pub fn resource_version(o: &Value) -> &str {
    meta_str(o, "resourceVersion")
}

/// Whether deletion has begun.
pub fn is_deleting(o: &Value) -> bool {
    meta(o).get("deletionTimestamp").is_some_and(|v| !v.is_null())
}

/// `metadata.finalizers`.
pub fn finalizers(o: &Value) -> impl Iterator<Item = &str> {
    meta(o).get("finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Sets a string of `metadata`, or removes it when empty.
pub fn set_meta(o: &mut Value, field: &str, value: &str) {
    let m = meta_mut(o);
    if value.is_empty() {
        m.remove(field);
    } else {
        m.insert(field.to_owned(), Value::String(value.to_owned()));
    }
}

/// Sets `metadata.resourceVersion`.
pub fn set_revision(o: &mut Value, revision: u64) {
    meta_mut(o).insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
}

/// Carries `field` of `metadata` over from `from`, removing it where `from` has none.
pub fn copy_meta(to: &mut Value, from: &Value, field: &str) {
    match meta(from).get(field) {
        Some(v) => {
            let v = v.clone();
            meta_mut(to).insert(field.to_owned(), v);
        }
        None => {
            meta_mut(to).remove(field);
        }
    }
}

/// Sets `apiVersion` and `kind`.
pub fn set_type(o: &mut Value, api_version: &str, kind: &str) {
    let m = root_mut(o);
    m.insert("apiVersion".to_owned(), Value::String(api_version.to_owned()));
    m.insert("kind".to_owned(), Value::String(kind.to_owned()));
}

/// The time as `metadata` timestamps carry it: whole seconds, UTC.
pub fn now() -> String {
    timestamp(jiff::Timestamp::now())
}

/// `t` in whole seconds, UTC.
pub fn timestamp(t: jiff::Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

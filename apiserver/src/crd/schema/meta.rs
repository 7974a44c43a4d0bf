//! `apiVersion`, `kind` and `metadata` of custom resources and of the objects embedded in them: brought to the
//! form of the real `ObjectMeta`, and checked.
//!
//! Source: API reference, `x-kubernetes-embedded-resource`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::json::{DecodeError, Strictness};
use proto::schema::{TypeDef, by_name};
use serde_json::{Map, Value};

use super::loc::Loc;
use super::node::Node;
use super::number::shown;
use crate::field::{Error, ErrorKind, ErrorList, Path};
use crate::kinds::validate::{meta as rules, text};

/// What to do about metadata that is not of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Refuse the object: it comes from a client.
    Refuse,
    /// Drop the fields: the object is stored, and may be older than the checks.
    Drop,
}

fn object_meta_type() -> Option<&'static TypeDef> {
    by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
}

/// A metadata value in the form that its type has, and the paths of its unknown fields.
fn decode(v: &Value) -> Result<(Value, Vec<String>), String> {
    let Some(def) = object_meta_type() else { return Err("ObjectMeta has no type".into()) };
    let bytes = serde_json::to_vec(v).map_err(|e| e.to_string())?;
    let decoded = proto::json::decode(&bytes, def, Strictness::Strict).map_err(|e| match e {
        DecodeError::Mismatch(m) | DecodeError::Unrecognized(m) => m,
    })?;
    let unknown = decoded
        .strict_errors
        .iter()
        .filter_map(|e| e.strip_prefix("unknown field \"").and_then(|e| e.strip_suffix('"')))
        .map(str::to_owned)
        .collect();
    let mut value = decoded.value;
    if let Some(m) = value.as_object_mut() {
        m.retain(|_, v| !v.is_null());
    }
    Ok((value, unknown))
}

/// Rewrites `object.metadata`; answers the unknown fields in it.
///
/// # Errors
/// The sentence of the decoder about a field of the wrong type.
pub fn canonical(object: &mut Map<String, Value>, malformed: Malformed) -> Result<Vec<String>, String> {
    let Some(meta) = object.get("metadata") else { return Ok(Vec::new()) };
    match (decode(meta), malformed) {
        (Ok((value, unknown)), _) => {
            object.insert("metadata".into(), value);
            Ok(unknown)
        }
        (Err(why), Malformed::Refuse) => Err(why),
        (Err(_), Malformed::Drop) => {
            let mut kept = Map::new();
            let mut unknown = Vec::new();
            for (k, v) in meta.as_object().into_iter().flatten() {
                let single = Value::Object(Map::from_iter([(k.clone(), v.clone())]));
                if let Ok((Value::Object(one), names)) = decode(&single) {
                    kept.extend(one);
                    unknown.extend(names);
                }
            }
            object.insert("metadata".into(), Value::Object(kept));
            Ok(unknown)
        }
    }
}

/// Brings embedded objects to form, the root's own metadata too if `embeds`. Adds the paths of unknown fields.
///
/// # Errors
/// The first thing that is not of its type.
pub fn coerce(
    v: &mut Value,
    node: &Node,
    embeds: bool,
    malformed: Malformed,
    at: &Loc<'_>,
    unknown: &mut Vec<String>,
) -> Result<(), Error> {
    match v {
        Value::Object(m) => {
            if embeds {
                for k in ["apiVersion", "kind"] {
                    let wrong = m.get(k).filter(|x| !x.is_string());
                    match (wrong, malformed) {
                        (None, _) => {}
                        (Some(_), Malformed::Drop) => {
                            m.remove(k);
                        }
                        (Some(x), Malformed::Refuse) => return Err(not_a(at, k, x, "must be a string")),
                    }
                }
                let before = m.get("metadata").cloned();
                match canonical(m, malformed) {
                    Ok(names) => {
                        let path = at.path(&Path::default()).child("metadata");
                        unknown.extend(names.iter().map(|n| path.child(n).to_string()));
                    }
                    Err(why) => return Err(not_a(at, "metadata", &before.unwrap_or_default(), &why)),
                }
            }
            for (k, x) in m.iter_mut() {
                if let Some(inner) = node.property(k) {
                    coerce(x, inner, inner.embeds, malformed, &at.field(k), unknown)?;
                } else if let Some(inner) = node.additional_schema() {
                    coerce(x, inner, inner.embeds, malformed, &at.key(k), unknown)?;
                }
            }
        }
        Value::Array(a) => {
            if let Some(items) = node.items.as_deref() {
                for (i, x) in a.iter_mut().enumerate() {
                    coerce(x, items, items.embeds, malformed, &at.index(i), unknown)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn not_a(at: &Loc<'_>, field: &str, value: &Value, why: &str) -> Error {
    Error {
        kind: ErrorKind::Invalid,
        field: at.path(&Path::default()).child(field).to_string(),
        value: shown(value),
        detail: why.to_owned(),
    }
}

/// Checks the metadata of embedded objects, the root's own too if `embeds`; places are below `from`.
pub fn check(v: &Value, node: &Node, embeds: bool, at: &Loc<'_>, from: &Path, errors: &mut ErrorList) {
    match v {
        Value::Object(m) => {
            if embeds {
                embedded(m, &at.path(from), errors);
            }
            for (k, x) in m {
                if let Some(inner) = node.property(k) {
                    check(x, inner, inner.embeds, &at.field(k), from, errors);
                } else if let Some(inner) = node.additional_schema() {
                    check(x, inner, inner.embeds, &at.key(k), from, errors);
                }
            }
        }
        Value::Array(a) => {
            if let Some(items) = node.items.as_deref() {
                for (i, x) in a.iter().enumerate() {
                    check(x, items, items.embeds, &at.index(i), from, errors);
                }
            }
        }
        _ => {}
    }
}

fn embedded(m: &Map<String, Value>, path: &Path, errors: &mut ErrorList) {
    for k in ["apiVersion", "kind"] {
        if !m.contains_key(k) {
            errors.push(Error::required(&path.child(k), ""));
        }
    }
    let text_of = |k: &str, errors: &mut ErrorList| {
        let v = m.get(k)?;
        let at = path.child(k);
        match v.as_str() {
            None => errors.push(Error::invalid(&at, v, "must be a string")),
            Some("") => errors.push(Error::invalid(&at, "", "must not be empty")),
            Some(s) => return Some((s.to_owned(), at)),
        }
        None
    };
    if let Some((v, at)) = text_of("apiVersion", errors)
        && v.matches('/').count() > 1
    {
        errors.push(Error::invalid(&at, &v, format!("unexpected GroupVersion string: {v}")));
    }
    if let Some((v, at)) = text_of("kind", errors) {
        let wrong = text::dns1035_label(&v.to_lowercase());
        if !wrong.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(Error::invalid(&at, &v, why));
        }
    }
    let Some(meta) = m.get("metadata") else { return };
    let at = path.child("metadata");
    let typed = decode(meta).and_then(|(v, _)| serde_json::from_value(v).map_err(|e| e.to_string()));
    match typed {
        Err(why) => errors.push(Error::invalid(&at, meta, why)),
        Ok(mut typed) => {
            let typed: &mut ObjectMeta = &mut typed;
            if typed.name.as_deref().unwrap_or_default().is_empty() {
                // An embedded object needs no name.
                typed.name = Some("fakename".into());
            }
            let namespaced = typed.namespace.as_ref().is_some_and(|n| !n.is_empty());
            errors.extend(rules::object_meta(typed, namespaced, text::path_segment, &at));
        }
    }
}

//! Strategic merge patch: a merge patch that knows from the schema which lists merge by key, with the
//! directives `$patch`, `$retainKeys`, `$setElementOrder/…` and `$deleteFromPrimitiveList/…`.

use proto::json::{Strictness, decode_any};
use proto::schema::{Field, Kind, TypeDef};
use serde_json::{Map, Value};

use super::unprocessable;
use crate::status::{ApiError, ApiResult};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

pub(super) type Object = Map<String, Value>;

/// Why a patch cannot be carried out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The patch is malformed (400).
    Bad(String),
    /// It contradicts itself or asks for what lists cannot do (422).
    Unprocessable,
    /// It does not fit the object (upstream's catch-all, 500).
    Other(String),
}

impl From<Fault> for ApiError {
    fn from(f: Fault) -> Self {
        match f {
            Fault::Bad(m) => Self::bad_request(m),
            Fault::Unprocessable => unprocessable(),
            Fault::Other(m) => Self::new(500, "", m),
        }
    }
}

/// Carries out a strategic merge patch on an object of type `def`. Gives the object and the strict errors of
/// the patch's own text.
pub fn strategic(
    live: &Value,
    patch: &[u8],
    def: &TypeDef,
    strictness: Strictness,
) -> ApiResult<(Value, Vec<String>)> {
    let decoded = decode_any(patch, strictness).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let Value::Object(patch) = decoded.value else {
        return Err(ApiError::bad_request("invalid JSON document"));
    };
    let original = live.as_object().cloned().unwrap_or_default();
    let merged = merge_map(original, patch, Some(def))?;
    Ok((Value::Object(merged), decoded.strict_errors))
}

fn unknown_type(kind: &str, map: &Value) -> Fault {
    Fault::Other(format!("unknown patch type: {kind} in map: {}", super::go_text(map)))
}

/// What the schema says about one key of a map.
struct Strategy<'a> {
    ty: Option<&'a TypeDef>,
    merge: bool,
    replace: bool,
    key: &'a str,
}

fn strategy<'a>(def: Option<&'a TypeDef>, name: &str) -> Strategy<'a> {
    let none = Strategy { ty: None, merge: false, replace: false, key: "" };
    match def.map(|d| &d.kind) {
        Some(Kind::Struct(s)) => match s.field(name) {
            Some(f) => of_field(f),
            None => none,
        },
        Some(Kind::Map(m)) => Strategy { ty: Some(&m.elem), ..none },
        _ => none,
    }
}

fn of_field(f: &Field) -> Strategy<'_> {
    Strategy { ty: Some(&f.ty), merge: f.patch_merge, replace: f.patch_replace, key: f.merge_key }
}

fn element(ty: Option<&TypeDef>) -> Option<&TypeDef> {
    match ty.map(|t| &t.kind) {
        Some(Kind::List(l)) => Some(&l.elem),
        _ => None,
    }
}

/// Lays a patch over an object, or a part of one, of type `def`.
pub(super) fn merge_map(
    mut original: Object,
    mut patch: Object,
    def: Option<&TypeDef>,
) -> Result<Object, Fault> {
    if let Some(d) = patch.remove(DIRECTIVE) {
        return match d.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            Some("merge") => merge_map(original, patch, def),
            _ => {
                let shown = super::go_text(&d);
                patch.insert(DIRECTIVE.into(), d);
                Err(unknown_type(&shown, &Value::Object(patch)))
            }
        };
    }
    retain_keys(&mut original, &mut patch)?;
    order_lists(&mut original, &mut patch, def)?;
    for (name, change) in patch {
        let (name, deletes) = match name.strip_prefix(DELETE_FROM) {
            Some(n) => (n.to_owned(), true),
            None => (name, false),
        };
        if change.is_null() {
            original.remove(&name);
            continue;
        }
        let how = strategy(def, &name);
        let merged = match (original.remove(&name), change) {
            // There is nothing to delete from.
            (None | Some(Value::Null), _) if deletes => continue,
            (Some(Value::Object(o)), Value::Object(p)) if !how.replace => {
                Value::Object(merge_map(o, p, how.ty)?)
            }
            (Some(Value::Array(o)), Value::Array(p)) if how.merge => {
                Value::Array(merge_list(o, p, &how, deletes)?)
            }
            // There is nothing to replace or to delete.
            (_, change) if change.get(DIRECTIVE).is_some() => continue,
            (_, change) => without_directives(change, how.ty)?,
        };
        original.insert(name, merged);
    }
    Ok(original)
}

/// A patch value where there was nothing to merge with: nulls and directives have no meaning there.
fn without_directives(v: Value, ty: Option<&TypeDef>) -> Result<Value, Fault> {
    Ok(match v {
        Value::Object(mut o) => {
            o.retain(|k, v| {
                !v.is_null()
                    && k != DIRECTIVE
                    && k != RETAIN_KEYS
                    && !k.starts_with(SET_ORDER)
                    && !k.starts_with(DELETE_FROM)
            });
            let mut out = Object::new();
            for (k, x) in o {
                if x.get(DIRECTIVE).is_none() {
                    let how = strategy(ty, &k);
                    out.insert(k, without_directives(x, how.ty)?);
                }
            }
            Value::Object(out)
        }
        Value::Array(items) => {
            let elem = element(ty);
            let mut out = Vec::with_capacity(items.len());
            for x in items.into_iter().filter(|x| x.get(DIRECTIVE).is_none()) {
                out.push(without_directives(x, elem)?);
            }
            Value::Array(out)
        }
        other => other,
    })
}

/// `$retainKeys`: other keys of the original go.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Fault> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = retained else {
        return Err(Fault::Bad("invalid patch format of retainKeys".into()));
    };
    let keep = |k: &str| keys.iter().any(|x| x.as_str() == Some(k));
    for (k, v) in patch.iter() {
        if !v.is_null() && !k.starts_with('$') && !keep(k) {
            return Err(Fault::Unprocessable);
        }
    }
    original.retain(|k, _| keep(k));
    Ok(())
}

/// `$setElementOrder/…`: merges those lists right away and puts their items in the order asked for.
fn order_lists(original: &mut Object, patch: &mut Object, def: Option<&TypeDef>) -> Result<(), Fault> {
    let names: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in names {
        let name = directive[SET_ORDER.len()..].to_owned();
        let bad = || Fault::Bad("invalid patch format of setElementOrder list".into());
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(bad()) };
        let how = strategy(def, &name);
        let change = match patch.remove(&name) {
            None | Some(Value::Null) => None,
            Some(Value::Array(a)) => Some(a),
            Some(_) => return Err(bad()),
        };
        if let Some(items) = &change
            && !is_ordered_by(items, &order, how.key)?
        {
            return Err(Fault::Bad(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                Value::Array(items.clone()),
                Value::Array(order),
            )));
        }
        let deletions = patch.remove(&format!("{DELETE_FROM}{name}"));
        let before = match original.get(&name) {
            Some(Value::Array(a)) => Some(a.clone()),
            _ => None,
        };
        let mut merged = match (before.clone(), change) {
            (None, None) => continue,
            (Some(b), None) => b,
            (None, Some(c)) => match without_directives(Value::Array(c), how.ty)? {
                Value::Array(a) => a,
                _ => Vec::new(),
            },
            (Some(b), Some(c)) if how.merge => merge_list(b, c, &how, false)?,
            (Some(_), Some(c)) => c,
        };
        if let Some(Value::Array(gone)) = deletions {
            merged.retain(|x| !gone.contains(x));
        }
        let server = before.unwrap_or_default();
        let merged = arrange(merged, &order, &server, how.key);
        original.insert(name, Value::Array(merged));
    }
    Ok(())
}

/// Whether the patch's items come in the order that the directive gives; deletions aside.
fn is_ordered_by(items: &[Value], order: &[Value], key: &str) -> Result<bool, Fault> {
    let mut at = 0;
    for x in items.iter().filter(|x| x.get(DIRECTIVE).is_none()) {
        if key.is_empty() && x.is_object() {
            return Ok(true);
        }
        match order[at..].iter().position(|o| same(o, x, key)) {
            Some(i) => at += i + 1,
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Whether two list items are the same one: by key, or by value where there is no key.
fn same(a: &Value, b: &Value, key: &str) -> bool {
    if key.is_empty() { a == b } else { a.get(key).is_some_and(|x| Some(x) == b.get(key)) }
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    how: &Strategy<'_>,
    deletes: bool,
) -> Result<Vec<Value>, Fault> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    if original.iter().chain(&patch).any(Value::is_array) {
        return Err(Fault::Unprocessable);
    }
    let maps = patch.iter().chain(&original).any(Value::is_object);
    if !maps {
        if deletes {
            return Ok(original.into_iter().filter(|x| !patch.contains(x)).collect());
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for x in original.iter().chain(&patch) {
            if !merged.contains(x) {
                merged.push(x.clone());
            }
        }
        return Ok(arrange(merged, &patch, &original, ""));
    }
    if how.key.is_empty() {
        return Err(Fault::Other("cannot merge lists without merge key for type".into()));
    }
    let (mut merged, patch) = match directives(original.clone(), patch, how.key)? {
        Special::Replace(items) => return Ok(items),
        Special::Merge(original, patch) => (original, patch),
    };
    let elem = element(how.ty);
    for item in &patch {
        let key = item.get(how.key).ok_or_else(|| {
            Fault::Other(format!("map: {item} does not contain declared merge key: {}", how.key))
        })?;
        let change = item.as_object().cloned().unwrap_or_default();
        match merged.iter().position(|x| x.get(how.key) == Some(key)) {
            Some(i) => {
                let old = std::mem::take(&mut merged[i]);
                let old = match old {
                    Value::Object(o) => o,
                    _ => Object::new(),
                };
                merged[i] = Value::Object(merge_map(old, change, elem)?);
            }
            None => merged.push(without_directives(Value::Object(change), elem)?),
        }
    }
    Ok(arrange(merged, &patch, &original, how.key))
}

enum Special {
    Replace(Vec<Value>),
    Merge(Vec<Value>, Vec<Value>),
}

/// Items with a `$patch` of their own: they delete, or turn the merge into a replacement.
fn directives(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<Special, Fault> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut replace = false;
    for mut item in patch {
        let Some(o) = item.as_object_mut() else { return Err(Fault::Unprocessable) };
        match o.remove(DIRECTIVE) {
            None => rest.push(item),
            Some(d) => match d.as_str() {
                Some("delete") => {
                    let wanted = o.get(key).ok_or_else(|| {
                        Fault::Other(format!("delete patch type with no merge key defined: {key}"))
                    })?;
                    original.retain(|x| x.get(key) != Some(wanted));
                }
                Some("replace") => {
                    replace = true;
                    if !o.is_empty() {
                        rest.push(item);
                    }
                }
                Some("merge") => rest.push(item),
                _ => return Err(unknown_type(&super::go_text(&d), &item)),
            },
        }
    }
    Ok(if replace { Special::Replace(rest) } else { Special::Merge(original, rest) })
}

/// Puts merged items in order: those that `order` names in that order, the others as they stood on the
/// server, woven together by their places there.
fn arrange(merged: Vec<Value>, order: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let place = |list: &[Value], x: &Value| list.iter().position(|y| same(y, x, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|x| place(order, x).is_some());
    named.sort_by_key(|x| place(order, x));
    others.sort_by_key(|x| place(server, x).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(o), Some(n)) => match (place(server, o), place(server, n)) {
                (Some(a), Some(b)) => a < b,
                _ => false,
            },
        };
        out.extend(if other_first { others.next() } else { named.next() });
    }
}

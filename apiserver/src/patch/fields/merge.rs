//! Laying an applied configuration over a live object, and taking fields out of one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Atom, Set, Ty, item_element};

/// `live` with everything that `applied` sets laid over it.
pub fn merge(live: &Value, applied: &Value, ty: Ty<'_>) -> Result<Value, String> {
    Ok(node(Some(live), Some(applied), ty)?.unwrap_or(Value::Null))
}

fn node(l: Option<&Value>, r: Option<&Value>, ty: Ty<'_>) -> Result<Option<Value>, String> {
    let keep = || r.or(l).cloned();
    match ty.atom(r.filter(|v| !v.is_null()).or(l)) {
        Atom::Scalar | Atom::List(None) | Atom::Map { atomic: true } => Ok(keep()),
        Atom::Map { atomic: false } => {
            let none = Map::new();
            let a = l.and_then(Value::as_object).unwrap_or(&none);
            let b = r.and_then(Value::as_object).unwrap_or(&none);
            if a.is_empty() && b.is_empty() {
                return Ok(keep());
            }
            let mut out = Map::new();
            for k in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                if let Some(v) = node(a.get(k), b.get(k), ty.child(k).0)? {
                    out.insert(k.clone(), v);
                }
            }
            Ok((!out.is_empty()).then_some(Value::Object(out)))
        }
        Atom::List(Some(list)) => {
            let none = Vec::new();
            let a = l.and_then(Value::as_array).unwrap_or(&none);
            let b = r.and_then(Value::as_array).unwrap_or(&none);
            if a.is_empty() && b.is_empty() {
                return Ok(keep());
            }
            let elements = |items: &[Value]| -> Result<Vec<String>, String> {
                items
                    .iter()
                    .enumerate()
                    .map(|(i, x)| item_element(list, x).map_err(|e| format!("element {i}: {e}")))
                    .collect()
            };
            let (ea, eb) = (elements(a)?, elements(b)?);
            let mut right = BTreeMap::new();
            for (e, v) in eb.iter().zip(b) {
                if right.insert(e.as_str(), v).is_some() {
                    let shown = super::path_text(std::slice::from_ref(e));
                    return Err(format!("duplicate entries for key {shown}"));
                }
            }
            // A key that the live list has twice is merged with nothing.
            let mut left: BTreeMap<&str, Option<&Value>> = BTreeMap::new();
            for (e, v) in ea.iter().zip(a) {
                left.entry(e).and_modify(|x| *x = None).or_insert(Some(v));
            }
            let items = weave(&ea, &eb, &left, &right);
            let mut out = Vec::with_capacity(items.len());
            for (l, r) in items {
                let l = match l {
                    Some(Left::At(i)) => Some(&a[i]),
                    Some(Left::Key(e)) => left.get(e).copied().flatten(),
                    None => None,
                };
                let r = r.and_then(|e| right.get(e).copied());
                out.extend(node(l, r, Ty::Def(&list.elem))?);
            }
            Ok((!out.is_empty()).then_some(Value::Array(out)))
        }
    }
}

enum Left<'a> {
    At(usize),
    Key(&'a str),
}

/// The order of the merged list: the applied items in their order, the others where they stood among the
/// items that both lists have.
fn weave<'a>(
    ea: &'a [String],
    eb: &'a [String],
    left: &BTreeMap<&str, Option<&Value>>,
    right: &BTreeMap<&str, &Value>,
) -> Vec<(Option<Left<'a>>, Option<&'a str>)> {
    let mut shared = eb.iter().filter(|e| left.contains_key(e.as_str()));
    let mut next = shared.next();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut out = Vec::with_capacity(ea.len() + eb.len());
    let (mut i, mut j) = (0, 0);
    while i < ea.len() || j < eb.len() {
        if i < ea.len() && j < eb.len() {
            let e = &ea[i];
            if *e == eb[j] {
                done.insert(e);
                out.push((Some(Left::Key(e)), Some(e.as_str())));
                i += 1;
                j += 1;
                next = shared.next();
                continue;
            }
            if right.contains_key(e.as_str()) && next.is_some_and(|n| n != e) {
                // It comes later, in the applied order.
                i += 1;
                continue;
            }
        }
        if i < ea.len() {
            let e = &ea[i];
            if !right.contains_key(e.as_str()) {
                out.push((Some(Left::At(i)), None));
                i += 1;
                continue;
            }
            if done.contains(e.as_str()) {
                i += 1;
            }
        }
        if j < eb.len() {
            let e = &eb[j];
            done.insert(e);
            out.push((Some(Left::Key(e)), Some(e.as_str())));
            j += 1;
            if next.is_some_and(|n| n == e) {
                next = shared.next();
            }
        }
    }
    out
}

/// `v` without the paths in `gone`. `None` when nothing is left.
pub fn remove(v: &Value, gone: &Set, ty: Ty<'_>) -> Option<Value> {
    match (ty.atom(Some(v)), v) {
        (Atom::Scalar, _) => Some(v.clone()),
        (Atom::List(None), _) | (Atom::Map { atomic: true }, _) => None,
        (Atom::List(Some(list)), Value::Array(items)) => {
            let mut out = Vec::new();
            let mut touched = false;
            for item in items {
                let Ok(e) = item_element(list, item) else {
                    out.push(item.clone());
                    continue;
                };
                if gone.has_member(&e) {
                    continue;
                }
                match gone.below(&e) {
                    Some(below) => {
                        touched = true;
                        out.push(remove(item, below, Ty::Def(&list.elem)).unwrap_or_else(|| empty(item)));
                    }
                    None => out.push(item.clone()),
                }
            }
            (touched || !out.is_empty()).then_some(Value::Array(out))
        }
        (Atom::Map { atomic: false }, Value::Object(o)) => {
            let mut out = Map::new();
            let mut touched = false;
            for (k, x) in o {
                let e = format!("f:{k}");
                if gone.has_member(&e) {
                    continue;
                }
                let x = match gone.below(&e) {
                    Some(below) => {
                        touched = true;
                        remove(x, below, ty.child(k).0).unwrap_or_else(|| empty(x))
                    }
                    None => x.clone(),
                };
                out.insert(k.clone(), x);
            }
            (touched || !out.is_empty()).then_some(Value::Object(out))
        }
        _ => None,
    }
}

/// What stays of a value whose parts are all gone.
fn empty(v: &Value) -> Value {
    match v {
        Value::Object(_) => Value::Object(Map::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}

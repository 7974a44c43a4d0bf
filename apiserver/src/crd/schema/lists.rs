//! Uniqueness in lists that are sets or maps.
//!
//! Source: API reference, `x-kubernetes-list-type`.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::loc::Loc;
use super::node::{List, Node};
use super::number::shown;
use crate::field::{Error, ErrorKind, ErrorList, Path};

/// Duplicates anywhere in `v`.
pub fn check(v: &Value, node: &Node, at: &Loc<'_>, errors: &mut ErrorList) {
    match v {
        Value::Object(m) => {
            for (k, x) in m {
                if let Some(inner) = node.additional_schema() {
                    check(x, inner, &at.key(k), errors);
                }
                if let Some(inner) = node.property(k) {
                    check(x, inner, &at.field(k), errors);
                }
            }
        }
        Value::Array(a) => {
            match &node.list {
                List::Atomic => {}
                List::Set => {
                    for i in repeated(a) {
                        duplicate(at, i, &a[i], errors);
                    }
                }
                List::Map(keys) => map(a, keys, at, errors),
            }
            if let Some(items) = node.items.as_deref() {
                for (i, x) in a.iter().enumerate() {
                    check(x, items, &at.index(i), errors);
                }
            }
        }
        _ => {}
    }
}

fn duplicate(at: &Loc<'_>, i: usize, value: &Value, errors: &mut ErrorList) {
    let field = at.index(i).path(&Path::default()).to_string();
    errors.push(Error { kind: ErrorKind::Duplicate, field, value: shown(value), detail: String::new() });
}

/// Places of values that were there before, each value once.
fn repeated(list: &[Value]) -> Vec<usize> {
    if list.len() < 2 {
        return Vec::new();
    }
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(list.len());
    let mut out = Vec::new();
    for (i, v) in list.iter().enumerate() {
        let times = seen.entry(v.to_string()).or_insert(0);
        *times += 1;
        if *times == 2 {
            out.push(i);
        }
    }
    out
}

fn map(list: &[Value], keys: &[&'static str], at: &Loc<'_>, errors: &mut ErrorList) {
    if let Some(i) = list.iter().position(|x| !(x.is_object() || x.is_null())) {
        let field = at.index(i).path(&Path::default()).to_string();
        errors.push(Error {
            kind: ErrorKind::Invalid,
            field,
            value: shown(&list[i]),
            detail: "must be an object for an array of list-type map".into(),
        });
        return;
    }
    let keys: Vec<Value> = list
        .iter()
        .map(|x| {
            let given = keys.iter().filter_map(|k| x.get(*k).map(|v| ((*k).to_owned(), v.clone())));
            Value::Object(given.collect::<Map<_, _>>())
        })
        .collect();
    for i in repeated(&keys) {
        duplicate(at, i, &keys[i], errors);
    }
}

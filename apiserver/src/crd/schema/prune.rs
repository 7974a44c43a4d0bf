//! Pruning: fields that the schema does not know are dropped, and named for strict decoding.
//!
//! Source: Kubernetes documentation, "Field pruning", "Controlling pruning", "RawExtension".

use serde_json::Value;

use super::loc::Loc;
use super::node::Node;

/// Fields that every object has.
pub const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

pub fn is_meta(name: &str) -> bool {
    META_FIELDS.contains(&name)
}

/// Drops what `node` does not know; `embeds` says that `v` is an object with metadata.
pub fn prune(v: &mut Value, node: Option<&Node>, embeds: bool) {
    if let Some(n) = node.filter(|n| n.preserves) {
        return pass(v, n, embeds);
    }
    match (v, node) {
        (Value::Object(m), None) => m.clear(),
        (Value::Object(m), Some(n)) => m.retain(|k, inner| {
            if embeds && is_meta(k) {
                return true;
            }
            let known = n.property(k).or_else(|| n.additional_schema());
            if known.is_none() && !n.has_additional() {
                return false;
            }
            prune(inner, known, known.is_some_and(|k| k.embeds));
            true
        }),
        (Value::Array(a), n) => {
            let items = n.and_then(|n| n.items.as_deref());
            a.iter_mut().for_each(|i| prune(i, items, items.is_some_and(|n| n.embeds)));
        }
        _ => {}
    }
}

/// Inside of `x-kubernetes-preserve-unknown-fields` only declared fields are looked at.
fn pass(v: &mut Value, n: &Node, embeds: bool) {
    match v {
        Value::Object(m) => {
            for (k, inner) in m.iter_mut().filter(|(k, _)| !(embeds && is_meta(k))) {
                let known = n.property(k).or_else(|| n.additional_schema());
                if known.is_some() || n.has_additional() {
                    prune(inner, known, known.is_some_and(|k| k.embeds));
                }
            }
        }
        Value::Array(a) => {
            if let Some(items) = n.items.as_deref() {
                a.iter_mut().for_each(|i| pass(i, items, items.embeds));
            }
        }
        _ => {}
    }
}

/// Paths of the fields that [`prune`] would drop.
pub fn unknown(v: &Value, node: Option<&Node>, embeds: bool, at: &Loc<'_>, out: &mut Vec<String>) {
    let preserves = node.is_some_and(|n| n.preserves);
    match v {
        Value::Object(m) => {
            for (k, inner) in m {
                if embeds && is_meta(k) {
                    continue;
                }
                let known = node.and_then(|n| n.field(k));
                let here = at.field(k);
                if known.is_some() || node.is_some_and(Node::has_additional) {
                    unknown(inner, known, known.is_some_and(|k| k.embeds), &here, out);
                } else if !(preserves || (at.is_root() && is_meta(k))) {
                    out.push(here.plain());
                }
            }
        }
        Value::Array(a) => {
            let items = node.and_then(|n| n.items.as_deref());
            for (i, inner) in a.iter().enumerate() {
                let here = at.index(i);
                if preserves {
                    // Lists pass on that unknown fields are kept.
                    if let Some(n) = items {
                        unknown_kept(inner, n, &here, out);
                    }
                } else {
                    unknown(inner, items, items.is_some_and(|n| n.embeds), &here, out);
                }
            }
        }
        _ => {}
    }
}

/// As [`unknown`], for items of a list that keeps unknown fields.
fn unknown_kept(v: &Value, n: &Node, at: &Loc<'_>, out: &mut Vec<String>) {
    match v {
        Value::Object(m) => {
            for (k, inner) in m.iter().filter(|(k, _)| !(n.embeds && is_meta(k))) {
                let known = n.field(k);
                if known.is_some() || n.has_additional() {
                    unknown(inner, known, known.is_some_and(|k| k.embeds), &at.field(k), out);
                }
            }
        }
        Value::Array(a) => {
            if let Some(items) = n.items.as_deref() {
                for (i, inner) in a.iter().enumerate() {
                    unknown_kept(inner, items, &at.index(i), out);
                }
            }
        }
        _ => {}
    }
}

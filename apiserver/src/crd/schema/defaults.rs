//! Defaulting of custom resources, and the dropping of nulls that stand where none may.
//!
//! Source: Kubernetes documentation, "Defaulting", "Defaulting and Nullable".

use serde_json::Value;

use super::node::Node;

/// Fills what is absent, or null where null is not allowed, from the schema's defaults. Defaults may hold
/// objects, which are filled in turn.
pub fn default(v: &mut Value, node: &Node) {
    match v {
        Value::Object(m) => {
            for (name, inner) in &node.properties {
                let Some(d) = &inner.default else { continue };
                let missing = m.get(*name).is_none_or(|x| x.is_null() && !inner.nullable);
                if missing {
                    m.insert((*name).to_owned(), (**d).clone());
                }
            }
            for (k, x) in m.iter_mut() {
                if let Some(inner) = node.property(k) {
                    default(x, inner);
                } else if let Some(inner) = node.additional_schema() {
                    replace_null(x, inner);
                    default(x, inner);
                }
            }
        }
        Value::Array(a) => {
            if let Some(items) = node.items.as_deref() {
                for x in a {
                    replace_null(x, items);
                    default(x, items);
                }
            }
        }
        _ => {}
    }
}

fn replace_null(v: &mut Value, node: &Node) {
    if let (true, false, Some(d)) = (v.is_null(), node.nullable, &node.default) {
        *v = (**d).clone();
    }
}

/// Drops fields that are null, may not be, and have no default.
pub fn drop_nulls(v: &mut Value, node: &Node) {
    match v {
        Value::Object(m) => m.retain(|k, x| match node.field(k) {
            Some(inner) if x.is_null() => inner.nullable || inner.default.is_some(),
            Some(inner) => {
                drop_nulls(x, inner);
                true
            }
            None => true,
        }),
        Value::Array(a) => {
            if let Some(items) = node.items.as_deref() {
                a.iter_mut().for_each(|x| drop_nulls(x, items));
            }
        }
        _ => {}
    }
}

//! The common patch, which sets some fields of a large object: only these are merged and brought to canonical form, where
//! the general way takes the whole object apart and reads it anew. What is not plain is left to the general way.

use proto::json::{Strictness, decode_any};
use proto::schema::{Kind, TypeDef};
use serde_json::{Map, Value};

use super::PatchType;
use super::fields::view;
use super::strategic::merge_map;

/// What [`super::patched`] gives for a merge or strategic patch of `live`, a canonical object of type `def`. None: the
/// patch removes something, has directives, repeats or does not know a field, or is wrong.
pub(super) fn patched(
    kind: PatchType,
    live: &Value,
    patch: &[u8],
    def: &TypeDef,
    strictness: Strictness,
) -> Option<Value> {
    if !matches!(kind, PatchType::Merge | PatchType::Strategic) {
        return None;
    }
    let decoded = decode_any(patch, strictness).ok().filter(|d| d.strict_errors.is_empty())?;
    let (Value::Object(patch), Value::Object(live)) = (decoded.value, live) else { return None };
    let mut out = live.clone();
    merge(&mut out, patch, def, (kind, strictness))?;
    Some(Value::Object(out))
}

fn merge(
    out: &mut Map<String, Value>,
    patch: Map<String, Value>,
    def: &TypeDef,
    (kind, strictness): (PatchType, Strictness),
) -> Option<()> {
    let Kind::Struct(s) = &def.kind else { return None };
    let (mut before, mut changes, mut names) = (Map::new(), Map::new(), Vec::new());
    for (name, change) in patch {
        if change.is_null() || name.starts_with('$') {
            return None;
        }
        let field = s.field(&name).filter(|f| f.json == name)?;
        let within = matches!(field.ty.kind, Kind::Struct(_)) && !field.patch_replace;
        match (out.get_mut(&name), change) {
            (Some(Value::Object(o)), Value::Object(p)) if within => {
                merge(o, p, &field.ty, (kind, strictness))?;
            }
            (_, change) => {
                if let Some(v) = out.remove(&name) {
                    before.insert(name.clone(), view(&v, &field.ty));
                }
                names.push(name.clone());
                changes.insert(name, change);
            }
        }
    }
    if names.is_empty() {
        return Some(());
    }
    let merged = match kind {
        PatchType::Strategic => Value::Object(merge_map(before, changes, Some(def)).ok()?),
        _ => {
            let mut merged = Value::Object(before);
            json_patch::merge(&mut merged, &Value::Object(changes));
            merged
        }
    };
    let decoded = proto::json::normalize(&merged, def, strictness).ok()?;
    let Value::Object(mut values) = decoded.value else { return None };
    // What became empty and is left out may leave more empty.
    let values = names.into_iter().map(|n| values.remove(&n).map(|v| (n, v))).collect::<Option<Vec<_>>>()?;
    out.extend(values);
    decoded.strict_errors.is_empty().then_some(())
}

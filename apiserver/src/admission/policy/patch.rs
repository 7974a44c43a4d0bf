//! What mutations make of an object: the results of their expressions laid over it. Pure.

use serde_json::{Map, Value as Json, json};

use super::compiled::Mutation;
use crate::admission::expressions::{Evaluation, Inputs, Variables};
use crate::cel::value::{List, Map as CelMap};
use crate::cel::{RUNTIME_BUDGET, Value};
use crate::patch::fields::{self, Atom, Ty};

/// The object after one mutation. `ty` is the object's type.
pub fn mutate(
    mutation: &Mutation,
    variables: &Variables,
    inputs: &Inputs<'_>,
    ty: Ty<'_>,
) -> Result<Json, String> {
    let expression = match mutation {
        Mutation::Apply(e) | Mutation::JsonPatch(e) => e,
    };
    if let Some(why) = expression.error() {
        return Err(why.to_owned());
    }
    let evaluation = Evaluation::new(inputs, variables);
    let mut budget = RUNTIME_BUDGET;
    let value = evaluation.one(expression, &mut budget).map_err(|e| e.to_string())??;
    match mutation {
        Mutation::Apply(_) => apply(inputs.object, &value, ty),
        Mutation::JsonPatch(_) => json_patch(inputs.object, &value),
    }
}

/// Lays an apply configuration over the object, field by field.
fn apply(object: &Json, value: &Value<'_>, ty: Ty<'_>) -> Result<Json, String> {
    fits_path(value, "Object").map_err(|e| format!("type mismatch: {e}"))?;
    let mut configuration = value.to_json().map_err(|e| e.to_string())?;
    let Some(o) = configuration.as_object_mut() else {
        let found = value.type_name();
        return Err(format!("unsupported return type from ApplyConfiguration expression: {found}"));
    };
    for field in ["apiVersion", "kind"] {
        if let Some(v) = object.get(field) {
            o.insert(field.to_owned(), v.clone());
        }
    }
    let mut atomic = Vec::new();
    atomics(&configuration, ty, "", &mut atomic);
    if !atomic.is_empty() {
        let list = atomic.join(", ");
        return Err(format!(
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {list}"
        ));
    }
    let merged = fields::merge(object, &configuration, ty);
    merged.map_err(|e| format!("error applying patch: failed to merge patch: {e}"))
}

/// Paths of what is owned as a whole: setting a part of it would take the rest away unseen.
fn atomics(v: &Json, ty: Ty<'_>, path: &str, out: &mut Vec<String>) {
    match (v, ty.atom(Some(v))) {
        (Json::Object(o), Atom::Map { atomic }) => {
            if atomic {
                out.push(path.to_owned());
            }
            for (k, v) in o {
                atomics(v, ty.child(k).0, &format!("{path}.{k}"), out);
            }
        }
        (Json::Array(_), Atom::List(None)) => out.push(path.to_owned()),
        (Json::Array(items), Atom::List(Some(l))) => {
            for (i, v) in items.iter().enumerate() {
                atomics(v, Ty::Def(&l.elem), &format!("{path}[{i}]"), out);
            }
        }
        _ => {}
    }
}

/// Whether each object's type is named after the field that holds it: `Object.spec{}` in `spec` of `Object{}`.
fn fits_path(value: &Value<'_>, path: &str) -> Result<(), String> {
    match value {
        Value::Map(CelMap::Object(name, fields)) => {
            if &**name != path {
                return Err(format!(
                    "unexpected type name \"{name}\", expected \"{path}\", which matches field name path from root Object type"
                ));
            }
            fields.iter().try_for_each(|(f, v)| fits_path(v, &format!("{path}.{f}")))
        }
        Value::List(List::Made(items)) => items.iter().try_for_each(|v| fits_path(v, path)),
        Value::Map(CelMap::Made(m)) => m.values().try_for_each(|v| fits_path(v, path)),
        _ => Ok(()),
    }
}

/// Applies a JSON patch. Where one of its tests fails, the object stays as it is.
fn json_patch(object: &Json, value: &Value<'_>) -> Result<Json, String> {
    let Value::List(list) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let mut operations = Vec::new();
    for v in list.iter() {
        let v = v.map_err(|e| e.to_string())?;
        let Value::Map(CelMap::Object(_, fields)) = &v else {
            let found = v.type_name();
            return Err(format!(
                "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {found}"
            ));
        };
        let text = |f: &str| fields.get(f).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut op = Map::new();
        op.insert("op".to_owned(), text("op").into());
        op.insert("path".to_owned(), text("path").into());
        if !text("from").is_empty() {
            op.insert("from".to_owned(), text("from").into());
        }
        if let Some(new) = fields.get("value") {
            if let Value::Map(CelMap::Object(name, _)) = new {
                fits_path(new, name).map_err(|e| format!("type mismatch: {e}"))?;
            }
            let new = new.to_json().map_err(|e| {
                format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {e}")
            })?;
            op.insert("value".to_owned(), new);
        }
        operations.push(Json::Object(op));
    }
    let patch: json_patch::Patch =
        serde_json::from_value(json!(operations)).map_err(|e| format!("JSON Patch: {e}"))?;
    let mut patched = object.clone();
    match crate::patch::json::carry_out(&mut patched, &patch) {
        Ok(()) => Ok(patched),
        Err(e) if e.is_test() => Ok(object.clone()),
        Err(e) => Err(format!("JSON Patch: {e}")),
    }
}

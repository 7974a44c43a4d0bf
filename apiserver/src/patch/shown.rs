//! What the error of a patch shows that led to no object of its type: the patch, or what came of it, and why.
//!
//! Upstream merges text: levels that the patch reaches into come out with sorted keys, all else as it was written.

use proto::schema::{Field, Kind, TypeDef};
use serde_json::{Map, Value};

/// A value as upstream's messages print decoded maps: `map[spec:map[replicas:x]]`.
pub fn go_text(v: &Value) -> String {
    match v {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(a) => format!("[{}]", a.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(o) => {
            let mut items: Vec<_> = o.iter().collect();
            items.sort_by(|a, b| a.0.cmp(b.0));
            let items: Vec<_> = items.into_iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

/// The text of `merged`, which came of a patch that reached into `reached` of an object of type `def`.
pub fn merged(merged: &Value, reached: &Value, def: Option<&TypeDef>) -> String {
    let mut out = Vec::new();
    write(merged, reached, def, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

fn write(v: &Value, reached: &Value, def: Option<&TypeDef>, out: &mut Vec<u8>) {
    match v {
        Value::Object(o) => {
            let mut keys: Vec<&String> = o.keys().collect();
            if !reached.is_object() {
                keys.sort_by_key(|k| def.and_then(|d| d.field(k)).map_or((u32::MAX, 0), place));
            }
            out.push(b'{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                proto::json::write_string(key, out);
                out.push(b':');
                let field = def.and_then(|d| match &d.kind {
                    Kind::Map(m) => Some(&*m.elem),
                    _ => d.field(key).map(|f| &*f.ty),
                });
                // What the patch says nothing of, or gives whole, is as it was written.
                write(&o[key], reached.get(key).unwrap_or(&Value::Null), field, out);
            }
            out.push(b'}');
        }
        Value::Array(a) => {
            let element = def.and_then(|d| match &d.kind {
                Kind::List(l) => Some(&*l.elem),
                _ => None,
            });
            out.push(b'[');
            for (i, item) in a.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(item, &Value::Null, element, out);
            }
            out.push(b']');
        }
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

/// Where upstream writes a field: by its number; those of an embedded message behind the first.
fn place(f: &Field) -> (u32, u32) {
    if f.inline { (1, f.tag + 1) } else { (f.tag, 0) }
}

/// What the operations of a JSON patch reach into, as a merge patch would.
pub fn reached(operations: &Value) -> Value {
    let mut out = Value::Object(Map::new());
    for op in operations.as_array().into_iter().flatten() {
        for pointer in ["path", "from"].iter().filter_map(|f| op.get(*f)?.as_str()) {
            let mut at = &mut out;
            let parts: Vec<&str> = pointer.split('/').skip(1).collect();
            for part in parts.iter().take(parts.len().saturating_sub(1)) {
                let Some(m) = at.as_object_mut() else { break };
                at = m
                    .entry(part.replace("~1", "/").replace("~0", "~"))
                    .or_insert_with(|| Value::Object(Map::new()));
            }
        }
    }
    out
}

/// A type mismatch as upstream words it where it converts decoded values instead of text.
pub fn unconvertible(why: &str) -> String {
    let known = why
        .strip_prefix("json: cannot unmarshal ")
        .and_then(|rest| rest.split_once(" into Go struct field "));
    let Some((got, field)) = known else { return why.to_owned() };
    let Some((_, go)) = field.rsplit_once(" of type ") else { return why.to_owned() };
    let kind = match got.split(' ').next().unwrap_or_default() {
        "number" if got.contains('.') => "float64",
        "number" => "int64",
        "array" => "slice",
        "object" => "map",
        other => other,
    };
    if go.starts_with("[]") {
        return format!("cannot restore slice from {kind}");
    }
    if go.starts_with("map[") {
        return format!("cannot restore map from {kind}");
    }
    let number = |go: &str| go.starts_with("int") || go.starts_with("uint") || go.starts_with("float");
    match (kind, go) {
        // Go turns a number into any other, and into a string of one character.
        ("int64", "string") | ("float64", _) if number(go) || go == "string" && kind == "int64" => {
            format!("cannot convert {kind} to {go}")
        }
        (_, "string" | "bool") => format!("unrecognized type: {go}"),
        _ if number(go) => format!("unrecognized type: {go}"),
        _ if is_struct(go) => format!("cannot restore struct from: {kind}"),
        ("int64", _) => format!("cannot convert {kind} to {go}"),
        _ => format!("unrecognized type: {go}"),
    }
}

/// Whether upstream's type, as errors name it, is a struct; else it is a string with a name.
fn is_struct(go: &str) -> bool {
    proto::schema::types().any(|t| t.go == go && t.structure().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conversions_are_worded_by_what_meets_what() {
        let of = |got: &str, go: &str| {
            unconvertible(&format!("json: cannot unmarshal {got} into Go struct field X.a of type {go}"))
        };
        assert_eq!(of("string", "v1.PodSpec"), "cannot restore struct from: string");
        assert_eq!(of("array", "v1.ObjectMeta"), "cannot restore struct from: slice");
        assert_eq!(of("number 1.5", "v1.PodSpec"), "cannot restore struct from: float64");
        assert_eq!(of("object", "[]v1.Container"), "cannot restore slice from map");
        assert_eq!(of("string", "map[string]string"), "cannot restore map from string");
        assert_eq!(of("number", "string"), "cannot convert int64 to string");
        assert_eq!(of("number", "v1.FinalizerName"), "cannot convert int64 to v1.FinalizerName");
        assert_eq!(of("number 1.5", "int32"), "cannot convert float64 to int32");
        assert_eq!(of("string", "bool"), "unrecognized type: bool");
        let own = "json: cannot unmarshal bool into Go value of type int32";
        assert_eq!(unconvertible(own), own);
    }

    #[test]
    fn only_levels_reached_into_are_sorted() {
        let def = proto::schema::by_gvk("", "v1", "Namespace").unwrap();
        let object =
            json!({"metadata": {"name": "n", "creationTimestamp": "t"}, "spec": "x", "kind": "Namespace"});
        assert_eq!(
            merged(&object, &json!({"spec": "x"}), Some(def)),
            r#"{"kind":"Namespace","metadata":{"name":"n","creationTimestamp":"t"},"spec":"x"}"#
        );
        assert_eq!(
            merged(&object, &json!({"metadata": {"labels": null}}), Some(def)),
            r#"{"kind":"Namespace","metadata":{"creationTimestamp":"t","name":"n"},"spec":"x"}"#
        );
        let operations = json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": 1}]);
        assert_eq!(reached(&operations), json!({"metadata": {"labels": {}}}));
    }
}

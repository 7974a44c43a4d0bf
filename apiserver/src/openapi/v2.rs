//! OpenAPI v2 (Swagger) for clients that know no v3: the v3 documents of all versions, put together and turned
//! into the older form.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::gnostic;

const FROM: &str = "#/components/schemas/";
const TO: &str = "#/definitions/";
/// Media types in the order in which clients prefer them.
const ORDER: [&str; 10] = [
    "text/plain",
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Where paths and definitions go, one by one: never is the whole document there as values.
trait Sink {
    fn path(&mut self, name: &str, item: &Value);
    fn definition(&mut self, name: &str, schema: &Value);
}

/// Turns the v3 documents of all groups and versions; each definition is taken once.
fn fill(parts: impl Iterator<Item = Value>, sink: &mut impl Sink) {
    let mut known: HashSet<String> = HashSet::new();
    for mut part in parts {
        if let Some(Value::Object(m)) = part.get_mut("paths").map(Value::take) {
            for (name, item) in m {
                sink.path(&name, &path(item));
            }
        }
        if let Some(Value::Object(m)) = part.pointer_mut("/components/schemas").map(Value::take) {
            for (name, s) in m {
                if known.insert(name.clone()) {
                    sink.definition(&name, &schema(s));
                }
            }
        }
    }
}

/// The document's parts as JSON text.
#[derive(Default)]
struct Json {
    paths: Vec<u8>,
    definitions: Vec<u8>,
}

fn entry(out: &mut Vec<u8>, name: &str, v: &Value) {
    if !out.is_empty() {
        out.push(b',');
    }
    // Strings and values always serialise, and writing to memory does not fail.
    let _ = serde_json::to_writer(&mut *out, name);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, v);
}

impl Sink for Json {
    fn path(&mut self, name: &str, item: &Value) {
        entry(&mut self.paths, name, item);
    }

    fn definition(&mut self, name: &str, schema: &Value) {
        entry(&mut self.definitions, name, schema);
    }
}

impl Sink for gnostic::Document {
    fn path(&mut self, name: &str, item: &Value) {
        self.add_path(name, item);
    }

    fn definition(&mut self, name: &str, schema: &Value) {
        self.add_definition(name, schema);
    }
}

/// One v2 document out of the v3 documents of all groups and versions, as JSON.
pub fn json(parts: impl Iterator<Item = Value>, version: &str) -> Vec<u8> {
    let mut sink = Json::default();
    fill(parts, &mut sink);
    let head = json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": version}}).to_string();
    let tail =
        json!({"securityDefinitions": super::security(), "security": [{"BearerToken": []}]}).to_string();
    let mut out =
        Vec::with_capacity(sink.paths.len() + sink.definitions.len() + head.len() + tail.len() + 64);
    out.extend_from_slice(head.strip_suffix('}').unwrap_or(&head).as_bytes());
    out.extend_from_slice(b",\"paths\":{");
    out.append(&mut sink.paths);
    out.extend_from_slice(b"},\"definitions\":{");
    out.append(&mut sink.definitions);
    out.extend_from_slice(b"},");
    out.extend_from_slice(tail.strip_prefix('{').unwrap_or(&tail).as_bytes());
    out
}

/// The same as a protobuf message.
pub fn protobuf(parts: impl Iterator<Item = Value>, version: &str) -> Vec<u8> {
    let mut document = gnostic::Document::default();
    fill(parts, &mut document);
    document.finish(version)
}

/// Everything below one path: parameters and operations.
fn path(item: Value) -> Value {
    let Value::Object(item) = item else { return item };
    let turned = item.into_iter().map(|(k, v)| {
        let v = if k == "parameters" { parameters(v) } else { operation(v) };
        (k, v)
    });
    Value::Object(turned.collect())
}

/// v2 has the type beside the name, not in a schema of its own.
fn parameters(list: Value) -> Value {
    let Value::Array(list) = list else { return list };
    let turned = list.into_iter().map(|mut p| {
        if let Some(Value::Object(s)) = p.get_mut("schema").map(Value::take)
            && let Some(o) = p.as_object_mut()
        {
            o.remove("schema");
            o.extend(s);
        }
        p
    });
    turned.collect()
}

fn operation(o: Value) -> Value {
    let Value::Object(mut o) = o else { return o };
    let mut list = match parameters(o.remove("parameters").unwrap_or(json!([]))) {
        Value::Array(a) => a,
        _ => Vec::new(),
    };
    let mut consumes = json!(["*/*"]);
    if let Some(body) = o.remove("requestBody") {
        let (media, wanted) = content(body.get("content"));
        if !media.is_empty() {
            consumes = media.into();
        }
        let mut p = json!({"name": "body", "in": "body", "schema": wanted});
        if body["required"] == true {
            p["required"] = true.into();
        }
        // Among the others in the order of names, as all of them are.
        let at = list.iter().position(|q| q["name"].as_str() > Some("body")).unwrap_or(list.len());
        list.insert(at, p);
    }
    let mut produces = Vec::new();
    if let Some(Value::Object(responses)) = o.get_mut("responses") {
        for r in responses.values_mut().filter_map(Value::as_object_mut) {
            if let Some(c) = r.remove("content") {
                let (media, given) = content(Some(&c));
                produces = media;
                r.insert("schema".into(), given);
            }
        }
    }
    if !list.is_empty() {
        o.insert("parameters".into(), list.into());
    }
    o.insert("consumes".into(), consumes);
    o.insert("produces".into(), produces.into());
    o.insert("schemes".into(), json!(["https"]));
    Value::Object(o)
}

/// The media types of a body, and the schema that they share.
fn content(c: Option<&Value>) -> (Vec<String>, Value) {
    let Some(o) = c.and_then(Value::as_object) else { return (Vec::new(), json!({})) };
    let first = o.values().next().and_then(|m| m.get("schema")).cloned().unwrap_or(json!({}));
    let mut media: Vec<String> = o.keys().cloned().collect();
    media.sort_by_key(|m| ORDER.iter().position(|o| o == m).unwrap_or(usize::MAX));
    (media, schema(first))
}

/// A schema: other references, no alternatives.
fn schema(v: Value) -> Value {
    match v {
        Value::Object(mut o) => {
            // A reference that v3 wraps to put something beside it.
            if let Some(Value::Array(all)) = o.remove("allOf") {
                o.extend(
                    all.into_iter()
                        .filter_map(|x| match x {
                            Value::Object(x) => Some(x),
                            _ => None,
                        })
                        .flatten(),
                );
            }
            if let Some(Value::String(r)) = o.remove("$ref") {
                let mut out = Map::new();
                out.insert("$ref".into(), r.replace(FROM, TO).into());
                // What is told beside a reference: its meaning, and how it is merged.
                let beside = |k: &str| k == "description" || k.starts_with("x-");
                out.extend(o.into_iter().filter(|(k, _)| beside(k)));
                return Value::Object(out);
            }
            // v2 has no defaults: its clients took them for something to send.
            o.remove("default");
            // Quantities and the like: v2 knows one type only, and upstream says string.
            if o.remove("oneOf").is_some() {
                o.insert("type".into(), "string".into());
            }
            // Below `properties` the keys are field names, whatever they spell.
            let below = |(k, v): (String, Value)| match (k.as_str(), v) {
                ("properties", Value::Object(p)) => {
                    (k, Value::Object(p.into_iter().map(|(k, v)| (k, schema(v))).collect()))
                }
                ("items" | "additionalProperties", v) => (k, schema(v)),
                (_, v) => (k, v),
            };
            Value::Object(o.into_iter().map(below).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v3_document_turns_into_v2() {
        let v3 = json!({
            "paths": {"/x/{name}": {
                "parameters": [{"name": "name", "in": "path", "required": true, "schema": {"type": "string"}}],
                "patch": {
                    "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                    "requestBody": {"required": true, "content": {"application/json-patch+json": {"schema": {"$ref": "#/components/schemas/P"}}}},
                    "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/X"}}}}},
                },
            }},
            "components": {"schemas": {"X": {"type": "object", "properties": {
                "spec": {"allOf": [{"$ref": "#/components/schemas/S"}], "default": {}},
                "port": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
                "list": {"type": "array", "items": {"allOf": [{"$ref": "#/components/schemas/S"}]}},
                "oneOf": {"type": "string"},
            }}}},
        });
        let text = super::json([v3].into_iter(), "v1.36.0");
        let v2: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!((&v2["swagger"], &v2["info"]["version"]), (&json!("2.0"), &json!("v1.36.0")));
        let p = &v2["paths"]["/x/{name}"];
        assert_eq!(
            p["parameters"],
            json!([{"name": "name", "in": "path", "required": true, "type": "string"}])
        );
        assert_eq!(p["patch"]["parameters"][0]["schema"], json!({"$ref": "#/definitions/P"}));
        assert_eq!(
            p["patch"]["parameters"][1],
            json!({"name": "fieldValidation", "in": "query", "type": "string"})
        );
        assert_eq!(p["patch"]["consumes"], json!(["application/json-patch+json"]));
        assert_eq!(p["patch"]["responses"]["200"]["schema"], json!({"$ref": "#/definitions/X"}));
        assert_eq!(
            v2["definitions"]["X"]["properties"],
            json!({
                "spec": {"$ref": "#/definitions/S"},
                "port": {"format": "int-or-string", "type": "string"},
                "list": {"type": "array", "items": {"$ref": "#/definitions/S"}},
                "oneOf": {"type": "string"},
            })
        );
    }
}

//! OpenAPI v2 (Swagger) for clients that know no v3: the v3 documents of all versions, put together and turned
//! into the older form.

use serde_json::{Map, Value, json};

const FROM: &str = "#/components/schemas/";
const TO: &str = "#/definitions/";

/// One v2 document out of the v3 documents of all groups and versions.
pub fn document(parts: impl Iterator<Item = Value>, version: &str) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for mut part in parts {
        if let Some(Value::Object(m)) = part.get_mut("paths").map(Value::take) {
            paths.extend(m.into_iter().map(|(k, v)| (k, path(v))));
        }
        if let Some(Value::Object(m)) = part.pointer_mut("/components/schemas").map(Value::take) {
            definitions.extend(m.into_iter().map(|(k, v)| (k, schema(v))));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "in": "header", "name": "authorization",
            "description": "Bearer Token authentication",
        }},
        "security": [{"BearerToken": []}],
    })
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
        list.insert(0, p);
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
    (o.keys().cloned().collect(), schema(first))
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
            if let Some(r) = o.get("$ref").and_then(Value::as_str) {
                let mut out = Map::new();
                out.insert("$ref".into(), r.replace(FROM, TO).into());
                if let Some(d) = o.remove("description") {
                    out.insert("description".into(), d);
                }
                return Value::Object(out);
            }
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
        let v2 = document([v3].into_iter(), "v1.36.0");
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

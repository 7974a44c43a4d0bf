//! A v3 document in protobuf, which client-go asks for: the messages of `openapi.v3` (gnostic's `OpenAPIv3.proto`), as far
//! as the API's documents have them. As in v2, they are written from the JSON form.

use serde_json::{Map, Value};

use super::wire::{
    any, boolean, double, extensions, flag, integer, message, named, number, object, string, text, texts,
};

/// Either the message that `write` makes of `v` (field 1) or a `Reference` (field 2): the `…OrReference` types.
fn or_reference(v: &Value, write: impl Fn(&Map<String, Value>) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(m) = object(v) else { return out };
    if m.contains_key("$ref") {
        let mut inner = Vec::new();
        text(1, m, "$ref", &mut inner);
        message(2, &inner, &mut out);
    } else {
        message(1, &write(m), &mut out);
    }
    out
}

fn schema_or_reference(v: &Value) -> Vec<u8> {
    or_reference(v, schema)
}

/// A map whose values are written by `write`, as field 1 of a message.
fn map(v: &Value, write: impl Fn(&Value) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, v) in object(v).into_iter().flatten() {
        named(1, name, &write(v), &mut out);
    }
    out
}

/// `Schema`.
fn schema(m: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    flag(1, m, "nullable", &mut out);
    flag(3, m, "readOnly", &mut out);
    flag(4, m, "writeOnly", &mut out);
    if let Some(e) = m.get("example") {
        any(7, e, &mut out);
    }
    flag(8, m, "deprecated", &mut out);
    text(9, m, "title", &mut out);
    number(10, m, "multipleOf", &mut out);
    number(11, m, "maximum", &mut out);
    flag(12, m, "exclusiveMaximum", &mut out);
    number(13, m, "minimum", &mut out);
    flag(14, m, "exclusiveMinimum", &mut out);
    integer(15, m, "maxLength", &mut out);
    integer(16, m, "minLength", &mut out);
    text(17, m, "pattern", &mut out);
    integer(18, m, "maxItems", &mut out);
    integer(19, m, "minItems", &mut out);
    flag(20, m, "uniqueItems", &mut out);
    integer(21, m, "maxProperties", &mut out);
    integer(22, m, "minProperties", &mut out);
    texts(23, m.get("required"), &mut out);
    for v in m.get("enum").and_then(Value::as_array).into_iter().flatten() {
        any(24, v, &mut out);
    }
    text(25, m, "type", &mut out);
    for (tag, field) in [(26, "allOf"), (27, "oneOf"), (28, "anyOf")] {
        for s in m.get(field).and_then(Value::as_array).into_iter().flatten() {
            message(tag, &schema_or_reference(s), &mut out);
        }
    }
    if let Some(not) = m.get("not").and_then(object) {
        message(29, &schema(not), &mut out);
    }
    if let Some(items) = m.get("items") {
        let mut inner = Vec::new();
        message(1, &schema_or_reference(items), &mut inner);
        message(30, &inner, &mut out);
    }
    if let Some(properties) = m.get("properties") {
        message(31, &map(properties, schema_or_reference), &mut out);
    }
    if let Some(additional) = m.get("additionalProperties") {
        let mut inner = Vec::new();
        match additional {
            Value::Bool(b) => boolean(2, *b, &mut inner),
            s => message(1, &schema_or_reference(s), &mut inner),
        }
        message(32, &inner, &mut out);
    }
    let mut default = Vec::new();
    match m.get("default") {
        Some(Value::Bool(b)) => boolean(2, *b, &mut default),
        Some(Value::String(s)) => message(3, s.as_bytes(), &mut default),
        // The message has no place for defaults that are no scalars.
        other => other.and_then(Value::as_f64).into_iter().for_each(|n| double(1, n, &mut default)),
    }
    if !default.is_empty() {
        message(33, &default, &mut out);
    }
    text(34, m, "description", &mut out);
    text(35, m, "format", &mut out);
    extensions(36, m, &mut out);
    out
}

/// `MediaTypes`.
fn content(v: &Value) -> Vec<u8> {
    map(v, |media| {
        let mut out = Vec::new();
        if let Some(s) = media.get("schema") {
            message(1, &schema_or_reference(s), &mut out);
        }
        out
    })
}

fn parameter(m: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    text(1, m, "name", &mut out);
    text(2, m, "in", &mut out);
    text(3, m, "description", &mut out);
    flag(4, m, "required", &mut out);
    if let Some(s) = m.get("schema") {
        message(10, &schema_or_reference(s), &mut out);
    }
    extensions(14, m, &mut out);
    out
}

fn request_body(m: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    text(1, m, "description", &mut out);
    if let Some(c) = m.get("content") {
        message(2, &content(c), &mut out);
    }
    flag(3, m, "required", &mut out);
    out
}

fn response(m: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    text(1, m, "description", &mut out);
    if let Some(c) = m.get("content") {
        message(3, &content(c), &mut out);
    }
    out
}

fn responses(v: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (code, r) in object(v).into_iter().flatten() {
        let r = or_reference(r, response);
        match code.as_str() {
            "default" => message(1, &r, &mut out),
            code => named(2, code, &r, &mut out),
        }
    }
    out
}

fn operation(m: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    texts(1, m.get("tags"), &mut out);
    text(2, m, "summary", &mut out);
    text(3, m, "description", &mut out);
    text(5, m, "operationId", &mut out);
    for p in m.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        message(6, &or_reference(p, parameter), &mut out);
    }
    if let Some(b) = m.get("requestBody") {
        message(7, &or_reference(b, request_body), &mut out);
    }
    if let Some(r) = m.get("responses") {
        message(8, &responses(r), &mut out);
    }
    flag(10, m, "deprecated", &mut out);
    extensions(13, m, &mut out);
    out
}

const METHODS: [(&str, u32); 7] =
    [("get", 4), ("put", 5), ("post", 6), ("delete", 7), ("options", 8), ("head", 9), ("patch", 10)];

fn path_item(v: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (method, tag) in METHODS {
        if let Some(m) = v.get(method).and_then(object) {
            message(tag, &operation(m), &mut out);
        }
    }
    for p in v.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        message(13, &or_reference(p, parameter), &mut out);
    }
    out
}

fn security_scheme(m: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, field) in [(1, "type"), (2, "description"), (3, "name"), (4, "in"), (5, "scheme")] {
        text(tag, m, field, &mut out);
    }
    out
}

/// The `Document` that says what `v` says.
pub fn document(v: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    string(1, v.get("openapi").and_then(Value::as_str).unwrap_or_default(), &mut out);
    if let Some(m) = v.get("info").and_then(object) {
        let mut info = Vec::new();
        text(1, m, "title", &mut info);
        text(2, m, "description", &mut info);
        text(6, m, "version", &mut info);
        message(2, &info, &mut out);
    }
    if let Some(paths) = v.get("paths") {
        message(4, &map(paths, path_item), &mut out);
    }
    let mut components = Vec::new();
    if let Some(schemas) = v.pointer("/components/schemas") {
        message(1, &map(schemas, schema_or_reference), &mut components);
    }
    if let Some(schemes) = v.pointer("/components/securitySchemes") {
        message(7, &map(schemes, |s| or_reference(s, security_scheme)), &mut components);
    }
    message(5, &components, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::super::wire::testing::fields;
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_have_gnostics_numbers() {
        let v = json!({
            "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1"},
            "paths": {"/x": {"get": {"operationId": "op", "responses": {"200": {"description": "OK"}},
                "parameters": [{"name": "q", "in": "query", "schema": {"type": "string"}}]}}},
            "components": {"schemas": {"P": {"type": "object", "default": {}, "x-k": [1],
                "properties": {"a": {"$ref": "#/components/schemas/A"}, "b": {"type": "string", "default": "d"}}}}},
        });
        let d = fields(&document(&v));
        assert_eq!(d.iter().map(|f| f.0).collect::<Vec<_>>(), [1, 2, 4, 5]);
        let path = fields(&fields(&d[2].1)[0].1);
        assert_eq!(path[0], (1, b"/x".to_vec()));
        let operation = fields(&fields(&path[1].1)[0].1);
        assert_eq!(operation.iter().map(|f| f.0).collect::<Vec<_>>(), [5, 6, 8]);
        let query = fields(&fields(&operation[1].1)[0].1);
        assert_eq!(query[..2], [(1, b"q".to_vec()), (2, b"query".to_vec())]);
        assert_eq!(query[2].0, 10);
        let response = fields(&fields(&operation[2].1)[0].1);
        assert_eq!(response[0], (1, b"200".to_vec()));
        let named = fields(&fields(&fields(&d[3].1)[0].1)[0].1);
        assert_eq!(named[0], (1, b"P".to_vec()));
        let schema = fields(&fields(&named[1].1)[0].1);
        assert_eq!(schema.iter().map(|f| f.0).collect::<Vec<_>>(), [25, 31, 36]);
        let properties = fields(&schema[1].1);
        let a = fields(&fields(&properties[0].1)[1].1);
        assert_eq!((a[0].0, fields(&a[0].1)), (2, vec![(1, b"#/components/schemas/A".to_vec())]));
        let b = fields(&fields(&fields(&properties[1].1)[1].1)[0].1);
        assert_eq!(b, [(25, b"string".to_vec()), (33, [b"\x1a\x01".as_slice(), b"d"].concat())]);
    }
}

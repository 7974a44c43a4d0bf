//! The v2 document in protobuf, for older clients: the messages of `openapi.v2` (gnostic's `OpenAPIv2.proto`), as far
//! as the API's documents have them. They are written from the JSON form, message by message; nothing reads them here.
//! Extensions carry YAML, of which JSON is a part.

use serde_json::{Map, Value};

use super::wire::{
    any, boolean, extensions, flag, integer, message, named, number, object, string, text, texts,
};

/// `Schema`.
fn schema(v: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(m) = object(v) else { return out };
    text(1, m, "$ref", &mut out);
    text(2, m, "format", &mut out);
    text(3, m, "title", &mut out);
    text(4, m, "description", &mut out);
    if let Some(d) = m.get("default") {
        any(5, d, &mut out);
    }
    number(6, m, "multipleOf", &mut out);
    number(7, m, "maximum", &mut out);
    flag(8, m, "exclusiveMaximum", &mut out);
    number(9, m, "minimum", &mut out);
    flag(10, m, "exclusiveMinimum", &mut out);
    integer(11, m, "maxLength", &mut out);
    integer(12, m, "minLength", &mut out);
    text(13, m, "pattern", &mut out);
    integer(14, m, "maxItems", &mut out);
    integer(15, m, "minItems", &mut out);
    flag(16, m, "uniqueItems", &mut out);
    integer(17, m, "maxProperties", &mut out);
    integer(18, m, "minProperties", &mut out);
    texts(19, m.get("required"), &mut out);
    for v in m.get("enum").and_then(Value::as_array).into_iter().flatten() {
        any(20, v, &mut out);
    }
    match m.get("additionalProperties") {
        Some(Value::Bool(b)) => {
            let mut inner = Vec::new();
            boolean(2, *b, &mut inner);
            message(21, &inner, &mut out);
        }
        Some(s) => {
            let mut inner = Vec::new();
            message(1, &schema(s), &mut inner);
            message(21, &inner, &mut out);
        }
        None => {}
    }
    if let Some(kind) = m.get("type") {
        let mut inner = Vec::new();
        match kind {
            Value::String(s) => string(1, s, &mut inner),
            list => texts(1, Some(list), &mut inner),
        }
        message(22, &inner, &mut out);
    }
    if let Some(items) = m.get("items") {
        let mut inner = Vec::new();
        message(1, &schema(items), &mut inner);
        message(23, &inner, &mut out);
    }
    for s in m.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        message(24, &schema(s), &mut out);
    }
    if let Some(properties) = m.get("properties").and_then(Value::as_object) {
        let mut inner = Vec::new();
        for (name, s) in properties {
            named(1, name, &schema(s), &mut inner);
        }
        message(25, &inner, &mut out);
    }
    extensions(31, m, &mut out);
    out
}

/// `ParametersItem`.
fn parameter(v: &Value) -> Vec<u8> {
    let mut inner = Vec::new();
    let mut out = Vec::new();
    let Some(m) = object(v) else { return out };
    let place = m.get("in").and_then(Value::as_str).unwrap_or_default();
    let mut parameter = Vec::new();
    if place == "body" {
        text(1, m, "description", &mut inner);
        text(2, m, "name", &mut inner);
        text(3, m, "in", &mut inner);
        flag(4, m, "required", &mut inner);
        if let Some(s) = m.get("schema") {
            message(5, &schema(s), &mut inner);
        }
        extensions(6, m, &mut inner);
        message(1, &inner, &mut parameter);
    } else {
        // Those in the path have no allowEmptyValue, so that what comes after moves up by one.
        let (which, up) = if place == "path" { (4, 1) } else { (3, 0) };
        flag(1, m, "required", &mut inner);
        text(2, m, "in", &mut inner);
        text(3, m, "description", &mut inner);
        text(4, m, "name", &mut inner);
        text(6 - up, m, "type", &mut inner);
        text(7 - up, m, "format", &mut inner);
        flag(20 - up, m, "uniqueItems", &mut inner);
        extensions(23 - up, m, &mut inner);
        let mut place = Vec::new();
        message(which, &inner, &mut place);
        message(2, &place, &mut parameter);
    }
    message(1, &parameter, &mut out);
    out
}

/// `Responses`.
fn responses(v: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (code, r) in object(v).into_iter().flatten() {
        let Some(m) = object(r) else { continue };
        let mut response = Vec::new();
        text(1, m, "description", &mut response);
        if let Some(s) = m.get("schema") {
            let mut item = Vec::new();
            message(1, &schema(s), &mut item);
            message(2, &item, &mut response);
        }
        let mut value = Vec::new();
        message(1, &response, &mut value);
        named(1, code, &value, &mut out);
    }
    out
}

/// `Operation`.
fn operation(m: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    texts(1, m.get("tags"), &mut out);
    text(3, m, "description", &mut out);
    text(5, m, "operationId", &mut out);
    texts(6, m.get("produces"), &mut out);
    texts(7, m.get("consumes"), &mut out);
    for p in m.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        message(8, &parameter(p), &mut out);
    }
    if let Some(r) = m.get("responses") {
        message(9, &responses(r), &mut out);
    }
    texts(10, m.get("schemes"), &mut out);
    extensions(13, m, &mut out);
    out
}

/// The `Document`, of which paths and definitions are added one by one.
#[derive(Default)]
pub struct Document {
    paths: Vec<u8>,
    definitions: Vec<u8>,
}

const METHODS: [(&str, u32); 7] =
    [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)];

impl Document {
    /// Adds a path with its operations.
    pub fn add_path(&mut self, name: &str, item: &Value) {
        let mut out = Vec::new();
        for (method, tag) in METHODS {
            if let Some(m) = item.get(method).and_then(Value::as_object) {
                message(tag, &operation(m), &mut out);
            }
        }
        for p in item.get("parameters").and_then(Value::as_array).into_iter().flatten() {
            message(9, &parameter(p), &mut out);
        }
        named(2, name, &out, &mut self.paths);
    }

    /// Adds a type.
    pub fn add_definition(&mut self, name: &str, s: &Value) {
        named(1, name, &schema(s), &mut self.definitions);
    }

    /// The message.
    pub fn finish(self, version: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.paths.len() + self.definitions.len() + 256);
        string(1, "2.0", &mut out);
        let mut info = Vec::new();
        string(1, "Kubernetes", &mut info);
        string(2, version, &mut info);
        message(2, &info, &mut out);
        message(8, &self.paths, &mut out);
        message(9, &self.definitions, &mut out);
        let mut requirement = Vec::new();
        named(1, "BearerToken", &[], &mut requirement);
        message(12, &requirement, &mut out);
        let mut key = Vec::new();
        for (tag, s) in
            [(1, "apiKey"), (2, "authorization"), (3, "header"), (4, "Bearer Token authentication")]
        {
            string(tag, s, &mut key);
        }
        let mut item = Vec::new();
        message(2, &key, &mut item);
        let mut definitions = Vec::new();
        named(1, "BearerToken", &item, &mut definitions);
        message(13, &definitions, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::testing::fields;
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_have_gnostics_numbers() {
        let mut d = Document::default();
        d.add_definition(
            "P",
            &json!({"type": "object", "properties": {"a": {"$ref": "#/definitions/A"}}, "x-k": {"kind": "P"}}),
        );
        d.add_path(
            "/x",
            &json!({"get": {"operationId": "op", "parameters": [{"name": "q", "in": "query", "type": "string"}]}}),
        );
        let document = fields(&d.finish("v1"));
        let tags: Vec<u32> = document.iter().map(|f| f.0).collect();
        assert_eq!(tags, [1, 2, 8, 9, 12, 13]);
        let definition = fields(&fields(&document[3].1)[0].1);
        assert_eq!(definition[0], (1, b"P".to_vec()));
        let schema = fields(&definition[1].1);
        assert_eq!(schema.iter().map(|f| f.0).collect::<Vec<_>>(), [22, 25, 31]);
        let extension = fields(&schema[2].1);
        assert_eq!(extension[0].1, b"x-k");
        assert_eq!(fields(&extension[1].1)[0], (2, b"{\"kind\":\"P\"}\n".to_vec()));
        let path = fields(&fields(&document[2].1)[0].1);
        let operation = fields(&fields(&path[1].1)[0].1);
        assert_eq!(operation[0], (5, b"op".to_vec()));
        let query = fields(&fields(&fields(&fields(&operation[1].1)[0].1)[0].1)[0].1);
        assert_eq!(query, [(2, b"query".to_vec()), (4, b"q".to_vec()), (6, b"string".to_vec())]);
    }
}

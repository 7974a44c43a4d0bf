//! Schemas of custom resources as they are published: whole in OpenAPI v3, and in v2 without what v2, or
//! kubectl's reader of it, cannot take.
//!
//! Source: Kubernetes documentation, "Publish Validation Schema in OpenAPI".

use proto::schema::Gvk;
use serde_json::{Map, Value, json};

const METADATA: &str = "Standard object's metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers \
    should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may \
    infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const EMBEDDED_API_VERSION: &str = "apiVersion defines the versioned schema of this representation of an object. \
    More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const EMBEDDED_KIND: &str = "kind is a string value representing the type of this object. In CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

const LIST_METADATA: &str = "Standard list metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const CONVENTIONS: &str =
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";

/// Which OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    V2,
    V3,
}

/// The published form of a schema, without `x-kubernetes-group-version-kind`. Without a schema, or where v2
/// would make clients refuse unknown fields that the server keeps, only `type: object`.
pub fn published(schema: Option<Value>, preserves: bool, edition: Edition) -> Map<String, Value> {
    let mut out = match schema {
        Some(Value::Object(m)) => m,
        _ => return bare(),
    };
    if edition == Edition::V2 && (preserves || flag(&out, "x-kubernetes-preserve-unknown-fields")) {
        return bare();
    }
    node(&mut out, edition);
    let properties = properties(&mut out);
    properties.insert("metadata".into(), metadata(edition));
    properties.insert("apiVersion".into(), json!({"type": "string", "description": API_VERSION}));
    properties.insert("kind".into(), json!({"type": "string", "description": KIND}));
    out
}

/// The name of a kind's schema among all schemas: `io.example.v1.Widget`.
pub fn model_name(group: &str, version: &str, kind: &str) -> String {
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

/// The published form of the list of a kind.
pub fn list(gvk: Gvk, list_kind: &str, plural: &str, edition: Edition) -> Value {
    let item = model_name(gvk.group, gvk.version, gvk.kind);
    json!({
        "type": "object",
        "description": format!("{list_kind} is a list of {}", gvk.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "kind": {"type": "string", "description": KIND},
            "metadata": described("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta", LIST_METADATA, edition),
            "items": {
                "type": "array",
                "description": format!("List of {plural}. More info: {CONVENTIONS}"),
                "items": {"$ref": format!("{}{item}", place(edition))},
            },
        },
        "x-kubernetes-group-version-kind":
            [{"group": gvk.group, "version": gvk.version, "kind": list_kind}],
    })
}

fn bare() -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), "object".into())])
}

fn flag(m: &Map<String, Value>, name: &str) -> bool {
    m.get(name) == Some(&Value::Bool(true))
}

fn properties(m: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let p = m.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    if !p.is_object() {
        *p = Value::Object(Map::new());
    }
    match p {
        Value::Object(p) => p,
        _ => unreachable!("made an object above"),
    }
}

/// Where references lead.
fn place(edition: Edition) -> &'static str {
    match edition {
        Edition::V2 => "#/definitions/",
        Edition::V3 => "#/components/schemas/",
    }
}

/// A reference with a description, which v3 does not allow beside it.
fn described(name: &str, description: &str, edition: Edition) -> Value {
    let reference = format!("{}{name}", place(edition));
    match edition {
        Edition::V2 => json!({"$ref": reference, "description": description}),
        Edition::V3 => json!({"allOf": [{"$ref": reference}], "description": description}),
    }
}

fn metadata(edition: Edition) -> Value {
    described("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", METADATA, edition)
}

fn node(m: &mut Map<String, Value>, edition: Edition) {
    m.retain(|_, v| !v.is_null());
    if flag(m, "x-kubernetes-int-or-string") {
        m.remove("type");
        unfold(m);
    }
    if edition == Edition::V2 {
        reduce(m);
    }
    for field in ["properties"] {
        if let Some(Value::Object(all)) = m.get_mut(field) {
            all.values_mut().filter_map(Value::as_object_mut).for_each(|p| node(p, edition));
        }
    }
    for field in ["items", "additionalProperties"] {
        if let Some(Value::Object(inner)) = m.get_mut(field) {
            node(inner, edition);
        }
    }
    let open_v2 = edition == Edition::V2 && flag(m, "x-kubernetes-preserve-unknown-fields");
    if flag(m, "x-kubernetes-embedded-resource") && !open_v2 {
        embed(m, edition);
    }
}

/// Says of an integer or a string that it is one of them.
fn unfold(m: &mut Map<String, Value>) {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let first = m.get("allOf").and_then(|a| a.get(0)).and_then(|f| f.get("anyOf"));
    if m.get("anyOf") == Some(&either) || first == Some(&either) {
        return;
    }
    if m.contains_key("anyOf") {
        let mut all = vec![json!({"anyOf": either})];
        if let Some(Value::Array(given)) = m.remove("allOf") {
            all.extend(given);
        }
        m.insert("allOf".into(), all.into());
    } else {
        m.insert("anyOf".into(), either);
    }
}

/// Takes away what v2 lacks, or what makes kubectl stumble.
fn reduce(m: &mut Map<String, Value>) {
    for field in ["allOf", "anyOf", "oneOf", "not", "default"] {
        m.remove(field);
    }
    if flag(m, "nullable") {
        for field in ["type", "items", "properties"] {
            m.remove(field);
        }
    }
    m.remove("nullable");
    let open = flag(m, "x-kubernetes-preserve-unknown-fields");
    if open {
        m.remove("items");
        m.remove("properties");
    }
    let kind = m.get("type").and_then(Value::as_str).unwrap_or_default();
    if (kind == "array" && !m.contains_key("items")) || (kind == "object" && open) {
        m.remove("type");
    }
    let nullable = |v: &Value| v.get("nullable") == Some(&Value::Bool(true));
    let optional: Vec<String> = match m.get("properties") {
        Some(Value::Object(p)) => p.iter().filter(|(_, v)| nullable(v)).map(|(k, _)| k.clone()).collect(),
        _ => Vec::new(),
    };
    if m.get("additionalProperties").is_some_and(nullable) {
        m.remove("required");
    }
    if let Some(Value::Array(required)) = m.get_mut("required") {
        required.retain(|r| !optional.iter().any(|o| r == o));
        if required.is_empty() {
            m.remove("required");
        }
    }
}

fn embed(m: &mut Map<String, Value>, edition: Edition) {
    let p = properties(m);
    p.insert("apiVersion".into(), json!({"type": "string", "description": EMBEDDED_API_VERSION}));
    p.insert("kind".into(), json!({"type": "string", "description": EMBEDDED_KIND}));
    p.insert("metadata".into(), metadata(edition));
    let required = m.entry("required").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = required {
        for name in ["kind", "apiVersion"] {
            if !list.iter().any(|r| r == name) {
                list.push(name.into());
            }
        }
    }
}

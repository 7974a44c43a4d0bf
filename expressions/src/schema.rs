//! Declared types from schemas: of custom resources (`JSONSchemaProps` as JSON) and of built-in types.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::schema::{Kind, ListType, TypeDef};
use serde_json::Value;

use super::decl::{
    DeclType, FieldDecl, ListEquality, MAX_REQUEST_BYTES, ObjectDecl, Shape, escape, max_entries, max_items,
};

/// Schemas nest no deeper; what lies below is `dyn`.
const MAX_DEPTH: usize = 64;

impl DeclType {
    /// The type of values of a structural schema; none where expressions cannot see them (no type, or
    /// `x-kubernetes-preserve-unknown-fields` without one). `name` names the type and, with paths after it, the types
    /// inside; `is_root` says that this is a whole object, with `apiVersion`, `kind` and some `metadata`.
    pub fn from_structural(schema: &Value, name: &str, is_root: bool) -> Option<Self> {
        structural(schema, name, is_root, 0)
    }

    /// The type of a built-in type's values. Types that contain themselves are `dyn` below their second level.
    pub fn from_schema(ty: &TypeDef) -> Self {
        built_in(ty, &mut Vec::new())
    }
}

fn number(schema: &Value, key: &str) -> Option<u64> {
    let v = schema.get(key)?;
    v.as_u64().or_else(|| v.as_i64().map(|n| u64::try_from(n).unwrap_or(0)))
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn structural(s: &Value, name: &str, is_root: bool, depth: usize) -> Option<DeclType> {
    if depth > MAX_DEPTH {
        return None;
    }
    if flag(s, "x-kubernetes-int-or-string") {
        let max_elements = number(s, "maxLength").map_or(MAX_REQUEST_BYTES - 2, |n| n.saturating_mul(4));
        return Some(DeclType { shape: Shape::IntOrString, max_elements, min_size: 1 });
    }
    let embedded = |s: &Value| flag(s, "x-kubernetes-embedded-resource");
    let ty = s.get("type").and_then(Value::as_str).unwrap_or_default();
    match if is_root { "object" } else { ty } {
        "array" => {
            let items = s.get("items")?;
            let of = structural(items, &format!("{name}.@idx"), embedded(items), depth + 1)?;
            let max_elements = number(s, "maxItems").unwrap_or_else(|| max_items(of.min_size));
            Some(DeclType { shape: Shape::List(Arc::new(of), equality(s)), max_elements, min_size: 2 })
        }
        "object" => {
            if let Some(values) = s.get("additionalProperties").filter(|v| v.is_object()) {
                let of = structural(values, &format!("{name}.@elem"), embedded(values), depth + 1)?;
                let max_elements = number(s, "maxProperties").unwrap_or_else(|| max_entries(of.min_size));
                return Some(DeclType { shape: Shape::Map(Arc::new(of)), max_elements, min_size: 2 });
            }
            Some(object(s, name, is_root, depth))
        }
        "string" => Some(string(s)),
        "boolean" => Some(DeclType::BOOL),
        "number" => Some(DeclType::DOUBLE),
        "integer" => Some(DeclType::INT),
        _ => None,
    }
}

fn equality(s: &Value) -> ListEquality {
    match s.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListEquality::Set,
        Some("map") => {
            let keys = s.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let keys = keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            ListEquality::Keyed(keys.collect())
        }
        _ => ListEquality::Ordered,
    }
}

fn object(s: &Value, name: &str, is_root: bool, depth: usize) -> DeclType {
    let required: Vec<&str> =
        s.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut fields = BTreeMap::new();
    let mut min_size = 2;
    let mut add = |json: &str, ty: DeclType, counts: bool| {
        if counts {
            min_size += json.len() as u64 + ty.min_size + 4;
        }
        if let Some(escaped) = escape(json) {
            fields.insert(escaped.into_boxed_str(), FieldDecl { json: json.into(), ty });
        }
    };
    let props = s.get("properties").and_then(Value::as_object);
    for (json, prop) in props.into_iter().flatten() {
        if is_root && matches!(json.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let embedded = flag(prop, "x-kubernetes-embedded-resource");
        let Some(ty) = structural(prop, &format!("{name}.{json}"), embedded, depth + 1) else { continue };
        let counts = required.contains(&json.as_str()) && prop.get("default").is_none_or(Value::is_null);
        add(json, ty, counts);
    }
    if is_root {
        for json in ["apiVersion", "kind"] {
            add(json, DeclType::string(), required.contains(&json));
        }
        let metadata = DeclType::object(
            &format!("{name}.metadata"),
            [("name", DeclType::string()), ("generateName", DeclType::string())],
        );
        add("metadata", metadata, required.contains(&"metadata"));
    }
    let open = flag(s, "x-kubernetes-preserve-unknown-fields");
    let decl = ObjectDecl { name: name.to_owned(), fields, open };
    DeclType { shape: Shape::Object(Arc::new(decl)), max_elements: 0, min_size }
}

fn string(s: &Value) -> DeclType {
    let max = number(s, "maxLength");
    let any = MAX_REQUEST_BYTES - 2;
    match s.get("format").and_then(Value::as_str).unwrap_or_default() {
        "byte" => DeclType { shape: Shape::Bytes, max_elements: max.unwrap_or(any), min_size: 2 },
        "duration" => DeclType { shape: Shape::Duration, max_elements: 32, min_size: 3 },
        "date" => DeclType { shape: Shape::Date, max_elements: 12, min_size: 12 },
        "date-time" => DeclType { shape: Shape::Timestamp, max_elements: 32, min_size: 21 },
        _ => {
            let choices = s.get("enum").and_then(Value::as_array).filter(|e| !e.is_empty());
            let longest =
                choices.map(|e| e.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or(0));
            // One code point takes up to four bytes.
            let max_elements = max.map(|n| n.saturating_mul(4)).or(longest.map(|n| n as u64)).unwrap_or(any);
            DeclType { shape: Shape::String, max_elements, min_size: 2 }
        }
    }
}

fn built_in(ty: &TypeDef, within: &mut Vec<*const TypeDef>) -> DeclType {
    let timestamp = || DeclType { shape: Shape::Timestamp, max_elements: 32, min_size: 21 };
    match &ty.kind {
        Kind::String => DeclType::string(),
        Kind::Bytes => DeclType { shape: Shape::Bytes, max_elements: MAX_REQUEST_BYTES - 2, min_size: 2 },
        Kind::Bool => DeclType::BOOL,
        Kind::Int32 | Kind::Int64 => DeclType::INT,
        Kind::Double => DeclType::DOUBLE,
        // In upstream's OpenAPI a quantity is a plain string.
        Kind::Quantity => DeclType::string(),
        Kind::IntOrString => {
            DeclType { shape: Shape::IntOrString, max_elements: MAX_REQUEST_BYTES - 2, min_size: 1 }
        }
        Kind::Time | Kind::MicroTime => timestamp(),
        Kind::FieldsV1 | Kind::RawExtension => {
            let decl = ObjectDecl { name: ty.name.to_owned(), fields: BTreeMap::new(), open: true };
            DeclType { shape: Shape::Object(Arc::new(decl)), max_elements: 0, min_size: 2 }
        }
        Kind::RawJson
        | Kind::Json
        | Kind::SchemaOrArray(_)
        | Kind::SchemaOrBool(_)
        | Kind::SchemaOrStrings(_) => DeclType::DYN,
        Kind::List(l) => {
            let of = built_in(&l.elem, within);
            let equality = match l.list {
                ListType::Atomic => ListEquality::Ordered,
                ListType::Set => ListEquality::Set,
                ListType::Map => ListEquality::Keyed(l.keys.iter().map(|k| (*k).to_owned()).collect()),
            };
            let max_elements = max_items(of.min_size);
            DeclType { shape: Shape::List(Arc::new(of), equality), max_elements, min_size: 2 }
        }
        Kind::Map(m) => DeclType::map(built_in(&m.elem, within)),
        Kind::Struct(s) => {
            let this: *const TypeDef = ty;
            if within.contains(&this) || within.len() > MAX_DEPTH {
                return DeclType::DYN;
            }
            within.push(this);
            let fields = s.fields.iter().filter_map(|f| {
                let decl = FieldDecl { json: f.json.into(), ty: built_in(&f.ty, within) };
                Some((escape(f.json)?.into_boxed_str(), decl))
            });
            let fields = fields.collect();
            within.pop();
            let name = if ty.name.is_empty() { ty.go } else { ty.name };
            let decl = ObjectDecl { name: name.to_owned(), fields, open: false };
            DeclType { shape: Shape::Object(Arc::new(decl)), max_elements: 0, min_size: 2 }
        }
    }
}

//! Types of the schema table as OpenAPI schemas.

use std::collections::BTreeMap;

use proto::schema::{Field, Kind, ListType, Struct, TypeDef};
use serde_json::{Map, Value, json};

/// The schemas that a document refers to, by name; each is described once.
#[derive(Default)]
pub struct Schemas {
    done: BTreeMap<&'static str, Value>,
    open: Vec<&'static str>,
    lists: BTreeMap<String, Value>,
}

impl Schemas {
    /// A reference to a built-in type, which is described before the document is finished.
    pub fn reference(&mut self, def: &TypeDef) -> Value {
        if !self.done.contains_key(def.name) && !self.open.contains(&def.name) {
            self.open.push(def.name);
        }
        json!({"$ref": format!("#/components/schemas/{}", def.name)})
    }

    /// A reference to the list of a kind, described here: lists are no types of the table.
    pub fn list_of(&mut self, def: &TypeDef, api_version: &str, kind: &str) -> Value {
        let name = format!("{}List", def.name);
        let item = self.reference(def);
        let meta = proto::schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
        let meta = meta.map_or_else(|| json!({"type": "object"}), |m| self.reference(m));
        let (group, version) = proto::resources::split_api_version(api_version);
        let schema = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"allOf": [meta], "default": {}},
                "items": {"type": "array", "items": {"allOf": [item], "default": {}}},
            },
            "x-kubernetes-group-version-kind": [{"group": group, "version": version, "kind": format!("{kind}List")}],
        });
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        self.lists.insert(name, schema);
        reference
    }

    /// All schemas, those referred to from others included.
    pub fn finish(mut self) -> Map<String, Value> {
        while let Some(name) = self.open.pop() {
            if self.done.contains_key(name) {
                continue;
            }
            if let Some(def) = proto::schema::by_name(name) {
                // Taken as done first: types can contain themselves.
                self.done.insert(def.name, Value::Null);
                let schema = self.describe(def);
                self.done.insert(def.name, schema);
            }
        }
        let named = self.done.into_iter().map(|(k, v)| (k.to_owned(), v));
        // Lists that are types of the table are described better there.
        self.lists.into_iter().chain(named).collect()
    }

    fn describe(&mut self, def: &TypeDef) -> Value {
        let mut m = self.plain(def);
        if !def.gvks.is_empty() {
            let gvks: Vec<Value> = def
                .gvks
                .iter()
                .map(|g| json!({"group": g.group, "version": g.version, "kind": g.kind}))
                .collect();
            m.insert("x-kubernetes-group-version-kind".into(), gvks.into());
        }
        Value::Object(m)
    }

    /// A use of a type: a reference where it has a name, else its description.
    fn use_of(&mut self, def: &TypeDef) -> Map<String, Value> {
        if def.name.is_empty() {
            return self.plain(def);
        }
        let mut m = Map::new();
        let reference = self.reference(def);
        m.insert("allOf".into(), json!([reference]));
        m
    }

    fn plain(&mut self, def: &TypeDef) -> Map<String, Value> {
        let simple = |v: Value| match v {
            Value::Object(m) => m,
            _ => Map::new(),
        };
        match &def.kind {
            Kind::Struct(s) => self.structure(def, s),
            Kind::String => simple(json!({"type": "string"})),
            Kind::Bytes => simple(json!({"type": "string", "format": "byte"})),
            Kind::Bool => simple(json!({"type": "boolean"})),
            Kind::Int32 => simple(json!({"type": "integer", "format": "int32"})),
            Kind::Int64 => simple(json!({"type": "integer", "format": "int64"})),
            Kind::Double => simple(json!({"type": "number", "format": "double"})),
            Kind::Quantity => simple(json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
            Kind::IntOrString => {
                simple(json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}))
            }
            Kind::Time | Kind::MicroTime => simple(json!({"type": "string", "format": "date-time"})),
            Kind::FieldsV1 | Kind::RawExtension => simple(json!({"type": "object"})),
            Kind::RawJson
            | Kind::Json
            | Kind::SchemaOrArray(_)
            | Kind::SchemaOrBool(_)
            | Kind::SchemaOrStrings(_) => Map::new(),
            Kind::List(l) => {
                let items = Value::Object(self.use_of(&l.elem));
                let mut m = simple(json!({"type": "array", "items": items}));
                let list = match l.list {
                    ListType::Atomic => "atomic",
                    ListType::Set => "set",
                    ListType::Map => "map",
                };
                m.insert("x-kubernetes-list-type".into(), list.into());
                if !l.keys.is_empty() {
                    m.insert("x-kubernetes-list-map-keys".into(), json!(l.keys));
                }
                m
            }
            Kind::Map(d) => {
                let values = Value::Object(self.use_of(&d.elem));
                let mut m = simple(json!({"type": "object", "additionalProperties": values}));
                if def.atomic {
                    m.insert("x-kubernetes-map-type".into(), "atomic".into());
                }
                m
            }
        }
    }

    fn structure(&mut self, def: &TypeDef, s: &Struct) -> Map<String, Value> {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for f in s.fields.iter() {
            properties.insert(f.json.to_owned(), Value::Object(self.property(f)));
            if f.required {
                required.push(f.json);
            }
        }
        let mut m = Map::new();
        m.insert("type".into(), "object".into());
        if !properties.is_empty() {
            m.insert("properties".into(), properties.into());
        }
        if !required.is_empty() {
            m.insert("required".into(), required.into());
        }
        if def.atomic {
            m.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        m
    }

    fn property(&mut self, f: &Field) -> Map<String, Value> {
        let mut m = self.use_of(&f.ty);
        if f.patch_merge || f.retain_keys {
            let strategy = match (f.patch_merge, f.retain_keys) {
                (true, true) => "merge,retainKeys",
                (false, true) => "retainKeys",
                _ => "merge",
            };
            m.insert("x-kubernetes-patch-strategy".into(), strategy.into());
        }
        if !f.merge_key.is_empty() {
            m.insert("x-kubernetes-patch-merge-key".into(), f.merge_key.into());
        }
        m
    }
}

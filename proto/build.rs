//! Turns the API facts under `data/` into static tables (`schema::TypeDef`, `Resource`, table columns), so
//! that nothing is parsed when a daemon starts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::{env, fs, path::Path};

use serde_json::Value;

fn load(name: &str) -> Value {
    let path = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("data").join(name);
    println!("cargo::rerun-if-changed={}", path.display());
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let api = load("api-v1.36.json");
    let presence = load("presence-v1.36.json");
    let columns = load("table-columns-v1.36.json");
    let mut out = String::new();
    Types::new(&api, &presence).emit(&mut out);
    emit_resources(&api, &mut out);
    emit_columns(&columns, &mut out);
    let dir = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&dir).join("tables.rs"), out).expect("OUT_DIR is writable");
}

fn s(v: &Value, k: &str) -> String {
    v[k].as_str().unwrap_or_default().to_owned()
}

fn list<'a>(v: &'a Value, k: &str) -> &'a [Value] {
    v[k].as_array().map_or(&[], Vec::as_slice)
}

fn strs(v: &Value, k: &str) -> String {
    let items: Vec<String> = list(v, k).iter().map(|x| format!("{:?}", x.as_str().unwrap())).collect();
    format!("&[{}]", items.join(", "))
}

/// Everything needed to emit the `TypeDef`s: every one is a `static T<n>`.
struct Types<'a> {
    facts: &'a Value,
    presence: &'a Value,
    /// Definitions by key (an OpenAPI name, or a made-up one for lists, maps and scalars) → number.
    ids: BTreeMap<String, usize>,
    /// Bodies by number; `None` while it is being built.
    bodies: Vec<Option<String>>,
    by_name: Vec<(String, usize)>,
    by_gvk: Vec<((String, String, String), usize)>,
}

/// A field as both sources tell it.
struct Flat {
    json: String,
    embed: String,
    inline: bool,
    shape: Value,
    fact: Value,
}

impl<'a> Types<'a> {
    fn new(api: &'a Value, presence: &'a Value) -> Self {
        let mut t = Self {
            facts: &api["types"],
            presence: &presence["types"],
            ids: BTreeMap::new(),
            bodies: Vec::new(),
            by_name: Vec::new(),
            by_gvk: Vec::new(),
        };
        for name in presence["types"].as_object().unwrap().keys() {
            t.named(name);
        }
        t
    }

    fn define(&mut self, key: String, body: impl FnOnce(&mut Self) -> String) -> usize {
        if let Some(i) = self.ids.get(&key) {
            return *i;
        }
        let i = self.bodies.len();
        self.ids.insert(key, i);
        self.bodies.push(None);
        let b = body(self);
        self.bodies[i] = Some(b);
        i
    }

    fn scalar(&mut self, go: &str) -> usize {
        let kind = match go {
            "string" => "Kind::String",
            "bool" => "Kind::Bool",
            "int32" => "Kind::Int32",
            "int64" => "Kind::Int64",
            "float64" => "Kind::Double",
            "[]uint8" => "Kind::Bytes",
            "interface {}" => "Kind::Json",
            other => panic!("no scalar {other}"),
        };
        self.define(format!("go:{go}"), |_| body("", go, kind, &[], false))
    }

    fn named(&mut self, name: &str) -> usize {
        if let Some(i) = self.ids.get(name) {
            return *i;
        }
        let name = name.to_owned();
        let i = self.define(name.clone(), |t| t.named_body(&name));
        self.by_name.push((name, i));
        i
    }

    fn named_body(&mut self, name: &str) -> String {
        let shape = self.presence[name].clone();
        let fact = self.facts[name].clone();
        let go = s(&shape, "go");
        let mut gvks: Vec<(String, String, String)> =
            list(&fact, "gvk").iter().map(|g| (s(g, "group"), s(g, "version"), s(g, "kind"))).collect();
        if let Some(g) = shape["gvk"].as_array() {
            let t: Vec<&str> = g.iter().map(|x| x.as_str().unwrap()).collect();
            gvks.push((t[0].into(), t[1].into(), t[2].into()));
        }
        let id = self.ids[name];
        for g in &gvks {
            self.by_gvk.push((g.clone(), id));
        }
        let atomic = s(&fact, "map") == "atomic";
        let kind = match s(&shape, "kind").as_str() {
            "string" => "Kind::String".into(),
            "special" => self.special(name),
            "slice" => {
                let elem = self.scalar(&s(&shape, "elem"));
                format!(
                    "Kind::List(ListDef {{ elem: TypeRef::Static(&T{elem}), list: ListType::Atomic, keys: Cow::Borrowed(&[]), wrapped: true }})"
                )
            }
            "struct" => self.structure(name),
            other => panic!("{name}: kind {other}"),
        };
        body(name, &go, &kind, &gvks, atomic)
    }

    fn special(&mut self, name: &str) -> String {
        let short = name.rsplit('.').next().unwrap();
        let props = |t: &mut Self| {
            t.named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
        };
        match short {
            "Quantity" | "Time" | "MicroTime" | "FieldsV1" | "RawExtension" | "IntOrString" => {
                format!("Kind::{short}")
            }
            "JSON" => "Kind::RawJson".into(),
            "JSONSchemaPropsOrArray" => format!("Kind::SchemaOrArray(TypeRef::Static(&T{}))", props(self)),
            "JSONSchemaPropsOrBool" => format!("Kind::SchemaOrBool(TypeRef::Static(&T{}))", props(self)),
            "JSONSchemaPropsOrStringArray" => {
                format!("Kind::SchemaOrStrings(TypeRef::Static(&T{}))", props(self))
            }
            other => panic!("no special form {other}"),
        }
    }

    /// Fields of a structure as JSON shows them: embedded ones flattened.
    fn flat(&self, name: &str, fact: &Value, embed: &str, inline: bool, out: &mut Vec<Flat>) {
        for f in list(&self.presence[name], "fields") {
            if f.get("typemeta").is_some() {
                for j in ["apiVersion", "kind"] {
                    let shape = serde_json::json!({"json": j, "tag": 0, "go": "string", "p": "omit"});
                    let embed =
                        if embed.is_empty() { "TypeMeta".to_owned() } else { format!("{embed}.TypeMeta") };
                    out.push(Flat { json: j.into(), embed, inline: true, shape, fact: Value::Null });
                }
                continue;
            }
            if let Some(target) = f["inline"].as_str() {
                let own = target.rsplit('.').next().unwrap();
                let embed = if embed.is_empty() { own.to_owned() } else { format!("{embed}.{own}") };
                self.flat(target, fact, &embed, true, out);
                continue;
            }
            let json = s(f, "json");
            let own =
                list(fact, "fields").iter().find(|x| x["json"] == f["json"]).cloned().unwrap_or(Value::Null);
            out.push(Flat { json, embed: embed.into(), inline, shape: f.clone(), fact: own });
        }
    }

    fn structure(&mut self, name: &str) -> String {
        let fact = self.facts[name].clone();
        let mut flat = Vec::new();
        self.flat(name, &fact, "", false, &mut flat);
        flat.sort_by(|a, b| a.json.cmp(&b.json));
        flat.dedup_by(|a, b| a.json == b.json);
        let mut fields = String::new();
        let mut wire: Vec<(u64, String)> = Vec::new();
        for (i, f) in flat.iter().enumerate() {
            let ty = self.field_type(name, f);
            let tag = f.shape["tag"].as_u64().unwrap();
            let presence = match s(&f.shape, "p").as_str() {
                "always" => "Always",
                "omit" => "OmitEmpty",
                "omitzero" => "OmitZero",
                "ptr" => "Pointer",
                "ptrnull" => "PointerOrNull",
                other => panic!("presence {other}"),
            };
            let patch: Vec<&str> = match f.fact["patch"].as_str() {
                None => Vec::new(),
                Some(p) => p.split(',').collect(),
            };
            write!(
                fields,
                "Field {{ json: {:?}, embed: {:?}, ty: TypeRef::Static(&T{ty}), tag: {tag}, inline: {}, presence: Presence::{presence}, required: {}, patch_merge: {}, retain_keys: {}, patch_replace: {}, default: {:?}, merge_key: {:?} }}, ",
                f.json,
                f.embed,
                f.inline,
                f.fact["required"] == true,
                patch.contains(&"merge"),
                patch.contains(&"retainKeys"),
                patch.contains(&"replace"),
                default_of(name, &f.json),
                s(&f.fact, "merge_key"),
            )
            .unwrap();
            if tag > 0 && !f.inline {
                wire.push((tag, format!("Target::Field({i})")));
            }
        }
        for f in list(&self.presence[name], "fields").to_vec() {
            if let Some(target) = f["inline"].as_str() {
                let id = self.named(target);
                wire.push((f["tag"].as_u64().unwrap(), format!("Target::Inline(TypeRef::Static(&T{id}))")));
            }
        }
        wire.sort();
        let slots: Vec<String> =
            wire.into_iter().map(|(tag, t)| format!("Slot {{ tag: {tag}, target: {t} }}")).collect();
        format!(
            "Kind::Struct(Struct {{ fields: Cow::Borrowed(&[{fields}]), wire: Cow::Borrowed(&[{}]) }})",
            slots.join(", ")
        )
    }

    fn field_type(&mut self, owner: &str, f: &Flat) -> usize {
        let go = s(&f.shape, "go");
        let go = go.trim_start_matches('*');
        let target = f.shape["ref"].as_str().map(str::to_owned);
        let named = |t: &mut Self, go: &str| match &target {
            Some(n) => t.named(n),
            None => t.scalar(go),
        };
        // Named lists and maps of upstream; their own names show in messages only.
        let expanded = match go {
            "v1.ResourceList" => "map[string]resource.Quantity",
            "v1.JSONSchemaDefinitions" => "map[string]v1.JSONSchemaProps",
            "v1.JSONSchemaDependencies" => "map[string]v1.JSONSchemaPropsOrStringArray",
            "v1.ValidationRules" => "[]v1.ValidationRule",
            other => other,
        };
        if expanded == "[]uint8" {
            return self.scalar(expanded);
        }
        if let Some(elem) = expanded.strip_prefix("[]") {
            let e = self.element(elem, &target);
            let kind = match s(&f.fact, "list").as_str() {
                "set" => "Set",
                "map" => "Map",
                _ => "Atomic",
            };
            let keys = strs(&f.fact, "keys");
            return self.define(format!("list:{go}:{kind}:{keys}:{e}"), |_| {
                let k = format!(
                    "Kind::List(ListDef {{ elem: TypeRef::Static(&T{e}), list: ListType::{kind}, keys: Cow::Borrowed(&{keys}), wrapped: false }})",
                    keys = &keys[1..]
                );
                body("", go, &k, &[], false)
            });
        }
        if expanded.starts_with("map[") {
            let elem = &expanded[expanded.find(']').unwrap() + 1..];
            let e = self.element(elem, &target);
            let atomic = s(&f.fact, "map") == "atomic";
            return self.define(format!("map:{go}:{atomic}:{e}"), |_| {
                let k = format!("Kind::Map(MapDef {{ elem: TypeRef::Static(&T{e}) }})");
                body("", go, &k, &[], atomic)
            });
        }
        assert!(!go.starts_with('['), "{owner}: {go}");
        let atomic = s(&f.fact, "map") == "atomic";
        let id = named(self, go);
        let by_type = target.as_ref().is_some_and(|n| s(&self.facts[n], "map") == "atomic");
        assert!(!atomic || by_type, "{owner}.{}: atomic by field, not by type", f.json);
        // Atomic by its type, but granular in this one place: a twin of the type.
        if let Some(n) = target.as_ref().filter(|_| by_type && s(&f.fact, "map") == "granular") {
            let kind = self.structure(n);
            let n = n.clone();
            return self.define(format!("granular:{n}"), |_| body(&n, go, &kind, &[], false));
        }
        id
    }

    fn element(&mut self, elem: &str, target: &Option<String>) -> usize {
        let elem = elem.trim_start_matches('*');
        match target {
            Some(n) => self.named(n),
            None => self.scalar(elem),
        }
    }

    fn emit(mut self, out: &mut String) {
        for (i, b) in self.bodies.iter().enumerate() {
            writeln!(out, "static T{i}: TypeDef = {};", b.as_ref().expect("all defined")).unwrap();
        }
        self.by_name.sort();
        write!(out, "pub(crate) static BY_NAME: &[(&str, &TypeDef)] = &[").unwrap();
        for (n, i) in &self.by_name {
            write!(out, "({n:?}, &T{i}), ").unwrap();
        }
        writeln!(out, "];").unwrap();
        self.by_gvk.sort();
        self.by_gvk.dedup_by(|a, b| a.0 == b.0);
        write!(out, "pub(crate) static BY_GVK: &[((&str, &str, &str), &TypeDef)] = &[").unwrap();
        for ((g, v, k), i) in &self.by_gvk {
            write!(out, "(({g:?}, {v:?}, {k:?}), &T{i}), ").unwrap();
        }
        writeln!(out, "];").unwrap();
    }
}

/// Defaults of key fields of lists: the only ones that merging needs to know.
fn default_of(owner: &str, field: &str) -> &'static str {
    match (owner, field) {
        ("io.k8s.api.core.v1.ContainerPort" | "io.k8s.api.core.v1.ServicePort", "protocol") => "\"TCP\"",
        _ => "",
    }
}

fn body(name: &str, go: &str, kind: &str, gvks: &[(String, String, String)], atomic: bool) -> String {
    let g: Vec<String> =
        gvks.iter().map(|(g, v, k)| format!("Gvk {{ group: {g:?}, version: {v:?}, kind: {k:?} }}")).collect();
    format!(
        "TypeDef {{ name: {name:?}, go: {go:?}, kind: {kind}, gvks: Cow::Borrowed(&[{}]), atomic: {atomic} }}",
        g.join(", ")
    )
}

fn emit_resources(api: &Value, out: &mut String) {
    let mut all: Vec<&Value> = list(api, "resources").iter().collect();
    all.sort_by_key(|r| (s(r, "group"), s(r, "version"), s(r, "resource")));
    write!(out, "pub(crate) static RESOURCES: &[Resource] = &[").unwrap();
    for r in all {
        let subs: Vec<String> = list(r, "subresources")
            .iter()
            .map(|x| {
                let k = &x["kind"];
                // An empty version means the resource's own.
                let (group, version) = if s(k, "version").is_empty() {
                    (s(r, "group"), s(r, "version"))
                } else {
                    (s(k, "group"), s(k, "version"))
                };
                format!(
                    "Subresource {{ name: {:?}, verbs: {}, kind: Gvk {{ group: {group:?}, version: {version:?}, kind: {:?} }} }}",
                    s(x, "name"),
                    strs(x, "verbs"),
                    s(k, "kind"),
                )
            })
            .collect();
        write!(
            out,
            "Resource {{ group: {:?}, version: {:?}, resource: {:?}, singular: {:?}, kind: {:?}, namespaced: {}, verbs: {}, short_names: Cow::Borrowed({}), categories: Cow::Borrowed({}), subresources: Cow::Borrowed(&[{}]) }}, ",
            s(r, "group"),
            s(r, "version"),
            s(r, "resource"),
            s(r, "singular"),
            s(r, "kind"),
            r["scope"] == "Namespaced",
            strs(r, "verbs"),
            strs(r, "shortNames"),
            strs(r, "categories"),
            subs.join(", "),
        )
        .unwrap();
    }
    writeln!(out, "];").unwrap();
}

fn emit_columns(columns: &Value, out: &mut String) {
    write!(out, "pub(crate) static COLUMNS: &[(&str, &[Column])] = &[").unwrap();
    let sorted: BTreeMap<&String, &Value> = columns.as_object().unwrap().iter().collect();
    for (kind, cols) in sorted {
        write!(out, "({kind:?}, &[").unwrap();
        for c in cols.as_array().unwrap() {
            write!(
                out,
                "Column {{ name: {:?}, kind: {:?}, format: {:?}, priority: {} }}, ",
                s(c, "name"),
                s(c, "type"),
                s(c, "format"),
                c["priority"].as_i64().unwrap_or(0)
            )
            .unwrap();
        }
        write!(out, "]), ").unwrap();
    }
    writeln!(out, "];").unwrap();
}

//! A schema as it is kept: what pruning, defaulting and checking need of each node, small and without JSON.

use std::collections::HashMap;
use std::sync::Arc;

use proto::schema::intern;
use serde_json::Value;

use super::format::Format;
use super::props::{Additional as RawAdditional, Items, Props};
use super::regexp::Pattern;

/// Schemas nested deeper are refused.
pub const MAX_DEPTH: usize = 200;

/// `type` of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Not given.
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
}

impl Type {
    /// The JSON types that it allows; none means all.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Any => &[],
            Self::Object => &["object"],
            Self::Array => &["array"],
            Self::String => &["string"],
            Self::Integer => &["integer"],
            Self::Number => &["number"],
            Self::Boolean => &["boolean"],
            Self::IntOrString => &["integer", "string"],
        }
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "" => Self::Any,
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }
}

/// Topology of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum List {
    Atomic,
    Set,
    /// With its key fields.
    Map(Box<[&'static str]>),
}

/// `additionalProperties`.
#[derive(Debug)]
pub enum Additional {
    /// Not given.
    Absent,
    /// `true` or `false`.
    Allowed(bool),
    Schema(Box<Node>),
}

/// One node of a schema.
#[derive(Debug)]
pub struct Node {
    pub ty: Type,
    pub nullable: bool,
    pub preserves: bool,
    pub embeds: bool,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic_map: bool,
    pub list: List,
    /// Sorted by name.
    pub properties: Box<[(&'static str, Node)]>,
    pub additional: Additional,
    pub items: Option<Box<Node>>,
    pub default: Option<Box<Value>>,
    pub checks: Option<Box<Checks>>,
    pub junctors: Option<Box<Junctors>>,
}

/// What a single value must satisfy.
#[derive(Debug, Default)]
pub struct Checks {
    /// As written; empty where upstream ignores it.
    pub format: Box<str>,
    pub string_format: Option<Format>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Option<Arc<Pattern>>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Box<[Box<str>]>,
    pub values: Box<[Value]>,
}

/// Schemas combined by logic.
#[derive(Debug, Default)]
pub struct Junctors {
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Node>,
}

impl Node {
    /// The schema of a declared field.
    pub fn property(&self, name: &str) -> Option<&Node> {
        self.properties.binary_search_by(|(n, _)| (*n).cmp(name)).ok().map(|i| &self.properties[i].1)
    }

    /// The schema of undeclared fields, where they have one.
    pub fn additional_schema(&self) -> Option<&Node> {
        match &self.additional {
            Additional::Schema(n) => Some(n),
            _ => None,
        }
    }

    /// The schema of a field, declared or not.
    pub fn field(&self, name: &str) -> Option<&Node> {
        self.property(name).or_else(|| self.additional_schema())
    }

    /// True if undeclared fields are declared to exist, whatever they may hold.
    pub fn has_additional(&self) -> bool {
        !matches!(self.additional, Additional::Absent)
    }

    /// Key fields of a list that is a map.
    pub fn keys(&self) -> Option<&[&'static str]> {
        match &self.list {
            List::Map(k) => Some(k),
            _ => None,
        }
    }

    /// `format` as far as it counts.
    pub fn format(&self) -> &str {
        self.checks.as_ref().map_or("", |c| &c.format)
    }
}

/// Reads schemas; equal patterns are kept once.
#[derive(Default)]
pub struct Compiler {
    patterns: HashMap<String, Arc<Pattern>>,
    /// What cannot be compiled.
    pub errors: Vec<String>,
    /// A type that there is not; its values are taken to be anything.
    pub unknown_type: Option<String>,
}

impl Compiler {
    fn fail(&mut self, why: impl Into<String>) {
        let why = why.into();
        if !self.errors.contains(&why) {
            self.errors.push(why);
        }
    }

    /// Reads one node and all inside it.
    pub fn node(&mut self, p: Props<'_>, depth: usize) -> Node {
        for (field, given) in unsupported(p) {
            if given {
                self.fail(format!("OpenAPIV3Schema '{field}' is not supported"));
            }
        }
        if p.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            self.fail("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined");
        }
        let ty = Type::named(p.ty()).unwrap_or_else(|| {
            self.unknown_type.get_or_insert_with(|| p.ty().to_owned());
            Type::Any
        });
        let ty = if p.int_or_string() { Type::IntOrString } else { ty };
        let mut node = Node {
            ty,
            nullable: p.flag("nullable"),
            preserves: p.preserves(),
            embeds: p.embeds(),
            atomic_map: p.map_type() == Some("atomic"),
            list: match p.list_type() {
                Some("map") => {
                    List::Map(p.texts("x-kubernetes-list-map-keys").into_iter().map(intern).collect())
                }
                Some("set") => List::Set,
                _ => List::Atomic,
            },
            properties: Box::default(),
            additional: Additional::Absent,
            items: None,
            default: p.default().cloned().map(Box::new),
            checks: self.checks(p, ty),
            junctors: None,
        };
        if depth == 0 {
            self.fail(format!("OpenAPIV3Schema is nested deeper than {MAX_DEPTH} levels"));
            return node;
        }
        let depth = depth - 1;
        let mut properties: Vec<_> =
            p.properties().map(|(name, inner)| (intern(name), self.node(inner, depth))).collect();
        properties.sort_by_key(|(name, _)| *name);
        node.properties = properties.into();
        node.additional = match p.additional() {
            None => Additional::Absent,
            Some(RawAdditional::Allowed(b)) => Additional::Allowed(b),
            Some(RawAdditional::Schema(inner)) => Additional::Schema(Box::new(self.node(inner, depth))),
        };
        node.items = match p.items() {
            None => None,
            Some(Items::One(inner)) => Some(Box::new(self.node(inner, depth))),
            Some(Items::Each(_)) => {
                self.fail("OpenAPIV3Schema 'items' must be a schema, but is an array");
                None
            }
        };
        node.junctors = self.junctors(p, depth);
        node
    }

    fn junctors(&mut self, p: Props<'_>, depth: usize) -> Option<Box<Junctors>> {
        let j = Junctors {
            all_of: p.schemas("allOf").map(|s| self.node(s, depth)).collect(),
            any_of: p.schemas("anyOf").map(|s| self.node(s, depth)).collect(),
            one_of: p.schemas("oneOf").map(|s| self.node(s, depth)).collect(),
            not: p.schema("not").map(|s| self.node(s, depth)),
        };
        let empty = j.all_of.is_empty() && j.any_of.is_empty() && j.one_of.is_empty() && j.not.is_none();
        (!empty).then(|| Box::new(j))
    }

    fn checks(&mut self, p: Props<'_>, ty: Type) -> Option<Box<Checks>> {
        const FIELDS: [&str; 16] = [
            "format",
            "maximum",
            "minimum",
            "exclusiveMaximum",
            "exclusiveMinimum",
            "multipleOf",
            "maxLength",
            "minLength",
            "pattern",
            "maxItems",
            "minItems",
            "uniqueItems",
            "maxProperties",
            "minProperties",
            "required",
            "enum",
        ];
        if !FIELDS.iter().any(|f| p.get(f).is_some()) {
            return None;
        }
        let format = effective_format(ty, p.text("format"));
        Some(Box::new(Checks {
            string_format: Format::named(format)
                .filter(|_| matches!(ty, Type::Any | Type::String | Type::IntOrString)),
            format: format.into(),
            maximum: p.number("maximum"),
            exclusive_maximum: p.flag("exclusiveMaximum"),
            minimum: p.number("minimum"),
            exclusive_minimum: p.flag("exclusiveMinimum"),
            multiple_of: p.number("multipleOf"),
            max_length: p.whole("maxLength"),
            min_length: p.whole("minLength"),
            pattern: Some(p.text("pattern")).filter(|s| !s.is_empty()).map(|s| self.pattern(s)),
            max_items: p.whole("maxItems"),
            min_items: p.whole("minItems"),
            unique_items: p.flag("uniqueItems"),
            max_properties: p.whole("maxProperties"),
            min_properties: p.whole("minProperties"),
            required: p.texts("required").into_iter().map(Box::from).collect(),
            values: p.list("enum").into(),
        }))
    }

    fn pattern(&mut self, source: &str) -> Arc<Pattern> {
        if let Some(known) = self.patterns.get(source) {
            return known.clone();
        }
        let p = Pattern::new(source);
        self.patterns.insert(source.to_owned(), p.clone());
        p
    }
}

/// Fields that no structural schema has, and whether they are set.
pub fn unsupported(p: Props<'_>) -> [(&'static str, bool); 7] {
    let filled = |name: &str| p.get(name).and_then(Value::as_object).is_some_and(|m| !m.is_empty());
    [
        ("id", !p.text("id").is_empty()),
        ("schema", !p.text("$schema").is_empty()),
        ("$ref", !p.text("$ref").is_empty()),
        ("patternProperties", filled("patternProperties")),
        ("dependencies", filled("dependencies")),
        ("additionalItems", p.get("additionalItems").is_some()),
        ("definitions", filled("definitions")),
    ]
}

/// The format, or nothing where it is none for the type.
fn effective_format(ty: Type, format: &str) -> &str {
    let known = match ty {
        Type::Any | Type::String | Type::IntOrString => Format::named(format).is_some(),
        Type::Integer => matches!(format, "int32" | "int64"),
        Type::Number => matches!(format, "float" | "double"),
        Type::Object | Type::Array | Type::Boolean => false,
    };
    if known { format } else { "" }
}

/// `unrecognized format "…"` warnings name these: formats that are written but not checked.
pub fn unrecognized_format<'a>(p: Props<'a>) -> Option<&'a str> {
    let ty = if p.int_or_string() { Type::IntOrString } else { Type::named(p.ty())? };
    let format = p.text("format");
    (!format.is_empty() && effective_format(ty, format).is_empty()).then_some(format)
}

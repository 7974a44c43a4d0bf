//! A reading view of `JSONSchemaProps` in JSON form: a field that is absent, or of the wrong type, reads as the
//! zero value, as it does in upstream's structure.

use serde_json::{Map, Value};

/// One schema node.
#[derive(Debug, Clone, Copy)]
pub struct Props<'a> {
    value: &'a Value,
    map: &'a Map<String, Value>,
}

/// What `items` holds.
#[derive(Debug, Clone, Copy)]
pub enum Items<'a> {
    /// One schema for all items.
    One(Props<'a>),
    /// A schema per place: never structural.
    Each(&'a [Value]),
}

/// What `additionalProperties` holds.
#[derive(Debug, Clone, Copy)]
pub enum Additional<'a> {
    /// Anything, or nothing.
    Allowed(bool),
    /// Values of one schema.
    Schema(Props<'a>),
}

impl<'a> Props<'a> {
    /// The view of a schema; none if it is not a JSON object.
    pub fn new(value: &'a Value) -> Option<Self> {
        value.as_object().map(|map| Self { value, map })
    }

    /// The schema as it is.
    pub fn value(self) -> &'a Value {
        self.value
    }

    /// The field as it is, unless absent or `null`.
    pub fn get(self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// All fields.
    pub fn map(self) -> &'a Map<String, Value> {
        self.map
    }

    /// A string field, empty if absent.
    pub fn text(self, name: &str) -> &'a str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A boolean field, false if absent.
    pub fn flag(self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// `type`, empty if absent.
    pub fn ty(self) -> &'a str {
        self.text("type")
    }

    /// `x-kubernetes-preserve-unknown-fields`.
    pub fn preserves(self) -> bool {
        self.flag("x-kubernetes-preserve-unknown-fields")
    }

    /// `x-kubernetes-embedded-resource`.
    pub fn embeds(self) -> bool {
        self.flag("x-kubernetes-embedded-resource")
    }

    /// `x-kubernetes-int-or-string`.
    pub fn int_or_string(self) -> bool {
        self.flag("x-kubernetes-int-or-string")
    }

    /// `x-kubernetes-list-type`, if given.
    pub fn list_type(self) -> Option<&'a str> {
        self.get("x-kubernetes-list-type").and_then(Value::as_str)
    }

    /// `x-kubernetes-map-type`, if given.
    pub fn map_type(self) -> Option<&'a str> {
        self.get("x-kubernetes-map-type").and_then(Value::as_str)
    }

    /// A list of strings; items that are none are left out.
    pub fn texts(self, name: &str) -> Vec<&'a str> {
        self.list(name).iter().filter_map(Value::as_str).collect()
    }

    /// A list, empty if absent.
    pub fn list(self, name: &str) -> &'a [Value] {
        self.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// A number as floating point.
    pub fn number(self, name: &str) -> Option<f64> {
        self.get(name).and_then(Value::as_f64)
    }

    /// A whole number.
    pub fn whole(self, name: &str) -> Option<i64> {
        let v = self.get(name)?;
        v.as_i64().or_else(|| v.as_f64().map(|f| f as i64))
    }

    /// A single schema in a field.
    pub fn schema(self, name: &str) -> Option<Self> {
        self.get(name).and_then(Self::new)
    }

    /// A list of schemas.
    pub fn schemas(self, name: &str) -> impl Iterator<Item = Self> + use<'a> {
        self.list(name).iter().filter_map(Self::new)
    }

    /// A map of schemas, by name.
    pub fn named(self, name: &str) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        let map = self.get(name).and_then(Value::as_object);
        map.into_iter().flatten().filter_map(|(k, v)| Self::new(v).map(|p| (k.as_str(), p)))
    }

    /// `properties`, by name.
    pub fn properties(self) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        self.named("properties")
    }

    /// One of `properties`.
    pub fn property(self, name: &str) -> Option<Self> {
        self.get("properties").and_then(|p| p.get(name)).and_then(Self::new)
    }

    /// True if `properties` has entries.
    pub fn has_properties(self) -> bool {
        self.get("properties").and_then(Value::as_object).is_some_and(|m| !m.is_empty())
    }

    /// `items`.
    pub fn items(self) -> Option<Items<'a>> {
        match self.get("items")? {
            Value::Array(each) => Some(Items::Each(each)),
            other => Self::new(other).map(Items::One),
        }
    }

    /// `items` where it is one schema.
    pub fn item(self) -> Option<Self> {
        match self.items()? {
            Items::One(p) => Some(p),
            Items::Each(_) => None,
        }
    }

    /// `additionalProperties`.
    pub fn additional(self) -> Option<Additional<'a>> {
        match self.get("additionalProperties")? {
            Value::Bool(b) => Some(Additional::Allowed(*b)),
            other => Self::new(other).map(Additional::Schema),
        }
    }

    /// The schema of `additionalProperties`, where it has one.
    pub fn additional_schema(self) -> Option<Self> {
        match self.additional()? {
            Additional::Schema(p) => Some(p),
            Additional::Allowed(_) => None,
        }
    }

    /// `default`, if given.
    pub fn default(self) -> Option<&'a Value> {
        self.get("default")
    }

    /// True if this schema or one inside it, in whatever position, satisfies `pred`.
    pub fn any(self, pred: &mut dyn FnMut(Self) -> bool) -> bool {
        if pred(self) {
            return true;
        }
        let inner = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(move |f| self.schemas(f));
        let maps = ["properties", "patternProperties", "definitions", "dependencies"];
        let named = maps.into_iter().flat_map(move |f| self.named(f).map(|(_, p)| p));
        let single = ["not", "additionalItems"].into_iter().filter_map(move |f| self.schema(f));
        let items: Vec<Self> = match self.items() {
            Some(Items::One(p)) => vec![p],
            Some(Items::Each(l)) => l.iter().filter_map(Self::new).collect(),
            None => Vec::new(),
        };
        let mut all = inner.chain(named).chain(single).chain(items).chain(self.additional_schema());
        all.any(|p| p.any(pred))
    }
}

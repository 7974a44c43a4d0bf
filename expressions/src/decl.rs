//! Declared types: what the variables of an expression look like, with the bounds on their sizes that cost estimates
//! rest on. Made from a custom resource's schema, from a built-in type, or by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Largest request that is reckoned with, in bytes.
pub const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;

/// A declared type.
#[derive(Debug, Clone)]
pub struct DeclType {
    pub shape: Shape,
    /// Most elements of a list or map, most bytes of a string, 0 or 1 for what has no size.
    pub max_elements: u64,
    /// Fewest bytes that a value takes in JSON.
    pub min_size: u64,
}

/// What a value looks like.
#[derive(Debug, Clone)]
pub enum Shape {
    /// Anything.
    Dyn,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    /// Base64 in JSON.
    Bytes,
    /// A string in JSON, as Go writes durations.
    Duration,
    /// RFC 3339 in JSON.
    Timestamp,
    /// RFC 3339 full date in JSON.
    Date,
    /// A quantity: in JSON a string or a number.
    Quantity,
    /// A value of a library that has no JSON form.
    Named(&'static str),
    List(Arc<DeclType>, ListEquality),
    /// A map from strings.
    Map(Arc<DeclType>),
    Object(Arc<ObjectDecl>),
    Optional(Arc<DeclType>),
}

/// When two lists are equal (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListEquality {
    /// Same elements in the same order.
    Ordered,
    /// Same elements in any order.
    Set,
    /// Same elements, found by the key fields, in any order.
    Keyed(Vec<String>),
}

/// A structure with known fields.
#[derive(Debug)]
pub struct ObjectDecl {
    /// Unique among the types of one environment.
    pub name: String,
    /// By the name that expressions use (see [`escape`]).
    pub fields: BTreeMap<Box<str>, FieldDecl>,
    /// Values may have fields beside these; expressions do not see them.
    pub open: bool,
}

/// A field of a structure.
#[derive(Debug)]
pub struct FieldDecl {
    /// Name in JSON.
    pub json: Box<str>,
    pub ty: DeclType,
}

impl DeclType {
    pub const DYN: Self = Self::scalar(Shape::Dyn, 1);
    pub const BOOL: Self = Self::scalar(Shape::Bool, 4);
    pub const INT: Self = Self::scalar(Shape::Int, 1);
    pub const DOUBLE: Self = Self::scalar(Shape::Double, 1);

    pub(super) const fn scalar(shape: Shape, min_size: u64) -> Self {
        Self { shape, max_elements: 0, min_size }
    }

    /// A string of any length that fits a request.
    pub const fn string() -> Self {
        Self { shape: Shape::String, max_elements: MAX_REQUEST_BYTES - 2, min_size: 2 }
    }

    /// A time.
    pub const fn timestamp() -> Self {
        Self { shape: Shape::Timestamp, max_elements: 32, min_size: 21 }
    }

    /// A list of any length that fits a request.
    pub fn list(of: DeclType) -> Self {
        let max_elements = max_items(of.min_size);
        Self { shape: Shape::List(Arc::new(of), ListEquality::Ordered), max_elements, min_size: 2 }
    }

    /// A map from strings of any size that fits a request.
    pub fn map(of: DeclType) -> Self {
        let max_elements = max_entries(of.min_size);
        Self { shape: Shape::Map(Arc::new(of)), max_elements, min_size: 2 }
    }

    /// A value of a library (see [`types::names`](super::types::names)).
    pub const fn named(name: &'static str) -> Self {
        Self::scalar(Shape::Named(name), 1)
    }

    /// `optional_type(of)`, with the sizes of what is inside.
    pub fn optional(of: DeclType) -> Self {
        Self { max_elements: of.max_elements, min_size: of.min_size, shape: Shape::Optional(Arc::new(of)) }
    }

    /// A structure with these fields.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, DeclType)>) -> Self {
        let fields = fields
            .into_iter()
            .filter_map(|(json, ty)| Some((escape(json)?.into(), FieldDecl { json: json.into(), ty })));
        let decl = ObjectDecl { name: name.to_owned(), fields: fields.collect(), open: false };
        Self { shape: Shape::Object(Arc::new(decl)), max_elements: 0, min_size: 2 }
    }
}

impl ObjectDecl {
    /// The field that expressions call `name`; reserved words may be written as they are.
    pub fn field(&self, name: &str) -> Option<&FieldDecl> {
        self.fields.get(name).or_else(|| match RESERVED.contains(&name) {
            true => self.fields.get(format!("__{name}__").as_str()),
            false => None,
        })
    }
}

/// Most items of a list whose items take at least `min_size` bytes.
pub(super) fn max_items(min_size: u64) -> u64 {
    (MAX_REQUEST_BYTES - 2) / (min_size + 1)
}

/// Most entries of a map whose values take at least `min_size` bytes.
pub(super) fn max_entries(min_size: u64) -> u64 {
    (MAX_REQUEST_BYTES - 2) / (min_size + 6)
}

/// Words that CEL keeps for itself.
pub const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name by which expressions call the field `name`; none for names that cannot be expressed. Source: the API
/// documentation of `x-kubernetes-validations`, "rule".
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

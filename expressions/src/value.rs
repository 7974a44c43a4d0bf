//! Values at run time. What comes from a request's objects is borrowed: a list or a map of JSON stays where it is, with
//! its declared type beside it, and an element becomes a value only when it is asked for.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value as Json;

use super::decl::{DeclType, ListEquality, ObjectDecl, Shape};
use super::native::Native;
use super::time;

/// Why an evaluation has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvalError {
    /// An error value of the language, in upstream's words.
    Error(Cow<'static, str>),
    /// No overload takes these values; the caller knows the function's name.
    NoOverload,
    /// The evaluation took more than a call may.
    CostLimit,
}

impl EvalError {
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Error(message.into())
    }
}

impl std::fmt::Display for EvalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(m) => f.write_str(m),
            Self::NoOverload => f.write_str("no such overload"),
            Self::CostLimit => f.write_str("operation cancelled: actual cost limit exceeded"),
        }
    }
}

impl std::error::Error for EvalError {}

/// Result of evaluating something.
pub type EvalResult<'a> = Result<Value<'a>, EvalError>;

/// A value.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    List(List<'a>),
    Map(Map<'a>),
    /// A type, by its name.
    Type(Arc<str>),
    Optional(Option<Arc<Value<'a>>>),
    /// A value of a library.
    Native(Arc<Native>),
}

/// A string.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(s) => s,
            Self::Shared(s) => s,
        }
    }
}

/// A list.
#[derive(Debug, Clone)]
pub enum List<'a> {
    Json { items: &'a [Json], of: &'a DeclType, equality: &'a ListEquality },
    Made(Arc<Vec<Value<'a>>>),
}

/// A map or an object.
#[derive(Debug, Clone)]
pub enum Map<'a> {
    Json(&'a serde_json::Map<String, Json>, Entries<'a>),
    Made(Arc<BTreeMap<Key, Value<'a>>>),
    /// The same, where a key that is not there has an empty map.
    Open(Arc<BTreeMap<Key, Value<'a>>>),
    /// An object that an expression made; its type's name.
    Object(Arc<str>, Arc<BTreeMap<String, Value<'a>>>),
}

/// Declared types of the values in a JSON map.
#[derive(Debug, Clone, Copy)]
pub enum Entries<'a> {
    All(&'a DeclType),
    Object(&'a ObjectDecl),
}

/// A key of a map that an expression made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Arc<str>),
}

static DYN: DeclType = DeclType::DYN;
static ORDERED: ListEquality = ListEquality::Ordered;

impl<'a> From<&'a str> for Value<'a> {
    fn from(s: &'a str) -> Self {
        Self::String(Text::Borrowed(s))
    }
}

impl From<String> for Value<'_> {
    fn from(s: String) -> Self {
        Self::String(Text::Shared(s.into()))
    }
}

impl From<bool> for Value<'_> {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<i64> for Value<'_> {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl From<Native> for Value<'_> {
    fn from(n: Native) -> Self {
        Self::Native(Arc::new(n))
    }
}

impl<'a> From<Vec<Value<'a>>> for Value<'a> {
    fn from(v: Vec<Value<'a>>) -> Self {
        Self::List(List::Made(Arc::new(v)))
    }
}

impl<'a> Value<'a> {
    /// The value of `json`, read as its declared type says. Fails where the text of a duration, a time or bytes is
    /// not one, or the JSON is of another kind than declared.
    pub fn from_json(json: &'a Json, ty: &'a DeclType) -> EvalResult<'a> {
        let wrong = |wanted: &str| {
            Err(EvalError::new(format!("invalid data, expected {wanted}, got {}", json_kind(json))))
        };
        Ok(match (&ty.shape, json) {
            (Shape::Optional(of), _) => Self::Optional(Some(Arc::new(Self::from_json(json, of)?))),
            (_, Json::Null) => Self::Null,
            (Shape::List(of, equality), Json::Array(items)) => Self::List(List::Json { items, of, equality }),
            (Shape::Map(of), Json::Object(m)) => Self::Map(Map::Json(m, Entries::All(of))),
            (Shape::Object(o), Json::Object(m)) => Self::Map(Map::Json(m, Entries::Object(o))),
            (Shape::Double, Json::Number(n)) => match n.as_f64() {
                Some(d) => Self::Double(d),
                None => return wrong("float"),
            },
            (Shape::Bytes, Json::String(s)) => match super::native::from_base64(s) {
                Some(b) => Self::Bytes(b.into()),
                None => return Err(EvalError::new(format!("Invalid byte formatted string {s}"))),
            },
            (Shape::Duration, Json::String(s)) => match time::parse_duration(s) {
                Some(n) => Self::Duration(n),
                None => return Err(EvalError::new(format!("Invalid duration {s}"))),
            },
            (Shape::Timestamp, Json::String(s)) => match time::parse_timestamp(s) {
                Some(t) => Self::Timestamp(t),
                None => return Err(EvalError::new(format!("Invalid date-time formatted string {s}"))),
            },
            (Shape::Date, Json::String(s)) => match time::parse_date(s) {
                Some(t) => Self::Timestamp(t),
                None => return Err(EvalError::new(format!("Invalid date formatted string {s}"))),
            },
            (Shape::Quantity, Json::String(s)) => super::native::quantity(s)?,
            (Shape::Quantity, Json::Number(n)) => super::native::quantity(&n.to_string())?,
            (Shape::String, Json::String(_))
            | (Shape::Bool, Json::Bool(_))
            | (Shape::Int, Json::Number(_))
            | (Shape::Dyn | Shape::IntOrString, _) => Self::from_untyped(json),
            (Shape::String, _) => return wrong("string"),
            (Shape::Bool, _) => return wrong("bool"),
            (Shape::Int, _) => return wrong("int"),
            (Shape::List(..), _) => return wrong("an array for the provided schema with type=array"),
            (Shape::Map(_) | Shape::Object(_), _) => {
                return wrong("a map for the provided schema with type=object");
            }
            _ => Self::from_untyped(json),
        })
    }

    /// The value of JSON about whose type nothing is known.
    pub fn from_untyped(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Self::Int(i),
                (None, Some(u)) => Self::Uint(u),
                _ => Self::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Self::String(Text::Borrowed(s)),
            Json::Array(items) => Self::List(List::Json { items, of: &DYN, equality: &ORDERED }),
            Json::Object(m) => Self::Map(Map::Json(m, Entries::All(&DYN))),
        }
    }

    /// The name of the value's type.
    pub fn type_name(&self) -> &str {
        use super::types::names;
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => names::DURATION,
            Self::Timestamp(_) => names::TIMESTAMP,
            Self::List(_) => "list",
            Self::Map(Map::Object(name, _)) => name,
            Self::Map(Map::Json(_, Entries::Object(o))) => &o.name,
            Self::Map(_) => "map",
            Self::Type(_) => "type",
            Self::Optional(_) => names::OPTIONAL,
            Self::Native(n) => n.type_name(),
        }
    }

    /// Size as costs reckon it: characters, bytes, elements; 1 for what has no size.
    pub fn cost_size(&self) -> u64 {
        match self {
            Self::String(s) => s.chars().count() as u64,
            Self::Bytes(b) => b.len() as u64,
            Self::List(l) => l.len() as u64,
            Self::Map(m) => m.len() as u64,
            Self::Optional(Some(v)) => v.cost_size(),
            Self::Native(n) => n.cost_size(),
            _ => 1,
        }
    }

    /// Whether it is the empty value of its type.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(b) => !b,
            Self::Int(n) | Self::Duration(n) => *n == 0,
            Self::Uint(n) => *n == 0,
            Self::Double(n) => *n == 0.0,
            Self::String(s) => s.is_empty(),
            Self::Bytes(b) => b.is_empty(),
            Self::List(l) => l.is_empty(),
            Self::Map(m) => m.is_empty(),
            Self::Optional(o) => o.is_none(),
            Self::Timestamp(_) | Self::Type(_) | Self::Native(_) => false,
        }
    }

    /// CEL's `==`: values of different types are not equal, but numbers are by their value.
    pub fn equals(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(a), Value::Bool(b)) => a == b,
            (
                Self::Int(_) | Self::Uint(_) | Self::Double(_),
                Value::Int(_) | Value::Uint(_) | Value::Double(_),
            ) => compare_numbers(self, other) == Some(Ordering::Equal),
            (Self::String(a), Value::String(b)) => **a == **b,
            (Self::Bytes(a), Value::Bytes(b)) => a == b,
            (Self::Duration(a), Value::Duration(b)) => a == b,
            (Self::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Self::List(a), Value::List(b)) => super::list::equal(a, b),
            (Self::Map(a), Value::Map(b)) => super::map::equal(a, b),
            (Self::Type(a), Value::Type(b)) => a == b,
            (Self::Optional(None), Value::Optional(None)) => true,
            (Self::Optional(Some(a)), Value::Optional(Some(b))) => a.equals(b),
            (Self::Native(a), Value::Native(b)) => a == b,
            _ => false,
        }
    }

    /// Order of two values of comparable types.
    pub fn compare(&self, other: &Value<'_>) -> Result<Ordering, EvalError> {
        match (self, other) {
            (Self::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
            (
                Self::Int(_) | Self::Uint(_) | Self::Double(_),
                Value::Int(_) | Value::Uint(_) | Value::Double(_),
            ) => compare_numbers(self, other).ok_or(EvalError::new("NaN values cannot be ordered")),
            (Self::String(a), Value::String(b)) => Ok(a.cmp(b)),
            (Self::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
            (Self::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
            (Self::Timestamp(a), Value::Timestamp(b)) => Ok(a.cmp(b)),
            _ => Err(EvalError::NoOverload),
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(s) => Some(s),
            _ => None,
        }
    }

    /// The JSON that Kubernetes makes of the value; fails for what JSON does not have.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(n) => (*n).into(),
            Self::Uint(n) => (*n).into(),
            Self::Double(n) => serde_json::Number::from_f64(*n).map_or(Json::Null, Json::Number),
            Self::String(s) => Json::String(s.to_string()),
            Self::Bytes(b) => Json::String(super::native::to_base64(b)),
            Self::Duration(n) => Json::String(time::duration_seconds(*n)),
            Self::Timestamp(t) => Json::String(time::timestamp_text(*t)),
            Self::List(List::Json { items, .. }) => Json::Array(items.to_vec()),
            Self::List(List::Made(items)) => {
                Json::Array(items.iter().map(Value::to_json).collect::<Result<_, _>>()?)
            }
            Self::Map(m) => super::map::to_json(m)?,
            Self::Optional(Some(v)) => v.to_json()?,
            other => {
                let message = format!("type conversion error from '{}' to JSON", other.type_name());
                return Err(EvalError::new(message));
            }
        })
    }
}

fn json_kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "nil",
        Json::Bool(_) => "bool",
        Json::Number(n) if n.is_f64() => "float64",
        Json::Number(_) => "int64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}

fn compare_numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Int(a), Value::Double(b)) => with_double(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => with_double(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => with_double(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Double(a), Value::Uint(b)) => with_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => None,
    }
}

/// Order of an integer and a double, without losing digits.
fn with_double(n: i128, d: f64) -> Option<Ordering> {
    if d.is_nan() {
        return None;
    }
    if d >= 1e20 {
        return Some(Ordering::Less);
    }
    if d <= -1e20 {
        return Some(Ordering::Greater);
    }
    let whole = d.trunc();
    #[allow(clippy::cast_possible_truncation)]
    let order = n.cmp(&(whole as i128));
    Some(order.then_with(|| 0.0_f64.partial_cmp(&(d - whole)).unwrap_or(Ordering::Equal)))
}

//! The types of CEL as the type checker sees them, and when one fits another.

use std::fmt;
use std::sync::Arc;

use super::decl::{DeclType, ObjectDecl, Shape};

/// A type of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Of an expression that is wrong: fits everything, so that one mistake is reported once.
    Error,
    /// Known only when evaluated.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    Object(Object),
    /// A type that is only its name and parameters: `optional_type(T)`, `net.IP`.
    Opaque(&'static str, Arc<[Type]>),
    /// The type of types.
    Type(Option<Arc<Type>>),
    /// A type variable.
    Var(u32),
}

/// A structure; two are the same type when their names are.
#[derive(Debug, Clone)]
pub enum Object {
    /// Without fields: a value of one of the libraries.
    Named(&'static str),
    Decl(Arc<ObjectDecl>),
    /// An object that an expression makes (`Object{}`, `JSONPatch{}`).
    Made(Arc<str>),
}

impl Object {
    pub fn name(&self) -> &str {
        match self {
            Self::Named(n) => n,
            Self::Decl(d) => &d.name,
            Self::Made(n) => n,
        }
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// Names of the libraries' types.
pub mod names {
    pub const IP: &str = "net.IP";
    pub const CIDR: &str = "net.CIDR";
    pub const URL: &str = "kubernetes.URL";
    pub const QUANTITY: &str = "kubernetes.Quantity";
    pub const SEMVER: &str = "kubernetes.Semver";
    pub const FORMAT: &str = "kubernetes.NamedFormat";
    pub const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
    pub const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
    pub const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
    pub const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
    pub const DECISION: &str = "kubernetes.authorization.Decision";
    pub const OPTIONAL: &str = "optional_type";
    pub const TIMESTAMP: &str = "google.protobuf.Timestamp";
    pub const DURATION: &str = "google.protobuf.Duration";
}

impl Type {
    pub fn list(of: Type) -> Self {
        Self::List(Arc::new(of))
    }

    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    pub fn optional(of: Type) -> Self {
        Self::Opaque(names::OPTIONAL, Arc::new([of]))
    }

    /// What is inside, if it is an optional.
    pub fn unwrap_optional(&self) -> Option<&Type> {
        match self {
            Self::Opaque(names::OPTIONAL, p) => p.first(),
            _ => None,
        }
    }

    pub fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// Whether values have one size, whatever they are.
    pub fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => true,
            Self::Opaque(names::OPTIONAL, p) => p.first().is_some_and(Type::is_scalar),
            _ => false,
        }
    }

    /// The name as values of the type show it (`null_type`, `google.protobuf.Timestamp`).
    pub fn runtime_name(&self) -> String {
        match self {
            Self::Null => "null_type".to_owned(),
            Self::Timestamp => names::TIMESTAMP.to_owned(),
            Self::Duration => names::DURATION.to_owned(),
            Self::List(e) => format!("list({})", e.runtime_name()),
            Self::Map(kv) => format!("map({}, {})", kv.0.runtime_name(), kv.1.runtime_name()),
            other => other.to_string(),
        }
    }

    fn nullable(&self) -> bool {
        matches!(self, Self::Opaque(..) | Self::Object(_) | Self::Duration | Self::Timestamp | Self::Null)
    }
}

impl From<&DeclType> for Type {
    fn from(d: &DeclType) -> Self {
        match &d.shape {
            Shape::Dyn | Shape::IntOrString => Self::Dyn,
            Shape::Null => Self::Null,
            Shape::Bool => Self::Bool,
            Shape::Int => Self::Int,
            Shape::Uint => Self::Uint,
            Shape::Double => Self::Double,
            Shape::String => Self::String,
            Shape::Bytes => Self::Bytes,
            Shape::Duration => Self::Duration,
            Shape::Timestamp | Shape::Date => Self::Timestamp,
            Shape::Quantity => Self::Object(Object::Named(names::QUANTITY)),
            Shape::Named(n) => Self::Object(Object::Named(n)),
            Shape::List(e, _) => Self::list(Self::from(&**e)),
            Shape::Map(e) => Self::map(Self::String, Self::from(&**e)),
            Shape::Object(o) => Self::Object(Object::Decl(o.clone())),
            Shape::Optional(e) => Self::optional(Self::from(&**e)),
        }
    }
}

/// As upstream's messages name it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("!error!"),
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(e) => write!(f, "list({e})"),
            Self::Map(kv) => write!(f, "map({}, {})", kv.0, kv.1),
            Self::Object(o) => f.write_str(o.name()),
            Self::Opaque(name, params) => {
                f.write_str(name)?;
                for (i, p) in params.iter().enumerate() {
                    write!(f, "{}{p}", if i == 0 { "(" } else { ", " })?;
                }
                if params.is_empty() { Ok(()) } else { f.write_str(")") }
            }
            Self::Type(None) => f.write_str("type"),
            Self::Type(Some(t)) => write!(f, "type({t})"),
            Self::Var(n) => write!(f, "_var{n}"),
        }
    }
}

/// What type variables stand for.
#[derive(Debug, Clone, Default)]
pub struct Bindings(Vec<Option<Type>>);

impl Bindings {
    /// A variable that stands for nothing yet.
    pub fn fresh(&mut self) -> Type {
        self.0.push(None);
        Type::Var(u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX))
    }

    /// The number of variables made so far.
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Makes `n` variables.
    pub fn reserve(&mut self, n: usize) {
        self.0.resize(self.0.len() + n, None);
    }

    fn get(&self, var: u32) -> Option<&Type> {
        self.0.get(var as usize).and_then(Option::as_ref)
    }

    fn set(&mut self, var: u32, t: Type) {
        if let Some(slot) = self.0.get_mut(var as usize) {
            *slot = Some(t);
        }
    }

    /// `t` with variables replaced by what they stand for; by `dyn`, if `finally`, where that is nothing.
    pub fn substitute(&self, t: &Type, finally: bool) -> Type {
        match t {
            Type::Var(v) => match self.get(*v) {
                Some(bound) => self.substitute(bound, finally),
                None if finally => Type::Dyn,
                None => t.clone(),
            },
            Type::List(e) => Type::list(self.substitute(e, finally)),
            Type::Map(kv) => Type::map(self.substitute(&kv.0, finally), self.substitute(&kv.1, finally)),
            Type::Opaque(name, params) => {
                Type::Opaque(name, params.iter().map(|p| self.substitute(p, finally)).collect())
            }
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(self.substitute(inner, finally)))),
            other => other.clone(),
        }
    }

    /// Whether a `from` can be where a `to` is wanted; what that says about variables is kept if so.
    pub fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        let mut trial = self.clone();
        let fits = trial.fits(from, to);
        if fits {
            *self = trial;
        }
        fits
    }

    /// The same for lists of types.
    pub fn all_assignable(&mut self, from: &[Type], to: &[Type]) -> bool {
        let mut trial = self.clone();
        let fits = trial.all_fit(from, to);
        if fits {
            *self = trial;
        }
        fits
    }

    fn all_fit(&mut self, from: &[Type], to: &[Type]) -> bool {
        from.len() == to.len() && from.iter().zip(to).all(|(f, t)| self.fits(f, t))
    }

    fn fits(&mut self, from: &Type, to: &Type) -> bool {
        if let Type::Var(v) = to {
            match self.stands_for(from, *v) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Var(v) = from {
            return self.stands_for(to, *v).0;
        }
        if from.is_dyn_or_error() || to.is_dyn_or_error() {
            return true;
        }
        match (from, to) {
            (Type::Null, other) | (other, Type::Null) => other.nullable(),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) => self.fits(a, b),
            (Type::Map(a), Type::Map(b)) => self.fits(&a.0, &b.0) && self.fits(&a.1, &b.1),
            (Type::Opaque(a, p), Type::Opaque(b, q)) => a == b && self.all_fit(p, q),
            (a, b) => a == b,
        }
    }

    /// Whether variable `v` can stand for `t`, and whether it already stood for something.
    fn stands_for(&mut self, t: &Type, v: u32) -> (bool, bool) {
        if matches!(t, Type::Var(w) if *w == v) {
            return (true, true);
        }
        if let Some(bound) = self.get(v).cloned() {
            if *t == bound {
                return (true, true);
            }
            if self.fits(t, &bound) {
                let general = most_general(t, &bound);
                if self.free_of(v, &general) {
                    self.set(v, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.free_of(v, t) {
            self.set(v, t.clone());
            return (true, false);
        }
        (false, false)
    }

    /// Whether variable `v` does not occur in `t`.
    fn free_of(&self, v: u32, t: &Type) -> bool {
        match t {
            Type::Var(w) if *w == v => false,
            Type::Var(w) => self.get(*w).is_none_or(|bound| self.free_of(v, bound)),
            Type::List(e) => self.free_of(v, e),
            Type::Map(kv) => self.free_of(v, &kv.0) && self.free_of(v, &kv.1),
            Type::Opaque(_, params) => params.iter().all(|p| self.free_of(v, p)),
            Type::Type(Some(inner)) => self.free_of(v, inner),
            _ => true,
        }
    }
}

/// The more general of two types that fit each other.
pub fn most_general(a: &Type, b: &Type) -> Type {
    if less_specific(a, b) { a.clone() } else { b.clone() }
}

fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Var(_), _) => true,
        (_, Type::Dyn | Type::Var(_)) => false,
        (Type::Opaque(n, p), Type::Opaque(m, q)) => {
            n == m && p.len() == q.len() && p.iter().zip(q.iter()).all(|(x, y)| less_specific(x, y))
        }
        (Type::List(x), Type::List(y)) => less_specific(x, y),
        (Type::Map(x), Type::Map(y)) => less_specific(&x.0, &y.0) && less_specific(&x.1, &y.1),
        (Type::Type(_), Type::Type(_)) => true,
        (a, b) => a == b,
    }
}

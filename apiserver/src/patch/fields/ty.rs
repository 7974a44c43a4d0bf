//! How a typed value is taken apart: what merges field by field, what is owned as a whole, what the elements
//! of a list are called.

use proto::schema::{Field, Kind, ListDef, ListType, Presence, TypeDef};
use serde_json::{Map, Value};

use super::Set;
use crate::field::go_type;

/// The type of a value on the way through an object.
#[derive(Clone, Copy)]
pub enum Ty<'a> {
    /// Known from the table.
    Def(&'a TypeDef),
    /// Unknown: maps merge by field, lists are atomic.
    Deduced,
    /// Unknown, and owned as a whole.
    Whole,
}

/// What a value is to the walkers.
#[derive(Clone, Copy)]
pub(crate) enum Atom<'a> {
    Scalar,
    /// `None` for an atomic list.
    List(Option<&'a ListDef>),
    Map {
        atomic: bool,
    },
}

impl<'a> Ty<'a> {
    /// What a value of this type is; `v` decides where the type does not.
    pub(crate) fn atom(self, v: Option<&Value>) -> Atom<'a> {
        let by_value = |atomic| match v {
            Some(Value::Object(_)) => Atom::Map { atomic },
            Some(Value::Array(_)) => Atom::List(None),
            _ => Atom::Scalar,
        };
        match self {
            Self::Deduced => by_value(false),
            Self::Whole => by_value(true),
            Self::Def(d) => match &d.kind {
                Kind::Struct(_) | Kind::Map(_) => Atom::Map { atomic: d.atomic },
                Kind::List(l) if l.list == ListType::Atomic => Atom::List(None),
                Kind::List(l) => Atom::List(Some(l)),
                Kind::Json => by_value(false),
                Kind::RawExtension
                | Kind::FieldsV1
                | Kind::RawJson
                | Kind::SchemaOrArray(_)
                | Kind::SchemaOrBool(_)
                | Kind::SchemaOrStrings(_) => by_value(true),
                _ => Atom::Scalar,
            },
        }
    }

    /// True for structures that have no fields beside those declared.
    fn is_closed(self) -> bool {
        matches!(self, Self::Def(TypeDef { kind: Kind::Struct(s), .. }) if s.field("").is_none())
    }

    /// The declared fields of a structure.
    pub(super) fn fields(self) -> &'a [Field] {
        match self {
            Self::Def(d) => d.structure().map_or(&[], |s| &s.fields),
            _ => &[],
        }
    }

    /// The declared field of that name.
    pub(super) fn declared(self, name: &str) -> Option<&'a Field> {
        match self {
            Self::Def(d) => d.field(name),
            _ => None,
        }
    }

    /// The type of a field or map entry, and whether the field is declared.
    pub(crate) fn child(self, name: &str) -> (Self, bool) {
        match self {
            Self::Def(d) => match &d.kind {
                Kind::Struct(s) => match s.field(name) {
                    Some(f) => match &f.ty {
                        proto::schema::TypeRef::Static(t) => (Self::Def(t), true),
                        proto::schema::TypeRef::Shared(t) => (Self::Def(t), true),
                    },
                    // In types made at run time the field without a name stands for all others: they are deduced.
                    None => (Self::Deduced, false),
                },
                Kind::Map(m) => match &m.elem {
                    proto::schema::TypeRef::Static(t) => (Self::Def(t), false),
                    proto::schema::TypeRef::Shared(t) => (Self::Def(t), false),
                },
                _ => (Self::Deduced, false),
            },
            other => (other, false),
        }
    }
}

/// The path element of a list item; an error says why it has none.
pub(crate) fn item_element(l: &ListDef, item: &Value) -> Result<String, String> {
    if l.list == ListType::Set {
        return match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
            v => Ok(format!("v:{v}")),
        };
    }
    let o = match item {
        Value::Object(o) => o,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let mut keys = Map::new();
    for k in l.keys.iter() {
        let v = match o.get(*k) {
            Some(v) => Some(v.clone()),
            None => l.elem.field(k).and_then(|f| match (f.default, f.presence) {
                ("", Presence::Always) => proto::json::zero(&f.ty),
                ("", _) => None,
                (d, _) => serde_json::from_str(d).ok(),
            }),
        };
        if let Some(v) = v {
            keys.insert((*k).to_owned(), v);
        }
    }
    if keys.is_empty() {
        let quoted: Vec<String> = l.keys.iter().map(|k| format!("{k:?}")).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            quoted.join(" ")
        ));
    }
    // The one form that equal keys share: sorted by name.
    let mut sorted: Vec<(&String, &Value)> = keys.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    let text: Vec<String> = sorted.iter().map(|(k, v)| format!("{}:{v}", Value::from(k.as_str()))).collect();
    Ok(format!("k:{{{}}}", text.join(",")))
}

/// The value as upstream's types show it: with `null` where a field is always written and not set.
pub fn view(v: &Value, def: &TypeDef) -> Value {
    match (&def.kind, v) {
        (Kind::Struct(s), Value::Object(o)) => {
            let mut out = Map::new();
            for (k, x) in o {
                let x = match s.field(k) {
                    Some(f) => view(x, &f.ty),
                    None => x.clone(),
                };
                out.insert(k.clone(), x);
            }
            for f in s.fields.iter().filter(|f| !o.contains_key(f.json)) {
                if let Some(x) = absent(f) {
                    out.insert(f.json.to_owned(), x);
                }
            }
            Value::Object(out)
        }
        (Kind::List(l), Value::Array(a)) => Value::Array(a.iter().map(|x| view(x, &l.elem)).collect()),
        (Kind::Map(m), Value::Object(o)) => {
            Value::Object(o.iter().map(|(k, x)| (k.clone(), view(x, &m.elem))).collect())
        }
        _ => v.clone(),
    }
}

/// What [`view`] shows of a field that is not set, if anything.
pub(super) fn absent(f: &Field) -> Option<Value> {
    match f.presence {
        Presence::Always => Some(proto::json::zero(&f.ty).map_or(Value::Null, |zero| view(&zero, &f.ty))),
        Presence::PointerOrNull => Some(Value::Null),
        _ => None,
    }
}

/// The paths that a value sets.
pub fn to_set(v: &Value, ty: Ty<'_>) -> Set {
    let mut out = Set::default();
    walk(v, ty, &mut Vec::new(), &mut out);
    out
}

fn walk(v: &Value, ty: Ty<'_>, path: &mut Vec<String>, out: &mut Set) {
    match ty.atom(Some(v)) {
        Atom::Scalar | Atom::List(None) | Atom::Map { atomic: true } => out.insert(path),
        Atom::List(Some(l)) => {
            let items = v.as_array().map_or(&[][..], Vec::as_slice);
            let elements: Vec<Option<String>> = items.iter().map(|i| item_element(l, i).ok()).collect();
            for (i, (item, e)) in items.iter().zip(&elements).enumerate() {
                let Some(e) = e else { continue };
                let once = elements.iter().enumerate().all(|(j, x)| j == i || x.as_ref() != Some(e));
                path.push(e.clone());
                // Items that share a key are owned together, not field by field.
                if once {
                    walk(item, Ty::Def(&l.elem), path, out);
                }
                out.insert(path);
                path.pop();
            }
        }
        Atom::Map { atomic: false } => {
            for (k, x) in v.as_object().into_iter().flatten() {
                let (child, declared) = ty.child(k);
                path.push(format!("f:{k}"));
                walk(x, child, path, out);
                let empty = x.is_null() || x.as_object().is_some_and(Map::is_empty);
                if empty || !declared {
                    out.insert(path);
                }
                path.pop();
            }
        }
    }
}

/// Checks an applied configuration against its type; the error names the field.
pub fn validate(v: &Value, ty: Ty<'_>) -> Result<(), String> {
    let mut errors = Vec::new();
    check(v, ty, &mut Vec::new(), &mut errors);
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(format!("errors:\n  {}", errors.join("\n  "))),
    }
}

/// A decoded value as Go code that makes it.
fn go_literal(v: &Value) -> String {
    let all = |items: Vec<String>| items.join(", ");
    match v {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(a) => format!("[]interface {{}}{{{}}}", all(a.iter().map(go_literal).collect())),
        Value::Object(o) => format!(
            "map[string]interface {{}}{{{}}}",
            all(o.iter().map(|(k, v)| format!("{k:?}:{}", go_literal(v))).collect())
        ),
        scalar => scalar.to_string(),
    }
}

fn check(v: &Value, ty: Ty<'_>, path: &mut Vec<String>, errors: &mut Vec<String>) {
    let mut fail = |path: &[String], why: String| errors.push(format!("{}: {why}", super::path_text(path)));
    if v.is_null() {
        return;
    }
    match ty.atom(Some(v)) {
        Atom::Scalar => {
            let Ty::Def(d) = ty else { return };
            let shown = || go_type(v);
            match (&d.kind, v) {
                (Kind::String | Kind::Bytes, Value::String(_))
                | (Kind::Bool, Value::Bool(_))
                | (Kind::Int32 | Kind::Int64 | Kind::Double, Value::Number(_)) => {}
                (Kind::String | Kind::Bytes, _) => fail(
                    path,
                    format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_literal(v)),
                ),
                (Kind::Bool, _) => {
                    fail(path, format!("expected boolean, got &{{{}}}", crate::patch::shown::go_text(v)));
                }
                (Kind::Int32 | Kind::Int64 | Kind::Double, _) => {
                    fail(path, format!("expected numeric (int or float), got {}", shown()));
                }
                (_, Value::Object(_) | Value::Array(_)) => {
                    fail(path, format!("expected any scalar, got {}", shown()));
                }
                _ => {}
            }
        }
        Atom::List(l) => {
            let Some(items) = v.as_array() else {
                return fail(path, format!("expected list, got &{{{}}}", crate::patch::shown::go_text(v)));
            };
            let mut seen: Vec<String> = Vec::new();
            for (i, item) in items.iter().enumerate() {
                let element = match l.map(|l| item_element(l, item)) {
                    None => format!("i:{i}"),
                    Some(Ok(e)) if seen.contains(&e) => {
                        let shown = super::path_text(std::slice::from_ref(&e));
                        errors.push(format!("{}: duplicate entries for key {shown}", super::path_text(path)));
                        continue;
                    }
                    Some(Ok(e)) => e,
                    Some(Err(why)) => {
                        errors.push(format!("{}: element {i}: {why}", super::path_text(path)));
                        continue;
                    }
                };
                seen.push(element.clone());
                let elem = match ty {
                    Ty::Def(TypeDef { kind: Kind::List(l), .. }) => Ty::Def(&l.elem),
                    other => other,
                };
                path.push(element);
                check(item, elem, path, errors);
                path.pop();
            }
        }
        Atom::Map { .. } => {
            let Some(o) = v.as_object() else {
                return fail(path, format!("expected map, got &{{{}}}", crate::patch::shown::go_text(v)));
            };
            for (k, x) in o {
                let (child, declared) = ty.child(k);
                path.push(format!("f:{k}"));
                if !declared && ty.is_closed() {
                    errors.push(format!("{}: field not declared in schema", super::path_text(path)));
                } else {
                    check(x, child, path, errors);
                }
                path.pop();
            }
        }
    }
}

//! What functions exist, for the type checker: their names, overloads and types, as a table in text that is read when
//! the first expression is compiled.
//!
//! Source: cel-spec's standard definitions, and the libraries of the Kubernetes v1.36 environment (strings 2, lists 3,
//! sets, optional types, regular expressions, URLs, IP addresses, quantities, semantic versions, formats, authorizer).

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::types::{Bindings, Object, Type, names};

/// One way to call a function.
#[derive(Debug)]
pub struct Overload {
    /// Upstream's name of the overload; costs depend on it.
    pub id: &'static str,
    /// Called as a method; the first parameter is its target.
    pub member: bool,
    pub params: Vec<Type>,
    pub result: Type,
    /// How many type variables occur.
    pub vars: usize,
}

impl Overload {
    /// Parameters and result with type variables of their own.
    pub fn instantiate(&self, bindings: &mut Bindings) -> (Vec<Type>, Type) {
        if self.vars == 0 {
            return (self.params.clone(), self.result.clone());
        }
        let first = bindings.count();
        bindings.reserve(self.vars);
        (self.params.iter().map(|p| shift(p, first)).collect(), shift(&self.result, first))
    }
}

fn shift(t: &Type, by: u32) -> Type {
    match t {
        Type::Var(v) => Type::Var(v + by),
        Type::List(e) => Type::list(shift(e, by)),
        Type::Map(kv) => Type::map(shift(&kv.0, by), shift(&kv.1, by)),
        Type::Opaque(n, p) => Type::Opaque(n, p.iter().map(|t| shift(t, by)).collect()),
        Type::Type(Some(t)) => Type::Type(Some(Arc::new(shift(t, by)))),
        other => other.clone(),
    }
}

/// The overloads of a function, in the order in which they are tried.
pub fn find(name: &str) -> Option<&'static [Overload]> {
    static ALL: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(read);
    ALL.get(name).map(Vec::as_slice)
}

fn read() -> HashMap<&'static str, Vec<Overload>> {
    let mut all: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for line in TABLE.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(id)) = (words.next(), words.next()) else { continue };
        let (id, member) = match id.strip_prefix('.') {
            Some(id) => (id, true),
            None => (id, false),
        };
        let mut vars = 0;
        let mut types: Vec<Type> = words.filter(|w| *w != "->").map(|w| parse(w, &mut vars)).collect();
        let Some(result) = types.pop() else { continue };
        all.entry(name).or_default().push(Overload { id, member, params: types, result, vars });
    }
    all
}

fn parse(word: &'static str, vars: &mut usize) -> Type {
    if let Some((head, rest)) = word.split_once('<') {
        let inner = rest.strip_suffix('>').unwrap_or(rest);
        return match head {
            "list" => Type::list(parse(inner, vars)),
            "opt" => Type::optional(parse(inner, vars)),
            "type" => Type::Type(Some(Arc::new(parse(inner, vars)))),
            _ => {
                let (k, v) = inner.split_once(',').unwrap_or((inner, "dyn"));
                Type::map(parse(k, vars), parse(v, vars))
            }
        };
    }
    let mut var = |n: u32| {
        *vars = (*vars).max(n as usize + 1);
        Type::Var(n)
    };
    match word {
        "A" => var(0),
        "B" => var(1),
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "ip" => Type::Opaque(names::IP, Arc::new([])),
        "cidr" => Type::Opaque(names::CIDR, Arc::new([])),
        "url" => Type::Object(Object::Named(names::URL)),
        "quantity" => Type::Object(Object::Named(names::QUANTITY)),
        "semver" => Type::Object(Object::Named(names::SEMVER)),
        "format" => Type::Object(Object::Named(names::FORMAT)),
        "authorizer" => Type::Object(Object::Named(names::AUTHORIZER)),
        "path_check" => Type::Object(Object::Named(names::PATH_CHECK)),
        "group_check" => Type::Object(Object::Named(names::GROUP_CHECK)),
        "resource_check" => Type::Object(Object::Named(names::RESOURCE_CHECK)),
        "decision" => Type::Object(Object::Named(names::DECISION)),
        _ => Type::Dyn,
    }
}

/// Name, overload (with a dot before it: a method), parameters, result.
const TABLE: &str = include_str!("functions.txt");

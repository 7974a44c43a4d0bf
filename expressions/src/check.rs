//! The type checker: finds what names and overloads mean, gives every node its type, and says what does not fit, in
//! upstream's words.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Env;
use super::ast::{Expr, Fold, Kind, Literal};
use super::decl::DeclType;
use super::error::{CompileError, Issue};
use super::functions::{self, Overload};
use super::parse::Parsed;
use super::types::{Bindings, Object, Type, most_general, names};
use super::validate;

/// A tree whose names are resolved, with what was learned about each node.
#[derive(Debug, Clone)]
pub struct Facts {
    pub root: Expr,
    /// Type of each node.
    pub types: Vec<Type>,
    /// Overloads that each call may mean at run time.
    pub overloads: Vec<Vec<&'static str>>,
    /// Which identifiers are names of types.
    pub type_names: Vec<bool>,
    /// Variables of the environment that occur.
    pub variables: BTreeSet<Box<str>>,
}

/// Checks an expression in an environment.
pub fn check(source: &str, parsed: Parsed, env: &Env) -> Result<Facts, CompileError> {
    let Parsed { mut root, nodes } = parsed;
    let n = nodes as usize;
    let mut c = Checker {
        env,
        source,
        issues: Vec::new(),
        types: vec![Type::Error; n],
        overloads: vec![Vec::new(); n],
        type_names: vec![false; n],
        vars: Bindings::default(),
        scopes: Vec::new(),
        variables: BTreeSet::new(),
    };
    c.expr(&mut root);
    let Checker { mut issues, mut types, overloads, type_names, vars, variables, .. } = c;
    for t in &mut types {
        *t = vars.substitute(t, true);
    }
    let facts = Facts { root, types, overloads, type_names, variables };
    if issues.is_empty() {
        issues = validate::literals(source, &facts);
    }
    if issues.is_empty() { Ok(facts) } else { Err(CompileError::new(source, issues)) }
}

struct Checker<'a> {
    env: &'a Env,
    source: &'a str,
    issues: Vec<Issue>,
    types: Vec<Type>,
    overloads: Vec<Vec<&'static str>>,
    type_names: Vec<bool>,
    vars: Bindings,
    /// Variables of macros, innermost last.
    scopes: Vec<(Box<str>, Type)>,
    variables: BTreeSet<Box<str>>,
}

/// What an identifier means.
enum Meaning {
    Variable(Type),
    TypeName(Type),
}

impl Checker<'_> {
    fn issue(&mut self, pos: u32, message: String) {
        self.issues.push(Issue::at(self.source, pos as usize, message));
    }

    fn of(&self, e: &Expr) -> Type {
        self.types[e.id as usize].clone()
    }

    fn set(&mut self, e: &Expr, t: Type) {
        self.types[e.id as usize] = t;
    }

    fn undeclared(&mut self, pos: u32, name: &str) {
        self.issue(pos, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn mismatch(&mut self, pos: u32, wanted: &Type, found: &Type) {
        self.issue(pos, format!("expected type '{wanted}' but found '{found}'"));
    }

    fn lookup(&self, name: &str) -> Option<Meaning> {
        if let Some((_, t)) = self.scopes.iter().rev().find(|(n, _)| &**n == name) {
            return Some(Meaning::Variable(t.clone()));
        }
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some(t) = self.env.lookup(name) {
            return Some(Meaning::Variable(t.clone()));
        }
        type_name(name, self.env).map(|t| Meaning::TypeName(Type::Type(Some(Arc::new(t)))))
    }

    fn expr(&mut self, e: &mut Expr) {
        match &mut e.kind {
            Kind::Literal(l) => {
                let t = match l {
                    Literal::Null => Type::Null,
                    Literal::Bool(_) => Type::Bool,
                    Literal::Int(_) => Type::Int,
                    Literal::Uint(_) => Type::Uint,
                    Literal::Double(_) => Type::Double,
                    Literal::String(_) => Type::String,
                    Literal::Bytes(_) => Type::Bytes,
                };
                self.set(e, t);
            }
            Kind::Ident(name) => {
                let name = name.clone();
                match self.lookup(&name) {
                    Some(m) => self.ident(e, &name, m),
                    None => self.undeclared(e.pos, &name),
                }
            }
            Kind::Select { .. } => self.select(e),
            Kind::Call { .. } => self.call(e),
            Kind::List(elements) => {
                let mut joined: Option<Type> = None;
                for element in elements {
                    self.expr(&mut element.value);
                    let t = self.entry_type(&element.value, element.optional);
                    joined = Some(self.join(element.value.pos, joined, t));
                }
                let of = joined.unwrap_or_else(|| self.vars.fresh());
                self.set(e, Type::list(of));
            }
            Kind::Map(entries) => {
                let (mut keys, mut values): (Option<Type>, Option<Type>) = (None, None);
                for entry in entries {
                    self.expr(&mut entry.key);
                    let t = self.of(&entry.key);
                    keys = Some(self.join(entry.key.pos, keys, t));
                    self.expr(&mut entry.value);
                    let t = self.entry_type(&entry.value, entry.optional);
                    values = Some(self.join(entry.value.pos, values, t));
                }
                let key = keys.unwrap_or_else(|| self.vars.fresh());
                let value = values.unwrap_or_else(|| self.vars.fresh());
                self.set(e, Type::map(key, value));
            }
            Kind::Struct { .. } => self.structure(e),
            Kind::Fold(_) => self.fold(e),
        }
    }

    fn ident(&mut self, e: &mut Expr, name: &str, m: Meaning) {
        let t = match m {
            Meaning::Variable(t) => {
                if !self.scopes.iter().any(|(n, _)| &**n == name) {
                    self.variables.insert(name.strip_prefix('.').unwrap_or(name).into());
                }
                t
            }
            Meaning::TypeName(t) => {
                self.type_names[e.id as usize] = true;
                t
            }
        };
        e.kind = Kind::Ident(name.strip_prefix('.').unwrap_or(name).into());
        self.set(e, t);
    }

    /// The type of an element or a value; of what is inside, where it is marked optional.
    fn entry_type(&mut self, value: &Expr, optional: bool) -> Type {
        let t = self.of(value);
        if !optional {
            return t;
        }
        match t.unwrap_optional() {
            Some(inner) => inner.clone(),
            None if t.is_dyn() => t,
            None => {
                self.mismatch(value.pos, &Type::optional(t.clone()), &t);
                t
            }
        }
    }

    /// The common type of the elements so far and the next.
    fn join(&mut self, pos: u32, so_far: Option<Type>, next: Type) -> Type {
        let Some(so_far) = so_far else { return next };
        if self.vars.assignable(&so_far, &next) {
            return most_general(&so_far, &next);
        }
        let (so_far, next) = (self.vars.substitute(&so_far, false), self.vars.substitute(&next, false));
        self.mismatch(pos, &so_far, &next);
        Type::Error
    }

    fn select(&mut self, e: &mut Expr) {
        if let Some(name) = e.qualified_name()
            && let Some(m) = self.lookup(&name)
        {
            return self.ident(e, &name, m);
        }
        let Kind::Select { operand, field, test } = &mut e.kind else { return };
        let (field, test) = (field.clone(), *test);
        let t = self.field(e.pos, operand, &field, false);
        self.set(e, if test { Type::Bool } else { t });
    }

    fn field(&mut self, pos: u32, operand: &mut Expr, field: &str, optional: bool) -> Type {
        self.expr(operand);
        let of = self.vars.substitute(&self.of(operand), false);
        let (target, was_optional) = match of.unwrap_optional() {
            Some(inner) => (inner.clone(), true),
            None => (of, false),
        };
        let result = match &target {
            Type::Map(kv) => kv.1.clone(),
            Type::Object(o) => match field_type(o, field) {
                Some(t) => t,
                None => {
                    self.issue(pos, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Var(_) => {
                self.vars.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.issue(pos, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        let result = self.vars.substitute(&result, false);
        if optional || was_optional { Type::optional(result) } else { result }
    }

    fn call(&mut self, e: &mut Expr) {
        let (id, pos) = (e.id, e.pos);
        let Kind::Call { function, target, args } = &mut e.kind else { return };
        if &**function == "_?._" {
            let [operand, field] = args.as_mut_slice() else { return };
            let Some(Literal::String(name)) = field.literal().cloned() else { return };
            let t = self.field(pos, operand, &name, true);
            self.types[field.id as usize] = Type::String;
            self.types[id as usize] = t;
            self.overloads[id as usize] = vec!["select_optional_field"];
            return;
        }
        for a in args.iter_mut() {
            self.expr(a);
        }
        if let Some(t) = target {
            let qualified = t.qualified_name().map(|q| format!("{q}.{function}"));
            let qualified = qualified.map(|q| q.strip_prefix('.').map(str::to_owned).unwrap_or(q));
            if let Some(name) = qualified.filter(|n| functions::find(n).is_some() && self.env.has_function(n))
            {
                *target = None;
                *function = name.into();
            } else {
                self.expr(t);
            }
        }
        let name: Box<str> = function.strip_prefix('.').unwrap_or(function).into();
        *function = name.clone();
        let Some(overloads) = functions::find(&name).filter(|_| self.env.has_function(&name)) else {
            return self.undeclared(pos, &name);
        };
        let mut types: Vec<Type> = Vec::with_capacity(args.len() + 1);
        types.extend(target.as_ref().map(|t| self.of(t)));
        types.extend(args.iter().map(|a| self.of(a)));
        if matches!(&*name, "_&&_" | "_||_") {
            let places: Vec<u32> = args.iter().map(|a| a.pos).collect();
            return self.logical(id, &types, &places, overloads);
        }
        self.resolve(id, pos, &name, target.is_some(), types, overloads);
    }

    fn logical(&mut self, id: u32, types: &[Type], places: &[u32], overloads: &'static [Overload]) {
        let mut fits = true;
        for (t, pos) in types.iter().zip(places) {
            if !self.vars.assignable(t, &Type::Bool) {
                let t = self.vars.substitute(t, false);
                self.mismatch(*pos, &Type::Bool, &t);
                fits = false;
            }
        }
        if fits {
            self.types[id as usize] = Type::Bool;
            self.overloads[id as usize] = overloads.iter().map(|o| o.id).collect();
        }
    }

    fn resolve(
        &mut self,
        id: u32,
        pos: u32,
        name: &str,
        member: bool,
        types: Vec<Type>,
        overloads: &'static [Overload],
    ) {
        let mut result: Option<Type> = None;
        for o in overloads.iter().filter(|o| o.member == member) {
            let (params, gives) = o.instantiate(&mut self.vars);
            if !self.vars.all_assignable(&types, &params) {
                continue;
            }
            self.overloads[id as usize].push(o.id);
            let gives = self.vars.substitute(&gives, false);
            result = Some(match result {
                None => gives,
                Some(r) if r.is_dyn() || r == gives => r,
                Some(_) => Type::Dyn,
            });
        }
        if let Some(t) = result {
            self.types[id as usize] = t;
            return;
        }
        let shown: Vec<String> = types.iter().map(|t| self.vars.substitute(t, true).to_string()).collect();
        let signature = match shown.split_first() {
            Some((target, rest)) if member => format!("{target}.({})", rest.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        self.issue(pos, format!("found no matching overload for '{name}' applied to '{signature}'"));
    }

    fn structure(&mut self, e: &mut Expr) {
        let (id, pos) = (e.id, e.pos);
        let Kind::Struct { name, fields } = &mut e.kind else { return };
        *name = name.strip_prefix('.').unwrap_or(name).into();
        let object = match self.env.made(name) {
            Some(o) => o,
            None => {
                match self.lookup(name) {
                    None => self.undeclared(pos, &name.clone()),
                    Some(Meaning::Variable(_)) => self.issue(pos, format!("'{name}' is not a type")),
                    Some(Meaning::TypeName(_)) => {
                        self.issue(pos, format!("'{name}' is not a message type"));
                    }
                }
                for f in fields {
                    self.expr(&mut f.value);
                }
                return;
            }
        };
        self.types[id as usize] = Type::Object(object.clone());
        for f in fields {
            self.expr(&mut f.value);
            let wanted = match field_type(&object, &f.name) {
                Some(t) => t,
                None => {
                    self.issue(f.pos, format!("undefined field '{}'", f.name));
                    Type::Error
                }
            };
            let given = self.entry_type(&f.value, f.optional);
            if !self.vars.assignable(&wanted, &given) {
                let given = self.vars.substitute(&given, true);
                let message = format!(
                    "expected type of field '{}' is '{wanted}' but provided type is '{given}'",
                    f.name
                );
                self.issue(f.pos, message);
            }
        }
    }

    fn fold(&mut self, e: &mut Expr) {
        let id = e.id;
        let Kind::Fold(fold) = &mut e.kind else { return };
        let Fold { range, var, var2, accu, init, condition, step, result } = &mut **fold;
        self.expr(range);
        self.expr(init);
        let over = self.vars.substitute(&self.of(range), false);
        let accu_type = self.of(init);
        let (first, second) = match &over {
            Type::List(of) if var2.is_some() => (Type::Int, (**of).clone()),
            Type::List(of) => ((**of).clone(), Type::Error),
            Type::Map(kv) => (kv.0.clone(), kv.1.clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            Type::Var(_) => {
                self.vars.assignable(&Type::Dyn, &over);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.issue(range.pos, message);
                (Type::Error, Type::Error)
            }
        };
        let depth = self.scopes.len();
        self.scopes.push((accu.clone(), accu_type.clone()));
        let loop_depth = self.scopes.len();
        self.scopes.push((var.clone(), first));
        if let Some(v) = var2 {
            self.scopes.push((v.clone(), second));
        }
        self.expr(condition);
        self.assert(condition, &Type::Bool);
        self.expr(step);
        self.assert(step, &accu_type);
        self.scopes.truncate(loop_depth);
        self.expr(result);
        self.scopes.truncate(depth);
        let t = self.vars.substitute(&self.of(result), false);
        self.types[id as usize] = t;
    }

    fn assert(&mut self, e: &Expr, wanted: &Type) {
        let found = self.of(e);
        if !self.vars.assignable(wanted, &found) {
            let (wanted, found) = (self.vars.substitute(wanted, false), self.vars.substitute(&found, false));
            self.mismatch(e.pos, &wanted, &found);
        }
    }
}

/// The type of a field of a structure.
fn field_type(o: &Object, field: &str) -> Option<Type> {
    match o {
        Object::Named(_) => None,
        Object::Decl(d) => d.field(field).map(|f| Type::from(&f.ty)),
        Object::Made(name) if &**name == "JSONPatch" => match field {
            "op" | "path" | "from" => Some(Type::String),
            "value" => Some(Type::Dyn),
            _ => None,
        },
        // The fields of `Object{}` are checked against the schema when the patch is applied.
        Object::Made(_) => Some(Type::Dyn),
    }
}

/// The type that a name stands for.
fn type_name(name: &str, env: &Env) -> Option<Type> {
    if let Some(o) = env.made(name) {
        return Some(Type::Object(o));
    }
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "string" => Type::String,
        "null_type" => Type::Null,
        "type" => Type::Type(None),
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        names::TIMESTAMP => Type::Timestamp,
        names::DURATION => Type::Duration,
        names::OPTIONAL => Type::optional(Type::Dyn),
        names::IP => Type::Opaque(names::IP, Arc::new([])),
        names::CIDR => Type::Opaque(names::CIDR, Arc::new([])),
        names::URL => named(names::URL),
        names::QUANTITY => named(names::QUANTITY),
        names::SEMVER => named(names::SEMVER),
        names::FORMAT => named(names::FORMAT),
        names::AUTHORIZER => named(names::AUTHORIZER),
        names::PATH_CHECK => named(names::PATH_CHECK),
        names::GROUP_CHECK => named(names::GROUP_CHECK),
        names::RESOURCE_CHECK => named(names::RESOURCE_CHECK),
        names::DECISION => named(names::DECISION),
        _ => return None,
    })
}

fn named(name: &'static str) -> Type {
    Type::from(&DeclType::named(name))
}

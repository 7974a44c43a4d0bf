//! Evaluation: walks a program over the values of its variables and counts what it costs, as upstream counts, so that
//! an expression is stopped where upstream stops it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::charge;
use super::library::operators;
use super::plan::{Call, Loop, Node, Plan, Presence};
use super::value::{EvalError, EvalResult, Key, List, Map, Value};

/// What the variables of an evaluation are. A variable is asked for at most once.
pub trait Activation<'a> {
    /// The value of a variable that the environment declared.
    fn resolve(&self, name: &str) -> EvalResult<'a>;
}

impl<'a> Activation<'a> for [(&str, Value<'a>)] {
    fn resolve(&self, name: &str) -> EvalResult<'a> {
        self.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.clone())
            .ok_or_else(|| EvalError::new(format!("no such attribute(s): {name}")))
    }
}

impl<'a, const N: usize> Activation<'a> for [(&str, Value<'a>); N] {
    fn resolve(&self, name: &str) -> EvalResult<'a> {
        self.as_slice().resolve(name)
    }
}

impl<'a> Activation<'a> for Vec<(&str, Value<'a>)> {
    fn resolve(&self, name: &str) -> EvalResult<'a> {
        self.as_slice().resolve(name)
    }
}

/// Elements that an evaluation may copy beyond what it is charged for. Upstream shares lists where we copy them.
const COPIES: usize = 50_000_000;

/// Evaluates; gives the result and what it cost.
pub fn run<'a>(plan: &'a Plan, variables: &dyn Activation<'a>, limit: u64) -> (EvalResult<'a>, u64) {
    let mut m = Machine {
        plan,
        variables,
        globals: vec![None; plan.variables.len()],
        locals: Vec::new(),
        cost: 0,
        limit,
        copied: 0,
    };
    let result = m.eval(&plan.root);
    (result, m.cost)
}

struct Machine<'p, 'a> {
    plan: &'a Plan,
    variables: &'p dyn Activation<'a>,
    globals: Vec<Option<EvalResult<'a>>>,
    locals: Vec<Value<'a>>,
    cost: u64,
    limit: u64,
    copied: usize,
}

const NO_OVERLOAD: EvalError = EvalError::Error(std::borrow::Cow::Borrowed("no such overload"));

impl<'a> Machine<'_, 'a> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, node: &'a Node) -> EvalResult<'a> {
        match node {
            Node::Const(v) => Ok(v.clone()),
            Node::Global(i) => {
                self.charge(1)?;
                self.global(*i)
            }
            Node::Local(i) => {
                self.charge(1)?;
                self.locals.get(*i).cloned().ok_or(NO_OVERLOAD)
            }
            Node::Select { of, field, how } => self.select(of, field, *how),
            Node::Index { of, index, optional } => self.index(of, index, *optional),
            Node::And(a, b) => self.logical(a, b, false),
            Node::Or(a, b) => self.logical(a, b, true),
            Node::If(parts) => {
                let (condition, a, b) = &**parts;
                match self.eval(condition)? {
                    Value::Bool(true) => self.eval(a),
                    Value::Bool(false) => self.eval(b),
                    _ => Err(NO_OVERLOAD),
                }
            }
            Node::NotStrictlyFalse(a) => {
                let v = self.eval(a);
                self.charge(1)?;
                match v {
                    Err(EvalError::CostLimit) => Err(EvalError::CostLimit),
                    Ok(Value::Bool(b)) => Ok(Value::Bool(b)),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::Otherwise { of, other, value } => match self.eval(of)? {
                Value::Optional(Some(v)) if *value => Ok((*v).clone()),
                v @ Value::Optional(Some(_)) => Ok(v),
                Value::Optional(None) => self.eval(other),
                _ => Err(NO_OVERLOAD),
            },
            Node::Call(call) => self.call(call),
            Node::List(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (item, optional) in items {
                    let v = self.eval(item)?;
                    if let Some(v) = present(v, *optional)? {
                        out.push(v);
                    }
                }
                self.charge(10)?;
                Ok(out.into())
            }
            Node::Map(entries) => self.map(entries),
            Node::Object { name, fields } => {
                let mut out = BTreeMap::new();
                for (field, value, optional) in fields {
                    let v = self.eval(value)?;
                    if let Some(v) = present(v, *optional)? {
                        out.insert(field.to_string(), v);
                    }
                }
                self.charge(40)?;
                Ok(Value::Map(Map::Object(name.clone(), Arc::new(out))))
            }
            Node::Fold(l) => self.fold(l),
        }
    }

    fn global(&mut self, i: usize) -> EvalResult<'a> {
        if let Some(v) = &self.globals[i] {
            return v.clone();
        }
        let v = self.variables.resolve(&self.plan.variables[i]);
        self.globals[i] = Some(v.clone());
        v
    }

    /// `&&` and `||`: one side that decides makes up for an error on the other.
    fn logical(&mut self, a: &'a Node, b: &'a Node, decides: bool) -> EvalResult<'a> {
        let left = self.eval(a);
        match &left {
            Ok(Value::Bool(v)) if *v == decides => return left,
            Err(EvalError::CostLimit) => return left,
            _ => {}
        }
        let right = self.eval(b);
        match (left, right) {
            (_, Err(EvalError::CostLimit)) => Err(EvalError::CostLimit),
            (_, Ok(Value::Bool(v))) if v == decides => Ok(Value::Bool(v)),
            (Ok(Value::Bool(_)), Ok(Value::Bool(v))) => Ok(Value::Bool(v)),
            (Err(e), _) => Err(e),
            (Ok(Value::Bool(_)), Err(e)) => Err(e),
            _ => Err(NO_OVERLOAD),
        }
    }

    /// Charges for a step into a value: one, and one more where the value is no variable's or field's.
    fn step_into(&mut self, of: &Node) -> Result<(), EvalError> {
        let variable = matches!(
            of,
            Node::Global(_) | Node::Local(_) | Node::Select { .. } | Node::Index { .. } | Node::If(_)
        );
        self.charge(if variable { 1 } else { 2 })
    }

    fn select(&mut self, of: &'a Node, field: &str, how: Presence) -> EvalResult<'a> {
        let target = self.eval(of)?;
        if how != Presence::Test {
            self.step_into(of)?;
        }
        let (target, was_optional) = match target {
            Value::Optional(None) if how == Presence::Test => return Ok(Value::Bool(false)),
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(v)) => ((*v).clone(), true),
            v => (v, false),
        };
        let found = match &target {
            Value::Map(m) => m.field(field),
            _ => None,
        };
        match how {
            Presence::Test => Ok(Value::Bool(found.is_some())),
            Presence::Optional => optional(found.transpose()?),
            Presence::Value if was_optional => optional(found.transpose()?),
            Presence::Value => found.unwrap_or_else(|| Err(no_such_key(field))),
        }
    }

    fn index(&mut self, of: &'a Node, index: &'a Node, wants_optional: bool) -> EvalResult<'a> {
        let target = self.eval(of)?;
        let key = self.eval(index)?;
        self.step_into(of)?;
        let (target, was_optional) = match target {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(v)) => ((*v).clone(), true),
            v => (v, false),
        };
        let found = match operators::element(&target, &key) {
            Err(EvalError::NoOverload) => None,
            other => other?,
        };
        if wants_optional || was_optional {
            return optional(found);
        }
        found.ok_or_else(|| match target {
            Value::List(_) => {
                EvalError::new(format!("index out of bounds: {}", super::library::printf::shown(&key)))
            }
            _ => no_such_key(&super::library::printf::shown(&key)),
        })
    }

    fn call(&mut self, call: &'a Call) -> EvalResult<'a> {
        let mut args = Vec::with_capacity(call.args.len());
        for a in &call.args {
            args.push(self.eval(a)?);
        }
        if !call.constant_set {
            self.charge(charge::before(&call.name, call.overload, &args))?;
        }
        if matches!(&*call.name, "_+_" | "reverse" | "slice" | "flatten" | "cel.@mapInsert") {
            self.copied += args.iter().map(copied).sum::<usize>();
            if self.copied > COPIES {
                return Err(EvalError::CostLimit);
            }
        }
        let result = (call.function)(&args, call.regex.as_ref()).map_err(|e| match e {
            EvalError::NoOverload => no_overload(&call.name, &args),
            other => other,
        })?;
        self.charge(charge::after(&call.name, &result))?;
        Ok(result)
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> EvalResult<'a> {
        let mut out = BTreeMap::new();
        for (key, value, is_optional) in entries {
            let k = self.eval(key)?;
            let v = self.eval(value)?;
            let Some(v) = present(v, *is_optional)? else { continue };
            let key = Key::from_value(&k)
                .ok_or_else(|| EvalError::new(format!("unsupported key type: {}", k.type_name())))?;
            if out.insert(key, v).is_some() {
                let shown = super::library::printf::shown(&k);
                return Err(EvalError::new(format!("Failed with repeated key: {shown}")));
            }
        }
        self.charge(30)?;
        Ok(Value::Map(Map::Made(Arc::new(out))))
    }

    fn fold(&mut self, l: &'a Loop) -> EvalResult<'a> {
        let base = self.locals.len();
        if l.bind {
            let v = self.eval(&l.init)?;
            return self.within(l.slot, v, &l.result, base);
        }
        let range = self.eval(&l.range)?;
        let init = self.eval(&l.init)?;
        self.locals.resize(l.slot, Value::Null);
        self.locals.push(init);
        self.locals.push(Value::Null);
        if l.two {
            self.locals.push(Value::Null);
        }
        let done = match &range {
            Value::List(list) => self.over_list(l, list),
            Value::Map(map) => self.over_map(l, map),
            other => {
                let message = format!("got '{}', expected iterable type", other.type_name());
                Err(EvalError::new(message))
            }
        };
        let result = match done {
            Ok(()) => {
                let accu = std::mem::replace(&mut self.locals[l.slot], Value::Null);
                self.locals.truncate(l.slot);
                return self.within(l.slot, accu, &l.result, base);
            }
            Err(e) => Err(e),
        };
        self.locals.truncate(base);
        result
    }

    /// Evaluates a result with the accumulator in its place.
    fn within(&mut self, slot: usize, accu: Value<'a>, result: &'a Node, base: usize) -> EvalResult<'a> {
        self.locals.resize(slot, Value::Null);
        self.locals.push(accu);
        let v = self.eval(result);
        self.locals.truncate(base);
        v
    }

    fn over_list(&mut self, l: &'a Loop, list: &List<'a>) -> Result<(), EvalError> {
        for i in 0..list.len() {
            let Some(v) = list.get(i) else { break };
            let v = v?;
            let going = match l.two {
                true => self.iterate(l, Value::Int(i64::try_from(i).unwrap_or(i64::MAX)), Some(v))?,
                false => self.iterate(l, v, None)?,
            };
            if !going {
                break;
            }
        }
        Ok(())
    }

    fn over_map(&mut self, l: &'a Loop, map: &Map<'a>) -> Result<(), EvalError> {
        for k in map.keys() {
            let v = match l.two {
                true => map.get(&k).transpose()?,
                false => None,
            };
            if !self.iterate(l, k, v)? {
                break;
            }
        }
        Ok(())
    }

    /// One turn of a loop; false when the loop is over. An error of a quantifier's step is kept in the accumulator's
    /// stead by the logical operators, so an error that gets here ends the loop.
    fn iterate(&mut self, l: &'a Loop, a: Value<'a>, b: Option<Value<'a>>) -> Result<bool, EvalError> {
        self.locals[l.slot + 1] = a;
        if let Some(b) = b {
            self.locals[l.slot + 2] = b;
        }
        if !matches!(self.eval(&l.condition)?, Value::Bool(true)) {
            return Ok(false);
        }
        self.step(&l.step, l.slot)?;
        Ok(true)
    }

    /// Computes the accumulator's next value. Where the step only adds to it, it is changed in place.
    fn step(&mut self, step: &'a Node, slot: usize) -> Result<(), EvalError> {
        match step {
            Node::If(parts) => {
                let (condition, a, b) = &**parts;
                match self.eval(condition)? {
                    Value::Bool(true) => self.step(a, slot),
                    Value::Bool(false) => self.step(b, slot),
                    _ => Err(NO_OVERLOAD),
                }
            }
            Node::Local(i) if *i == slot => self.charge(1),
            Node::Call(call) if matches!(call.args.first(), Some(Node::Local(i)) if *i == slot) => {
                match (&*call.name, call.args.as_slice()) {
                    ("_+_", [_, added @ Node::List(_)]) => self.append(slot, added),
                    ("_+_", [_, Node::Const(added @ Value::List(_))]) => {
                        self.charge(1)?;
                        self.push_all(slot, added.clone())
                    }
                    ("cel.@mapInsert", [_, rest @ ..]) => self.insert(slot, rest),
                    _ => {
                        self.locals[slot] = self.call(call)?;
                        Ok(())
                    }
                }
            }
            other => {
                let v = self.eval(other)?;
                self.locals[slot] = v;
                Ok(())
            }
        }
    }

    fn append(&mut self, slot: usize, added: &'a Node) -> Result<(), EvalError> {
        self.charge(1)?;
        let added = self.eval(added)?;
        self.push_all(slot, added)
    }

    fn push_all(&mut self, slot: usize, added: Value<'a>) -> Result<(), EvalError> {
        self.charge(1)?;
        let Value::List(added) = added else { return Err(NO_OVERLOAD) };
        let Value::List(List::Made(items)) = &mut self.locals[slot] else { return Err(NO_OVERLOAD) };
        let items = Arc::make_mut(items);
        super::library::bounded(items.len() + added.len(), super::library::MAX_ITEMS)?;
        for v in added.iter() {
            items.push(v?);
        }
        Ok(())
    }

    fn insert(&mut self, slot: usize, args: &'a [Node]) -> Result<(), EvalError> {
        self.charge(1)?;
        let mut values = Vec::with_capacity(args.len());
        for a in args {
            values.push(self.eval(a)?);
        }
        self.charge(1)?;
        let Value::Map(Map::Made(map)) = &mut self.locals[slot] else { return Err(NO_OVERLOAD) };
        let map = Arc::make_mut(map);
        operators::insert_into(map, &values)?;
        super::library::bounded(map.len(), super::library::MAX_ITEMS)
    }
}

fn copied(v: &Value<'_>) -> usize {
    match v {
        Value::List(l) => l.len(),
        Value::Map(Map::Made(m)) => m.len(),
        _ => 0,
    }
}

fn optional<'a>(v: Option<Value<'a>>) -> EvalResult<'a> {
    Ok(match v {
        Some(v @ Value::Optional(_)) => v,
        v => Value::Optional(v.map(Arc::new)),
    })
}

/// What an element marked optional adds, if anything.
fn present<'a>(v: Value<'a>, is_optional: bool) -> Result<Option<Value<'a>>, EvalError> {
    if !is_optional {
        return Ok(Some(v));
    }
    match v {
        Value::Optional(v) => Ok(v.map(|v| (*v).clone())),
        other => {
            let shown = super::library::printf::shown(&other);
            let message = format!("cannot initialize optional list element from non-optional value {shown}");
            Err(EvalError::new(message))
        }
    }
}

fn no_such_key(name: &str) -> EvalError {
    EvalError::new(format!("no such key: {name}"))
}

fn no_overload(name: &str, args: &[Value<'_>]) -> EvalError {
    if name.starts_with('_') || matches!(name, "!_" | "-_" | "@in") {
        return NO_OVERLOAD;
    }
    let types: Vec<&str> = args.iter().map(Value::type_name).collect();
    EvalError::new(format!("no such overload: {name}({})", types.join(", ")))
}

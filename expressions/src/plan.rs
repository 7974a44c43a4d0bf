//! From a checked tree to the program that is evaluated: names become numbers, functions become pointers, what is
//! constant is computed once.

use std::sync::Arc;

use regex::Regex;

use super::ast::{Element, Expr, Fold, Kind, Literal};
use super::check::Facts;
use super::error::{CompileError, Issue};
use super::library::{self, Builtin, strings};
use super::types::Type;
use super::value::{Map, Value};

/// A program's node.
#[derive(Debug)]
pub enum Node {
    Const(Value<'static>),
    /// A variable of the environment, by its place in [`Plan::variables`].
    Global(usize),
    /// A variable of a macro, by its place on the stack.
    Local(usize),
    Select {
        of: Box<Node>,
        field: Box<str>,
        how: Presence,
    },
    Index {
        of: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<(Node, Node, Node)>),
    NotStrictlyFalse(Box<Node>),
    /// `a.or(b)`, or `a.orValue(b)`.
    Otherwise {
        of: Box<Node>,
        other: Box<Node>,
        value: bool,
    },
    Call(Box<Call>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Object {
        name: Arc<str>,
        fields: Vec<(Box<str>, Node, bool)>,
    },
    Fold(Box<Loop>),
}

/// What a selection asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The value; it must be there.
    Value,
    /// Whether it is there.
    Test,
    /// The value, if it is there.
    Optional,
}

/// A call of a function.
pub struct Call {
    pub name: Box<str>,
    /// The overload, where the types leave one alone; some costs hang on it.
    pub overload: &'static str,
    pub function: Builtin,
    pub args: Vec<Node>,
    pub regex: Option<Regex>,
    /// `x in [constants]` is a lookup and costs nothing by itself.
    pub constant_set: bool,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("name", &self.name).field("args", &self.args).finish_non_exhaustive()
    }
}

/// A loop.
#[derive(Debug)]
pub struct Loop {
    pub range: Node,
    pub two: bool,
    /// Where the accumulator lives; the loop's variables come after it.
    pub slot: usize,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
    /// Runs no iteration: only the accumulator's name is bound.
    pub bind: bool,
}

/// A program and the variables that it reads.
#[derive(Debug)]
pub struct Plan {
    pub root: Node,
    pub variables: Vec<Box<str>>,
}

/// Plans a checked expression.
pub fn plan(source: &str, facts: &Facts) -> Result<Plan, CompileError> {
    let mut p = Planner { facts, variables: Vec::new(), scopes: Vec::new(), issue: None };
    let root = p.node(&facts.root);
    match p.issue {
        None => Ok(Plan { root, variables: p.variables }),
        Some((pos, message)) => {
            Err(CompileError::new(source, vec![Issue::at(source, pos as usize, message)]))
        }
    }
}

struct Planner<'a> {
    facts: &'a Facts,
    variables: Vec<Box<str>>,
    scopes: Vec<Box<str>>,
    issue: Option<(u32, String)>,
}

fn constant(l: &Literal) -> Value<'static> {
    match l {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(n) => Value::Int(*n),
        Literal::Uint(n) => Value::Uint(*n),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(s) => Value::from(s.to_string()),
        Literal::Bytes(b) => Value::Bytes(Arc::from(&**b)),
    }
}

/// The name of the type that an identifier stands for.
fn type_value(t: &Type) -> Value<'static> {
    use super::types::names;
    let name = match t {
        Type::Type(Some(t)) => match &**t {
            Type::Timestamp => names::TIMESTAMP.to_owned(),
            Type::Duration => names::DURATION.to_owned(),
            Type::Null => "null_type".to_owned(),
            Type::List(_) => "list".to_owned(),
            Type::Map(_) => "map".to_owned(),
            Type::Opaque(name, _) => (*name).to_owned(),
            other => other.to_string(),
        },
        _ => "type".to_owned(),
    };
    Value::Type(name.into())
}

impl Planner<'_> {
    fn boxed(&mut self, e: &Expr) -> Box<Node> {
        Box::new(self.node(e))
    }

    fn node(&mut self, e: &Expr) -> Node {
        match &e.kind {
            Kind::Literal(l) => Node::Const(constant(l)),
            Kind::Ident(name) => self.ident(e, name),
            Kind::Select { operand, field, test } => {
                let how = if *test { Presence::Test } else { Presence::Value };
                Node::Select { of: self.boxed(operand), field: field.clone(), how }
            }
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args),
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) if entries.is_empty() => Node::Const(Value::Map(Map::Made(Arc::default()))),
            Kind::Map(entries) => Node::Map(
                entries.iter().map(|x| (self.node(&x.key), self.node(&x.value), x.optional)).collect(),
            ),
            Kind::Struct { name, fields } => Node::Object {
                name: Arc::from(&**name),
                fields: fields.iter().map(|f| (f.name.clone(), self.node(&f.value), f.optional)).collect(),
            },
            Kind::Fold(f) => self.fold(f),
        }
    }

    fn ident(&mut self, e: &Expr, name: &str) -> Node {
        if self.facts.type_names[e.id as usize] {
            return Node::Const(type_value(&self.facts.types[e.id as usize]));
        }
        if let Some(i) = self.scopes.iter().rposition(|n| &**n == name) {
            return Node::Local(i);
        }
        let i = self.variables.iter().position(|v| &**v == name).unwrap_or_else(|| {
            self.variables.push(name.into());
            self.variables.len() - 1
        });
        Node::Global(i)
    }

    fn list(&mut self, elements: &[Element]) -> Node {
        let nodes: Vec<(Node, bool)> = elements.iter().map(|x| (self.node(&x.value), x.optional)).collect();
        let constants: Option<Vec<Value<'static>>> = nodes
            .iter()
            .map(|(n, optional)| match n {
                Node::Const(v) if !optional => Some(v.clone()),
                _ => None,
            })
            .collect();
        match constants {
            Some(values) => Node::Const(values.into()),
            None => Node::List(nodes),
        }
    }

    fn call(&mut self, e: &Expr, name: &str, target: Option<&Expr>, args: &[Expr]) -> Node {
        match (name, args) {
            ("_&&_", [a, b]) => return Node::And(self.boxed(a), self.boxed(b)),
            ("_||_", [a, b]) => return Node::Or(self.boxed(a), self.boxed(b)),
            ("_?_:_", [c, a, b]) => {
                return Node::If(Box::new((self.node(c), self.node(a), self.node(b))));
            }
            ("@not_strictly_false", [a]) => return Node::NotStrictlyFalse(self.boxed(a)),
            ("_[_]" | "_[?_]", [of, index]) => {
                let optional = name == "_[?_]";
                return Node::Index { of: self.boxed(of), index: self.boxed(index), optional };
            }
            ("_?._", [of, field]) => {
                let Some(Literal::String(field)) = field.literal() else { return Node::Const(Value::Null) };
                return Node::Select { of: self.boxed(of), field: field.clone(), how: Presence::Optional };
            }
            ("or" | "orValue", [other]) if target.is_some() => {
                let of = target.map(|t| self.boxed(t)).unwrap_or_else(|| Box::new(Node::Const(Value::Null)));
                return Node::Otherwise { of, other: self.boxed(other), value: name == "orValue" };
            }
            _ => {}
        }
        let mut nodes: Vec<Node> = target.into_iter().chain(args).map(|a| self.node(a)).collect();
        let Some(function) = library::find(name) else {
            self.issue.get_or_insert_with(|| (e.pos, format!("function '{name}' has no implementation")));
            return Node::Const(Value::Null);
        };
        if is_conversion(name)
            && let [Node::Const(v)] = nodes.as_slice()
            && let Ok(v) = function(std::slice::from_ref(v), None)
        {
            return Node::Const(v);
        }
        let mut regex = None;
        if matches!(name, "matches" | "find" | "findAll")
            && let Some(Node::Const(Value::String(pattern))) = nodes.get(1)
        {
            match strings::regex(pattern) {
                Ok(r) => regex = Some(r),
                Err(err) => {
                    self.issue.get_or_insert_with(|| (e.pos, err.to_string()));
                }
            }
        }
        let overload = match self.facts.overloads[e.id as usize].as_slice() {
            [one] => one,
            _ => "",
        };
        let constant_set = name == "@in" && matches!(nodes.get(1), Some(Node::Const(_)));
        nodes.shrink_to_fit();
        Node::Call(Box::new(Call { name: name.into(), overload, function, args: nodes, regex, constant_set }))
    }

    fn fold(&mut self, f: &Fold) -> Node {
        let range = self.node(&f.range);
        let init = self.node(&f.init);
        let slot = self.scopes.len();
        self.scopes.push(f.accu.clone());
        self.scopes.push(f.var.clone());
        self.scopes.extend(f.var2.clone());
        let condition = self.node(&f.condition);
        let step = self.node(&f.step);
        self.scopes.truncate(slot + 1);
        let result = self.node(&f.result);
        self.scopes.truncate(slot);
        Node::Fold(Box::new(Loop {
            range,
            two: f.var2.is_some(),
            slot,
            init,
            condition,
            step,
            result,
            bind: f.is_bind(),
        }))
    }
}

fn is_conversion(name: &str) -> bool {
    matches!(name, "bool" | "bytes" | "double" | "duration" | "int" | "string" | "timestamp" | "uint")
}

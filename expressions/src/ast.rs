//! The syntax tree of one expression, as the type checker, the cost estimate and the planner read it.
//!
//! Nodes are numbered from zero so that facts about them (types, overloads, sizes) live in plain vectors. The tree
//! is never deeper than [`MAX_DEPTH`](super::parse::MAX_DEPTH) by much, so that walking it may recurse.

/// One node.
#[derive(Debug, Clone)]
pub struct Expr {
    /// Number of the node in its tree.
    pub id: u32,
    /// Where it begins in the source, in characters.
    pub pos: u32,
    pub kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum Kind {
    Literal(Literal),
    Ident(Box<str>),
    /// `operand.field`; with `test` it is `has(operand.field)`.
    Select {
        operand: Box<Expr>,
        field: Box<str>,
        test: bool,
    },
    /// Function, operator or method.
    Call {
        function: Box<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct {
        name: Box<str>,
        fields: Vec<FieldInit>,
    },
    Fold(Box<Fold>),
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Box<str>),
    Bytes(Box<[u8]>),
}

/// An element of a list literal; an optional one is left out when it has no value.
#[derive(Debug, Clone)]
pub struct Element {
    pub value: Expr,
    pub optional: bool,
}

/// An entry of a map literal.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

/// A field of an object literal.
#[derive(Debug, Clone)]
pub struct FieldInit {
    pub pos: u32,
    pub name: Box<str>,
    pub value: Expr,
    pub optional: bool,
}

/// What macros become: a loop over `range` that folds into an accumulator.
#[derive(Debug, Clone)]
pub struct Fold {
    pub range: Expr,
    pub var: Box<str>,
    /// Second variable: the value beside the key or index in `var`.
    pub var2: Option<Box<str>>,
    pub accu: Box<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// Name of the accumulator of all macros but those that only bind a variable.
pub const ACCUMULATOR: &str = "@result";

impl Fold {
    /// Whether this only binds the accumulator's name to its first value (`optMap`, `sortBy`).
    pub fn is_bind(&self) -> bool {
        matches!(&self.range.kind, Kind::List(l) if l.is_empty())
            && matches!(self.condition.kind, Kind::Literal(Literal::Bool(false)))
            && &*self.accu != ACCUMULATOR
    }
}

impl Expr {
    /// `a.b.c`, when that is what the expression spells.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select { operand, field, test: false } => {
                let mut name = operand.qualified_name()?;
                name.push('.');
                name.push_str(field);
                Some(name)
            }
            _ => None,
        }
    }

    /// The literal, when it is one.
    pub fn literal(&self) -> Option<&Literal> {
        match &self.kind {
            Kind::Literal(l) => Some(l),
            _ => None,
        }
    }
}

//! The Common Expression Language as Kubernetes v1.36 speaks it: validation rules of custom resources, admission
//! policies, match conditions of webhooks, the rules in authentication and authorization configuration, and the
//! selectors of devices ([`device`]).
//!
//! The way of an expression: [`parse`] (syntax, macros) → [`check`] (types; upstream's compile errors) → [`cost`] (an
//! estimate of the most it can cost, for schemas) → [`plan`] → [`eval`] (with a cost limit). Compile once and keep the
//! [`Program`]; it is immutable and can be evaluated by many threads at once.
//!
//! The parser is the `cel` crate's. The rest is ours because upstream's behaviour hangs on parts that the crate does not
//! have: a type checker with declared types, estimates and run-time accounting of costs, and values that borrow from
//! the request's JSON instead of copying it.
//!
//! ```ignore
//! let env = Env::default().variable("object", DeclType::DYN).variable("limit", DeclType::INT);
//! let program = expressions::compile("object.spec.replicas <= limit", &env)?.program()?;
//! let vars = [("object", Value::from_untyped(&pod)), ("limit", Value::Int(3))];
//! let allowed = program.eval(&vars, &mut Budget::new(expressions::RUNTIME_BUDGET))?;
//! ```

pub mod admission;
mod ast;
pub mod authority;
mod charge;
mod check;
pub mod cost;
pub mod decl;
pub mod device;
pub mod error;
mod eval;
mod functions;
mod library;
mod list;
mod macros;
mod map;
pub mod native;
mod parse;
mod plan;
mod schema;
pub mod semver;
#[cfg(test)]
mod tests;
pub mod text;
mod time;
pub mod types;
mod url;
mod validate;
pub mod value;

use std::sync::Arc;

pub use decl::DeclType;
pub use error::CompileError;
pub use eval::Activation;
pub use time::parse_duration;
pub use types::Type;
pub use value::{EvalError, EvalResult, Value};

/// Most that one evaluation may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Most that all rules on one object, or one binding of a policy, may cost together.
pub const RUNTIME_BUDGET: u64 = 10_000_000;
/// Most that the match conditions of one webhook or policy may cost together.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;

/// What an expression can name: its variables and their types.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: Vec<(Box<str>, Type)>,
    mutation: bool,
    bindings: bool,
}

impl Env {
    /// Declares a variable.
    #[must_use]
    pub fn variable(self, name: &str, ty: DeclType) -> Self {
        self.typed(name, Type::from(&ty))
    }

    /// Declares a variable of a type that another expression has. The name may be qualified (`variables.x`).
    #[must_use]
    pub fn typed(mut self, name: &str, ty: Type) -> Self {
        self.variables.retain(|(n, _)| &**n != name);
        self.variables.push((name.into(), ty));
        self
    }

    /// Declares that the variables `name.FIELD` exist for these fields, so that another is an undefined field of `name`
    /// and `has(name.FIELD)` is true.
    #[must_use]
    pub fn namespace<'n>(self, name: &str, fields: impl Iterator<Item = &'n str>) -> Self {
        let fields =
            fields.map(|f| (f.into(), decl::FieldDecl { json: f.into(), ty: DeclType::DYN })).collect();
        let decl = decl::ObjectDecl { name: format!("kubernetes.{name}"), fields, open: false };
        self.typed(name, Type::Object(types::Object::Decl(Arc::new(decl))))
    }

    /// The same without a variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.variables.retain(|(n, _)| &**n != name);
        self
    }

    /// Allows what mutations make: `Object{…}`, `JSONPatch{…}` and the functions on them.
    #[must_use]
    pub fn with_mutations(mut self) -> Self {
        self.mutation = true;
        self
    }

    /// Allows `cel.bind(name, value, result)`.
    #[must_use]
    pub fn with_bindings(mut self) -> Self {
        self.bindings = true;
        self
    }

    fn lookup(&self, name: &str) -> Option<&Type> {
        self.variables.iter().find(|(n, _)| &**n == name).map(|(_, t)| t)
    }

    fn has_function(&self, name: &str) -> bool {
        self.mutation || name != "jsonpatch.escapeKey"
    }

    /// The type of objects that mutations make, by that name.
    fn made(&self, name: &str) -> Option<types::Object> {
        let known = self.mutation && (name == "JSONPatch" || name == "Object" || name.starts_with("Object."));
        known.then(|| types::Object::Made(name.into()))
    }
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Compiled {
    source: Box<str>,
    facts: check::Facts,
}

/// Compiles `expression`. The error is upstream's text: `ERROR: <input>:1:1: undeclared reference to 'x' …`.
pub fn compile(expression: &str, env: &Env) -> Result<Compiled, CompileError> {
    let parsed = parse::parse(expression, env.bindings)?;
    let facts = check::check(expression, parsed, env)?;
    Ok(Compiled { source: expression.into(), facts })
}

impl Compiled {
    /// The type of the result.
    pub fn output(&self) -> &Type {
        &self.facts.types[self.facts.root.id as usize]
    }

    /// Whether the expression names this variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.facts.variables.contains(variable)
    }

    /// The least and the most that an evaluation can cost, when all variables are of the shape `root` says.
    pub fn cost(&self, root: &DeclType) -> cost::Estimate {
        cost::estimate(&self.facts, root)
    }

    /// The program to evaluate.
    pub fn program(&self) -> Result<Program, CompileError> {
        Ok(Program { plan: Arc::new(plan::plan(&self.source, &self.facts)?) })
    }
}

/// What evaluations may still cost together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    remaining: u64,
}

impl Budget {
    pub fn new(cost: u64) -> Self {
        Self { remaining: cost }
    }

    /// What is left.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Takes `cost` away; false when there is less left.
    pub fn spend(&mut self, cost: u64) -> bool {
        let enough = cost <= self.remaining;
        self.remaining = self.remaining.saturating_sub(cost);
        enough
    }
}

/// Why an evaluation gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The expression itself failed, or cost more than one evaluation may.
    #[error("{0}")]
    Eval(EvalError),
    /// The shared budget ran out.
    #[error("out of cost budget")]
    OutOfBudget,
}

/// An expression that can be evaluated. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Program {
    plan: Arc<plan::Plan>,
}

impl Program {
    /// Evaluates with at most [`PER_CALL_LIMIT`], and takes the cost from `budget`.
    pub fn eval<'a>(
        &'a self,
        variables: &dyn Activation<'a>,
        budget: &mut Budget,
    ) -> Result<Value<'a>, Failure> {
        let (result, cost) = self.run(variables);
        if !budget.spend(cost) {
            return Err(Failure::OutOfBudget);
        }
        result.map_err(Failure::Eval)
    }

    /// Evaluates with at most [`PER_CALL_LIMIT`]; gives the cost beside the result.
    pub fn run<'a>(&'a self, variables: &dyn Activation<'a>) -> (EvalResult<'a>, u64) {
        eval::run(&self.plan, variables, PER_CALL_LIMIT)
    }

    /// Names of the variables that it reads.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.plan.variables.iter().map(|v| &**v)
    }
}

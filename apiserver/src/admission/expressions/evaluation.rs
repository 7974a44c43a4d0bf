//! Compiled expressions, and the evaluation of a group of them for one request.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use serde_json::Value as Json;

use crate::cel::admission::declare;
use crate::cel::authority::{Authority, ResourceCheck, Subject, subject};
use crate::cel::native::Native;
use crate::cel::value::{Key, Map};
use crate::cel::{Activation, Env, EvalError, EvalResult, Program, Type, Value, compile};
use crate::request::UserInfo;

/// An expression of a configuration, compiled; or why it could not be.
#[derive(Debug, Clone)]
pub struct Expression {
    pub source: String,
    pub program: Result<Program, String>,
    /// Type of the result; `dyn` where the expression does not compile.
    pub output: Type,
}

impl Expression {
    /// Compiles `source`. `types` are those that the result may have; none means any.
    pub fn new(source: &str, env: &Env, types: &[Type]) -> Self {
        let (program, output) = match compiled(source, env, types) {
            Ok((program, output)) => (Ok(program), output),
            Err((why, output)) => (Err(why), output),
        };
        Self { source: source.to_owned(), program, output }
    }

    /// Why it does not compile, in upstream's words.
    pub fn error(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }
}

fn compiled(source: &str, env: &Env, types: &[Type]) -> Result<(Program, Type), (String, Type)> {
    let failed = |e: crate::cel::CompileError| (format!("compilation failed: {e}"), Type::Dyn);
    let compiled = compile(source, env).map_err(failed)?;
    let output = compiled.output().clone();
    if !types.is_empty() && !types.contains(&output) {
        let names: Vec<String> = types.iter().map(Type::runtime_name).collect();
        let wanted = match names.as_slice() {
            [one] => one.clone(),
            several => format!("one of [{}]", several.join(" ")),
        };
        let why = format!("must evaluate to {wanted} but got {}", output.runtime_name());
        return Err((why, output));
    }
    Ok((compiled.program().map_err(failed)?, output))
}

/// A named expression that others can use as `variables.NAME`.
#[derive(Debug, Clone)]
pub struct Variable {
    pub name: String,
    pub expression: Expression,
}

/// The variables of a policy, in their order: each sees those before it.
#[derive(Debug, Clone, Default)]
pub struct Variables(Vec<Variable>);

impl Variables {
    /// Compiles all; `env` comes back with them declared.
    pub fn compile<'v>(list: impl IntoIterator<Item = (&'v str, &'v str)>, env: Env) -> (Self, Env) {
        let mut env = env;
        let mut out = Vec::new();
        for (name, source) in list {
            let expression = Expression::new(source, &env, &[]);
            let before: Vec<&str> = out.iter().map(|v: &Variable| v.name.as_str()).collect();
            env = declare(env, name, expression.output.clone(), &before);
            out.push(Variable { name: name.to_owned(), expression });
        }
        (Self(out), env)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Variable> {
        self.0.iter()
    }
}

/// What the variables of admission expressions are for one request.
pub struct Inputs<'a> {
    pub object: &'a Json,
    pub old: &'a Json,
    pub request: &'a Json,
    /// `null` for what lives in no namespace.
    pub namespace: &'a Json,
    pub params: &'a Json,
    /// Whom to ask about the user, and about what resource the request is.
    pub authority: Option<&'a Arc<dyn Authority>>,
    pub user: &'a UserInfo,
}

impl<'a> Inputs<'a> {
    fn subject(&self) -> Result<Arc<dyn Subject>, EvalError> {
        let authority = self.authority.ok_or(EvalError::new("no such attribute(s): authorizer"))?;
        Ok(subject(Arc::clone(authority), self.user.clone()))
    }

    fn request_resource(&self) -> Result<ResourceCheck, EvalError> {
        let field = |p: &str| self.request.pointer(p).and_then(Json::as_str).unwrap_or_default();
        let group = field("/requestResource/group").into();
        let mut check = ResourceCheck::new(self.subject()?, group, field("/requestResource/resource"));
        check.subresource = field("/requestSubResource").into();
        check.namespace = field("/namespace").into();
        check.name = field("/name").into();
        Ok(check)
    }

    fn resolve(&self, name: &str) -> EvalResult<'a> {
        Ok(match name {
            "object" => Value::from_untyped(self.object),
            "oldObject" => Value::from_untyped(self.old),
            "request" => Value::from_untyped(self.request),
            "namespaceObject" => Value::from_untyped(self.namespace),
            "params" => Value::from_untyped(self.params),
            "authorizer" => Native::Authorizer(self.subject()?).into(),
            "authorizer.requestResource" => Native::ResourceCheck(self.request_resource()?).into(),
            other => return Err(EvalError::new(format!("no such attribute(s): {other}"))),
        })
    }
}

/// The budget of a group of expressions ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("validation failed due to running out of cost budget, no further validation rules will be run")]
pub struct OutOfBudget;

/// One expression's result, or why it has none.
pub type Evaluated<'a> = Result<Value<'a>, String>;

/// Evaluates a group of expressions that share their variables' values.
pub struct Evaluation<'a> {
    inputs: &'a Inputs<'a>,
    variables: &'a Variables,
    known: RefCell<Vec<Option<EvalResult<'a>>>>,
    /// What variables cost since that was last asked.
    spent: Cell<u64>,
}

impl<'a> Evaluation<'a> {
    pub fn new(inputs: &'a Inputs<'a>, variables: &'a Variables) -> Self {
        Self { inputs, variables, known: RefCell::new(vec![None; variables.0.len()]), spent: Cell::new(0) }
    }

    /// One expression's result; its cost and that of variables it is the first to use come off `budget`.
    pub fn one(&self, e: &'a Expression, budget: &mut u64) -> Result<Evaluated<'a>, OutOfBudget> {
        let program = match &e.program {
            Ok(p) => p,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let (result, cost) = program.run(self);
        let cost = cost.saturating_add(self.spent.take());
        *budget = budget.checked_sub(cost).ok_or(OutOfBudget)?;
        Ok(result.map_err(|err| format!("expression '{}' resulted in error: {err}", e.source)))
    }

    /// Results of all, in order.
    pub fn all(
        &self,
        list: impl IntoIterator<Item = &'a Expression>,
        budget: &mut u64,
    ) -> Result<Vec<Evaluated<'a>>, OutOfBudget> {
        list.into_iter().map(|e| self.one(e, budget)).collect()
    }

    fn variable(&self, name: &str) -> EvalResult<'a> {
        let Some(i) = self.variables.0.iter().position(|v| v.name == name) else {
            return Err(EvalError::new(format!("no such key: {name}")));
        };
        if let Some(v) = &self.known.borrow()[i] {
            return v.clone();
        }
        let v = &self.variables.0[i];
        let value = match &v.expression.program {
            Err(why) => {
                Err(EvalError::new(format!("composited variable {:?} fails to compile: {why}", v.name)))
            }
            Ok(p) => {
                let (result, cost) = p.run(self);
                self.spent.set(self.spent.get().saturating_add(cost));
                result.map_err(|e| {
                    EvalError::new(format!("composited variable {:?} fails to evaluate: {e}", v.name))
                })
            }
        };
        self.known.borrow_mut()[i] = Some(value.clone());
        value
    }
}

impl<'a> Activation<'a> for Evaluation<'a> {
    fn resolve(&self, name: &str) -> EvalResult<'a> {
        if let Some(variable) = name.strip_prefix("variables.") {
            return self.variable(variable);
        }
        if name == "variables" {
            // Only asked for which there are: `has(variables.x)`.
            let known = self.variables.iter().map(|v| (Key::String(v.name.as_str().into()), Value::Null));
            return Ok(Value::Map(Map::Made(Arc::new(known.collect()))));
        }
        self.inputs.resolve(name)
    }
}

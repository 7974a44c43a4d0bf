//! Policies and bindings as requests use them.

use serde_json::Value;

use super::matching::Matching;
use crate::admission::expressions::{Expression, MatchConditions, Variables, environment};
use crate::cel::types::Object;
use crate::cel::{Env, Type};
use crate::lookup::{items, text};

/// A policy; `B` is what it does.
#[derive(Debug)]
pub struct Policy<B> {
    pub name: String,
    /// `failurePolicy: Ignore`
    pub ignore_failures: bool,
    pub matching: Matching,
    pub param_kind: Option<ParamKind>,
    pub conditions: MatchConditions,
    pub variables: Variables,
    pub body: B,
}

/// Kind of the objects that parametrize a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamKind {
    pub api_version: String,
    pub kind: String,
}

/// What a `ValidatingAdmissionPolicy` checks.
#[derive(Debug)]
pub struct Validating {
    pub validations: Vec<Validation>,
    /// Key and expression.
    pub annotations: Vec<(String, Expression)>,
}

/// One check.
#[derive(Debug)]
pub struct Validation {
    pub expression: Expression,
    pub message: String,
    pub message_expression: Option<Expression>,
    /// Empty: `Invalid`.
    pub reason: String,
}

/// What a `MutatingAdmissionPolicy` changes.
#[derive(Debug)]
pub struct Mutating {
    pub mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`
    pub reinvoke: bool,
}

/// One change.
#[derive(Debug)]
pub enum Mutation {
    Apply(Expression),
    JsonPatch(Expression),
}

/// A binding of either kind.
#[derive(Debug)]
pub struct Binding {
    pub name: String,
    pub policy: String,
    pub params: Option<ParamRef>,
    /// None: whatever the policy matches.
    pub matching: Option<Matching>,
    /// `validationActions`, of validating ones.
    pub actions: Vec<String>,
}

/// Which objects parametrize a binding.
#[derive(Debug, Clone)]
pub struct ParamRef {
    pub name: String,
    pub namespace: String,
    pub selector: Option<Value>,
    /// `parameterNotFoundAction: Deny`
    pub deny_when_missing: bool,
}

/// The type `Object` that apply configurations make.
pub fn apply_type() -> Type {
    Type::Object(Object::Made("Object".into()))
}

/// The type of JSON patches.
pub fn json_patch_type() -> Type {
    Type::list(Type::Object(Object::Made("JSONPatch".into())))
}

struct Common {
    param_kind: Option<ParamKind>,
    conditions: MatchConditions,
    variables: Variables,
    env: Env,
}

fn common(policy: &Value) -> Common {
    let param_kind = policy.pointer("/spec/paramKind").filter(|p| p.is_object()).map(|p| ParamKind {
        api_version: text(p, "/apiVersion").to_owned(),
        kind: text(p, "/kind").to_owned(),
    });
    let has_params = param_kind.is_some();
    let variables =
        items(policy, "/spec/variables").iter().map(|v| (text(v, "/name"), text(v, "/expression")));
    let (variables, env) = Variables::compile(variables, environment(has_params, true));
    Common {
        param_kind,
        conditions: MatchConditions::compile(items(policy, "/spec/matchConditions"), has_params),
        variables,
        env,
    }
}

impl<B> Policy<B> {
    fn with(policy: &Value, c: Common, body: B) -> Self {
        Self {
            name: text(policy, "/metadata/name").to_owned(),
            ignore_failures: text(policy, "/spec/failurePolicy") == "Ignore",
            matching: Matching::new(policy.pointer("/spec/matchConstraints").unwrap_or(&Value::Null)),
            param_kind: c.param_kind,
            conditions: c.conditions,
            variables: c.variables,
            body,
        }
    }
}

/// A `ValidatingAdmissionPolicy` from its object.
pub fn validating(policy: &Value) -> Policy<Validating> {
    let c = common(policy);
    // Messages cannot ask the authorizer.
    let message_env = c.env.clone().without("authorizer").without("authorizer.requestResource");
    let validation = |v: &Value| Validation {
        expression: Expression::new(text(v, "/expression"), &c.env, &[Type::Bool]),
        message: text(v, "/message").to_owned(),
        message_expression: match text(v, "/messageExpression") {
            "" => None,
            source => Some(Expression::new(source, &message_env, &[Type::String])),
        },
        reason: text(v, "/reason").to_owned(),
    };
    let annotation = |a: &Value| {
        let source = text(a, "/valueExpression");
        (text(a, "/key").to_owned(), Expression::new(source, &c.env, &[Type::String, Type::Null]))
    };
    let body = Validating {
        validations: items(policy, "/spec/validations").iter().map(validation).collect(),
        annotations: items(policy, "/spec/auditAnnotations").iter().map(annotation).collect(),
    };
    Policy::with(policy, c, body)
}

/// A `MutatingAdmissionPolicy` from its object.
pub fn mutating(policy: &Value) -> Policy<Mutating> {
    let c = common(policy);
    let env = c.env.clone().with_mutations();
    let mutation = |m: &Value| match text(m, "/patchType") {
        "ApplyConfiguration" => {
            let source = text(m, "/applyConfiguration/expression");
            Mutation::Apply(Expression::new(source, &env, &[apply_type()]))
        }
        _ => {
            let source = text(m, "/jsonPatch/expression");
            Mutation::JsonPatch(Expression::new(source, &env, &[json_patch_type()]))
        }
    };
    let body = Mutating {
        mutations: items(policy, "/spec/mutations").iter().map(mutation).collect(),
        reinvoke: text(policy, "/spec/reinvocationPolicy") == "IfNeeded",
    };
    Policy::with(policy, c, body)
}

/// A binding from its object.
pub fn binding(b: &Value) -> Binding {
    let params = b.pointer("/spec/paramRef").filter(|p| p.is_object()).map(|p| ParamRef {
        name: text(p, "/name").to_owned(),
        namespace: text(p, "/namespace").to_owned(),
        selector: p.get("selector").filter(|s| s.is_object()).cloned(),
        deny_when_missing: text(p, "/parameterNotFoundAction") == "Deny",
    });
    let actions = items(b, "/spec/validationActions").iter().filter_map(Value::as_str);
    Binding {
        name: text(b, "/metadata/name").to_owned(),
        policy: text(b, "/spec/policyName").to_owned(),
        params,
        matching: b.pointer("/spec/matchResources").filter(|m| m.is_object()).map(Matching::new),
        actions: actions.map(str::to_owned).collect(),
    }
}

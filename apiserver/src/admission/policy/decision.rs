//! What a validating policy says of one request with one set of parameters. Pure: from inputs to decisions.

use super::compiled::{Policy, Validating, Validation};
use crate::admission::expressions::{Evaluated, Evaluation, Inputs, OutOfBudget, Outcome};
use crate::cel::{RUNTIME_BUDGET, Value};

/// Longest message that an expression may make, in bytes.
const MAX_MESSAGE: usize = 5 * 1024;

/// What one validation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Admit,
    /// It failed, and failures are ignored.
    Ignored(String),
    Deny(Denial),
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    pub message: String,
    /// Empty: as for configuration errors, `Invalid`.
    pub reason: String,
    /// Whether the expression could not be evaluated, rather than being false.
    pub failed: bool,
}

/// What one audit annotation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Annotation {
    Publish {
        key: String,
        value: String,
    },
    Exclude,
    /// It failed, which refuses the request.
    Error(String),
}

/// Everything a policy says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// In the order of the validations.
    pub decisions: Vec<Decision>,
    pub annotations: Vec<Annotation>,
}

impl Verdict {
    fn failed(policy: &Policy<Validating>, message: String) -> Self {
        Self { decisions: vec![failure(policy, message)], ..Self::default() }
    }
}

fn failure(policy: &Policy<Validating>, message: String) -> Decision {
    match policy.ignore_failures {
        true => Decision::Ignored(message),
        false => Decision::Deny(Denial { message, reason: String::new(), failed: true }),
    }
}

/// Evaluates a policy.
pub fn decide(policy: &Policy<Validating>, inputs: &Inputs<'_>) -> Verdict {
    match policy.conditions.evaluate(inputs) {
        Outcome::Matches => {}
        Outcome::Excluded(_) => return Verdict::default(),
        Outcome::Failed { message, .. } => return Verdict::failed(policy, message),
    }
    let mut budget = RUNTIME_BUDGET;
    let evaluation = Evaluation::new(inputs, &policy.variables);
    let validations = &policy.body.validations;
    let results = match evaluation.all(validations.iter().map(|v| &v.expression), &mut budget) {
        Ok(results) => results,
        Err(e) => return Verdict::failed(policy, e.to_string()),
    };
    let (messages, out) = messages(policy, inputs, budget);
    let mut verdict = Verdict::default();
    for (i, (v, result)) in validations.iter().zip(&results).enumerate() {
        verdict.decisions.push(match result {
            Err(why) => failure(policy, why.clone()),
            Ok(_) if out.is_some() => failure(policy, format!("failed messageExpression: {}", OutOfBudget)),
            Ok(r) if r.as_bool() == Some(true) => Decision::Admit,
            Ok(_) => Decision::Deny(Denial {
                message: message(v, messages.get(i).and_then(Option::as_ref)),
                reason: if v.reason.is_empty() { "Invalid".to_owned() } else { v.reason.clone() },
                failed: false,
            }),
        });
    }
    match annotations(policy, inputs) {
        Ok(list) => verdict.annotations = list,
        Err(e) => return Verdict::failed(policy, e.to_string()),
    }
    verdict
}

/// Results of all message expressions; what is there when the budget runs out counts as nothing.
fn messages<'a>(
    policy: &'a Policy<Validating>,
    inputs: &'a Inputs<'a>,
    mut budget: u64,
) -> (Vec<Option<Evaluated<'a>>>, Option<OutOfBudget>) {
    let evaluation = Evaluation::new(inputs, &policy.variables);
    let mut out = Vec::new();
    for v in &policy.body.validations {
        match v.message_expression.as_ref().map(|e| evaluation.one(e, &mut budget)).transpose() {
            Ok(result) => out.push(result),
            Err(e) => return (Vec::new(), Some(e)),
        }
    }
    (out, None)
}

/// What a refused client reads: the message expression's result where it is fit to print, the message, or the
/// expression itself.
fn message(v: &Validation, computed: Option<&Evaluated<'_>>) -> String {
    let computed = match computed {
        Some(Ok(Value::String(s))) => s.trim(),
        _ => "",
    };
    if !computed.is_empty() && computed.len() <= MAX_MESSAGE && !computed.contains('\n') {
        return computed.to_owned();
    }
    match v.message.trim() {
        "" => format!("failed expression: {}", v.expression.source.trim()),
        message => message.to_owned(),
    }
}

fn annotations(policy: &Policy<Validating>, inputs: &Inputs<'_>) -> Result<Vec<Annotation>, OutOfBudget> {
    let evaluation = Evaluation::new(inputs, &policy.variables);
    let mut budget = RUNTIME_BUDGET;
    let mut out = Vec::new();
    for (key, expression) in &policy.body.annotations {
        out.push(match evaluation.one(expression, &mut budget)? {
            Err(_) if policy.ignore_failures => Annotation::Exclude,
            Err(why) => Annotation::Error(why),
            Ok(Value::Null) => Annotation::Exclude,
            Ok(Value::String(s)) => match s.trim() {
                "" => Annotation::Exclude,
                value => Annotation::Publish { key: key.clone(), value: value.to_owned() },
            },
            Ok(other) => Annotation::Error(format!(
                "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                expression.source,
                other.type_name()
            )),
        });
    }
    Ok(out)
}

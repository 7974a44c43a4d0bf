//! `matchConditions`: expressions that all must hold for a webhook to be called or a policy to be evaluated.

use serde_json::Value as Json;

use super::environment;
use super::evaluation::{Evaluation, Expression, Inputs, Variables};
use crate::cel::{MATCH_CONDITIONS_BUDGET, Type};
use crate::lookup::text;

/// The conditions of one webhook or policy, compiled.
#[derive(Debug, Clone, Default)]
pub struct MatchConditions {
    list: Vec<(String, Expression)>,
}

/// What the conditions say of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Matches,
    /// The condition of that name is false.
    Excluded(String),
    /// None is false, and some could not be evaluated.
    Failed {
        /// All errors as one sentence.
        message: String,
        /// How many conditions failed.
        failures: usize,
    },
}

impl MatchConditions {
    /// Compiles a `matchConditions` list. Conditions that do not compile fail when they are evaluated.
    pub fn compile(list: &[Json], params: bool) -> Self {
        if list.is_empty() {
            return Self::default();
        }
        let env = environment(params, true);
        let one = |c: &Json| {
            (text(c, "/name").to_owned(), Expression::new(text(c, "/expression"), &env, &[Type::Bool]))
        };
        Self { list: list.iter().map(one).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Evaluates all. One that is false decides, whatever the errors of others.
    pub fn evaluate(&self, inputs: &Inputs<'_>) -> Outcome {
        if self.list.is_empty() {
            return Outcome::Matches;
        }
        let none = Variables::default();
        let evaluation = Evaluation::new(inputs, &none);
        let mut budget = MATCH_CONDITIONS_BUDGET;
        let results = match evaluation.all(self.list.iter().map(|(_, e)| e), &mut budget) {
            Ok(results) => results,
            Err(e) => return Outcome::Failed { message: e.to_string(), failures: 0 },
        };
        let mut errors: Vec<String> = Vec::new();
        let mut failures = 0;
        for ((name, _), result) in self.list.iter().zip(results) {
            match result {
                Ok(v) if v.as_bool() == Some(false) => return Outcome::Excluded(name.clone()),
                Ok(_) => {}
                Err(e) => {
                    failures += 1;
                    if !errors.contains(&e) {
                        errors.push(e);
                    }
                }
            }
        }
        match errors.len() {
            0 => Outcome::Matches,
            1 => Outcome::Failed { message: errors.remove(0), failures },
            _ => Outcome::Failed { message: format!("[{}]", errors.join(", ")), failures },
        }
    }
}

//! CEL expressions in admission: what they can name (`object`, `oldObject`, `request`, `params`, `namespaceObject`,
//! `authorizer`, `variables`), how they are compiled once per configuration, and how groups of them are evaluated for
//! one request under one cost budget. Match conditions of webhooks and everything in admission policies go through here.

mod conditions;
mod evaluation;
mod request;

pub use conditions::{MatchConditions, Outcome};
pub use evaluation::{Evaluated, Evaluation, Expression, Inputs, OutOfBudget, Variable, Variables};
pub use request::{Named, request};

pub use crate::cel::admission::environment;

#[cfg(test)]
mod tests;

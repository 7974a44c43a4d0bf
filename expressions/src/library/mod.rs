//! The functions that expressions can call, by topic.

pub mod authorizer;
pub mod convert;
pub mod format;
pub mod lists;
pub mod net;
pub mod operators;
pub mod printf;
pub mod quantities;
pub mod strings;
pub mod times;

use regex::Regex;

use super::value::{EvalError, EvalResult, Value};

/// A function. Its arguments come evaluated, the target of a method first; the pattern of a regular expression that
/// is a constant comes compiled.
pub type Builtin = for<'a> fn(&[Value<'a>], Option<&Regex>) -> EvalResult<'a>;

/// The function of that name.
pub fn find(name: &str) -> Option<Builtin> {
    operators::find(name)
        .or_else(|| convert::find(name))
        .or_else(|| strings::find(name))
        .or_else(|| lists::find(name))
        .or_else(|| times::find(name))
        .or_else(|| net::find(name))
        .or_else(|| quantities::find(name))
        .or_else(|| format::find(name))
        .or_else(|| authorizer::find(name))
}

/// Longest string and list that a function may make: far more than costs allow to read, little enough to hold.
pub const MAX_TEXT: usize = 16 << 20;
pub const MAX_ITEMS: usize = 1 << 20;

/// Refuses what would not fit.
pub fn bounded(len: usize, max: usize) -> Result<(), EvalError> {
    if len > max { Err(EvalError::CostLimit) } else { Ok(()) }
}

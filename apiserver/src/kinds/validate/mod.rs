//! Checks that many kinds share, worded as upstream words them.
//!
//! [`text`] holds the rules of names and other strings (each answers with the sentences of what is wrong),
//! [`meta`] those of `ObjectMeta`, [`selector`] those of label selectors.

pub mod address;
pub mod conditions;
pub mod meta;
pub mod numbers;
pub mod printed;
pub mod selector;
pub mod url;

pub use conditions::conditions;
pub use expressions::text;
pub use meta::{object_meta, object_meta_update};

use serde::Serialize;

use crate::field::{Error, ErrorList, Path};

/// Rule for names: the sentences of what is wrong. The flag tells that the name is the prefix of a generated one.
pub type NameFn = fn(&str, bool) -> Vec<String>;

/// One `Invalid` per sentence.
pub fn invalid_each(path: &Path, value: impl Serialize, sentences: Vec<String>) -> ErrorList {
    let mut errors = ErrorList::new();
    for s in sentences {
        errors.push(Error::invalid(path, &value, s));
    }
    errors
}

/// Refuses a change of a field that is fixed once the object exists.
pub fn immutable<T: PartialEq + Serialize>(new: &T, old: &T, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if !crate::kinds::semantic::same(new, old) {
        errors.push(Error::invalid(path, new, "field is immutable"));
    }
    errors
}

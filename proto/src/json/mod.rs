//! JSON in and out, driven by the schema table.
//!
//! [`decode`] reads a request body in one pass into a canonical `Value`: unknown fields dropped (and named for
//! `fieldValidation`), quantities and times in canonical form, empty optional fields left out, fields that
//! upstream always writes filled in. [`encode`] writes such a value as upstream would, with the `null`s that a
//! `Value` in flight leaves out.

mod decode;
mod encode;
mod reader;

pub(crate) use decode::{complete, float};
pub use decode::{decode, decode_any, interpret};
pub use encode::{encode, write_string, zero};
pub(crate) use encode::{is_empty, write_absent, write_any, write_key, write_zero};
pub use reader::MAX_DEPTH;

use serde_json::Value;

use crate::schema::TypeDef;

/// What to do about unknown and duplicate fields (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Drop them silently.
    Ignore,
    /// Collect them for warnings.
    Warn,
    /// Collect them for an error.
    Strict,
}

/// A decoded object.
#[derive(Debug)]
pub struct Decoded {
    /// The object in canonical form.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.x"`; empty under [`Strictness::Ignore`].
    pub strict_errors: Vec<String>,
}

/// Why a body is no object of the wanted type, worded as upstream does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not an object with `apiVersion` and `kind`.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Unrecognized(String),
    /// JSON that does not fit the type.
    #[error("{0}")]
    Mismatch(String),
}

impl DecodeError {
    /// The message of the 400 answer: `wanted` is the kind that the endpoint takes; `version` and `kind` are
    /// those of the body where they could be read.
    pub fn message(&self, wanted: &str, version: &str, kind: &str, body: &[u8]) -> String {
        match self {
            Self::Mismatch(_) if !kind.is_empty() => {
                cannot_be_handled(kind, version, wanted, &self.to_string())
            }
            _ => format!(
                "the object provided is unrecognized (must be of type {wanted}): {self} ({})",
                summary(body)
            ),
        }
    }
}

/// `Pod in version "v1" cannot be handled as a Pod: …`
pub fn cannot_be_handled(kind: &str, version: &str, wanted: &str, why: &str) -> String {
    format!("{kind} in version {version:?} cannot be handled as a {wanted}: {why}")
}

/// `strict decoding error: …` with all that [`Decoded::strict_errors`] names.
pub fn strict_error(errors: &[String]) -> String {
    format!("strict decoding error: {}", errors.join(", "))
}

/// The first bytes of a body, as upstream shows them in errors.
pub fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let head = &body[..body.len().min(MAX)];
    let mut text = match body.first() {
        None => return "<empty>".into(),
        Some(b'{') => String::from_utf8_lossy(head).into_owned(),
        Some(_) => head.iter().map(|b| format!("{b:02x}")).collect(),
    };
    if body.len() > MAX {
        text.push_str(" ...");
    }
    text
}

/// A value that changed in flight brought back to canonical form, as a round trip through JSON would.
pub fn normalize(value: &Value, def: &TypeDef, strictness: Strictness) -> Result<Decoded, DecodeError> {
    let bytes = serde_json::to_vec(value).map_err(|e| DecodeError::Mismatch(e.to_string()))?;
    decode(&bytes, def, strictness)
}

//! Patches: how a client's change becomes the next version of an object. Pure functions on values and the
//! schema table, without I/O; the generic handlers call them between reading the object and admission.
//!
//! JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge patch and server-side apply, and who
//! owns which field (`metadata.managedFields`).

pub mod apply;
pub mod fields;
pub mod json;
pub mod managed;
mod narrow;
mod owners;
#[cfg(test)]
mod recorded;
mod reset;
pub(crate) mod shown;
mod strategic;
#[cfg(test)]
mod tests;
pub mod view;

use proto::json::{Decoded, Strictness};
use proto::schema::TypeDef;
use serde_json::Value;

use crate::field;
use crate::status::{ApiError, ApiResult};

pub use json::{apply_json_patch, merge};
pub use managed::manager_name;
pub use reset::reset_fields;
use shown::go_text;
pub use strategic::strategic;

/// Which kind of patch a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    /// By media type, parameters aside.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        Some(match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" => Self::Strategic,
            "application/apply-patch+yaml" => Self::Apply,
            _ => return None,
        })
    }
}

/// The object after a JSON, merge or strategic patch, in canonical form, with what `fieldValidation` finds.
///
/// `live` is the object as it is; `def` its type (`None` when its fields are not known).
pub fn patched(
    kind: PatchType,
    live: &Value,
    patch: &[u8],
    def: Option<&TypeDef>,
    strictness: Strictness,
) -> ApiResult<Decoded> {
    if let Some(value) = def.and_then(|d| narrow::patched(kind, live, patch, d, strictness)) {
        return Ok(Decoded { value, strict_errors: Vec::new() });
    }
    let original = match def {
        Some(d) => fields::view(live, d),
        None => live.clone(),
    };
    let (value, mut strict) = match (kind, def) {
        (PatchType::Json, _) => apply_json_patch(&original, patch, strictness)?,
        (PatchType::Merge, _) => merge(&original, patch, strictness)?,
        (PatchType::Strategic, Some(d)) => strategic(&original, patch, d, strictness)?,
        (PatchType::Strategic, None) | (PatchType::Apply, _) => {
            return Err(ApiError::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
    };
    // The error shows what could not be read: the patch itself for a strategic one, else the result.
    let shown = || match (kind, serde_json::from_slice::<Value>(patch)) {
        (PatchType::Strategic, Ok(p)) => shown::go_text(&p),
        (PatchType::Json, Ok(p)) => shown::merged(&value, &shown::reached(&p), def),
        (_, Ok(p)) => shown::merged(&value, &p, def),
        (_, Err(_)) => value.to_string(),
    };
    let mut decoded = match def {
        None => Decoded { value: value.clone(), strict_errors: Vec::new() },
        Some(d) => proto::json::normalize(&value, d, strictness).map_err(|e| {
            let why = match kind {
                PatchType::Strategic => shown::unconvertible(&e.to_string()),
                _ => e.to_string(),
            };
            invalid_patch(&shown(), &why)
        })?,
    };
    strict.append(&mut decoded.strict_errors);
    if strictness == Strictness::Strict && !strict.is_empty() {
        return Err(invalid_patch(&shown(), &proto::json::strict_error(&strict)));
    }
    decoded.strict_errors = strict;
    Ok(decoded)
}

/// [`patched`] for a custom resource: `coerce` brings the outcome to the form of its schema and names what it drops.
pub fn patched_custom(
    kind: PatchType,
    live: &Value,
    patch: &[u8],
    strictness: Strictness,
    coerce: impl FnOnce(&mut Value) -> Result<Vec<String>, String>,
) -> ApiResult<Decoded> {
    let mut decoded = patched(kind, live, patch, None, strictness)?;
    let shown = decoded.value.to_string();
    let unknown = coerce(&mut decoded.value).map_err(|why| invalid_patch(&shown, &why))?;
    decoded.strict_errors.extend(unknown);
    if strictness == Strictness::Strict && !decoded.strict_errors.is_empty() {
        return Err(invalid_patch(&shown, &proto::json::strict_error(&decoded.strict_errors)));
    }
    Ok(decoded)
}

/// The patch led to something that is no object of its type.
fn invalid_patch(shown: &str, why: &str) -> ApiError {
    let e = field::Error::invalid(&field::Path::new("patch"), shown, why);
    ApiError::invalid("", "", "", &vec![e].into())
}

/// The patch cannot be carried out on this object. Upstream answers with its generic sentence.
fn unprocessable() -> ApiError {
    let mut e =
        ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
    e.details = Some(Box::default());
    e
}

fn cannot_unmarshal(v: &Value, go: &str) -> String {
    let got = match v {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {got} into Go value of type {go}")
}

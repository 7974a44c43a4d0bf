//! JSON patch and JSON merge patch.

use proto::json::{Strictness, decode_any};
use serde_json::Value;

use super::unprocessable;
use crate::status::{ApiError, ApiResult};

/// A JSON patch may have no more operations than this.
const MAX_OPERATIONS: usize = 10_000;

/// Carries out a JSON patch. Gives the object and the strict errors of the patch's own text.
pub fn apply_json_patch(
    live: &Value,
    patch: &[u8],
    strictness: Strictness,
) -> ApiResult<(Value, Vec<String>)> {
    let decoded = decode_any(patch, strictness)
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    let strict = decoded.strict_errors.into_iter().map(|e| format!("json patch {e}")).collect();
    let Value::Array(list) = &decoded.value else {
        let e = super::cannot_unmarshal(&decoded.value, "[]handlers.jsonPatchOp");
        return Err(ApiError::bad_request(format!("error decoding patch: {e}")));
    };
    let count = list.len();
    if count > MAX_OPERATIONS {
        return Err(ApiError::too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let operations: json_patch::Patch = serde_json::from_value(decoded.value).map_err(|_| unprocessable())?;
    let mut out = live.clone();
    json_patch::patch(&mut out, &operations).map_err(|_| unprocessable())?;
    Ok((out, strict))
}

/// Carries out a JSON merge patch. Gives the object and the strict errors of the patch's own text.
pub fn merge(live: &Value, patch: &[u8], strictness: Strictness) -> ApiResult<(Value, Vec<String>)> {
    let decoded = decode_any(patch, strictness)
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    if !decoded.value.is_object() {
        let e = super::cannot_unmarshal(&decoded.value, "map[string]interface {}");
        return Err(ApiError::bad_request(format!("error decoding patch: {e}")));
    }
    let mut out = live.clone();
    json_patch::merge(&mut out, &decoded.value);
    Ok((out, decoded.strict_errors))
}

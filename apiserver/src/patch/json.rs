//! JSON patch and JSON merge patch.

use json_patch::PatchOperation;
use proto::json::{MAX_DEPTH, Strictness, decode_any};
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
    carry_out(&mut out, &operations).map_err(|_| unprocessable())?;
    Ok((out, strict))
}

/// Most bytes of JSON that all `copy` operations of a patch may copy together. Each can double the document: without a
/// bound thirty operations make it larger than any memory.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Why a patch was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Patch(#[from] json_patch::PatchError),
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {0}, exceeding the limit {MAX_COPIED}"
    )]
    Copied(usize),
    #[error("exceeded max depth")]
    Depth,
}

impl Refused {
    /// Whether it was a `test` that was not fulfilled.
    pub fn is_test(&self) -> bool {
        matches!(self, Self::Patch(e) if matches!(e.kind, json_patch::PatchErrorKind::TestFailed))
    }
}

/// Carries out the operations of a patch one by one, within bounds of size and depth. After an error the document is
/// somewhere in between.
///
/// # Errors
/// See [`Refused`].
pub fn carry_out(document: &mut Value, patch: &json_patch::Patch) -> Result<(), Refused> {
    let mut copied = 0;
    for op in &patch.0 {
        let (path, value) = match op {
            PatchOperation::Add(o) => (&o.path, Some(&o.value)),
            PatchOperation::Replace(o) => (&o.path, Some(&o.value)),
            PatchOperation::Move(o) => (&o.path, document.pointer(o.from.as_str())),
            PatchOperation::Copy(o) => {
                let value = document.pointer(o.from.as_str());
                copied += value.map_or(0, size);
                if copied > MAX_COPIED {
                    return Err(Refused::Copied(copied));
                }
                (&o.path, value)
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => {
                json_patch::patch(document, std::slice::from_ref(op))?;
                continue;
            }
        };
        if path.count() + value.map_or(0, depth) > MAX_DEPTH {
            return Err(Refused::Depth);
        }
        json_patch::patch(document, std::slice::from_ref(op))?;
    }
    Ok(())
}

/// The bytes of a value as JSON.
fn size(v: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0 += buf.len();
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting cannot fail.
    let _ = serde_json::to_writer(&mut count, v);
    count.0
}

/// How deeply a value is nested: zero for scalars.
fn depth(v: &Value) -> usize {
    match v {
        Value::Array(a) => 1 + a.iter().map(depth).max().unwrap_or(0),
        Value::Object(m) => 1 + m.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(document: &Value, operations: Value) -> Result<Value, String> {
        let mut out = document.clone();
        let patch = serde_json::from_value(operations).map_err(|e| e.to_string())?;
        carry_out(&mut out, &patch).map(|()| out).map_err(|e| e.to_string())
    }

    #[test]
    fn copies_are_bounded() {
        let document = json!({"a": {"text": "x".repeat(1000)}});
        // Each copy holds all before it, so that the sum grows with the square of their number.
        let double = json!({"op": "copy", "from": "/a", "path": "/a/b"});
        let twice = run(&document, json!([double, double])).unwrap();
        assert!(twice["a"]["b"]["b"]["text"].is_string());
        let why = run(&document, Value::Array(vec![double; 100])).unwrap_err();
        assert!(why.starts_with("Unable to complete the copy"), "{why}");
        // Small but wide: the sum counts.
        let wide: Vec<Value> =
            (0..9_000).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/c{i}")})).collect();
        assert!(run(&document, Value::Array(wide)).is_err());
    }

    #[test]
    fn nesting_is_bounded() {
        let down = |n: usize| format!("/{}", vec!["a"; n].join("/"));
        let steps = |n: usize| -> Value {
            (1..=n).map(|i| json!({"op": "add", "path": down(i), "value": {}})).collect::<Vec<_>>().into()
        };
        assert!(run(&json!({}), steps(MAX_DEPTH - 1)).is_ok());
        assert_eq!(run(&json!({}), steps(MAX_DEPTH + 1)).unwrap_err(), "exceeded max depth");
        let double = json!({"op": "copy", "from": "", "path": "/a"});
        assert_eq!(run(&json!({}), Value::Array(vec![double; 200])).unwrap_err(), "exceeded max depth");
        let moved =
            json!([{"op": "add", "path": "/b", "value": {}}, {"op": "move", "from": "/b", "path": down(3)}]);
        assert!(run(&json!({"a": {"a": {}}}), moved).is_ok());
    }

    #[test]
    fn failed_tests_are_told_apart() {
        let patch = serde_json::from_value(json!([{"op": "test", "path": "/a", "value": 2}])).unwrap();
        assert!(carry_out(&mut json!({"a": 1}), &patch).unwrap_err().is_test());
    }
}

//! Reading objects that are kept as JSON values.

use serde_json::Value;

/// A string field by JSON pointer; empty where absent or of another type.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of an array field by JSON pointer; none where absent.
pub fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

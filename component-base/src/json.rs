//! Reading objects that are kept as JSON values.

use serde_json::Value;

/// What a JSON pointer (RFC 6901) leads to. `Value::pointer` copies every step of the way; here only those that have
/// escapes are.
pub fn at<'a>(object: &'a Value, pointer: &str) -> Option<&'a Value> {
    if pointer.contains('~') || !pointer.starts_with('/') {
        return object.pointer(pointer);
    }
    pointer[1..].split('/').try_fold(object, |value, step| match value {
        Value::Object(fields) => fields.get(step),
        Value::Array(items) if step == "0" || !step.starts_with(['0', '+']) => {
            items.get(step.parse::<usize>().ok()?)
        }
        _ => None,
    })
}

/// A string field by JSON pointer; empty where absent or of another type.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    at(object, pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of an array field by JSON pointer; none where absent.
pub fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    at(object, pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_lead_where_those_of_serde_json_do() {
        let object = serde_json::json!({"a": {"b": [1, {"c": "x"}], "": 2, "~/": 3}, "0": [4]});
        for pointer in [
            "",
            "/",
            "/a",
            "/a/",
            "/a/b",
            "/a/b/0",
            "/a/b/1/c",
            "/a/b/01",
            "/a/b/+1",
            "/a/b/2",
            "/a/b/x",
            "/a/~0~1",
            "/0/0",
            "a",
            "/a/b/1/c/d",
            "/none/b",
        ] {
            assert_eq!(at(&object, pointer), object.pointer(pointer), "{pointer}");
        }
    }
}

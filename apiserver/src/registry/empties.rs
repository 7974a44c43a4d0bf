//! Empty maps and lists in errors.
//!
//! Values in flight leave out optional fields that hold nothing, so that rules see the absent and the empty as one.
//! Upstream's errors tell them apart: what the client sent as `{}` or `[]` is shown as that, not as `null`.

use serde_json::Value;

use crate::status::ApiError;

/// The error with what `body` (JSON) has empty shown as such.
pub fn shown(mut e: ApiError, body: &[u8]) -> ApiError {
    const ABSENT: &str = "value: null";
    let concerns = |d: &crate::status::Details| d.causes.iter().any(|c| c.message.contains(ABSENT));
    if e.code != 422 || !e.details.as_deref().is_some_and(concerns) {
        return e;
    }
    let Ok(sent) = serde_json::from_slice::<Value>(body) else { return e };
    for cause in e.details.iter_mut().flat_map(|d| d.causes.iter_mut()) {
        if cause.field == "spec" {
            // No spec is absent upstream: what is null in what is said of it is a part of it.
            continue;
        }
        let empty = match at(&sent, &cause.field) {
            Some(Value::Object(o)) if o.is_empty() => "value: {}",
            Some(Value::Array(a)) if a.is_empty() => "value: []",
            _ => continue,
        };
        let told = format!("{}: {}", cause.field, cause.message);
        cause.message = cause.message.replacen(ABSENT, empty, 1);
        e.message = e.message.replacen(&told, &format!("{}: {}", cause.field, cause.message), 1);
    }
    e
}

/// What is at a path as errors have it: `spec.containers[0].env`.
fn at<'a>(mut v: &'a Value, path: &str) -> Option<&'a Value> {
    for part in path.split('.') {
        let mut keys = part.split('[');
        v = v.get(keys.next()?)?;
        for index in keys {
            v = v.get(index.strip_suffix(']')?.parse::<usize>().ok()?)?;
        }
    }
    Some(v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};

    #[test]
    fn empty_is_not_absent() {
        let path = Path::new("spec").child("rules").index(0).child("values");
        let other = Path::new("spec").child("labels");
        let list = vec![
            Error::invalid(&path, (), "at least one value is required"),
            Error::invalid(&other, (), "must not be null"),
        ];
        let e = ApiError::invalid("g", "K", "n", &list.into());
        let told = shown(e.clone(), br#"{"spec": {"rules": [{"values": []}]}}"#);
        let causes = &told.details.unwrap().causes;
        assert_eq!(causes[0].message, "Invalid value: []: at least one value is required");
        assert_eq!(causes[1].message, "Invalid value: null: must not be null");
        assert!(
            told.message.contains("values: Invalid value: []")
                && told.message.contains("labels: Invalid value: null")
        );
        assert_eq!(shown(e.clone(), b"x").message, e.message);
        let whole = vec![Error::invalid(&Path::new("spec"), (), "either `a` or `b` must be specified")];
        let e = ApiError::invalid("g", "K", "n", &whole.into());
        assert_eq!(shown(e.clone(), br#"{"spec": {}}"#).message, e.message);
    }
}

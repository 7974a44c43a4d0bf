//! Replica counts of the `scale` subresource, and the selector beside them.

use serde_json::Value;

use super::number::{Num, quote};
use crate::field::{Error, ErrorKind, ErrorList, go_type};

/// Where the `scale` subresource finds its values: `.spec.replicas`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    /// Empty if there is no selector.
    pub label_selector: String,
}

/// A simple path followed through objects: nothing if a field is absent, an error at what is no object.
///
/// # Errors
/// What upstream says about a value of a wrong type.
pub fn follow<'a>(object: &'a Value, path: &str) -> Result<Option<&'a Value>, String> {
    let shown = path.strip_prefix('.').unwrap_or(path);
    let mut at = object;
    for f in shown.split('.') {
        let Some(m) = at.as_object() else {
            return Err(format!(
                ".{shown} accessor error: {} is of the type {}, expected map[string]interface{{}}",
                go_value(at),
                go_type(at)
            ));
        };
        match m.get(f) {
            Some(v) => at = v,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

fn go_value(v: &Value) -> String {
    match v {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Number(n) => Num::of(n).text(),
        other => other.to_string(),
    }
}

fn wrong(path: &str, value: String, detail: String) -> Error {
    Error { kind: ErrorKind::Invalid, field: path.to_owned(), value, detail }
}

fn accessor(path: &str, v: &Value, wanted: &str) -> String {
    let shown = path.strip_prefix('.').unwrap_or(path);
    format!(".{shown} accessor error: {} is of the type {}, expected {wanted}", go_value(v), go_type(v))
}

impl ScalePaths {
    /// Checks replicas and selector; a write to the status leaves the spec as it was.
    pub fn validate(&self, object: &Value, status_only: bool, errors: &mut ErrorList) {
        if !status_only {
            replicas(object, &self.spec_replicas, errors);
        }
        replicas(object, &self.status_replicas, errors);
        if self.label_selector.is_empty() {
            return;
        }
        let p = &self.label_selector;
        match follow(object, p) {
            Ok(Some(Value::String(_)) | None) => {}
            Ok(Some(v)) => errors.push(wrong(p, quote(""), accessor(p, v, "string"))),
            Err(why) => errors.push(wrong(p, quote(""), why)),
        }
    }
}

fn replicas(object: &Value, path: &str, errors: &mut ErrorList) {
    let n = match follow(object, path) {
        Ok(None) => return,
        Ok(Some(v)) => match v.as_i64() {
            Some(n) => n,
            None => return errors.push(wrong(path, "0".into(), accessor(path, v, "int64"))),
        },
        Err(why) => return errors.push(wrong(path, "0".into(), why)),
    };
    if n < 0 {
        errors.push(wrong(path, n.to_string(), "should be a non-negative integer".into()));
    } else if n > i64::from(i32::MAX) {
        errors.push(wrong(path, n.to_string(), format!("should be less than or equal to {}", i32::MAX)));
    }
}

//! Reading one object for its row.

use serde_json::{Value, json};

use super::age::human_duration;

/// One object and the time at which it is shown.
pub struct Row<'a> {
    pub object: &'a Value,
    pub now: jiff::Timestamp,
}

static NOTHING: Value = Value::Null;

impl Row<'_> {
    /// The value at a JSON pointer, null if absent.
    pub fn at(&self, pointer: &str) -> &Value {
        self.object.pointer(pointer).unwrap_or(&NOTHING)
    }

    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    pub fn int(&self, pointer: &str) -> i64 {
        self.at(pointer).as_i64().unwrap_or(0)
    }

    pub fn flag(&self, pointer: &str) -> bool {
        self.at(pointer).as_bool().unwrap_or(false)
    }

    pub fn list(&self, pointer: &str) -> &[Value] {
        list(self.at(pointer))
    }

    /// Entries of a list or map.
    pub fn count(&self, pointer: &str) -> i64 {
        let v = self.at(pointer);
        let n = v.as_array().map(Vec::len).or_else(|| v.as_object().map(serde_json::Map::len)).unwrap_or(0);
        i64::try_from(n).unwrap_or(i64::MAX)
    }

    pub fn name(&self) -> Value {
        json!(self.text("/metadata/name"))
    }

    /// Time since creation.
    pub fn age(&self) -> Value {
        json!(self.since(self.text("/metadata/creationTimestamp")))
    }

    /// Time since a recorded moment.
    pub fn since(&self, time: &str) -> String {
        match time.parse::<jiff::Timestamp>() {
            Ok(t) => {
                human_duration((self.now.as_nanosecond() - t.as_nanosecond()).div_euclid(1_000_000_000) as i64)
            }
            Err(_) => "<unknown>".to_owned(),
        }
    }

    pub fn is_deleted(&self) -> bool {
        self.at("/metadata/deletionTimestamp").is_string()
    }
}

/// Items of a list, none if it is no list.
pub fn list(v: &Value) -> &[Value] {
    v.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Text of a field, empty if absent.
pub fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v[field].as_str().unwrap_or_default()
}

/// `fallback` in place of nothing.
pub fn or<'a>(s: &'a str, fallback: &'a str) -> &'a str {
    if s.is_empty() { fallback } else { s }
}

/// Strings of a list, joined.
pub fn joined(v: &Value, separator: &str) -> String {
    list(v).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(separator)
}

/// Seconds between two recorded moments.
pub fn seconds_between(from: &str, to: &str) -> Option<i64> {
    let (a, b) = (from.parse::<jiff::Timestamp>().ok()?, to.parse::<jiff::Timestamp>().ok()?);
    Some(b.as_second() - a.as_second())
}

/// `k=v,k2=v2`.
pub fn labels(map: &Value) -> String {
    let mut pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A label selector as selectors are written on the command line; empty if it selects everything.
pub fn selector(s: &Value) -> String {
    let mut parts: Vec<(String, String)> = s["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), format!("{k}={}", v.as_str().unwrap_or_default())))
        .collect();
    for e in list(&s["matchExpressions"]) {
        let key = text(e, "key");
        let mut values: Vec<&str> = list(&e["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let shown = match text(e, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        parts.push((key.to_owned(), shown));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    parts.into_iter().map(|p| p.1).collect::<Vec<_>>().join(",")
}

/// [`selector`], with `<none>` for the empty one.
pub fn selector_or_none(s: &Value) -> String {
    or(&selector(s), "<none>").to_owned()
}

/// Names and images of the containers of a pod spec.
pub fn containers(spec: &Value) -> (Value, Value) {
    let all = list(&spec["containers"]);
    let join = |field| all.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
    (json!(join("name")), json!(join("image")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_as_on_the_command_line() {
        let s = json!({"matchLabels": {"b": "c"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "z", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&s), "a in (x,y),b=c,!z");
        assert_eq!(selector_or_none(&json!({})), "<none>");
    }
}

//! What differs between two objects, for messages that refuse a change: the JSON of both, line by line, with
//! what went and what came marked.

use serde::Serialize;
use serde_json::Value;

/// Lines that both have are left out but for the path that leads to a difference.
pub fn diff<T: Serialize>(old: &T, new: &T) -> String {
    let read = |x: &T| {
        let mut v = serde_json::to_value(x).unwrap_or(Value::Null);
        crate::kinds::semantic::drop_empty(&mut v);
        v
    };
    let mut out = String::new();
    walk("", &read(old), &read(new), 0, &mut out);
    out
}

fn line(mark: char, depth: usize, text: &str, out: &mut String) {
    out.push(mark);
    out.push_str(&" ".repeat(1 + depth * 2));
    out.push_str(text);
    out.push('\n');
}

fn label(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("{name}: ") }
}

fn walk(name: &str, old: &Value, new: &Value, depth: usize, out: &mut String) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            line(' ', depth, &format!("{}{{", label(name)), out);
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for k in keys {
                let at = |m: &serde_json::Map<String, Value>| m.get(k).cloned().unwrap_or(Value::Null);
                walk(k, &at(a), &at(b), depth + 1, out);
            }
            line(' ', depth, "}", out);
        }
        (Value::Array(a), Value::Array(b)) => {
            line(' ', depth, &format!("{}[", label(name)), out);
            for i in 0..a.len().max(b.len()) {
                let at = |v: &[Value]| v.get(i).cloned().unwrap_or(Value::Null);
                walk(&i.to_string(), &at(a), &at(b), depth + 1, out);
            }
            line(' ', depth, "]", out);
        }
        (a, b) => {
            if !a.is_null() {
                line('-', depth, &format!("{}{a}", label(name)), out);
            }
            if !b.is_null() {
                line('+', depth, &format!("{}{b}", label(name)), out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn only_what_differs_is_told() {
        let a = serde_json::json!({"x": 1, "y": [{"z": "a"}, 2]});
        let b = serde_json::json!({"x": 1, "y": [{"z": "b"}, 2]});
        assert_eq!(
            diff(&a, &b),
            "  {\n    y: [\n      0: {\n-       z: \"a\"\n+       z: \"b\"\n      }\n    ]\n  }\n"
        );
    }
}

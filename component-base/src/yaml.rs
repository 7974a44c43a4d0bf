//! Writes JSON values as the YAML that kubectl and the API server write: block style, strings quoted where YAML 1.1
//! would read another type. General writers quote by YAML 1.2 and leave `2026-01-01T00:00:00Z`, `yes` or `1:20` bare,
//! which other readers then take for times, truths and numbers; that is why there is one here.

use serde_json::{Map, Value};

/// The document, with a line break at its end.
pub fn to_string(v: &Value) -> String {
    let mut out = String::new();
    block(v, 0, &mut out);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

fn block(v: &Value, indent: usize, out: &mut String) {
    match v {
        Value::Object(m) if !m.is_empty() => map(m, indent, out),
        Value::Array(items) if !items.is_empty() => list(items, indent, out),
        leaf => scalar(leaf, indent, out),
    }
}

fn map(m: &Map<String, Value>, indent: usize, out: &mut String) {
    let mut keys: Vec<&String> = m.keys().collect();
    keys.sort();
    for (i, k) in keys.into_iter().enumerate() {
        if i > 0 {
            pad(indent, out);
        }
        text(k, None, out);
        out.push(':');
        match &m[k] {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                pad(indent + 2, out);
                map(inner, indent + 2, out);
            }
            // Lists of a mapping stand at its own depth.
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                pad(indent, out);
                list(items, indent, out);
            }
            leaf => {
                out.push(' ');
                scalar(leaf, indent + 2, out);
                end_line(out);
            }
        }
    }
}

fn list(items: &[Value], indent: usize, out: &mut String) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            pad(indent, out);
        }
        out.push_str("- ");
        block(item, indent + 2, out);
        end_line(out);
    }
}

fn end_line(out: &mut String) {
    if !out.ends_with('\n') {
        out.push('\n');
    }
}

fn pad(n: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', n));
}

fn scalar(v: &Value, indent: usize, out: &mut String) {
    match v {
        Value::String(s) => text(s, Some(indent), out),
        // Empty maps and lists, too, are written as in JSON.
        other => out.push_str(&other.to_string()),
    }
}

/// `indent` is where the lines of a literal go; keys have none.
fn text(s: &str, indent: Option<usize>, out: &mut String) {
    let printable = s.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{feff}'));
    if let (true, true, Some(indent)) = (s.contains('\n'), printable, indent)
        && is_literal(s)
    {
        return literal(s, indent, out);
    }
    if !printable || s.contains('\n') || is_other_type(s) {
        return quoted(s, out);
    }
    if is_plain(s) {
        return out.push_str(s);
    }
    out.push('\'');
    out.push_str(&s.replace('\'', "''"));
    out.push('\'');
}

/// Whether a literal block keeps every character.
fn is_literal(s: &str) -> bool {
    !s.contains(" \n") && !s.starts_with('\n') && !s.ends_with(' ') && !s.starts_with(' ')
}

fn literal(s: &str, indent: usize, out: &mut String) {
    out.push('|');
    let body = s.trim_end_matches('\n');
    match s.len() - body.len() {
        0 => out.push('-'),
        1 => {}
        _ => out.push('+'),
    }
    let lines = s.strip_suffix('\n').unwrap_or(s);
    for line in lines.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(indent, out);
            out.push_str(line);
        }
    }
    out.push('\n');
}

fn quoted(s: &str, out: &mut String) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02X}", c as u32)),
            c if c.is_control() || c == '\u{feff}' => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whether the text can stand bare in a block.
fn is_plain(s: &str) -> bool {
    let b = s.as_bytes();
    let space = |i: usize| b.get(i).is_none_or(|c| *c == b' ');
    let first = match b.first() {
        None | Some(b' ') => false,
        Some(
            b'#' | b',' | b'[' | b']' | b'{' | b'}' | b'&' | b'*' | b'!' | b'|' | b'>' | b'\'' | b'"' | b'%',
        ) => false,
        Some(b'@' | b'`') => false,
        Some(b'-' | b'?' | b':') => !space(1),
        Some(_) => true,
    };
    first
        && !s.starts_with("---")
        && !s.starts_with("...")
        && !s.ends_with(' ')
        && b.iter().enumerate().all(|(i, c)| match c {
            b':' => !space(i + 1),
            b'#' => i == 0 || b[i - 1] != b' ',
            _ => true,
        })
}

/// Whether a reader of YAML 1.1 would take the bare text for something else than text.
fn is_other_type(s: &str) -> bool {
    let word = matches!(
        s,
        "" | "~"
            | "null"
            | "Null"
            | "NULL"
            | "<<"
            | "y"
            | "Y"
            | "n"
            | "N"
            | "yes"
            | "Yes"
            | "YES"
            | "no"
            | "No"
            | "NO"
            | "true"
            | "True"
            | "TRUE"
            | "false"
            | "False"
            | "FALSE"
            | "on"
            | "On"
            | "ON"
            | "off"
            | "Off"
            | "OFF"
            | ".nan"
            | ".NaN"
            | ".NAN"
            | ".inf"
            | ".Inf"
            | ".INF"
            | "+.inf"
            | "+.Inf"
            | "+.INF"
            | "-.inf"
            | "-.Inf"
            | "-.INF"
    );
    word || is_number(s) || is_sexagesimal(s) || is_time(s)
}

fn is_number(s: &str) -> bool {
    let plain = s.replace('_', "");
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    let all = |digits: &str, radix: u32| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    let lower = unsigned.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0x") {
        return all(hex, 16);
    }
    if let Some(octal) = lower.strip_prefix("0o") {
        return all(octal, 8);
    }
    if let Some(binary) = lower.strip_prefix("0b") {
        return all(binary, 2);
    }
    let (mantissa, exponent) = match lower.split_once('e') {
        Some((m, e)) => (m, Some(e.strip_prefix(['+', '-']).unwrap_or(e))),
        None => (lower.as_str(), None),
    };
    let digits = |d: &str| d.chars().all(|c| c.is_ascii_digit());
    let number = match mantissa.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty()),
        None => all(mantissa, 10),
    };
    number && exponent.is_none_or(|e| all(e, 10))
}

/// `1:20` is eighty.
fn is_sexagesimal(s: &str) -> bool {
    let mut parts = s.strip_prefix(['+', '-']).unwrap_or(s).split(':');
    let first = parts.next().unwrap_or_default();
    let leading = first.starts_with(|c: char| c.is_ascii_digit())
        && first.chars().all(|c| c.is_ascii_digit() || c == '_');
    let rest: Vec<&str> = parts.collect();
    leading
        && !rest.is_empty()
        && rest.iter().enumerate().all(|(i, p)| {
            let whole = if i + 1 == rest.len() { p.split('.').next().unwrap_or_default() } else { p };
            (1..=2).contains(&whole.len()) && whole.parse::<u8>().is_ok_and(|n| n < 60)
        })
}

/// `2026-01-01`, alone or with a time of day.
fn is_time(s: &str) -> bool {
    let (date, time) = match s.find(['T', 't', ' ']) {
        Some(i) => (&s[..i], Some(&s[i + 1..])),
        None => (s, None),
    };
    let parts: Vec<&str> = date.split('-').collect();
    let [year, month, day] = parts.as_slice() else { return false };
    let digits = |p: &str, min: usize, max: usize| {
        (min..=max).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit())
    };
    digits(year, 4, 4)
        && digits(month, 1, 2)
        && digits(day, 1, 2)
        && time.is_none_or(|t| {
            let clock = t.split(['Z', '+', '-', '.']).next().unwrap_or_default();
            let parts: Vec<&str> = clock.split(':').collect();
            parts.len() == 3 && parts.iter().all(|p| digits(p, 1, 2))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_as_kubectl_shows_them() {
        let v = json!({"kind": "Pod", "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z", "labels": {},
            "resourceVersion": "12", "annotations": {"a": "x: y", "b": "", "c": "one\n two\n", "d": "yes",
            "k:{\"name\":\"c\"}": "* all"}}, "list": [[1, 2], {"a": null, "b": true}, "1:20", []]});
        let want = r#"kind: Pod
list:
- - 1
  - 2
- a: null
  b: true
- "1:20"
- []
metadata:
  annotations:
    a: 'x: y'
    b: ""
    c: |
      one
       two
    d: "yes"
    k:{"name":"c"}: '* all'
  creationTimestamp: "2026-01-01T00:00:00Z"
  labels: {}
  resourceVersion: "12"
"#;
        assert_eq!(to_string(&v), want);
    }

    #[test]
    fn texts_are_read_back_as_they_were() {
        for s in [
            "",
            " a",
            "a ",
            "a\n",
            "a\n\n",
            "\na",
            "a \nb",
            "#a",
            "a #b",
            "a: b",
            "a:",
            "- a",
            "-",
            "?",
            "'",
            "\"",
            "0x1f",
            "1e3",
            ".5",
            "1_000",
            "2026-01-01",
            "10.0.0.1",
            "a\tb",
            "\u{7f}",
            "null",
            "~",
            "{a}",
            "%x",
            "@x",
            "a\r\nb",
            "---",
            "tru",
            "é",
            "0.0.0.0/0",
            "5m",
            "100m",
        ] {
            let text = to_string(&json!({"k": s, s: 1, "l": [s]}));
            let back: Value = serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert_eq!(back, json!({"k": s, s: 1, "l": [s]}), "{text}");
        }
    }
}

//! Field paths into a schema: those of rules (`.spec['a b'].c`) and of selectable fields (`.spec.a`).

use super::props::{Additional, Props};
use crate::field::Path;

/// Follows `path` through `schema`; answers the path in canonical form and the schema it leads to, none where
/// map values have no schema.
///
/// # Errors
/// Why it leads nowhere.
pub fn resolve<'a>(
    path: &str,
    schema: Props<'a>,
    brackets: bool,
) -> Result<(Path, Option<Props<'a>>), String> {
    let nowhere = || "does not refer to a valid field".to_owned();
    let end = || "unexpected end of JSON path".to_owned();
    let mut out = Path::default();
    let mut at = Some(schema);
    let mut tokens = Tokens(path);
    while let Some(token) = tokens.next() {
        let name = match token {
            "[" => {
                if !brackets {
                    return Err("array notation is not allowed".into());
                }
                let quoted = tokens.next().ok_or_else(end)?;
                let inner = quoted.strip_prefix('\'').and_then(|q| q.strip_suffix('\''));
                let Some(inner) = inner.filter(|_| quoted.len() >= 2) else {
                    return Err(format!("expected single quoted string but got {quoted}"));
                };
                let name = unescape(inner).map_err(|e| format!("invalid string literal: {e}"))?;
                (out, at) = step(&out, at, &name).ok_or_else(nowhere)?;
                match tokens.next().ok_or_else(end)? {
                    "]" => continue,
                    other => return Err(format!("expected ] but got {other}")),
                }
            }
            "." => tokens.next().ok_or_else(end)?,
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        (out, at) = step(&out, at, name).ok_or_else(nowhere)?;
    }
    Ok((out, at))
}

fn step<'a>(out: &Path, at: Option<Props<'a>>, name: &str) -> Option<(Path, Option<Props<'a>>)> {
    let at = at?;
    if at.has_properties() {
        return at.property(name).map(|inner| (out.child(name), Some(inner)));
    }
    match at.additional()? {
        Additional::Schema(inner) => Some((out.key(name), Some(inner))),
        Additional::Allowed(_) => Some((out.key(name), None)),
    }
}

/// Delimiters, and the text between them.
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0;
        if rest.is_empty() {
            return None;
        }
        let bytes = rest.as_bytes();
        let end = if bytes[0] == b'\'' {
            (1..bytes.len()).find(|i| bytes[*i] == b'\'' && bytes[i - 1] != b'\\').map(|i| i + 1)
        } else {
            match rest.find(['.', '[', ']']) {
                Some(0) => Some(1),
                other => other,
            }
        };
        let (token, rest) = rest.split_at(end.unwrap_or(rest.len()));
        self.0 = rest;
        Some(token)
    }
}

fn unescape(s: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = s.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(c @ ('\'' | '\\')) => c,
            Some(c) => return Err(format!("invalid escape char \\{c}")),
            None => '\\',
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_through_schemas() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"a b": {"type": "string"}, "m": {"type": "object",
                "additionalProperties": {"type": "string"}}}}
        }});
        let p = Props::new(&schema).unwrap();
        let at = |path: &str| resolve(path, p, true).map(|(p, _)| p.to_string());
        assert_eq!(at(".spec.m.k"), Ok("spec.m[k]".into()));
        assert_eq!(at(".spec['a b']"), Ok("spec.a b".into()));
        for (path, why) in [
            (".spec.nope", "does not refer to a valid field"),
            ("spec", "expected [ or . but got: spec"),
            (".", "unexpected end of JSON path"),
            (".spec[0]", "expected single quoted string but got 0"),
            (".spec['a b'", "unexpected end of JSON path"),
            (r".spec['\q']", r"invalid string literal: invalid escape char \q"),
        ] {
            assert_eq!(at(path), Err(why.into()), "{path}");
        }
        assert_eq!(resolve(".spec['m']", p, false).unwrap_err(), "array notation is not allowed");
    }
}

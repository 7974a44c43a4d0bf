//! What a field or label selector demands: some authorizers allow a list only where it is narrowed.

use serde_json::{Value, json};

use crate::registry::labels;

/// One demand on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub field: String,
    /// True for `=` and `==`, false for `!=`.
    pub equals: bool,
    pub value: String,
}

/// One demand of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRequirement {
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: &'static str,
    pub values: Vec<String>,
}

impl LabelRequirement {
    /// As `metav1.LabelSelectorRequirement`.
    pub fn to_json(&self) -> Value {
        let mut out = json!({"key": self.key, "operator": self.operator});
        if !self.values.is_empty() {
            out["values"] = json!(self.values);
        }
        out
    }
}

/// The demands of a label selector that the authorization API can express. Those that it cannot, and selectors that do
/// not parse, demand nothing: that only ever widens what is asked for.
pub fn parse_labels(selector: &str) -> Vec<LabelRequirement> {
    let Ok(parsed) = labels::Selector::parse(selector) else { return Vec::new() };
    parsed
        .requirements()
        .map(|(key, operator, values)| LabelRequirement {
            key: key.to_owned(),
            operator,
            values: values.to_vec(),
        })
        .collect()
}

impl Requirement {
    /// As `metav1.FieldSelectorRequirement`.
    pub fn to_json(&self) -> Value {
        let operator = if self.equals { "In" } else { "NotIn" };
        json!({"key": self.field, "operator": operator, "values": [self.value]})
    }

    /// Whether one of `all` pins `field` to `value`.
    pub fn pins(all: &[Requirement], field: &str, value: &str) -> bool {
        all.iter().any(|r| r.equals && r.field == field && r.value == value)
    }
}

/// The demands of a field selector (`a=b,c!=d`). One that does not parse demands nothing: it can only lose
/// permissions that way, and the handler rejects it later.
pub fn parse_fields(selector: &str) -> Vec<Requirement> {
    let mut out = Vec::new();
    for term in split_terms(selector) {
        if term.is_empty() {
            continue;
        }
        let Some(r) = parse_term(term) else { return Vec::new() };
        out.push(r);
    }
    out
}

fn split_terms(s: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in s.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&s[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&s[start..]);
    terms
}

fn parse_term(term: &str) -> Option<Requirement> {
    let at = term.find('=')?;
    let (field, equals, value) = if at > 0 && term.as_bytes()[at - 1] == b'!' {
        (&term[..at - 1], false, &term[at + 1..])
    } else {
        let rest = &term[at + 1..];
        (&term[..at], true, rest.strip_prefix('=').unwrap_or(rest))
    };
    Some(Requirement { field: field.to_owned(), equals, value: unescape(value)? })
}

fn unescape(s: &str) -> Option<String> {
    let mut out = String::with_capacity(s.len());
    let mut chars = s.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('\\' | ',' | '=') => out.push(c),
                _ => return None,
            },
            '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        let r = parse_fields("spec.nodeName=n1,status.phase!=Failed,a==b");
        assert_eq!(r.len(), 3);
        assert!(Requirement::pins(&r, "spec.nodeName", "n1"));
        assert!(!Requirement::pins(&r, "status.phase", "Failed"));
        assert!(Requirement::pins(&r, "a", "b"));
        assert_eq!(parse_fields(r"a=x\,y")[0].value, "x,y");
        assert!(parse_fields("nonsense").is_empty());
        assert!(parse_fields("").is_empty());
    }
}

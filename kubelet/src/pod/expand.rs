//! `$(VAR)` references in commands, arguments, environment values and subPathExpr. `$$` is a literal dollar;
//! references to unknown variables stay as they are.

/// Replaces references through `lookup`. The second result lists the names that were not found.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> (String, Vec<String>) {
    let mut out = String::with_capacity(text.len());
    let mut missing = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                    missing.push(name.to_owned());
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    (out, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let look = |n: &str| match n {
            "A" => Some("1"),
            "B" => Some("two"),
            _ => None,
        };
        for (text, want) in [
            ("$(A)-$(B)", "1-two"),
            ("$$(A)", "$(A)"),
            ("$(C)", "$(C)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
            ("x", "x"),
        ] {
            assert_eq!(expand(text, look).0, want, "{text}");
        }
        assert_eq!(expand("$(C)", look).1, ["C"]);
    }
}

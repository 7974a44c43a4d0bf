//! Field selectors: `fieldSelector=` as comma-separated `field=value`, `field==value`, `field!=value`.

/// All terms must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Term>);

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    pub field: String,
    pub value: String,
    pub equal: bool,
}

impl Selector {
    /// Parses `text`; upstream's message when it is no selector.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut out = Vec::new();
        for part in split(text) {
            if part.is_empty() {
                continue;
            }
            let (field, value, equal) = operator(&part)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            let value = unescape(value).map_err(|e| format!("invalid field selector: {e}"))?;
            // Nothing compared with nothing says nothing.
            if !(field.is_empty() && value.is_empty()) {
                out.push(Term { field: field.to_owned(), value, equal });
            }
        }
        Ok(Self(out))
    }

    /// The comparisons.
    pub fn terms(&self) -> &[Term] {
        &self.0
    }

    /// Takes out the terms whose field is not among `kept`.
    pub fn take_others(&mut self, kept: &[&str]) -> Self {
        let (kept, others) = std::mem::take(&mut self.0).into_iter().partition(|t| kept.contains(&&*t.field));
        self.0 = kept;
        Self(others)
    }

    /// Calls every field by the name that `to` gives it; the first error ends it.
    pub fn rename<E>(&mut self, to: impl Fn(&str) -> Result<String, E>) -> Result<(), E> {
        for t in &mut self.0 {
            t.field = to(&t.field)?;
        }
        Ok(())
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether fields found through `get` (absent reads as empty) satisfy every term.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|t| (get(&t.field).unwrap_or_default() == t.value) == t.equal)
    }

    /// The value that `field` must equal, if some term says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }
}

/// Splits at commas that no backslash protects.
fn split(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            out.push(String::new());
            continue;
        }
        if let Some(s) = out.last_mut() {
            s.push(c);
        }
    }
    out
}

fn operator(part: &str) -> Option<(&str, &str, bool)> {
    for (i, _) in part.char_indices() {
        let rest = &part[i..];
        for (op, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(v) = rest.strip_prefix(op) {
                return Some((&part[..i], v, equal));
            }
        }
    }
    None
}

fn unescape(v: &str) -> Result<String, String> {
    if !v.contains(['\\', ',', '=']) {
        return Ok(v.to_owned());
    }
    let mut out = String::new();
    let mut it = v.chars();
    while let Some(c) = it.next() {
        match c {
            '\\' => match it.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid escape sequence: \\{c}")),
                None => return Err("invalid escape sequence: \\".to_owned()),
            },
            // Upstream prints the number of the character.
            ',' | '=' => return Err(format!("unescaped character in value: {}", u32::from(c))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let s = Selector::parse("metadata.name=a,spec.nodeName!=,status.phase==Running").expect("selector");
        assert_eq!(s.exact("metadata.name"), Some("a"));
        assert!(s.matches(|f| match f {
            "metadata.name" => Some("a"),
            "spec.nodeName" => Some("n"),
            "status.phase" => Some("Running"),
            _ => None,
        }));
        assert!(!s.matches(|f| (f == "metadata.name").then_some("a")));
        assert_eq!(
            Selector::parse("nonsense").expect_err("bad"),
            "invalid selector: 'nonsense'; can't understand 'nonsense'"
        );
        assert!(Selector::parse("=").expect("nothing").is_empty());
        assert!(Selector::parse("a=b=c").expect_err("bad").ends_with("unescaped character in value: 61"));
        assert!(Selector::parse("a=b\\").expect_err("bad").ends_with("invalid escape sequence: \\"));
        assert_eq!(Selector::parse("a=b\\,c").expect("escaped").terms()[0].value, "b,c");
    }
}

//! Regular expressions of schemas: upstream's dialect (RE2 as Go has it) run by the `regex` crate.
//!
//! Both are finite automata, so hostile patterns cost linear time; sizes are bounded here. The dialects differ
//! in small things, which [`translate`] evens out: `\d`, `\w`, `\s`, `\b` mean ASCII, brackets know no set
//! operations, `{` may stand for itself, `\Q…\E` quotes.
//!
//! Source: RE2 syntax reference; Go `regexp/syntax` documentation.

use std::sync::{Arc, OnceLock};

use regex::{Regex, RegexBuilder};

/// Bytes that one compiled pattern may take.
const SIZE_LIMIT: usize = 10 << 20;
/// Bytes of cache that matching may take per pattern.
const DFA_LIMIT: usize = 1 << 20;
/// Largest count in `{n,m}`.
const MAX_REPEAT: u32 = 1000;

/// A pattern that is compiled when first used.
#[derive(Debug)]
pub struct Pattern {
    source: Box<str>,
    compiled: OnceLock<Result<Regex, String>>,
}

impl Pattern {
    pub fn new(source: &str) -> Arc<Self> {
        Arc::new(Self { source: source.into(), compiled: OnceLock::new() })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether `text` has a match anywhere.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn is_match(&self, text: &str) -> Result<bool, &str> {
        match self.compiled.get_or_init(|| compile(&self.source)) {
            Ok(re) => Ok(re.is_match(text)),
            Err(e) => Err(e),
        }
    }
}

/// Compiles a pattern of upstream's dialect.
///
/// # Errors
/// What is wrong with it, as upstream says it where it can.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let translated = translate(pattern)?;
    RegexBuilder::new(&translated)
        .octal(true)
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(DFA_LIMIT)
        .build()
        .map_err(|e| match e {
            regex::Error::CompiledTooBig(_) => {
                format!("error parsing regexp: expression too large: `{pattern}`")
            }
            other => {
                // The crate draws the pattern with a marker; its last line is the reason.
                let text = other.to_string();
                let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                format!("error parsing regexp: {why}: `{pattern}`")
            }
        })
}

fn wrong(what: &str, part: &str) -> String {
    format!("error parsing regexp: {what}: `{part}`")
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    out: String,
    /// Open groups.
    depth: usize,
    /// Where the last repeated thing began, if something that can be repeated came before.
    repeatable: bool,
    /// The last thing was a repetition, written from there.
    repeated: Option<usize>,
}

/// The same pattern in the `regex` crate's dialect.
///
/// # Errors
/// What upstream says about patterns that it rejects and the crate would not.
pub fn translate(pattern: &str) -> Result<String, String> {
    let mut r = Reader {
        text: pattern,
        at: 0,
        out: String::with_capacity(pattern.len() + 8),
        depth: 0,
        repeatable: false,
        repeated: None,
    };
    while let Some(c) = r.next() {
        r.step(c)?;
    }
    if r.depth > 0 {
        return Err(wrong("missing closing )", pattern));
    }
    Ok(r.out)
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.text[self.at..].chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn atom(&mut self, text: &str) {
        self.out.push_str(text);
        self.repeatable = true;
        self.repeated = None;
    }

    fn step(&mut self, c: char) -> Result<(), String> {
        match c {
            '\\' => self.escape()?,
            '[' => {
                self.class()?;
                self.repeatable = true;
                self.repeated = None;
            }
            '(' => {
                self.depth += 1;
                self.out.push('(');
                if self.rest().starts_with("?=")
                    || self.rest().starts_with("?!")
                    || self.rest().starts_with("?<=")
                    || self.rest().starts_with("?<!")
                {
                    let upto = if self.rest().starts_with("?<") { 3 } else { 2 };
                    let part = format!("({}", &self.rest()[..upto]);
                    return Err(wrong("invalid or unsupported Perl syntax", &part));
                }
                if self.rest().starts_with('?') {
                    self.flags();
                }
                self.repeatable = false;
                self.repeated = None;
            }
            ')' => {
                if self.depth == 0 {
                    return Err(wrong("unexpected )", self.text));
                }
                self.depth -= 1;
                self.atom(")");
            }
            '|' => {
                self.out.push('|');
                self.repeatable = false;
                self.repeated = None;
            }
            '*' | '+' | '?' => self.repeat(self.at - 1)?,
            '{' => match self.count()? {
                Some(end) => {
                    let begin = self.at - 1;
                    self.at = end;
                    self.repeat(begin)?;
                }
                None => self.atom("\\{"),
            },
            '}' => self.atom("\\}"),
            ']' => self.atom("\\]"),
            c => {
                let mut buffer = [0; 4];
                self.atom(c.encode_utf8(&mut buffer));
            }
        }
        Ok(())
    }

    /// Group flags and names pass as they are.
    fn flags(&mut self) {
        let end = self
            .rest()
            .find([':', ')', '>'])
            .map_or(self.rest().len(), |i| if self.rest()[i..].starts_with(')') { i } else { i + 1 });
        let part = self.rest()[..end].to_owned();
        self.at += part.len();
        self.out.push_str(&part);
    }

    /// One repetition operator, which began at `begin` and ended where the reader is.
    fn repeat(&mut self, begin: usize) -> Result<(), String> {
        if self.rest().starts_with('?') {
            self.at += 1;
        }
        let operator = self.text[begin..self.at].to_owned();
        if !self.repeatable {
            return Err(wrong("missing argument to repetition operator", operator.trim_end_matches('?')));
        }
        if let Some(before) = self.repeated {
            return Err(wrong("invalid nested repetition operator", &self.text[before..self.at]));
        }
        self.out.push_str(&operator);
        self.repeated = Some(begin);
        Ok(())
    }

    /// Where a `{n,m}` that begins before the reader ends, if it is one.
    fn count(&self) -> Result<Option<usize>, String> {
        let Some(end) = self.rest().find('}') else { return Ok(None) };
        let inner = &self.rest()[..end];
        let (low, high) = inner.split_once(',').map_or((inner, None), |(l, h)| (l, Some(h)));
        let digits = |s: &str| {
            !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) && (s == "0" || !s.starts_with('0'))
        };
        if !digits(low) || high.is_some_and(|h| !h.is_empty() && !digits(h)) {
            return Ok(None);
        }
        let number = |s: &str| s.parse::<u32>().unwrap_or(u32::MAX);
        let low = number(low);
        let high = high.filter(|h| !h.is_empty()).map(number);
        if low > MAX_REPEAT || high.is_some_and(|h| h > MAX_REPEAT || h < low) {
            return Err(wrong("invalid repeat count", &format!("{{{inner}}}")));
        }
        Ok(Some(self.at + end + 1))
    }

    fn escape(&mut self) -> Result<(), String> {
        let Some(c) = self.next() else {
            return Err("error parsing regexp: trailing backslash at end of expression: ``".to_owned());
        };
        match c {
            'd' => self.atom("[0-9]"),
            'D' => self.atom("[^0-9]"),
            'w' => self.atom("[0-9A-Za-z_]"),
            'W' => self.atom("[^0-9A-Za-z_]"),
            's' => self.atom("[\\t\\n\\f\\r ]"),
            'S' => self.atom("[^\\t\\n\\f\\r ]"),
            'b' => self.atom("(?-u:\\b)"),
            'B' => self.atom("(?-u:\\B)"),
            'A' | 'z' => self.atom(&format!("\\{c}")),
            'Q' => {
                let end = self.rest().find("\\E").unwrap_or(self.rest().len());
                let quoted = self.rest()[..end].to_owned();
                self.at = (self.at + end + 2).min(self.text.len());
                for c in quoted.chars() {
                    self.atom(&regex::escape(c.encode_utf8(&mut [0; 4])));
                }
            }
            other => {
                let text = self.plain_escape(other)?;
                self.atom(&text);
            }
        }
        Ok(())
    }

    /// Escapes that mean the same inside and outside of brackets.
    fn plain_escape(&mut self, c: char) -> Result<String, String> {
        Ok(match c {
            'p' | 'P' => {
                let Some(next) = self.next() else {
                    return Err(wrong("invalid character class range", "\\p"));
                };
                if next != '{' {
                    return Ok(format!("\\{c}{next}"));
                }
                let Some(end) = self.rest().find('}') else {
                    return Err(wrong("invalid character class range", &self.text[self.at - 3..]));
                };
                let name = self.rest()[..end].to_owned();
                self.at += end + 1;
                format!("\\{c}{{{name}}}")
            }
            'x' => {
                let rest = self.rest();
                let len = match rest.strip_prefix('{') {
                    Some(r) => r.find('}').map(|i| i + 2),
                    None => rest.get(..2).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit())).map(|_| 2),
                };
                let Some(len) = len else { return Err(wrong("invalid escape sequence", "\\x")) };
                let digits = rest[..len].to_owned();
                self.at += len;
                format!("\\x{digits}")
            }
            'a' | 'f' | 'n' | 'r' | 't' | 'v' => format!("\\{c}"),
            '0'..='7' => {
                let more = self.rest().bytes().take(2).take_while(|b| matches!(b, b'0'..=b'7')).count();
                if c != '0' && more == 0 {
                    return Err(wrong("invalid escape sequence", &format!("\\{c}")));
                }
                let digits = self.rest()[..more].to_owned();
                self.at += more;
                let code = u32::from_str_radix(&format!("{c}{digits}"), 8).unwrap_or(0);
                format!("\\x{{{code:x}}}")
            }
            c if c.is_ascii() && (!c.is_ascii_alphanumeric()) => regex::escape(c.encode_utf8(&mut [0; 4])),
            c => return Err(wrong("invalid escape sequence", &format!("\\{c}"))),
        })
    }

    /// A bracket expression, whose `[` is read.
    fn class(&mut self) -> Result<(), String> {
        let begin = self.at - 1;
        self.out.push('[');
        if self.rest().starts_with('^') {
            self.at += 1;
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let Some(c) = self.next() else { return Err(wrong("missing closing ]", &self.text[begin..])) };
            match c {
                ']' if !first => break,
                '[' if self.rest().starts_with(':') && self.rest().contains(":]") => {
                    let end = self.rest().find(":]").unwrap_or(0) + 2;
                    let name = self.rest()[..end].to_owned();
                    self.at += end;
                    self.out.push('[');
                    self.out.push_str(&name);
                }
                '\\' => {
                    let Some(c) = self.next() else {
                        return Err(wrong("missing closing ]", &self.text[begin..]));
                    };
                    let text = match c {
                        'd' => "0-9".to_owned(),
                        'D' => "[^0-9]".to_owned(),
                        'w' => "0-9A-Za-z_".to_owned(),
                        'W' => "[^0-9A-Za-z_]".to_owned(),
                        's' => "\\t\\n\\f\\r ".to_owned(),
                        'S' => "[^\\t\\n\\f\\r ]".to_owned(),
                        other => self.plain_escape(other)?,
                    };
                    self.out.push_str(&text);
                }
                '[' | ']' | '&' | '~' => {
                    self.out.push('\\');
                    self.out.push(c);
                }
                '-' if self.out.ends_with('-') => self.out.push_str("\\-"),
                c => self.out.push(c),
            }
            first = false;
        }
        self.out.push(']');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_what_upstream_means() {
        for (pattern, text, matches) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^[\w.-]+$", "a.b-c_1", true),
            (r"^[\w.-]+$", "é", false),
            (r"^[^\s]+$", "a\u{a0}b", true),
            (r"\bfoo\b", "a foo b", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^a{1,2}$", "aa", true),
            (r"^{}$", "{}", true),
            (r"^[[a]+$", "[a", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[]a]+$", "]a", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"^\<\>\/\-$", "<>/-", true),
            (r"^(?:[a-z]+)(?i:X)$", "abcx", true),
            (r"^(?P<n>a)$", "a", true),
            (r"^\101$", "A", true),
            (r"^[\x41-\x{43}]+$", "ABC", true),
            (r"^\p{L}+$", "é", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^a$", "a\n", false),
            (r"^(([0-9]+)(\.[0-9]+)?)(Ki|Mi)?$", "1.5Mi", true),
        ] {
            assert_eq!(compile(pattern).unwrap().is_match(text), matches, "{pattern} on {text}");
        }
    }

    #[test]
    fn rejects_what_upstream_rejects() {
        for (pattern, why) in [
            ("(", "error parsing regexp: missing closing ): `(`"),
            ("a)", "error parsing regexp: unexpected ): `a)`"),
            ("[a", "error parsing regexp: missing closing ]: `[a`"),
            ("*a", "error parsing regexp: missing argument to repetition operator: `*`"),
            ("a**", "error parsing regexp: invalid nested repetition operator: `**`"),
            ("a{1001}", "error parsing regexp: invalid repeat count: `{1001}`"),
            ("(?=a)", "error parsing regexp: invalid or unsupported Perl syntax: `(?=`"),
            (r"\q", r"error parsing regexp: invalid escape sequence: `\q`"),
            (r"a\", "error parsing regexp: trailing backslash at end of expression: ``"),
        ] {
            assert_eq!(compile(pattern).err().as_deref(), Some(why), "{pattern}");
        }
        assert!(compile("[z-a]").is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(pattern in "\\PC{0,24}", text in "\\PC{0,8}") {
            if let Ok(re) = compile(&pattern) {
                re.is_match(&text);
            }
        }
    }
}

//! Request bodies in YAML: as JSON, and the keys that a mapping gives more than once.
//!
//! The deserializer keeps the last of repeated keys and does not say where they stand, so the events of a parser
//! are walked beside it where `fieldValidation` asks for them.

use std::collections::HashSet;

use granit_parser::{Event, Parser};
use serde::Deserialize as _;
use serde_json::Value;

use crate::status::{ApiError, ApiResult};

/// A body as JSON. `kind` is what the request is about, for the error.
///
/// # Errors
/// 400 `BadRequest` for what is no YAML.
pub fn to_json(body: &[u8], kind: &str) -> ApiResult<Vec<u8>> {
    let v = first_document(body).map_err(|e| {
        let head = proto::json::summary(body);
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {e} ({head})"
        ))
    })?;
    serde_json::to_vec(&v).map_err(|e| ApiError::bad_request(e.to_string()))
}

/// The first document of a body; what follows it is not looked at. The error is upstream's.
pub fn first_document(body: &[u8]) -> Result<Value, String> {
    check_depth(body)?;
    match serde_yaml::Deserializer::from_slice(body).next() {
        None => Ok(Value::Null),
        Some(document) => Value::deserialize(document).map_err(|e| error_text(&e.to_string())),
    }
}

/// Collections nest no deeper; the deserializer has the same limit, but reads all of a document before it heeds it.
const MAX_DEPTH: usize = 128;

/// Refuses what nests too deeply before the deserializer sees it: at every token its parser looks at all collections that
/// are open, so that a small body of nothing but brackets would keep it busy for minutes (CVE-2019-11254).
fn check_depth(body: &[u8]) -> Result<(), String> {
    if !may_be_deep(body) {
        return Ok(());
    }
    let text = std::str::from_utf8(body).map_err(|e| format!("yaml: {e}"))?;
    let mut depth = 0_usize;
    for event in Parser::new_from_str(text) {
        // Two parsers may differ in what they take for wrong: what this one does not read is not given to the other.
        match event.map_err(|e| format!("yaml: {e}"))?.0 {
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            Event::DocumentEnd => break,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err("yaml: exceeded max depth".to_owned());
        }
    }
    Ok(())
}

/// Whether there are enough brackets, dashes or question marks to nest too deeply, were they all what they look like.
fn may_be_deep(body: &[u8]) -> bool {
    let mut open = 0_usize;
    for line in body.split(|b| *b == b'\n') {
        let starts =
            line.iter().take_while(|b| b" -?:\t\r".contains(b)).filter(|b| b"-?:".contains(b)).count();
        if starts > MAX_DEPTH {
            return true;
        }
        for b in line {
            match b {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if open > MAX_DEPTH {
                return true;
            }
        }
    }
    false
}

/// `yaml: line 3: …`: upstream's parser counts its lines from zero, and says nothing of the first.
fn error_text(e: &str) -> String {
    let (why, place) = e.split_once(" at line ").unwrap_or((e, ""));
    let why = why.split(", while ").next().unwrap_or(why);
    let digits = place.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    let line: usize = digits.parse().unwrap_or(0);
    // What the scanner finds is counted from one.
    let scanned = !why.starts_with("did not find expected");
    match line {
        0 | 1 => format!("yaml: {why}"),
        n if scanned => format!("yaml: line {n}: {why}"),
        n => format!("yaml: line {}: {why}", n - 1),
    }
}

/// For every value given under a key that its mapping had already: `line 9: key "foo" already set in map`, the line
/// being that of the value. Inner mappings come before the one around them.
pub fn repeated_keys(body: &[u8]) -> Vec<String> {
    let Ok(text) = std::str::from_utf8(body) else { return Vec::new() };
    let mut walk = Walk::default();
    for event in Parser::new_from_str(text) {
        // What is no YAML is refused by the deserializer.
        let Ok((event, span)) = event else { break };
        match event {
            Event::Scalar(value, ..) => walk.node(Some(&value), span.start.line()),
            Event::Alias(_) => walk.node(None, span.start.line()),
            Event::SequenceStart(..) => walk.open(Open::Sequence, span.start.line()),
            Event::MappingStart(..) => walk.open(Open::Mapping(Mapping::default()), span.start.line()),
            Event::SequenceEnd | Event::MappingEnd => walk.close(),
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    walk.found
}

/// Several lines of [`repeated_keys`] as the one error upstream makes of them; none for none.
pub fn error(lines: &[String]) -> Option<String> {
    (!lines.is_empty()).then(|| format!("yaml: unmarshal errors:\n  {}", lines.join("\n  ")))
}

/// A collection whose end is not read yet, and the line it begins at.
enum Open {
    Sequence,
    Mapping(Mapping),
}

#[derive(Default)]
struct Mapping {
    keys: HashSet<String>,
    /// What the next node is.
    next: Next,
}

#[derive(Default)]
enum Next {
    #[default]
    Key,
    /// The value of a key: none for a key that is a collection, and whether it is there for a second time.
    Value(Option<(String, bool)>),
}

#[derive(Default)]
struct Walk {
    open: Vec<(Open, usize)>,
    found: Vec<String>,
}

impl Walk {
    fn open(&mut self, what: Open, line: usize) {
        self.open.push((what, line));
    }

    fn close(&mut self) {
        if let Some((_, line)) = self.open.pop() {
            self.node(None, line);
        }
    }

    /// A node is complete: a key or a value of the mapping around it, if that is one.
    fn node(&mut self, scalar: Option<&str>, line: usize) {
        let Some((Open::Mapping(m), _)) = self.open.last_mut() else { return };
        m.next = match std::mem::take(&mut m.next) {
            Next::Key => Next::Value(scalar.map(|k| (k.to_owned(), !m.keys.insert(k.to_owned())))),
            Next::Value(key) => {
                if let Some((key, true)) = key {
                    self.found.push(format!("line {line}: key {key:?} already set in map"));
                }
                Next::Key
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_repeated_keys_with_the_lines_of_their_values() {
        let body = "\na: 1\nb:\n  c: 1\n  d: [1, {x: 1, x: 2}]\n  c: 2\nb: {}\na:\n  deep:\n    y: 1\n";
        assert_eq!(
            repeated_keys(body.as_bytes()),
            [
                "line 5: key \"x\" already set in map",
                "line 6: key \"c\" already set in map",
                "line 7: key \"b\" already set in map",
                "line 9: key \"a\" already set in map",
            ]
        );
    }

    #[test]
    fn the_same_key_in_two_mappings_is_fine() {
        let body = "a: {n: 1}\nb: {n: 1}\nlist:\n- n: 1\n- n: 2\n? [n, n]\n: n\n";
        assert!(repeated_keys(body.as_bytes()).is_empty());
        assert!(repeated_keys(b"\xff: 1").is_empty());
        assert!(repeated_keys(b"a: [").is_empty());
        assert!(repeated_keys(b"a: 1\n---\na: 2\n").is_empty());
    }

    #[test]
    fn json_is_yaml() {
        let body = br#"{"a": 1, "a": 2}"#;
        assert_eq!(repeated_keys(body), ["line 1: key \"a\" already set in map"]);
    }

    #[test]
    fn what_nests_too_deeply_is_refused_at_once() {
        for deep in
            ["[".repeat(1_000_000), "{a: ".repeat(300_000), "- ".repeat(500_000), "? ".repeat(500_000)]
        {
            let started = std::time::Instant::now();
            let e = first_document(deep.as_bytes()).expect_err("too deep");
            assert!(e.starts_with("yaml: "), "{e}");
            assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
        }
        // Brackets in text are no collections.
        let text = format!("a: '{}'\nb: |\n  {}\n", "[".repeat(500), "INFO [31m{[".repeat(500));
        let read = first_document(text.as_bytes()).expect("text");
        assert_eq!(read["a"].as_str().map(str::len), Some(500));
        let json = serde_json::json!({"data": {"log": "[{".repeat(500)}}).to_string();
        assert!(first_document(json.as_bytes()).is_ok());
        assert!(first_document(format!("{}1{}", "[".repeat(100), "]".repeat(100)).as_bytes()).is_ok());
    }
}

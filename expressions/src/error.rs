//! Why an expression does not compile, shown as upstream shows it: `ERROR: <input>:1:5: …` with the source line and a
//! mark under the place.

use std::fmt;

/// At most that many problems of one expression are shown.
const SHOWN: usize = 100;

/// One problem at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Line, from one.
    pub line: usize,
    /// Column, from zero, in characters.
    pub column: usize,
    pub message: String,
}

/// The expression does not compile. `Display` gives upstream's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    source: String,
    issues: Vec<Issue>,
}

impl std::error::Error for CompileError {}

impl CompileError {
    /// An error about `source`; `issues` must not be empty.
    pub(super) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|i| (i.line, i.column));
        Self { source: source.to_owned(), issues }
    }

    /// The problems, in the order of their places.
    pub fn issues(&self) -> &[Issue] {
        &self.issues
    }
}

impl Issue {
    /// A problem at the character `offset` of `source`.
    pub(super) fn at(source: &str, offset: usize, message: impl Into<String>) -> Self {
        let (mut line, mut column) = (1, 0);
        for c in source.chars().take(offset) {
            if c == '\n' {
                line += 1;
                column = 0;
            } else {
                column += 1;
            }
        }
        Self { line, column, message: message.into() }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.issues.iter().take(SHOWN).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "ERROR: <input>:{}:{}: {}", issue.line, issue.column + 1, issue.message)?;
            let text = issue.line.checked_sub(1).and_then(|n| self.source.split('\n').nth(n));
            let Some(text) = text else { continue };
            if text.len() > 16_384 {
                continue;
            }
            let text = text.replace('\t', " ");
            write!(f, "\n | {text}\n | ")?;
            let mut rest = text.chars();
            for c in rest.by_ref().take(issue.column) {
                f.write_str(if c.len_utf8() > 1 { "\u{ff0e}" } else { "." })?;
            }
            f.write_str(match rest.next() {
                Some(c) if c.len_utf8() > 1 => "\u{ff3e}",
                _ => "^",
            })?;
        }
        match self.issues.len().checked_sub(SHOWN) {
            Some(more) if more > 0 => write!(f, "\n{more} more errors were truncated"),
            _ => Ok(()),
        }
    }
}

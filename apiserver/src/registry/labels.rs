//! Label selectors: the text form of `labelSelector=` with upstream's grammar and messages.

use super::names;
use crate::field::{Error, Path};

/// All requirements must hold; none selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    op: Op,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    In,
    NotIn,
    Exists,
    Absent,
    Greater,
    Less,
}

impl Selector {
    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Key, operator and values of each requirement that `metav1.LabelSelectorRequirement` can express.
    pub fn requirements(&self) -> impl Iterator<Item = (&str, &'static str, &[String])> {
        self.0.iter().filter_map(|r| {
            let op = match r.op {
                Op::In => "In",
                Op::NotIn => "NotIn",
                Op::Exists => "Exists",
                Op::Absent => "DoesNotExist",
                Op::Greater | Op::Less => return None,
            };
            Some((r.key.as_str(), op, r.values.as_slice()))
        })
    }

    /// Whether labels found through `get` satisfy every requirement.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| {
            let v = get(&r.key);
            match r.op {
                Op::In => v.is_some_and(|v| r.values.iter().any(|x| x == v)),
                Op::NotIn => v.is_none_or(|v| !r.values.iter().any(|x| x == v)),
                Op::Exists => v.is_some(),
                Op::Absent => v.is_none(),
                Op::Greater | Op::Less => {
                    match (v.and_then(|v| v.parse::<i64>().ok()), r.values.first().map(|x| x.parse::<i64>()))
                    {
                        (Some(v), Some(Ok(x))) => {
                            (r.op == Op::Greater && v > x) || (r.op == Op::Less && v < x)
                        }
                        _ => false,
                    }
                }
            }
        })
    }

    /// Parses `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut p = Parser { tokens: lex(text), at: 0 };
        let mut out = Vec::new();
        loop {
            match p.peek_value() {
                Token::Ident(_) | Token::Not => {
                    out.push(p.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                    match p.next() {
                        Token::End => break,
                        Token::Comma => {
                            let t = p.peek_value();
                            if !matches!(t, Token::Ident(_) | Token::Not) {
                                return Err(format!("found '{}', expected: identifier after ','", t.text()));
                            }
                        }
                        t => return Err(format!("found '{}', expected: ',' or 'end of string'", t.text())),
                    }
                }
                Token::End => break,
                t => {
                    return Err(format!("found '{}', expected: !, identifier, or 'end of string'", t.text()));
                }
            }
        }
        Ok(Self(out))
    }

    /// From a typed `LabelSelector` value (`matchLabels`, `matchExpressions`); nothing matches `None`.
    pub fn from_value(v: &serde_json::Value) -> Option<Self> {
        let mut out = Vec::new();
        if let Some(m) = v.get("matchLabels").and_then(|m| m.as_object()) {
            for (k, v) in m {
                out.push(Requirement {
                    key: k.clone(),
                    op: Op::In,
                    values: vec![v.as_str().unwrap_or_default().to_owned()],
                });
            }
        }
        for e in v.get("matchExpressions").and_then(|e| e.as_array()).into_iter().flatten() {
            let op = match e.get("operator")?.as_str()? {
                "In" => Op::In,
                "NotIn" => Op::NotIn,
                "Exists" => Op::Exists,
                "DoesNotExist" => Op::Absent,
                _ => return None,
            };
            let values = e
                .get("values")
                .and_then(|v| v.as_array())
                .map(|a| a.iter().filter_map(|x| x.as_str().map(str::to_owned)).collect())
                .unwrap_or_default();
            out.push(Requirement { key: e.get("key")?.as_str()?.to_owned(), op, values });
        }
        Some(Self(out))
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Ident(String),
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Ident(s) => s,
            Self::Open => "(",
            Self::Close => ")",
            Self::Comma => ",",
            Self::Not => "!",
            Self::Equals => "=",
            Self::DoubleEquals => "==",
            Self::NotEquals => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::In => "in",
            Self::NotIn => "notin",
            Self::End => "",
        }
    }
}

fn special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn lex(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut it = text.chars().peekable();
    while let Some(&c) = it.peek() {
        if blank(c) {
            it.next();
        } else if special(c) {
            it.next();
            let next_eq = it.peek() == Some(&'=');
            out.push(match c {
                '(' => Token::Open,
                ')' => Token::Close,
                ',' => Token::Comma,
                '>' => Token::Greater,
                '<' => Token::Less,
                '!' if next_eq => Token::NotEquals,
                '!' => Token::Not,
                _ if next_eq => Token::DoubleEquals,
                _ => Token::Equals,
            });
            if matches!(out.last(), Some(Token::NotEquals | Token::DoubleEquals)) {
                it.next();
            }
        } else {
            let mut s = String::new();
            while let Some(&c) = it.peek() {
                if blank(c) || special(c) {
                    break;
                }
                s.push(c);
                it.next();
            }
            out.push(match s.as_str() {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Ident(s),
            });
        }
    }
    out.push(Token::End);
    out
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Token {
        self.tokens.get(self.at).cloned().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token {
        let t = self.peek();
        self.at += 1;
        t
    }

    /// The next token where keys and values stand: `in` and `notin` are words there.
    fn peek_value(&self) -> Token {
        match self.peek() {
            t @ (Token::In | Token::NotIn) => Token::Ident(t.text().to_owned()),
            t => t,
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == Token::Not;
        if absent {
            self.next();
        }
        let key = self.peek_value();
        self.at += 1;
        let key = match key {
            Token::Ident(k) => k,
            t => return Err(format!("found '{}', expected: identifier", t.text())),
        };
        if let Err(m) = names::qualified_name(&key) {
            // What is wrong with a key has no path.
            let p = Path::new("<nil>");
            let errors: crate::field::ErrorList =
                m.into_iter().map(|m| Error::invalid(&p, &key, m)).collect::<Vec<_>>().into();
            return Err(errors.aggregate());
        }
        if absent {
            return Ok(Requirement { key, op: Op::Absent, values: Vec::new() });
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(Requirement { key, op: Op::Exists, values: Vec::new() });
        }
        let (op, many) = match self.next() {
            Token::In => (Op::In, true),
            Token::NotIn => (Op::NotIn, true),
            Token::Equals | Token::DoubleEquals => (Op::In, false),
            Token::NotEquals => (Op::NotIn, false),
            Token::Greater => (Op::Greater, false),
            Token::Less => (Op::Less, false),
            t => {
                return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", t.text()));
            }
        };
        let mut values = if many { self.values()? } else { vec![self.exact_value()?] };
        values.sort();
        values.dedup();
        if matches!(op, Op::Greater | Op::Less) && values[0].parse::<i64>().is_err() {
            let e = Error::invalid(
                &Path::new("values").index(0),
                &values[0],
                "for 'Gt', 'Lt' operators, the value must be an integer",
            );
            return Err(e.to_string());
        }
        for (i, v) in values.iter().enumerate() {
            if let Err(m) = names::label_value(v) {
                let p = Path::new("values").index(i).key(&key);
                let errors: crate::field::ErrorList =
                    m.into_iter().map(|m| Error::invalid(&p, v, m)).collect::<Vec<_>>().into();
                return Err(errors.aggregate());
            }
        }
        Ok(Requirement { key, op, values })
    }

    fn exact_value(&mut self) -> Result<String, String> {
        match self.peek_value() {
            Token::End | Token::Comma => Ok(String::new()),
            Token::Ident(s) => {
                self.next();
                Ok(s)
            }
            t => Err(format!("found '{}', expected: identifier", t.text())),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Open => {}
            t => return Err(format!("found '{}' expected: '('", t.text())),
        }
        let mut out = Vec::new();
        match self.peek_value() {
            Token::Ident(_) | Token::Comma => {}
            Token::Close => {
                self.next();
                return Ok(vec![String::new()]);
            }
            t => return Err(format!("found '{}', expected: ',', ')' or identifier", t.text())),
        }
        loop {
            match self.peek_value() {
                Token::Ident(s) => {
                    self.next();
                    out.push(s);
                    match self.next() {
                        Token::Comma => {
                            if self.peek_value() == Token::Close {
                                out.push(String::new());
                            }
                        }
                        Token::Close => return Ok(out),
                        t => return Err(format!("found '{}', expected: ',' or ')'", t.text())),
                    }
                }
                Token::Comma => {
                    self.next();
                    out.push(String::new());
                }
                Token::Close => {
                    self.next();
                    return Ok(out);
                }
                t => return Err(format!("found '{}', expected: ',', or identifier", t.text())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(sel: &str, labels: &[(&str, &'static str)]) -> bool {
        Selector::parse(sel).expect(sel).matches(|k| labels.iter().find(|(x, _)| *x == k).map(|(_, v)| *v))
    }

    #[test]
    fn selects() {
        let l = [("app", "web"), ("tier", "in"), ("n", "5")];
        for s in [
            "",
            "app=web",
            "app==web",
            "app in (web,x)",
            "app!=x",
            "nope!=x",
            "app,tier",
            "!z",
            "tier in (in)",
            "n>4,n<6",
            "app notin (y)",
        ] {
            assert!(hit(s, &l), "{s}");
        }
        for s in ["app=x", "app in (x)", "app!=web", "z", "!app", "n>5", "app=", "z in (a)"] {
            assert!(!hit(s, &l), "{s}");
        }
    }

    #[test]
    fn refuses() {
        let e = |s: &str| Selector::parse(s).expect_err(s);
        assert_eq!(e("a in ("), "unable to parse requirement: found '', expected: ',', ')' or identifier");
        assert_eq!(
            e("a b"),
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"
        );
        assert_eq!(e("a,"), "found '', expected: identifier after ','");
        assert!(Selector::parse("in in (in),notin").is_ok());
        assert!(e("-a=b").contains("<nil>: Invalid value: \"-a\""));
        assert_eq!(e("=a"), "found '=', expected: !, identifier, or 'end of string'");
        assert!(e("a=b c").starts_with("found 'c', expected: ',' or 'end of string'"));
    }
}

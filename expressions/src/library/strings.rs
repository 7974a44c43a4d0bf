//! Functions of strings, regular expressions among them.

use regex::Regex;

use super::super::value::{EvalError, EvalResult, Text, Value};
use super::{Builtin, MAX_TEXT, bounded, printf};

pub fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "contains" => |a, _| two(a, |s, t| Ok(Value::Bool(s.contains(t)))),
        "startsWith" => |a, _| two(a, |s, t| Ok(Value::Bool(s.starts_with(t)))),
        "endsWith" => |a, _| two(a, |s, t| Ok(Value::Bool(s.ends_with(t)))),
        "matches" => |a, r| with_regex(a, r, |s, r| Ok(Value::Bool(r.is_match(s)))),
        "find" => |a, r| {
            with_regex(a, r, |s, r| {
                let found = r.find(s).map_or("", |m| m.as_str());
                Ok(found.to_owned().into())
            })
        },
        "findAll" => find_all,
        "charAt" => |a, _| match a {
            [Value::String(s), Value::Int(i)] => char_at(s, *i),
            _ => Err(EvalError::NoOverload),
        },
        "lowerAscii" => |a, _| one(a, |s| Ok(s.to_ascii_lowercase().into())),
        "upperAscii" => |a, _| one(a, |s| Ok(s.to_ascii_uppercase().into())),
        "trim" => |a, _| one(a, |s| Ok(s.trim().to_owned().into())),
        "replace" => replace,
        "split" => split,
        "substring" => substring,
        "join" => join,
        "format" => |a, _| match a {
            [Value::String(s), Value::List(l)] => Ok(printf::format(s, &l.values()?)?.into()),
            _ => Err(EvalError::NoOverload),
        },
        "strings.quote" => |a, _| one(a, |s| Ok(quote(s).into())),
        "jsonpatch.escapeKey" => |a, _| one(a, |s| Ok(s.replace('~', "~0").replace('/', "~1").into())),
        _ => return None,
    })
}

fn one<'a>(a: &[Value<'a>], f: impl Fn(&str) -> EvalResult<'a>) -> EvalResult<'a> {
    match a {
        [Value::String(s)] => f(s),
        _ => Err(EvalError::NoOverload),
    }
}

fn two<'a>(a: &[Value<'a>], f: impl Fn(&str, &str) -> EvalResult<'a>) -> EvalResult<'a> {
    match a {
        [Value::String(s), Value::String(t)] => f(s, t),
        _ => Err(EvalError::NoOverload),
    }
}

/// Compiles a pattern. Patterns that would need much memory are refused.
pub fn regex(pattern: &str) -> Result<Regex, EvalError> {
    regex::RegexBuilder::new(pattern)
        .size_limit(4 << 20)
        .dfa_size_limit(1 << 20)
        .build()
        .map_err(|e| EvalError::new(format!("error parsing regexp: {}", first_line(&e.to_string()))))
}

/// The last line says what is wrong; those before it draw the place.
fn first_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ")
}

fn with_regex<'a>(
    a: &[Value<'a>],
    compiled: Option<&Regex>,
    f: impl Fn(&str, &Regex) -> EvalResult<'a>,
) -> EvalResult<'a> {
    two(a, |s, pattern| match compiled {
        Some(r) => f(s, r),
        None => f(s, &regex(pattern)?),
    })
}

fn find_all<'a>(a: &[Value<'a>], compiled: Option<&Regex>) -> EvalResult<'a> {
    let limit = match a.get(2) {
        None => usize::MAX,
        Some(Value::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
        Some(_) => return Err(EvalError::NoOverload),
    };
    let Some(a) = a.get(..2) else { return Err(EvalError::NoOverload) };
    with_regex(a, compiled, |s, r| {
        Ok(r.find_iter(s)
            .take(limit)
            .map(|m| m.as_str().to_owned().into())
            .collect::<Vec<Value<'a>>>()
            .into())
    })
}

fn out_of_range(i: i64) -> EvalError {
    EvalError::new(format!("index out of range: {i}"))
}

/// Byte offset of the character `i`; the length counts as one.
fn offset(s: &str, i: i64) -> Option<usize> {
    let i = usize::try_from(i).ok()?;
    s.char_indices().map(|(at, _)| at).chain([s.len()]).nth(i)
}

fn char_at<'a>(s: &str, i: i64) -> EvalResult<'a> {
    let at = offset(s, i).ok_or_else(|| out_of_range(i))?;
    Ok(s[at..].chars().next().map(String::from).unwrap_or_default().into())
}

fn chars_before(s: &str, at: usize) -> i64 {
    i64::try_from(s[..at].chars().count()).unwrap_or(i64::MAX)
}

/// `indexOf` on strings, from `from` on.
pub fn index_of<'a>(s: &str, t: &str, from: i64) -> EvalResult<'a> {
    if t.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    let Some(start) = offset(s, from) else { return Ok(Value::Int(-1)) };
    Ok(Value::Int(s[start..].find(t).map_or(-1, |at| chars_before(s, start + at))))
}

/// `lastIndexOf` on strings, from `from` backwards.
pub fn last_index_of<'a>(s: &str, t: &str, from: Option<i64>) -> EvalResult<'a> {
    let length = i64::try_from(s.chars().count()).unwrap_or(i64::MAX);
    let Some(from) = from else {
        if t.is_empty() {
            return Ok(Value::Int(length));
        }
        return Ok(Value::Int(s.rfind(t).map_or(-1, |at| chars_before(s, at))));
    };
    if t.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    if from >= length {
        return Ok(Value::Int(-1));
    }
    let start = offset(s, from).unwrap_or(s.len());
    let end = (start + t.len()).min(s.len());
    let end = (end..=s.len()).find(|e| s.is_char_boundary(*e)).unwrap_or(s.len());
    Ok(Value::Int(s[..end].rfind(t).map_or(-1, |at| chars_before(s, at))))
}

fn replace<'a>(a: &[Value<'a>], _: Option<&Regex>) -> EvalResult<'a> {
    let (s, from, to, n) = match a {
        [Value::String(s), Value::String(f), Value::String(t)] => (s, f, t, -1),
        [Value::String(s), Value::String(f), Value::String(t), Value::Int(n)] => (s, f, t, *n),
        _ => return Err(EvalError::NoOverload),
    };
    let times = usize::try_from(n).unwrap_or(usize::MAX);
    let places = if from.is_empty() { s.chars().count() + 1 } else { s.matches(&**from).take(times).count() };
    bounded(s.len().saturating_add(places.min(times).saturating_mul(to.len())), MAX_TEXT)?;
    Ok(s.replacen(&**from, to, times).into())
}

fn split<'a>(a: &[Value<'a>], _: Option<&Regex>) -> EvalResult<'a> {
    let (s, sep, n) = match a {
        [Value::String(s), Value::String(sep)] => (s, sep, -1),
        [Value::String(s), Value::String(sep), Value::Int(n)] => (s, sep, *n),
        _ => return Err(EvalError::NoOverload),
    };
    if n == 0 {
        return Ok(Vec::new().into());
    }
    let times = usize::try_from(n).unwrap_or(usize::MAX);
    let text = |t: &str| Value::String(Text::Shared(t.into()));
    if !sep.is_empty() {
        return Ok(s.splitn(times, &**sep).map(text).collect::<Vec<_>>().into());
    }
    let mut parts: Vec<Value<'a>> = Vec::new();
    for (i, (at, c)) in s.char_indices().enumerate() {
        if i + 1 == times {
            parts.push(text(&s[at..]));
            break;
        }
        parts.push(text(&s[at..at + c.len_utf8()]));
    }
    Ok(parts.into())
}

fn substring<'a>(a: &[Value<'a>], _: Option<&Regex>) -> EvalResult<'a> {
    match a {
        [Value::String(s), Value::Int(start)] => {
            let at = offset(s, *start).ok_or_else(|| out_of_range(*start))?;
            Ok(s[at..].to_owned().into())
        }
        [Value::String(s), Value::Int(start), Value::Int(end)] => {
            if start > end {
                let message = format!("invalid substring range. start: {start}, end: {end}");
                return Err(EvalError::new(message));
            }
            let from = offset(s, *start).ok_or_else(|| out_of_range(*start))?;
            let to = offset(s, *end).ok_or_else(|| out_of_range(*end))?;
            Ok(s[from..to].to_owned().into())
        }
        _ => Err(EvalError::NoOverload),
    }
}

fn join<'a>(a: &[Value<'a>], _: Option<&Regex>) -> EvalResult<'a> {
    let (l, sep) = match a {
        [Value::List(l)] => (l, ""),
        [Value::List(l), Value::String(sep)] => (l, &**sep),
        _ => return Err(EvalError::NoOverload),
    };
    let mut out = String::new();
    for (i, v) in l.iter().enumerate() {
        let v = v?;
        let Some(s) = v.as_str() else {
            return Err(EvalError::new(format!("join: invalid input: {}", printf::shown(&v))));
        };
        bounded(out.len() + sep.len() + s.len(), MAX_TEXT)?;
        if i > 0 {
            out.push_str(sep);
        }
        out.push_str(s);
    }
    Ok(out.into())
}

/// The string in double quotes, with what needs it escaped.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

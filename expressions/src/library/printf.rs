//! Values as text: `string.format()`, numbers as Go writes them, and values inside error messages.

use super::super::time;
use super::super::value::{EvalError, List, Map, Value};
use super::{MAX_TEXT, bounded, strings};

/// A double in the fewest digits that tell it, as Go's `%g`.
pub fn shortest(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let text = format!("{d:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..21).contains(&exponent) {
        return d.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A value inside a message: a string bare, as Go's `%v`.
pub fn shown(v: &Value<'_>) -> String {
    match v {
        Value::String(s) => s.to_string(),
        other => plain(other).unwrap_or_else(|_| other.type_name().to_owned()),
    }
}

/// What `%s` makes of a value.
fn plain(v: &Value<'_>) -> Result<String, EvalError> {
    Ok(match v {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(d) => d.to_string().replace("inf", "Infinity"),
        Value::String(s) => s.to_string(),
        Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Value::Duration(n) => time::duration_seconds(*n),
        Value::Timestamp(t) => time::timestamp_text(*t),
        Value::Type(t) => t.to_string(),
        Value::List(l) => list(l)?,
        Value::Map(m) => map(m)?,
        other => {
            let message = format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, \
                 maps, lists, types, durations, and timestamps, was given {}",
                other.type_name()
            );
            return Err(EvalError::new(message));
        }
    })
}

fn inner(v: &Value<'_>) -> Result<String, EvalError> {
    match v {
        Value::String(s) => Ok(strings::quote(s)),
        Value::Timestamp(_) => Ok(format!("timestamp({})", strings::quote(&plain(v)?))),
        Value::Duration(_) => Ok(format!("duration({})", strings::quote(&plain(v)?))),
        other => plain(other),
    }
}

fn list(l: &List<'_>) -> Result<String, EvalError> {
    let mut out = String::from("[");
    for (i, v) in l.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(&inner(&v?)?);
        bounded(out.len(), MAX_TEXT)?;
    }
    out.push(']');
    Ok(out)
}

fn map(m: &Map<'_>) -> Result<String, EvalError> {
    let mut entries = Vec::new();
    for k in m.keys() {
        if let Some(v) = m.get(&k) {
            entries.push(format!("{}:{}", inner(&k)?, inner(&v?)?));
        }
    }
    entries.sort();
    Ok(format!("{{{}}}", entries.join(", ")))
}

/// `string.format(args)`: the clauses `%s`, `%d`, `%f`, `%e`, `%b`, `%x`, `%X`, `%o` and `%%`.
pub fn format(text: &str, args: &[Value<'_>]) -> Result<String, EvalError> {
    let mut out = String::with_capacity(text.len());
    let mut next = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let mut precision = 6_usize;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.next_if(char::is_ascii_digit) {
                digits.push(d);
            }
            precision = digits.parse().ok().filter(|n| *n <= 1_000).ok_or_else(|| {
                EvalError::new("error while parsing precision: could not find end of precision specifier")
            })?;
        }
        let Some(clause) = chars.next() else { return Err(EvalError::new("unexpected end of string")) };
        let arg = args.get(next).ok_or_else(|| EvalError::new(format!("index {next} out of range")))?;
        next += 1;
        out.push_str(&one(clause, precision, arg)?);
        bounded(out.len(), MAX_TEXT)?;
    }
    Ok(out)
}

fn one(clause: char, precision: usize, v: &Value<'_>) -> Result<String, EvalError> {
    let wrong = |what: &str, takes: &str| {
        Err(EvalError::new(format!(
            "error during formatting: {what} clause can only be used on {takes}, was given {}",
            v.type_name()
        )))
    };
    Ok(match (clause, v) {
        ('s', _) => plain(v)?,
        ('d', Value::Int(n)) => n.to_string(),
        ('d', Value::Uint(n)) => n.to_string(),
        ('d', Value::Double(d)) if !d.is_finite() => d.to_string().replace("inf", "Infinity"),
        ('d', Value::String(s)) if is_not_finite(s) => s.to_string(),
        ('d', _) => return wrong("decimal", "integers"),
        ('f', Value::Double(d)) if d.is_finite() => format!("{d:.precision$}"),
        ('e', Value::Double(d)) if d.is_finite() => scientific(*d, precision),
        ('f' | 'e', Value::Double(d)) => d.to_string().replace("inf", "∞"),
        ('f' | 'e', Value::String(s)) if is_not_finite(s) => s.replace("Infinity", "∞"),
        ('f', _) => return wrong("fixed-point", "doubles"),
        ('e', _) => return wrong("scientific", "doubles"),
        ('b', Value::Int(n)) => signed(*n, |n| format!("{n:b}")),
        ('b', Value::Uint(n)) => format!("{n:b}"),
        ('b', Value::Bool(b)) => if *b { "1" } else { "0" }.to_owned(),
        ('b', _) => return wrong("binary", "integers and bools"),
        ('x', Value::Int(n)) => signed(*n, |n| format!("{n:x}")),
        ('X', Value::Int(n)) => signed(*n, |n| format!("{n:X}")),
        ('x', Value::Uint(n)) => format!("{n:x}"),
        ('X', Value::Uint(n)) => format!("{n:X}"),
        ('x', Value::String(s)) => hex(s.as_bytes()),
        ('X', Value::String(s)) => hex(s.as_bytes()).to_uppercase(),
        ('x', Value::Bytes(b)) => hex(b),
        ('X', Value::Bytes(b)) => hex(b).to_uppercase(),
        ('x' | 'X', _) => return wrong("hex", "integers, byte buffers, and strings"),
        ('o', Value::Int(n)) => signed(*n, |n| format!("{n:o}")),
        ('o', Value::Uint(n)) => format!("{n:o}"),
        ('o', _) => return wrong("octal", "integers"),
        (other, _) => {
            return Err(EvalError::new(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{other}\""
            )));
        }
    })
}

fn is_not_finite(s: &str) -> bool {
    matches!(s, "NaN" | "Infinity" | "-Infinity")
}

fn signed(n: i64, f: impl Fn(u64) -> String) -> String {
    let sign = if n < 0 { "-" } else { "" };
    format!("{sign}{}", f(n.unsigned_abs()))
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|b| format!("{b:02x}")).collect()
}

fn scientific(d: f64, precision: usize) -> String {
    let text = format!("{d:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(e) => ('-', e),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

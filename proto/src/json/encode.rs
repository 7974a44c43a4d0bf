//! From a `Value` to JSON text as upstream writes it.

use serde_json::{Map, Value};

use crate::schema::{Field, Kind, Presence, Struct, TypeDef};

/// Empty in the sense of Go's `omitempty`.
pub(crate) fn is_empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

/// The zero value of a type as a list element, map value or field that is always written; `None` where that
/// is `null`.
pub fn zero(def: &TypeDef) -> Option<Value> {
    Some(match &def.kind {
        Kind::Struct(s) => {
            let mut m = Map::new();
            super::decode::complete(&mut m, s);
            Value::Object(m)
        }
        Kind::String => Value::String(String::new()),
        Kind::Bool | Kind::SchemaOrBool(_) => Value::Bool(false),
        Kind::Int32 | Kind::Int64 | Kind::IntOrString => 0.into(),
        Kind::Double => 0.into(),
        Kind::Quantity => Value::String("0".into()),
        _ => return None,
    })
}

/// A JSON string with its quotes.
pub fn write_string(s: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let b = s.as_bytes();
    let mut start = 0;
    for (i, c) in b.iter().enumerate() {
        if *c >= 0x20 && *c != b'"' && *c != b'\\' {
            continue;
        }
        out.extend_from_slice(&b[start..i]);
        start = i + 1;
        match c {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            c => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(c >> 4)],
                HEX[usize::from(c & 15)],
            ]),
        }
    }
    out.extend_from_slice(&b[start..]);
    out.push(b'"');
}

/// Any JSON value, compact.
pub(crate) fn write_any(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(n) => match n.as_i64() {
            Some(i) => out.extend_from_slice(itoa::Buffer::new().format(i).as_bytes()),
            None => out.extend_from_slice(n.to_string().as_bytes()),
        },
        Value::String(s) => write_string(s, out),
        Value::Array(a) => {
            out.push(b'[');
            for (i, x) in a.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_any(x, out);
            }
            out.push(b']');
        }
        Value::Object(o) => {
            out.push(b'{');
            for (i, (k, x)) in o.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(k, out);
                out.push(b':');
                write_any(x, out);
            }
            out.push(b'}');
        }
    }
}

/// Writes `value` as an object of type `def`. Fields that the type does not have are left out.
pub fn encode(value: &Value, def: &TypeDef, out: &mut Vec<u8>) {
    match (&def.kind, value) {
        (Kind::Struct(s), Value::Object(o)) => {
            out.push(b'{');
            let mut first = true;
            for f in s.fields.iter() {
                write_field(o, f, &mut first, out);
            }
            out.push(b'}');
        }
        (Kind::Struct(s), Value::Null) => write_zero_struct(s, out),
        (Kind::List(l), Value::Array(a)) => {
            out.push(b'[');
            for (i, x) in a.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                encode(x, &l.elem, out);
            }
            out.push(b']');
        }
        (Kind::Map(m), Value::Object(o)) => {
            out.push(b'{');
            for (i, (k, x)) in o.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(k, out);
                out.push(b':');
                encode(x, &m.elem, out);
            }
            out.push(b'}');
        }
        (Kind::SchemaOrArray(t), Value::Array(a)) => {
            out.push(b'[');
            for (i, x) in a.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                encode(x, t, out);
            }
            out.push(b']');
        }
        (Kind::SchemaOrArray(t) | Kind::SchemaOrBool(t) | Kind::SchemaOrStrings(t), v @ Value::Object(_)) => {
            encode(v, t, out)
        }
        (_, v) => write_any(v, out),
    }
}

fn write_field(o: &Map<String, Value>, f: &Field, first: &mut bool, out: &mut Vec<u8>) {
    let v = o.get(f.json).filter(|v| !v.is_null());
    match (v, f.presence) {
        (Some(v), Presence::OmitEmpty) if is_empty(v) => {}
        (Some(v), _) => {
            write_key(f.json, first, out);
            encode(v, &f.ty, out);
        }
        (None, Presence::Always) => {
            write_key(f.json, first, out);
            write_zero(&f.ty, out);
        }
        (None, Presence::PointerOrNull) => {
            write_key(f.json, first, out);
            out.extend_from_slice(b"null");
        }
        (None, _) => {}
    }
}

/// A comma where needed, the key and the colon. Field names need no escaping.
pub(crate) fn write_key(key: &str, first: &mut bool, out: &mut Vec<u8>) {
    out.push(if std::mem::replace(first, false) { b'"' } else { b',' });
    if out.last() == Some(&b',') {
        out.push(b'"');
    }
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

/// The zero value of a field that is always written.
pub(crate) fn write_zero(def: &TypeDef, out: &mut Vec<u8>) {
    match &def.kind {
        Kind::Struct(s) => write_zero_struct(s, out),
        _ => match zero(def) {
            Some(v) => write_any(&v, out),
            None => out.extend_from_slice(b"null"),
        },
    }
}

fn write_zero_struct(s: &Struct, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for f in s.fields.iter() {
        write_absent(f, &mut first, out);
    }
    out.push(b'}');
}

/// What is written for a field that is not set, if anything.
pub(crate) fn write_absent(f: &Field, first: &mut bool, out: &mut Vec<u8>) {
    match f.presence {
        Presence::Always => {
            write_key(f.json, first, out);
            write_zero(&f.ty, out);
        }
        Presence::PointerOrNull => {
            write_key(f.json, first, out);
            out.extend_from_slice(b"null");
        }
        _ => {}
    }
}

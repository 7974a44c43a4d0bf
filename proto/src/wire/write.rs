//! From a `Value` to protobuf bytes, field by field in the order of their numbers as upstream writes them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::WireError;
use crate::schema::{Field, Kind, ListDef, Presence, Struct, Target, TypeDef};
use crate::time;

/// Encodes an object's message. `apiVersion` and `kind` are not part of it.
pub fn to_proto(value: &Value, def: &TypeDef) -> Result<Vec<u8>, WireError> {
    let Kind::Struct(s) = &def.kind else { return Err(WireError::NoForm(def.go)) };
    if s.wire.is_empty() && !s.fields.is_empty() {
        return Err(WireError::NoForm(def.go));
    }
    let mut out = Vec::with_capacity(1024);
    match value {
        Value::Object(o) => structure(o, s, &mut out)?,
        _ => return Err(mismatch("", def)),
    }
    Ok(out)
}

fn mismatch(field: &str, def: &TypeDef) -> WireError {
    WireError::Type { field: field.into(), wanted: def.go.into() }
}

pub(crate) fn put_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

pub(crate) fn put_int(tag: u32, n: i64, out: &mut Vec<u8>) {
    put_varint(u64::from(tag) << 3, out);
    put_varint(n as u64, out);
}

pub(crate) fn put_bytes(tag: u32, b: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(tag) << 3 | 2, out);
    put_varint(b.len() as u64, out);
    out.extend_from_slice(b);
}

/// Writes a nested message: one byte is kept for its length, and the body moved up if that is too little.
pub(crate) fn put_message<E>(
    tag: u32,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    put_varint(u64::from(tag) << 3 | 2, out);
    let at = out.len();
    out.push(0);
    body(out)?;
    let len = out.len() - at - 1;
    if len < 0x80 {
        out[at] = len as u8;
    } else {
        let mut prefix = Vec::with_capacity(5);
        put_varint(len as u64, &mut prefix);
        out.splice(at..=at, prefix);
    }
    Ok(())
}

fn structure(o: &Map<String, Value>, s: &Struct, out: &mut Vec<u8>) -> Result<(), WireError> {
    for slot in s.wire.iter() {
        match &slot.target {
            Target::Inline(t) => {
                let Kind::Struct(inner) = &t.kind else { return Err(WireError::NoForm(t.go)) };
                put_message(slot.tag, out, |out| structure(o, inner, out))?;
            }
            Target::Field(i) => {
                let f = &s.fields[usize::from(*i)];
                match o.get(f.json) {
                    Some(v) if !v.is_null() => field(slot.tag, f, v, out)?,
                    _ => absent(slot.tag, f, out)?,
                }
            }
        }
    }
    Ok(())
}

/// Fields that are no pointers upstream are there even when nothing was set.
pub(super) fn absent(tag: u32, f: &Field, out: &mut Vec<u8>) -> Result<(), WireError> {
    if matches!(f.presence, Presence::Pointer | Presence::PointerOrNull) {
        return Ok(());
    }
    zero(tag, &f.ty, out)
}

fn zero(tag: u32, def: &TypeDef, out: &mut Vec<u8>) -> Result<(), WireError> {
    match &def.kind {
        Kind::String => put_bytes(tag, b"", out),
        Kind::Bool | Kind::Int32 | Kind::Int64 => put_int(tag, 0, out),
        Kind::Double => put_double(tag, 0.0, out),
        Kind::Struct(s) => return put_message(tag, out, |out| structure(&Map::new(), s, out)),
        Kind::Quantity => {
            return put_message(tag, out, |out| {
                put_bytes(1, b"0", out);
                Ok(())
            });
        }
        Kind::IntOrString => return single("", tag, def, &Value::from(0), out),
        Kind::Time | Kind::MicroTime | Kind::RawExtension | Kind::FieldsV1 | Kind::RawJson => {
            put_bytes(tag, b"", out);
        }
        _ => {}
    }
    Ok(())
}

fn put_double(tag: u32, n: f64, out: &mut Vec<u8>) {
    put_varint(u64::from(tag) << 3 | 1, out);
    out.extend_from_slice(&n.to_le_bytes());
}

pub(super) fn field(tag: u32, f: &Field, v: &Value, out: &mut Vec<u8>) -> Result<(), WireError> {
    match (&f.ty.kind, v) {
        (Kind::List(l), Value::Array(items)) if !l.wrapped => list(f.json, tag, l, items, out),
        (Kind::Map(m), Value::Object(o)) => {
            let mut entries: Vec<(&String, &Value)> = o.iter().collect();
            if !entries.is_sorted_by(|a, b| a.0 <= b.0) {
                entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
            }
            for (k, x) in entries {
                put_message(tag, out, |out| {
                    put_bytes(1, k.as_bytes(), out);
                    single(f.json, 2, &m.elem, x, out)
                })?;
            }
            Ok(())
        }
        _ => single(f.json, tag, &f.ty, v, out),
    }
}

fn list(name: &str, tag: u32, l: &ListDef, items: &[Value], out: &mut Vec<u8>) -> Result<(), WireError> {
    items.iter().try_for_each(|x| single(name, tag, &l.elem, x, out))
}

fn single(name: &str, tag: u32, def: &TypeDef, v: &Value, out: &mut Vec<u8>) -> Result<(), WireError> {
    let wrong = || mismatch(name, def);
    if v.is_null() {
        return zero(tag, def, out);
    }
    match &def.kind {
        Kind::String => put_bytes(tag, v.as_str().ok_or_else(wrong)?.as_bytes(), out),
        Kind::Bool => put_int(tag, v.as_bool().ok_or_else(wrong)?.into(), out),
        Kind::Int32 => {
            let n = v.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(wrong)?;
            put_int(tag, n.into(), out);
        }
        Kind::Int64 => put_int(tag, v.as_i64().ok_or_else(wrong)?, out),
        Kind::Double => put_double(tag, v.as_f64().ok_or_else(wrong)?, out),
        Kind::Bytes => {
            let b = STANDARD.decode(v.as_str().ok_or_else(wrong)?).map_err(|_| wrong())?;
            put_bytes(tag, &b, out);
        }
        Kind::Quantity => {
            let text = match v {
                Value::String(s) => s.clone(),
                Value::Number(n) => n.to_string(),
                _ => return Err(wrong()),
            };
            let q = crate::quantity::canonical(&text).map_err(|_| wrong())?;
            put_message(tag, out, |out| {
                put_bytes(1, q.as_bytes(), out);
                Ok(())
            })?;
        }
        Kind::Time | Kind::MicroTime => {
            let micro = matches!(def.kind, Kind::MicroTime);
            let text = v.as_str().ok_or_else(wrong)?;
            let t = time::parse(text, micro).or_else(|_| time::parse(text, false)).map_err(|_| wrong())?;
            put_message(tag, out, |out| {
                if t.seconds != time::ZERO_SECONDS || t.nanos != 0 {
                    put_int(1, t.seconds, out);
                    put_int(2, if micro { i64::from(t.nanos / 1000 * 1000) } else { 0 }, out);
                }
                Ok(())
            })?;
        }
        Kind::IntOrString => {
            let (kind, int, text) = match v {
                Value::String(s) => (1, 0, s.as_str()),
                _ => {
                    let n = v.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(wrong)?;
                    (0, i64::from(n), "")
                }
            };
            put_message(tag, out, |out| {
                put_int(1, kind, out);
                put_int(2, int, out);
                put_bytes(3, text.as_bytes(), out);
                Ok(())
            })?;
        }
        Kind::FieldsV1 | Kind::RawExtension | Kind::RawJson => put_message(tag, out, |out| {
            put_message(1, out, |out| {
                crate::json::write_any(v, out);
                Ok(())
            })
        })?,
        Kind::Struct(s) => {
            let o = v.as_object().ok_or_else(wrong)?;
            put_message(tag, out, |out| structure(o, s, out))?;
        }
        Kind::List(l) => {
            let items = v.as_array().ok_or_else(wrong)?;
            put_message(tag, out, |out| list(name, 1, l, items, out))?;
        }
        Kind::SchemaOrArray(t) | Kind::SchemaOrBool(t) | Kind::SchemaOrStrings(t) => {
            put_message(tag, out, |out| either(name, def, t, v, out))?;
        }
        Kind::Map(_) | Kind::Json => return Err(WireError::NoForm(def.go)),
    }
    Ok(())
}

/// The three types that hold a schema or something else.
fn either(
    name: &str,
    def: &TypeDef,
    schema: &TypeDef,
    v: &Value,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    match (&def.kind, v) {
        (Kind::SchemaOrBool(_), Value::Bool(b)) => {
            put_int(1, i64::from(*b), out);
            Ok(())
        }
        (Kind::SchemaOrBool(_), Value::Object(_)) => {
            put_int(1, 1, out);
            single(name, 2, schema, v, out)
        }
        (_, Value::Object(_)) => single(name, 1, schema, v, out),
        (Kind::SchemaOrStrings(_), Value::Array(items)) => items.iter().try_for_each(|x| {
            let s = x.as_str().ok_or_else(|| mismatch(name, def))?;
            put_bytes(2, s.as_bytes(), out);
            Ok(())
        }),
        (Kind::SchemaOrArray(_), Value::Array(items)) => {
            items.iter().try_for_each(|x| single(name, 2, schema, x, out))
        }
        _ => Err(mismatch(name, def)),
    }
}

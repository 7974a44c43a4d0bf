//! From protobuf bytes to a canonical `Value`.

use std::str::from_utf8;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{Cursor, MAX_DEPTH, Wire, WireError};
use crate::json::zero;
use crate::schema::{Field, Kind, ListDef, Presence, Struct, Target, TypeDef};
use crate::time::{self, Timestamp};

/// Decodes the message of one object. `apiVersion` and `kind` are not part of it.
pub fn from_proto(bytes: &[u8], def: &TypeDef) -> Result<Value, WireError> {
    let Kind::Struct(s) = &def.kind else { return Err(WireError::NoForm(def.go)) };
    structure(bytes, s, MAX_DEPTH)
}

/// Decodes of one object nothing but the fields on these dotted paths of JSON names, without filling in what is absent:
/// what is wrong with the rest does not show.
pub fn pick(bytes: &[u8], def: &TypeDef, paths: &[&str]) -> Result<Value, WireError> {
    let Kind::Struct(s) = &def.kind else { return Err(WireError::NoForm(def.go)) };
    let mut out = Map::new();
    picked(bytes, s, paths, &mut out, MAX_DEPTH)?;
    Ok(Value::Object(out))
}

fn picked(
    bytes: &[u8],
    s: &Struct,
    paths: &[&str],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), WireError> {
    choose(bytes, s, paths, depth, &mut |chosen, depth| match chosen {
        Chosen::Whole(f, wire, _) => field(f, wire, out, depth).map(drop),
        Chosen::Within(f, inner, bytes, below) => {
            let slot = out.entry(f.json).or_insert_with(|| Value::Object(Map::new()));
            match slot {
                Value::Object(o) => picked(bytes, inner, &below, o, depth),
                _ => Ok(()),
            }
        }
    })
}

/// A field that paths lead to.
enum Chosen<'s, 'a, 'p> {
    /// One of them ends there. With all of the field's bytes, its key among them.
    Whole(&'s Field, Wire<'a>, &'a [u8]),
    /// They go on within this message.
    Within(&'s Field, &'s Struct, &'a [u8], Vec<&'p str>),
}

/// Gives the fields of a message on these paths to `each`, in their order, with how deep what is in them may go.
fn choose<'s, 'a, 'p>(
    bytes: &'a [u8],
    s: &'s Struct,
    paths: &[&'p str],
    depth: usize,
    each: &mut dyn FnMut(Chosen<'s, 'a, 'p>, usize) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let depth = depth.checked_sub(1).ok_or(WireError::Depth)?;
    let (mut cur, mut begin) = (Cursor::new(bytes), 0);
    while let Some((tag, wire)) = cur.next()? {
        let all = &bytes[std::mem::replace(&mut begin, cur.pos())..cur.pos()];
        let Ok(at) = s.wire.binary_search_by(|x| x.tag.cmp(&tag)) else { continue };
        let f = match &s.wire[at].target {
            Target::Inline(t) => {
                let Kind::Struct(inner) = &t.kind else { return Err(WireError::NoForm(t.go)) };
                choose(wire.bytes(t.go)?, inner, paths, depth, each)?;
                continue;
            }
            Target::Field(i) => &s.fields[usize::from(*i)],
        };
        if paths.contains(&f.json) {
            each(Chosen::Whole(f, wire, all), depth)?;
            continue;
        }
        let below = paths.iter().filter_map(|p| p.strip_prefix(f.json)?.strip_prefix('.'));
        let below: Vec<&str> = below.collect();
        if let (Kind::Struct(inner), false) = (&f.ty.kind, below.is_empty()) {
            each(Chosen::Within(f, inner, wire.bytes(f.json)?, below), depth)?;
        }
    }
    Ok(())
}

/// Whether two objects are written alike in the fields on these dotted paths of JSON names, of which nothing is decoded.
/// Written by different encoders, equal ones may not be.
pub fn alike(a: &[u8], b: &[u8], def: &TypeDef, paths: &[&str]) -> Result<bool, WireError> {
    let Kind::Struct(s) = &def.kind else { return Err(WireError::NoForm(def.go)) };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    written(a, s, paths, &mut left, MAX_DEPTH)?;
    written(b, s, paths, &mut right, MAX_DEPTH)?;
    Ok(left == right)
}

/// Collects the bytes of the fields on these paths, in their order.
fn written<'a>(
    bytes: &'a [u8],
    s: &Struct,
    paths: &[&str],
    out: &mut Vec<&'a [u8]>,
    depth: usize,
) -> Result<(), WireError> {
    choose(bytes, s, paths, depth, &mut |chosen, depth| match chosen {
        Chosen::Whole(_, _, all) => {
            out.push(all);
            Ok(())
        }
        Chosen::Within(_, inner, bytes, below) => written(bytes, inner, &below, out, depth),
    })
}

pub(super) fn text(b: &[u8]) -> String {
    match from_utf8(b) {
        Ok(s) => s.to_owned(),
        Err(_) => String::from_utf8_lossy(b).into_owned(),
    }
}

fn structure(bytes: &[u8], s: &Struct, depth: usize) -> Result<Value, WireError> {
    let mut out = Map::new();
    fill(bytes, s, &mut out, depth)?;
    crate::json::complete(&mut out, s);
    Ok(Value::Object(out))
}

fn fill(bytes: &[u8], s: &Struct, out: &mut Map<String, Value>, depth: usize) -> Result<(), WireError> {
    let depth = depth.checked_sub(1).ok_or(WireError::Depth)?;
    let mut cur = Cursor::new(bytes);
    let mut hint = 0;
    while let Some((tag, wire)) = cur.next()? {
        // Fields mostly come in the order of their numbers.
        if s.wire.get(hint).is_none_or(|x| x.tag != tag) {
            match s.wire.binary_search_by(|x| x.tag.cmp(&tag)) {
                Ok(i) => hint = i,
                Err(_) => continue,
            }
        }
        match &s.wire[hint].target {
            Target::Inline(t) => {
                let Kind::Struct(inner) = &t.kind else { return Err(WireError::NoForm(t.go)) };
                fill(wire.bytes(t.go)?, inner, out, depth)?;
                hint += 1;
            }
            Target::Field(i) => {
                let f = &s.fields[usize::from(*i)];
                if field(f, wire, out, depth)? {
                    hint += 1;
                }
            }
        }
    }
    Ok(())
}

/// Puts one occurrence of a field into the object; false for repeated fields, which may come again.
fn field(f: &Field, wire: Wire<'_>, out: &mut Map<String, Value>, depth: usize) -> Result<bool, WireError> {
    match &f.ty.kind {
        Kind::List(l) if !l.wrapped => {
            let slot = out.entry(f.json).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = slot else { return Ok(false) };
            element(l, f, wire, items, depth)?;
            Ok(false)
        }
        Kind::Map(m) => {
            let (key, v) = entry(f.json, wire)?;
            let v = match v {
                Some(w) => single(f.json, &m.elem, w, None, depth)?,
                None => None,
            };
            let slot = out.entry(f.json).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(o) = slot {
                o.insert(text(key), v.or_else(|| zero(&m.elem)).unwrap_or(Value::Null));
            }
            Ok(false)
        }
        Kind::Struct(s) => {
            // A message that comes twice is merged.
            let bytes = wire.bytes(f.json)?;
            match out.get_mut(f.json) {
                Some(Value::Object(o)) => {
                    fill(bytes, s, o, depth)?;
                    crate::json::complete(o, s);
                }
                _ => {
                    let v = structure(bytes, s, depth)?;
                    out.insert(f.json.to_owned(), v);
                }
            }
            Ok(true)
        }
        _ => {
            match single(f.json, &f.ty, wire, None, depth)? {
                Some(v) if f.presence != Presence::OmitEmpty || !crate::json::is_empty(&v) => {
                    out.insert(f.json.to_owned(), v);
                }
                _ => {
                    out.remove(f.json);
                }
            }
            Ok(true)
        }
    }
}

fn element(
    l: &ListDef,
    f: &Field,
    wire: Wire<'_>,
    items: &mut Vec<Value>,
    depth: usize,
) -> Result<(), WireError> {
    if let (Kind::Int32 | Kind::Int64 | Kind::Bool, Wire::Bytes(packed)) = (&l.elem.kind, wire) {
        let mut cur = Cursor::new(packed);
        while !cur.at_end() {
            let w = Wire::Varint(cur.varint()?);
            items.extend(single(f.json, &l.elem, w, None, depth)?);
        }
        return Ok(());
    }
    let v = single(f.json, &l.elem, wire, f.nested_kind(), depth)?;
    items.push(v.or_else(|| zero(&l.elem)).unwrap_or(Value::Null));
    Ok(())
}

/// Key and value of a map entry message.
pub(super) fn entry<'a>(
    field: &'static str,
    wire: Wire<'a>,
) -> Result<(&'a [u8], Option<Wire<'a>>), WireError> {
    let mut cur = Cursor::new(wire.bytes(field)?);
    let (mut key, mut value): (&[u8], _) = (b"", None);
    while let Some((tag, w)) = cur.next()? {
        match tag {
            1 => key = w.bytes(field)?,
            2 => value = Some(w),
            _ => {}
        }
    }
    Ok((key, value))
}

pub(super) fn timestamp(bytes: &[u8], micro: bool) -> Result<Option<Timestamp>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut t = Timestamp::default();
    let mut cur = Cursor::new(bytes);
    while let Some((tag, w)) = cur.next()? {
        match tag {
            1 => t.seconds = w.int("seconds")?,
            2 if micro => t.nanos = u32::try_from(w.int("nanos")? as i32).unwrap_or(0).min(999_999_999),
            _ => {}
        }
    }
    Ok((t.seconds != time::ZERO_SECONDS || t.nanos != 0).then_some(t))
}

/// The bytes in field 1 of a message that holds nothing else.
pub(super) fn only_bytes<'a>(field: &'static str, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, WireError> {
    let mut cur = Cursor::new(bytes);
    let mut raw = None;
    while let Some((tag, w)) = cur.next()? {
        if tag == 1 {
            raw = Some(w.bytes(field)?);
        }
    }
    Ok(raw)
}

/// An `IntOrString`: the string, or else the number.
pub(super) fn int_or_string(bytes: &[u8]) -> Result<Result<&[u8], i32>, WireError> {
    let (mut kind, mut int, mut string): (i64, i64, &[u8]) = (0, 0, b"");
    let mut cur = Cursor::new(bytes);
    while let Some((tag, w)) = cur.next()? {
        match tag {
            1 => kind = w.int("type")?,
            2 => int = w.int("intVal")?,
            3 => string = w.bytes("strVal")?,
            _ => {}
        }
    }
    Ok(if kind == 1 { Ok(string) } else { Err(int as i32) })
}

fn json(field: &'static str, raw: Option<&[u8]>) -> Result<Option<Value>, WireError> {
    match raw {
        None | Some([]) => Ok(None),
        Some(raw) if raw.starts_with(crate::envelope::MAGIC) => crate::envelope::decode(raw).map(Some),
        Some(raw) => {
            let v = crate::json::decode_any(raw, crate::json::Strictness::Ignore);
            v.map(|d| Some(d.value)).map_err(|e| WireError::Json(field, e.to_string()))
        }
    }
}

pub(super) fn single(
    field: &'static str,
    def: &TypeDef,
    wire: Wire<'_>,
    kind: Option<(&str, &str)>,
    depth: usize,
) -> Result<Option<Value>, WireError> {
    Ok(match &def.kind {
        Kind::String => Some(Value::String(text(wire.bytes(field)?))),
        Kind::Bool => Some(Value::Bool(wire.int(field)? != 0)),
        Kind::Int32 => Some((wire.int(field)? as i32).into()),
        Kind::Int64 => Some(wire.int(field)?.into()),
        Kind::Double => match wire {
            Wire::Fixed64(n) => crate::json::float(f64::from_bits(n)).map(Value::Number),
            _ => return Err(WireError::WireType(field)),
        },
        Kind::Bytes => Some(Value::String(STANDARD.encode(wire.bytes(field)?))),
        Kind::Quantity => {
            let q = only_bytes(field, wire.bytes(field)?)?.map(text).unwrap_or_default();
            let q = crate::quantity::canonical(&q).map_or_else(|_| "0".into(), std::borrow::Cow::into_owned);
            Some(Value::String(q))
        }
        Kind::Time | Kind::MicroTime => {
            let micro = matches!(def.kind, Kind::MicroTime);
            timestamp(wire.bytes(field)?, micro)?.map(|t| Value::String(time::format(t, micro)))
        }
        Kind::IntOrString => Some(match int_or_string(wire.bytes(field)?)? {
            Ok(s) => Value::String(text(s)),
            Err(n) => n.into(),
        }),
        Kind::FieldsV1 | Kind::RawExtension | Kind::RawJson => {
            json(field, only_bytes(field, wire.bytes(field)?)?)?
        }
        Kind::Struct(s) => {
            let mut v = structure(wire.bytes(field)?, s, depth)?;
            if let (Some((version, kind)), Value::Object(o)) = (kind, &mut v) {
                o.insert("apiVersion".into(), version.into());
                o.insert("kind".into(), kind.into());
            }
            Some(v)
        }
        Kind::List(l) => {
            let mut items = Vec::new();
            let mut cur = Cursor::new(wire.bytes(field)?);
            while let Some((tag, w)) = cur.next()? {
                if tag == 1 {
                    items.extend(single(field, &l.elem, w, None, depth)?);
                }
            }
            Some(Value::Array(items))
        }
        Kind::SchemaOrArray(t) | Kind::SchemaOrBool(t) | Kind::SchemaOrStrings(t) => {
            either(field, def, t, wire.bytes(field)?, depth)?
        }
        Kind::Map(_) | Kind::Json => return Err(WireError::NoForm(def.go)),
    })
}

/// The three types that hold a schema or something else.
fn either(
    field: &'static str,
    def: &TypeDef,
    schema: &TypeDef,
    bytes: &[u8],
    depth: usize,
) -> Result<Option<Value>, WireError> {
    let depth = depth.checked_sub(1).ok_or(WireError::Depth)?;
    let (mut one, mut many, mut allows) = (None, Vec::new(), false);
    let mut cur = Cursor::new(bytes);
    while let Some((tag, w)) = cur.next()? {
        match (&def.kind, tag) {
            (Kind::SchemaOrBool(_), 1) => allows = w.int(field)? != 0,
            (Kind::SchemaOrBool(_), 2) | (_, 1) => one = single(field, schema, w, None, depth)?,
            (Kind::SchemaOrStrings(_), 2) => many.push(Value::String(text(w.bytes(field)?))),
            (_, 2) => many.extend(single(field, schema, w, None, depth)?),
            _ => {}
        }
    }
    Ok(match &def.kind {
        Kind::SchemaOrBool(_) => Some(one.unwrap_or(Value::Bool(allows))),
        _ if !many.is_empty() => Some(Value::Array(many)),
        _ => one,
    })
}

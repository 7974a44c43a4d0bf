//! From stored protobuf bytes to JSON text in one pass, without building a value.
//!
//! Stored bytes have their fields in order, because [`super::to_proto`] wrote them. Bytes that have not (no
//! encoder in use makes such) take the way through a value.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::read::{entry, int_or_string, only_bytes, text, timestamp};
use super::{Cursor, MAX_DEPTH, Wire, WireError};
use crate::json::{write_absent, write_key, write_string, write_zero};
use crate::schema::{Field, Kind, ListDef, Presence, Struct, Target, TypeDef};
use crate::time;

/// Why the one-pass way ended.
enum Stop {
    /// Fields out of order, or repeated where they may not be.
    Disorder,
    Wire(WireError),
}

impl From<WireError> for Stop {
    fn from(e: WireError) -> Self {
        Self::Wire(e)
    }
}

/// Appends the object as JSON. It starts with `{"kind":…,"apiVersion":…` unless both are empty, as for the
/// items of a list.
pub fn proto_to_json(
    bytes: &[u8],
    def: &TypeDef,
    api_version: &str,
    kind: &str,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    let Kind::Struct(s) = &def.kind else { return Err(WireError::NoForm(def.go)) };
    let start = out.len();
    out.push(b'{');
    let mut first = true;
    if !kind.is_empty() {
        write_key("kind", &mut first, out);
        write_string(kind, out);
        write_key("apiVersion", &mut first, out);
        write_string(api_version, out);
    }
    let body = out.len();
    match structure(bytes, s, &mut first, out, MAX_DEPTH) {
        Ok(()) => {
            out.push(b'}');
            Ok(())
        }
        Err(Stop::Disorder) => {
            let v = super::from_proto(bytes, def)?;
            let mut rest = Vec::with_capacity(out.len() - start);
            crate::json::encode(&v, def, &mut rest);
            out.truncate(body);
            if body > start + 1 && rest.len() > 2 {
                out.push(b',');
            }
            out.extend_from_slice(&rest[1..]);
            Ok(())
        }
        Err(Stop::Wire(e)) => {
            out.truncate(start);
            Err(e)
        }
    }
}

fn structure(
    bytes: &[u8],
    s: &Struct,
    first: &mut bool,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Stop> {
    let depth = depth.checked_sub(1).ok_or(WireError::Depth)?;
    let mut cur = Cursor::new(bytes);
    let mut at = 0;
    while let Some((tag, wire)) = cur.next()? {
        let from = at;
        while s.wire.get(at).is_some_and(|x| x.tag < tag) {
            at += 1;
        }
        let Some(slot) = s.wire.get(at).filter(|x| x.tag == tag) else {
            // Unknown, or one that was passed already.
            at = from;
            if s.wire[..at].binary_search_by(|x| x.tag.cmp(&tag)).is_ok() {
                return Err(Stop::Disorder);
            }
            continue;
        };
        for passed in &s.wire[from..at] {
            absent(&passed.target, s, first, out);
        }
        at += 1;
        match &slot.target {
            Target::Inline(t) => {
                let Kind::Struct(inner) = &t.kind else { return Err(WireError::NoForm(t.go).into()) };
                structure(wire.bytes(t.go)?, inner, first, out, depth)?;
            }
            Target::Field(i) => {
                let f = &s.fields[usize::from(*i)];
                match &f.ty.kind {
                    Kind::List(l) if !l.wrapped => list(f, l, wire, tag, &mut cur, first, out, depth)?,
                    Kind::Map(m) => map(f, &m.elem, wire, tag, &mut cur, first, out, depth)?,
                    _ => field(f, wire, first, out, depth)?,
                }
            }
        }
    }
    for passed in &s.wire[at..] {
        absent(&passed.target, s, first, out);
    }
    Ok(())
}

fn absent(target: &Target, s: &Struct, first: &mut bool, out: &mut Vec<u8>) {
    match target {
        Target::Field(i) => write_absent(&s.fields[usize::from(*i)], first, out),
        Target::Inline(t) => {
            if let Kind::Struct(inner) = &t.kind {
                for slot in inner.wire.iter() {
                    absent(&slot.target, inner, first, out);
                }
            }
        }
    }
}

fn field(f: &Field, wire: Wire<'_>, first: &mut bool, out: &mut Vec<u8>, depth: usize) -> Result<(), Stop> {
    let omit = f.presence == Presence::OmitEmpty
        && match (wire, &f.ty.kind) {
            (Wire::Varint(n), _) | (Wire::Fixed64(n), _) => n == 0,
            (Wire::Bytes(b), Kind::String | Kind::Bytes) => b.is_empty(),
            _ => false,
        };
    if omit {
        return Ok(());
    }
    let start = out.len();
    let was_first = *first;
    write_key(f.json, first, out);
    if !single(f.json, &f.ty, wire, out, depth)? {
        out.truncate(start);
        *first = was_first;
        write_absent(f, first, out);
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn list<'a>(
    f: &Field,
    l: &ListDef,
    mut wire: Wire<'a>,
    tag: u32,
    cur: &mut Cursor<'a>,
    first: &mut bool,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Stop> {
    write_key(f.json, first, out);
    out.push(b'[');
    let mut some = false;
    let nested = f.nested_kind();
    loop {
        let packed = match (&l.elem.kind, wire) {
            (Kind::Int32 | Kind::Int64 | Kind::Bool, Wire::Bytes(b)) => Some(b),
            _ => None,
        };
        if let Some(b) = packed {
            let mut inner = Cursor::new(b);
            while !inner.at_end() {
                if std::mem::replace(&mut some, true) {
                    out.push(b',');
                }
                let w = Wire::Varint(inner.varint()?);
                single(f.json, &l.elem, w, out, depth)?;
            }
        } else {
            if std::mem::replace(&mut some, true) {
                out.push(b',');
            }
            match (&l.elem.kind, nested) {
                (Kind::Struct(s), Some((version, kind))) => {
                    out.extend_from_slice(
                        format!("{{\"apiVersion\":\"{version}\",\"kind\":\"{kind}\"").as_bytes(),
                    );
                    structure(wire.bytes(f.json)?, s, &mut false, out, depth)?;
                    out.push(b'}');
                }
                _ => {
                    if !single(f.json, &l.elem, wire, out, depth)? {
                        write_zero(&l.elem, out);
                    }
                }
            }
        }
        if cur.peek_tag()? != Some(tag) {
            break;
        }
        match cur.next()? {
            Some((_, w)) => wire = w,
            None => break,
        }
    }
    out.push(b']');
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn map<'a>(
    f: &Field,
    elem: &TypeDef,
    mut wire: Wire<'a>,
    tag: u32,
    cur: &mut Cursor<'a>,
    first: &mut bool,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Stop> {
    write_key(f.json, first, out);
    out.push(b'{');
    let mut before: Option<&[u8]> = None;
    loop {
        let (key, v) = entry(f.json, wire)?;
        if before.is_some_and(|b| b >= key) {
            return Err(Stop::Disorder);
        }
        if before.is_some() {
            out.push(b',');
        }
        before = Some(key);
        write_text(key, out);
        out.push(b':');
        let written = match v {
            Some(w) => single(f.json, elem, w, out, depth)?,
            None => false,
        };
        if !written {
            write_zero(elem, out);
        }
        if cur.peek_tag()? != Some(tag) {
            break;
        }
        match cur.next()? {
            Some((_, w)) => wire = w,
            None => break,
        }
    }
    out.push(b'}');
    Ok(())
}

fn write_text(b: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(b) {
        Ok(s) => write_string(s, out),
        Err(_) => write_string(&text(b), out),
    }
}

/// Writes one value; false when it is absent and nothing was written.
fn single(
    field: &'static str,
    def: &TypeDef,
    wire: Wire<'_>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<bool, Stop> {
    match &def.kind {
        Kind::String => write_text(wire.bytes(field)?, out),
        Kind::Bool => {
            let b: &[u8] = if wire.int(field)? != 0 { b"true" } else { b"false" };
            out.extend_from_slice(b);
        }
        Kind::Int32 => {
            let n = wire.int(field)? as i32;
            out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
        }
        Kind::Int64 => {
            let n = wire.int(field)?;
            out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
        }
        Kind::Double => match wire {
            Wire::Fixed64(n) => match crate::json::float(f64::from_bits(n)) {
                Some(n) => out.extend_from_slice(n.to_string().as_bytes()),
                None => return Ok(false),
            },
            _ => return Err(WireError::WireType(field).into()),
        },
        Kind::Bytes => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(wire.bytes(field)?).as_bytes());
            out.push(b'"');
        }
        Kind::Quantity => match only_bytes(field, wire.bytes(field)?)? {
            Some(q) if !q.is_empty() => write_text(q, out),
            _ => out.extend_from_slice(b"\"0\""),
        },
        Kind::Time | Kind::MicroTime => {
            let micro = matches!(def.kind, Kind::MicroTime);
            let Some(t) = timestamp(wire.bytes(field)?, micro)? else { return Ok(false) };
            out.push(b'"');
            time::write(t, micro, out);
            out.push(b'"');
        }
        Kind::IntOrString => match int_or_string(wire.bytes(field)?)? {
            Ok(s) => write_text(s, out),
            Err(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
        },
        Kind::FieldsV1 | Kind::RawExtension | Kind::RawJson => {
            match only_bytes(field, wire.bytes(field)?)? {
                None | Some([]) => return Ok(false),
                // Objects embedded in their own wire form are rare: let the value way read them.
                Some(raw) if raw.starts_with(crate::envelope::MAGIC) => return Err(Stop::Disorder),
                Some(raw) => out.extend_from_slice(raw),
            }
        }
        Kind::Struct(s) => {
            out.push(b'{');
            structure(wire.bytes(field)?, s, &mut true, out, depth)?;
            out.push(b'}');
        }
        // Parts of schemas and lists in a message of their own: not worth a second form of the code.
        Kind::List(_) | Kind::SchemaOrArray(_) | Kind::SchemaOrBool(_) | Kind::SchemaOrStrings(_) => {
            match super::read::single(field, def, wire, None, depth)? {
                Some(v) => crate::json::encode(&v, def, out),
                None => return Ok(false),
            }
        }
        Kind::Map(_) | Kind::Json => return Err(WireError::NoForm(def.go).into()),
    }
    Ok(true)
}

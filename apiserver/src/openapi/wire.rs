//! Fields of protobuf messages, written from JSON: what the two forms of OpenAPI in protobuf have in common. Nothing is
//! written for what is absent.

use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::{Map, Value};

pub fn message(tag: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

pub fn string(tag: u32, s: &str, out: &mut Vec<u8>) {
    if !s.is_empty() {
        message(tag, s.as_bytes(), out);
    }
}

/// A string field, where `m` has it.
pub fn text(tag: u32, m: &Map<String, Value>, key: &str, out: &mut Vec<u8>) {
    string(tag, m.get(key).and_then(Value::as_str).unwrap_or_default(), out);
}

pub fn texts(tag: u32, v: Option<&Value>, out: &mut Vec<u8>) {
    for s in v.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        // Elements count even when they are empty.
        message(tag, s.as_bytes(), out);
    }
}

pub fn boolean(tag: u32, b: bool, out: &mut Vec<u8>) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(u64::from(b), out);
}

pub fn double(tag: u32, n: f64, out: &mut Vec<u8>) {
    encode_key(tag, WireType::SixtyFourBit, out);
    out.extend_from_slice(&n.to_le_bytes());
}

/// A boolean field, where it is set.
pub fn flag(tag: u32, m: &Map<String, Value>, key: &str, out: &mut Vec<u8>) {
    if m.get(key).and_then(Value::as_bool) == Some(true) {
        boolean(tag, true, out);
    }
}

pub fn integer(tag: u32, m: &Map<String, Value>, key: &str, out: &mut Vec<u8>) {
    if let Some(n) = m.get(key).and_then(Value::as_i64).filter(|n| *n != 0) {
        encode_key(tag, WireType::Varint, out);
        encode_varint(n as u64, out);
    }
}

pub fn number(tag: u32, m: &Map<String, Value>, key: &str, out: &mut Vec<u8>) {
    if let Some(n) = m.get(key).and_then(Value::as_f64).filter(|n| *n != 0.0) {
        double(tag, n, out);
    }
}

/// An `Any`: its `yaml` alone.
pub fn any(tag: u32, v: &Value, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    string(2, &format!("{v}\n"), &mut inner);
    message(tag, &inner, out);
}

/// `Named…`: a name with a message.
pub fn named(tag: u32, name: &str, value: &[u8], out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    string(1, name, &mut inner);
    message(2, value, &mut inner);
    message(tag, &inner, out);
}

/// Everything that begins with `x-`, as `NamedAny`.
pub fn extensions(tag: u32, m: &Map<String, Value>, out: &mut Vec<u8>) {
    for (k, v) in m.iter().filter(|(k, _)| k.starts_with("x-")) {
        let mut inner = Vec::new();
        string(1, k, &mut inner);
        any(2, v, &mut inner);
        message(tag, &inner, out);
    }
}

pub fn object(v: &Value) -> Option<&Map<String, Value>> {
    v.as_object()
}

#[cfg(test)]
pub mod testing {
    /// The fields of a message whose fields all have a length.
    pub fn fields(mut b: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut out = Vec::new();
        while !b.is_empty() {
            let key = prost::encoding::decode_varint(&mut b).expect("a key");
            assert_eq!(key & 7, 2, "a field with a length");
            let n = prost::encoding::decode_varint(&mut b).expect("a length") as usize;
            let (content, rest) = b.split_at(n);
            out.push(((key >> 3) as u32, content.to_vec()));
            b = rest;
        }
        out
    }
}

//! What goes around an object's message: `k8s\0` and `runtime.Unknown` for single objects and lists, and
//! length-delimited `WatchEvent`s for streams; and the JSON forms of lists and events.

use serde_json::Value;

use crate::resources::split_api_version;
use crate::schema;
use crate::wire::{Cursor, WireError, from_proto, put_bytes, put_int, put_message, to_proto};

/// First bytes of every protobuf object, at rest and on the wire.
pub const MAGIC: &[u8] = b"k8s\0";

/// An opened envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the object.
    pub api_version: &'a str,
    /// Kind of the object.
    pub kind: &'a str,
    /// The object's message.
    pub raw: &'a [u8],
    /// Encoding of `raw`; empty for none.
    pub content_encoding: &'a str,
    /// Media type of `raw`; empty for protobuf.
    pub content_type: &'a str,
}

/// Puts an object's message into its envelope.
pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 24);
    wrap_into(api_version, kind, raw, &mut out);
    out
}

/// As [`wrap`], appending.
pub fn wrap_into(api_version: &str, kind: &str, raw: &[u8], out: &mut Vec<u8>) {
    type_meta(api_version, kind, out);
    put_bytes(2, raw, out);
    put_bytes(3, b"", out);
    put_bytes(4, b"", out);
}

fn type_meta(api_version: &str, kind: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(MAGIC);
    let _: Result<(), std::convert::Infallible> = put_message(1, out, |out| {
        put_bytes(1, api_version.as_bytes(), out);
        put_bytes(2, kind.as_bytes(), out);
        Ok(())
    });
}

/// Opens an envelope.
pub fn unwrap(bytes: &[u8]) -> Result<Envelope<'_>, WireError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(WireError::NoEnvelope)?;
    let mut e = Envelope { api_version: "", kind: "", raw: &[], content_encoding: "", content_type: "" };
    let str = |b| std::str::from_utf8(b).map_err(|_| WireError::WireType("typeMeta"));
    let mut cur = Cursor::new(body);
    while let Some((tag, w)) = cur.next()? {
        match tag {
            1 => {
                let mut meta = Cursor::new(w.bytes("typeMeta")?);
                while let Some((tag, w)) = meta.next()? {
                    match tag {
                        1 => e.api_version = str(w.bytes("apiVersion")?)?,
                        2 => e.kind = str(w.bytes("kind")?)?,
                        _ => {}
                    }
                }
            }
            2 => e.raw = w.bytes("raw")?,
            3 => e.content_encoding = str(w.bytes("contentEncoding")?)?,
            4 => e.content_type = str(w.bytes("contentType")?)?,
            _ => {}
        }
    }
    Ok(e)
}

/// The object in an envelope, as a value with `apiVersion` and `kind`.
pub fn decode(bytes: &[u8]) -> Result<Value, WireError> {
    let e = unwrap(bytes)?;
    let (group, version) = split_api_version(e.api_version);
    let def = schema::by_gvk(group, version, e.kind).ok_or_else(|| WireError::UnknownKind {
        api_version: e.api_version.to_owned(),
        kind: e.kind.to_owned(),
    })?;
    let mut v = from_proto(e.raw, def)?;
    if let Value::Object(o) = &mut v {
        o.insert("apiVersion".into(), e.api_version.into());
        o.insert("kind".into(), e.kind.into());
    }
    Ok(v)
}

/// The whole bytes of a value that names its own `apiVersion` and `kind` (a `Status`, say).
pub fn encode(value: &Value) -> Result<Vec<u8>, WireError> {
    let api_version = value["apiVersion"].as_str().unwrap_or_default();
    let kind = value["kind"].as_str().unwrap_or_default();
    let (group, version) = split_api_version(api_version);
    let def = schema::by_gvk(group, version, kind)
        .ok_or_else(|| WireError::UnknownKind { api_version: api_version.into(), kind: kind.into() })?;
    Ok(wrap(api_version, kind, &to_proto(value, def)?))
}

/// `ListMeta` of an answer.
#[derive(Debug, Clone, Default)]
pub struct ListMeta {
    /// Version of the store that the list shows.
    pub resource_version: String,
    /// Where the next page goes on; empty on the last one.
    pub continue_token: String,
    /// How many objects come after this page, when known.
    pub remaining_item_count: Option<i64>,
}

/// A list in protobuf, of the items' messages as they are stored.
pub fn list<'a>(
    api_version: &str,
    kind: &str,
    meta: &ListMeta,
    items: impl Iterator<Item = &'a [u8]> + Clone,
) -> Vec<u8> {
    let size: usize = items.clone().map(|i| i.len() + 6).sum();
    let mut out = Vec::with_capacity(size + 128);
    type_meta(api_version, kind, &mut out);
    let _: Result<(), std::convert::Infallible> = put_message(2, &mut out, |out| {
        put_message(1, out, |out| {
            put_bytes(1, b"", out);
            put_bytes(2, meta.resource_version.as_bytes(), out);
            put_bytes(3, meta.continue_token.as_bytes(), out);
            if let Some(n) = meta.remaining_item_count {
                put_int(4, n, out);
            }
            Ok::<(), std::convert::Infallible>(())
        })?;
        for item in items {
            put_bytes(2, item, out);
        }
        Ok(())
    });
    put_bytes(3, b"", &mut out);
    put_bytes(4, b"", &mut out);
    out
}

/// A list in JSON, of the items' texts. What [`crate::wire::proto_to_json`] puts first in an object (`kind`
/// and `apiVersion`) is left out of items, as upstream does.
pub fn list_json<'a>(
    api_version: &str,
    kind: &str,
    meta: &ListMeta,
    items: impl Iterator<Item = &'a [u8]> + Clone,
) -> Vec<u8> {
    let size: usize = items.clone().map(|i| i.len() + 1).sum();
    let mut out = Vec::with_capacity(size + 160);
    let mut first = true;
    out.push(b'{');
    let put = |k, v: &str, first: &mut bool, out: &mut Vec<u8>| {
        crate::json::write_key(k, first, out);
        crate::json::write_string(v, out);
    };
    put("kind", kind, &mut first, &mut out);
    put("apiVersion", api_version, &mut first, &mut out);
    crate::json::write_key("metadata", &mut first, &mut out);
    out.push(b'{');
    let mut first = true;
    if !meta.resource_version.is_empty() {
        put("resourceVersion", &meta.resource_version, &mut first, &mut out);
    }
    if !meta.continue_token.is_empty() {
        put("continue", &meta.continue_token, &mut first, &mut out);
    }
    if let Some(n) = meta.remaining_item_count {
        crate::json::write_key("remainingItemCount", &mut first, &mut out);
        out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
    }
    out.extend_from_slice(b"},\"items\":[");
    let item_kind = kind.strip_suffix("List").unwrap_or(kind);
    let head = format!("{{\"kind\":\"{item_kind}\",\"apiVersion\":\"{api_version}\",");
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        match item.strip_prefix(head.as_bytes()) {
            Some(rest) => {
                out.push(b'{');
                out.extend_from_slice(rest);
            }
            None => out.extend_from_slice(item),
        }
    }
    out.extend_from_slice(b"]}");
    out
}

/// One event of a protobuf watch stream: four bytes of length, then a `WatchEvent` whose object is `object`,
/// the bytes of an object in its envelope.
pub fn watch_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + kind.len() + 20);
    out.extend_from_slice(&[0; 4]);
    put_bytes(1, kind.as_bytes(), &mut out);
    let _: Result<(), std::convert::Infallible> = put_message(2, &mut out, |out| {
        put_bytes(1, object, out);
        Ok(())
    });
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    out
}

/// One event of a JSON watch stream, with its line end.
pub fn watch_event_json(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + kind.len() + 24);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out
}

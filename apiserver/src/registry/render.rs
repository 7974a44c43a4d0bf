//! Stored bytes to what clients read. In the storage version protobuf is copied, with the resourceVersion put in,
//! and JSON transcoded without building a value; other versions and shapes go through a value.

use std::borrow::Cow;

use bytes::Bytes;
use proto::envelope;
use serde_json::{Value, json};

use super::resource::Resource;
use super::write::Stored;
use super::{codec, object};
use crate::http::negotiate::{Format, Shape, Wanted};
use crate::http::{Response, respond};
use crate::status::{ApiError, ApiResult};
use crate::table;

/// What lists say about themselves.
#[derive(Debug, Clone, Default)]
pub struct ListMeta {
    pub revision: u64,
    pub continue_token: String,
    pub remaining: Option<u64>,
}

impl ListMeta {
    fn to_json(&self) -> Value {
        let mut m = json!({"resourceVersion": self.revision.to_string()});
        if !self.continue_token.is_empty() {
            m["continue"] = self.continue_token.as_str().into();
        }
        if let Some(n) = self.remaining {
            m["remainingItemCount"] = n.into();
        }
        m
    }

    fn to_wire(&self) -> envelope::ListMeta {
        envelope::ListMeta {
            resource_version: self.revision.to_string(),
            continue_token: self.continue_token.clone(),
            remaining_item_count: self.remaining.and_then(|n| i64::try_from(n).ok()),
        }
    }
}

/// apiVersion of tables and partial metadata.
fn meta_version(beta: bool) -> &'static str {
    if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
}

fn corrupt(key: &str, e: impl std::fmt::Display) -> ApiError {
    ApiError::internal(format!("unable to decode the value stored at {key}: {e}"))
}

/// The message inside stored bytes.
fn raw(s: &Stored) -> ApiResult<&[u8]> {
    Ok(envelope::unwrap(&s.bytes).map_err(|e| corrupt(&s.key, e))?.raw)
}

/// The object as a value in `r`'s version, with apiVersion, kind and resourceVersion.
pub fn value(r: &Resource, s: &Stored) -> ApiResult<Value> {
    let mut v = r.storage()?.form.value(&s.bytes).map_err(|e| corrupt(&s.key, e))?;
    codec::from_storage(r, &mut v)?;
    Ok(v)
}

/// The protobuf message of the object in `r`'s version, without envelope.
fn wire<'a>(r: &Resource, s: &'a Stored) -> ApiResult<Cow<'a, [u8]>> {
    if r.custom.is_some() {
        // Their metadata is all that has a wire form.
        return metadata_wire(&value(r, s)?).map(Cow::Owned).map_err(|e| corrupt(&s.key, e));
    }
    if r.is_hub_version() {
        return raw(s).map(Cow::Borrowed);
    }
    let v = value(r, s)?;
    proto::wire::to_proto(&v, &r.schema).map(Cow::Owned).map_err(|e| corrupt(&s.key, e))
}

/// A message with nothing but the object's metadata.
pub fn metadata_wire(o: &Value) -> Result<Vec<u8>, String> {
    let any =
        proto::schema::by_name("io.k8s.api.core.v1.ConfigMap").ok_or("the type table has no ConfigMap")?;
    // In every kind metadata is field 1.
    proto::wire::to_proto(&json!({"metadata": object::meta(o)}), any).map_err(|e| e.to_string())
}

/// The object's JSON in `r`'s version, rendered once per object where it came from the cache.
pub fn json(r: &Resource, s: &Stored) -> ApiResult<Bytes> {
    if r.custom.is_some() {
        return Ok(s.bytes.clone());
    }
    let render = || {
        let mut out = Vec::with_capacity(s.bytes.len() * 2);
        proto::wire::proto_to_json(&wire(r, s)?, &r.schema, &r.api_version(), r.kind, &mut out)
            .map_err(|e| corrupt(&s.key, e))?;
        Ok(Bytes::from(out))
    };
    match &s.shared {
        Some(o) if r.is_hub_version() => o.json(|_| render()),
        _ => render(),
    }
}

/// `PartialObjectMetadata` of an object.
pub fn partial(v: &Value, beta: bool) -> Value {
    let version = meta_version(beta);
    json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": object::meta(v)})
}

/// The message of `PartialObjectMetadata`: the object's field 1, which is its metadata in every kind, comes first.
fn partial_wire(raw: &[u8], key: &str) -> ApiResult<Vec<u8>> {
    let Some(mut rest) = raw.strip_prefix(&[0x0a]) else { return Ok(Vec::new()) };
    let length = prost::encoding::decode_varint(&mut rest).map_err(|e| corrupt(key, e))?;
    let head = raw.len() - rest.len();
    let end = usize::try_from(length).ok().and_then(|l| l.checked_add(head)).filter(|e| *e <= raw.len());
    match end {
        Some(end) => Ok(raw[..end].to_vec()),
        None => Err(corrupt(key, "its metadata is cut off")),
    }
}

/// Bytes of one object in the wanted format and shape, with their content type.
pub fn object(
    r: &Resource,
    s: &Stored,
    wanted: Wanted,
    include: table::Include,
    headings: bool,
) -> ApiResult<(Bytes, &'static str)> {
    let format = wanted.format;
    let json_of = |v: &Value| Bytes::from(serde_json::to_vec(v).unwrap_or_default());
    let body = match wanted.shape {
        Shape::Object if format == Format::Protobuf && r.is_hub_version() => s.bytes.clone(),
        Shape::Object if format == Format::Protobuf => {
            proto::envelope::wrap(&r.api_version(), r.kind, &wire(r, s)?).into()
        }
        Shape::Object => json(r, s)?,
        Shape::Metadata { beta } if format == Format::Protobuf => {
            let version = meta_version(beta);
            proto::envelope::wrap(version, "PartialObjectMetadata", &partial_wire(&wire(r, s)?, &s.key)?)
                .into()
        }
        Shape::Metadata { beta } => json_of(&partial(&value(r, s)?, beta)),
        Shape::Table { beta } => {
            let v = value(r, s)?;
            json_of(&table::of(
                r,
                &[v],
                json!({"resourceVersion": s.revision.to_string()}),
                beta,
                include,
                headings,
            ))
        }
    };
    Ok((body, format.media_type()))
}

/// The answer with one object.
pub fn object_answer(
    r: &Resource,
    s: &Stored,
    code: u16,
    wanted: Wanted,
    include: table::Include,
) -> ApiResult<Response> {
    let (body, media) = object(r, s, wanted, include, true)?;
    Ok(match wanted.format {
        Format::Protobuf => respond::bytes(code, media, body),
        _ => respond::json_text(code, wanted, body),
    })
}

/// The answer with a list.
pub fn list_answer(
    r: &Resource,
    items: &[Stored],
    meta: &ListMeta,
    wanted: Wanted,
    include: table::Include,
) -> ApiResult<Response> {
    let size: usize = items.iter().map(|s| s.bytes.len()).sum();
    if wanted.format == Format::Protobuf {
        let metadata_only = matches!(wanted.shape, Shape::Metadata { .. });
        let messages: Vec<Cow<'_, [u8]>> = items
            .iter()
            .map(|s| {
                let raw = wire(r, s)?;
                if metadata_only { partial_wire(&raw, &s.key).map(Cow::Owned) } else { Ok(raw) }
            })
            .collect::<ApiResult<_>>()?;
        let (version, kind) = match wanted.shape {
            Shape::Metadata { beta } => {
                (meta_version(beta).to_owned(), "PartialObjectMetadataList".to_owned())
            }
            _ => (r.api_version(), r.list_kind()),
        };
        let body = envelope::list(&version, &kind, &meta.to_wire(), messages.iter().map(|m| &**m));
        return Ok(respond::bytes(200, Format::Protobuf.media_type(), body));
    }
    let out = match wanted.shape {
        Shape::Object if r.custom.is_some() => custom_list(r, items, meta, size),
        Shape::Object => {
            let mut out = Vec::with_capacity(size * 2 + 256);
            let head = format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
                r.kind,
                r.api_version(),
                meta.to_json()
            );
            out.extend_from_slice(head.as_bytes());
            // Items do not repeat kind and apiVersion, which a rendered object begins with.
            let typed = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", r.kind, r.api_version());
            for (i, s) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                let one = json(r, s)?;
                match one.strip_prefix(typed.as_bytes()) {
                    Some(rest) => {
                        out.push(b'{');
                        out.extend_from_slice(rest);
                    }
                    None => out.extend_from_slice(&one),
                }
            }
            out.extend_from_slice(b"]}");
            out
        }
        Shape::Metadata { beta } => {
            let version = meta_version(beta);
            let items: Vec<Value> = items
                .iter()
                .map(|s| value(r, s).map(|v| json!({"metadata": object::meta(&v)})))
                .collect::<ApiResult<_>>()?;
            serde_json::to_vec(&json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": meta.to_json(), "items": items}))
                .unwrap_or_default()
        }
        Shape::Table { beta } => {
            let values: Vec<Value> = items.iter().map(|s| value(r, s)).collect::<ApiResult<_>>()?;
            serde_json::to_vec(&table::of(r, &values, meta.to_json(), beta, include, true))
                .unwrap_or_default()
        }
    };
    Ok(respond::json_text(200, wanted, out.into()))
}

/// A list of custom resources, whose items say their kind each.
fn custom_list(r: &Resource, items: &[Stored], meta: &ListMeta, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + items.len() + 256);
    out.extend_from_slice(format!("{{\"apiVersion\":\"{}\",\"items\":[", r.api_version()).as_bytes());
    for (i, s) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&s.bytes);
    }
    let tail = format!("],\"kind\":\"{}\",\"metadata\":{}}}", r.list_kind(), meta.to_json());
    out.extend_from_slice(tail.as_bytes());
    out
}

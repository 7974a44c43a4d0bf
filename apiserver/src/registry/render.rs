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
    /// `always`: whether to say so where there is no more, as lists of custom resources do.
    pub(super) fn to_json(&self, always: bool) -> Value {
        let mut m = json!({"resourceVersion": self.revision.to_string()});
        if always {
            m["continue"] = "".into();
        }
        if !self.continue_token.is_empty() {
            m["continue"] = self.continue_token.as_str().into();
        }
        if let Some(n) = self.remaining {
            m["remainingItemCount"] = n.into();
        }
        m
    }

    pub(super) fn to_wire(&self) -> envelope::ListMeta {
        envelope::ListMeta {
            resource_version: self.revision.to_string(),
            continue_token: self.continue_token.clone(),
            remaining_item_count: self.remaining.and_then(|n| i64::try_from(n).ok()),
        }
    }
}

/// apiVersion of tables and partial metadata.
pub fn meta_version(beta: bool) -> &'static str {
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

/// The object's JSON in `r`'s version.
fn rendered(r: &Resource, s: &Stored) -> ApiResult<Bytes> {
    if r.custom.is_some() {
        return Ok(s.bytes.clone());
    }
    let mut out = Vec::with_capacity(s.bytes.len() * 2);
    proto::wire::proto_to_json(&wire(r, s)?, &r.schema, &r.api_version(), r.kind, &mut out)
        .map_err(|e| corrupt(&s.key, e))?;
    Ok(Bytes::from(out))
}

/// The object's JSON in `r`'s version, rendered once per object where it came from the cache.
pub fn json(r: &Resource, s: &Stored) -> ApiResult<Bytes> {
    match &s.shared {
        Some(o) if r.custom.is_none() && r.is_hub_version() => o.json(|_| rendered(r, s)),
        _ => rendered(r, s),
    }
}

/// As [`json`], but not kept with the object: a list would make the cache hold everything twice.
pub(super) fn json_once(r: &Resource, s: &Stored) -> ApiResult<Bytes> {
    match s
        .shared
        .as_ref()
        .filter(|_| r.custom.is_none() && r.is_hub_version())
        .and_then(|o| o.json_if_rendered())
    {
        Some(json) => Ok(json),
        None => rendered(r, s),
    }
}

/// The protobuf message of an object in a list, or that of its metadata alone.
pub(super) fn message<'a>(r: &Resource, s: &'a Stored, partial: bool) -> ApiResult<Cow<'a, [u8]>> {
    let raw = wire(r, s)?;
    if partial { partial_wire(&raw, &s.key).map(Cow::Owned) } else { Ok(raw) }
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
        Shape::Metadata { beta, .. } if format == Format::Protobuf => {
            let version = meta_version(beta);
            proto::envelope::wrap(version, "PartialObjectMetadata", &partial_wire(&wire(r, s)?, &s.key)?)
                .into()
        }
        Shape::Metadata { beta, .. } => json_of(&partial(&value(r, s)?, beta)),
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

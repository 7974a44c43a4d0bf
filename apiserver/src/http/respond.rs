//! Turns results into HTTP answers in the negotiated format: JSON, YAML or protobuf, pretty, compressed.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use super::negotiate::{Format, Wanted};
use super::{Body, Response, pretty};
use crate::registry::{codec, render};
use crate::status::{ApiError, ApiResult};

/// Smaller answers are not worth compressing.
const GZIP_THRESHOLD: usize = 128 * 1024;

/// An answer with its type.
pub fn bytes(code: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut r = Response::new(body.into());
    *r.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let h = r.headers_mut();
    h.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    h.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    r
}

/// Plain text.
pub fn text(code: u16, body: impl Into<Body>) -> Response {
    let mut r = bytes(code, "text/plain; charset=utf-8", body);
    r.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    r
}

/// JSON text that is ready, in the wanted format if that is JSON or YAML.
pub fn json_text(code: u16, wanted: Wanted, json: Bytes) -> Response {
    match wanted.format {
        Format::Yaml => match serde_json::from_slice::<Value>(&json) {
            Ok(v) => bytes(code, Format::Yaml.media_type(), component_base::yaml::to_string(&v)),
            Err(_) => bytes(500, "text/plain; charset=utf-8", "the answer cannot be written as YAML\n"),
        },
        _ if wanted.pretty => bytes(code, Format::Json.media_type(), pretty::indent(&json)),
        _ => bytes(code, Format::Json.media_type(), json),
    }
}

/// A JSON value, in the wanted format if that is JSON or YAML.
pub fn json(code: u16, wanted: Wanted, value: &Value) -> Response {
    json_text(code, wanted, Bytes::from(serde_json::to_vec(value).unwrap_or_default()))
}

/// `PartialObjectMetadata` of an object that is not stored.
pub fn partial(code: u16, wanted: Wanted, o: &Value, beta: bool) -> ApiResult<Response> {
    if wanted.format != Format::Protobuf {
        return Ok(json(code, wanted, &render::partial(o, beta)));
    }
    let raw = render::metadata_wire(o).map_err(ApiError::internal)?;
    let body = proto::envelope::wrap(render::meta_version(beta), "PartialObjectMetadata", &raw);
    Ok(bytes(code, Format::Protobuf.media_type(), body))
}

/// A `Status`, or any other object of `meta/v1` that has a wire form.
pub fn meta_object(code: u16, wanted: Wanted, api_version: &str, kind: &str, value: &Value) -> Response {
    if wanted.format == Format::Protobuf
        && let Some(b) = codec::meta_to_wire(api_version, kind, value)
    {
        return bytes(code, Format::Protobuf.media_type(), b);
    }
    json(code, wanted, value)
}

/// A failure as the client reads it.
pub fn error(wanted: Wanted, e: &ApiError) -> Response {
    let mut r = meta_object(e.code, wanted, "v1", "Status", &e.to_status());
    if let Some(d) = &e.details
        && d.retry_after_seconds > 0
    {
        r.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(d.retry_after_seconds));
    }
    warn(&mut r, &e.warnings);
    r
}

/// A body that is compressed piece by piece.
struct Zipped {
    pieces: Box<dyn Iterator<Item = io::Result<Bytes>> + Send>,
    /// None once the end was written.
    z: Option<GzEncoder<Vec<u8>>>,
}

impl Iterator for Zipped {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let z = self.z.as_mut()?;
            match self.pieces.next() {
                Some(Ok(piece)) => {
                    if let Err(e) = z.write_all(&piece) {
                        return Some(Err(e));
                    }
                    // What the encoder still holds comes with a later piece.
                    let out = std::mem::take(z.get_mut());
                    if !out.is_empty() {
                        return Some(Ok(out.into()));
                    }
                }
                Some(Err(e)) => return Some(Err(e)),
                None => return self.z.take().map(|z| z.finish().map(Bytes::from)),
            }
        }
    }
}

fn mark_gzip(r: &mut Response) {
    r.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    r.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// Compresses a big body: as a whole where it is there, piece by piece where it is being made.
pub fn compress(mut r: Response) -> Response {
    if matches!(r.body(), Body::Pieces(_)) && !r.headers().contains_key(header::CONTENT_ENCODING) {
        if let Body::Pieces(pieces) = std::mem::replace(r.body_mut(), Body::Empty) {
            let z = Some(GzEncoder::new(Vec::new(), Compression::fast()));
            *r.body_mut() = Body::Pieces(Box::new(Zipped { pieces, z }));
        }
        mark_gzip(&mut r);
        return r;
    }
    let Body::Full(b) = r.body() else { return r };
    if b.len() < GZIP_THRESHOLD || r.headers().contains_key(header::CONTENT_ENCODING) {
        return r;
    }
    let mut z = GzEncoder::new(Vec::with_capacity(b.len() / 4), Compression::fast());
    if z.write_all(b).is_err() {
        return r;
    }
    let Ok(out) = z.finish() else { return r };
    *r.body_mut() = Body::from(out);
    mark_gzip(&mut r);
    r
}

/// Characters that all warnings of an answer may have together, and each of them where they have more.
const WARNINGS_LIMIT: usize = 4096;
const WARNING_LIMIT: usize = 256;

/// Adds `Warning` headers: each sentence once, cut where they are too long together.
pub fn warn(r: &mut Response, warnings: &[String]) {
    let mut seen: Vec<&str> = Vec::new();
    for w in warnings {
        if !w.is_empty() && !seen.contains(&w.as_str()) {
            seen.push(w);
        }
    }
    let total: usize = seen.iter().map(|w| w.chars().count()).sum();
    let each = if total > WARNINGS_LIMIT { WARNING_LIMIT } else { usize::MAX };
    let mut written = 0;
    for w in seen {
        if written >= WARNINGS_LIMIT {
            break;
        }
        let clean: String = w.chars().take(each).map(|c| if c.is_control() { ' ' } else { c }).collect();
        written += clean.chars().count();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        let Ok(v) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) else { continue };
        // The same sentence may come from the rules of a kind and from a filter.
        if !r.headers().get_all(header::WARNING).iter().any(|told| *told == v) {
            r.headers_mut().append(header::WARNING, v);
        }
    }
}

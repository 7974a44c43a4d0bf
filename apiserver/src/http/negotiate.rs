//! Content negotiation: what the client sends and what it wants back.

use http::HeaderMap;

use crate::status::{ApiError, ApiResult};

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What shape the client wants objects in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The object itself.
    Object,
    /// `meta.k8s.io/v1` (or v1beta1) `Table`.
    Table { beta: bool },
    /// `PartialObjectMetadata`, or, where it is asked for as such, its list.
    Metadata { beta: bool, list: bool },
}

/// The outcome of negotiating the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub format: Format,
    pub shape: Shape,
    pub pretty: bool,
}

impl Wanted {
    /// Plain JSON objects.
    pub const JSON: Self = Self { format: Format::Json, shape: Shape::Object, pretty: false };
}

/// Representations that a handler can give.
const AVAILABLE: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

fn not_acceptable() -> ApiError {
    let mut e =
        ApiError::not_acceptable(format!("406: Not Acceptable\n\nAvailable representations: {AVAILABLE}"));
    e.details = Some(Box::default());
    e
}

/// Which shapes beside the object a handler offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Objects only (writes' options, status answers).
    Plain,
    /// Objects, tables and metadata.
    Transformed,
    /// The same of custom resources, which have no wire form but for their metadata.
    Custom,
}

struct Clause<'a> {
    kind: &'a str,
    sub: &'a str,
    q: f32,
    params: Vec<(&'a str, &'a str)>,
}

fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut out: Vec<Clause<'_>> = accept
        .split(',')
        .filter_map(|c| {
            let mut parts = c.split(';').map(str::trim);
            let media = parts.next()?;
            if media.is_empty() {
                return None;
            }
            let (kind, sub) = match media.split_once('/') {
                Some(x) => x,
                None if media == "*" => ("*", "*"),
                None => return None,
            };
            let mut q = 1.0;
            let mut params = Vec::new();
            for p in parts {
                if let Some((k, v)) = p.split_once('=') {
                    if k == "q" {
                        q = v.parse().unwrap_or(1.0);
                    } else {
                        params.push((k, v));
                    }
                }
            }
            Some(Clause { kind, sub, q, params })
        })
        .collect();
    // Higher weight first; among equals the more specific type first, else the client's order.
    out.sort_by(|a, b| {
        b.q.total_cmp(&a.q)
            .then_with(|| (a.kind == "*").cmp(&(b.kind == "*")))
            .then_with(|| (a.sub == "*").cmp(&(b.sub == "*")))
    });
    out
}

/// Picks the answer's format and shape from `Accept`.
pub fn accept(headers: &HeaderMap, pretty: bool, offer: Offer) -> ApiResult<Wanted> {
    let Some(h) = headers.get(http::header::ACCEPT) else { return Ok(Wanted { pretty, ..Wanted::JSON }) };
    let h = h.to_str().map_err(|_| not_acceptable())?;
    if h.is_empty() {
        return Ok(Wanted { pretty, ..Wanted::JSON });
    }
    for c in clauses(h) {
        let format = match (c.kind, c.sub) {
            ("*" | "application", "*") | ("application", "json") => Format::Json,
            ("application", "yaml") => Format::Yaml,
            ("application", "vnd.kubernetes.protobuf") => Format::Protobuf,
            _ => continue,
        };
        let mut pretty = pretty;
        let (mut as_, mut g, mut v, mut stream) = ("", "", "", "");
        for (k, val) in &c.params {
            match *k {
                "as" => as_ = val,
                "g" => g = val,
                "v" => v = val,
                "stream" => stream = val,
                "pretty" => pretty = *val == "1",
                _ => {}
            }
        }
        if !matches!(stream, "" | "watch") || (stream == "watch" && format == Format::Yaml) {
            continue;
        }
        // A group or version alone asks for another shape, too, one that there is not.
        let plain = !c.params.iter().any(|(k, _)| matches!(*k, "as" | "g" | "v"));
        let shape = if plain {
            Shape::Object
        } else {
            if offer == Offer::Plain || g != "meta.k8s.io" || !(v == "v1" || v == "v1beta1") {
                continue;
            }
            let beta = v == "v1beta1";
            match as_ {
                "Table" if format != Format::Protobuf => Shape::Table { beta },
                "PartialObjectMetadata" => Shape::Metadata { beta, list: false },
                "PartialObjectMetadataList" => Shape::Metadata { beta, list: true },
                _ => continue,
            }
        };
        if offer == Offer::Custom && format == Format::Protobuf && !matches!(shape, Shape::Metadata { .. }) {
            continue;
        }
        return Ok(Wanted { format, shape, pretty });
    }
    Err(not_acceptable())
}

/// Which of `offers` (media types without parameters, the one for `*/*` first) the client likes best.
pub fn choose(headers: &HeaderMap, offers: &[&str]) -> Option<usize> {
    let h = match headers.get(http::header::ACCEPT) {
        None => return Some(0),
        Some(h) => h.to_str().ok()?,
    };
    if h.is_empty() {
        return Some(0);
    }
    clauses(h).iter().find_map(|c| {
        offers.iter().position(|o| {
            let (kind, sub) = o.split_once('/').unwrap_or((o, ""));
            (c.kind == "*" || c.kind == kind) && (c.sub == "*" || c.sub == sub)
        })
    })
}

/// Format of the body that the client sent.
pub fn content_type(headers: &HeaderMap) -> ApiResult<Format> {
    let raw = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media = raw.split(';').next().unwrap_or("").trim();
    match media {
        "" | "application/json" => Ok(Format::Json),
        "application/yaml" => Ok(Format::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Format::Protobuf),
        _ => Err(unsupported()),
    }
}

/// The answer to a body in a format that is not read.
pub fn unsupported() -> ApiError {
    ApiError::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: {AVAILABLE}"
    ))
}

/// Whether people read the answer: asked for, or a browser or command-line fetcher.
pub fn wants_pretty(headers: &HeaderMap, query: &super::query::Query) -> bool {
    if let Some(p) = query.opt_flag("pretty") {
        return p;
    }
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|p| agent.starts_with(p))
}

/// Whether the client takes gzip.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.split(';').next().is_some_and(|e| e.trim() == "gzip")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(a: &str) -> ApiResult<Wanted> {
        let mut h = HeaderMap::new();
        h.insert(http::header::ACCEPT, a.parse().expect("header"));
        accept(&h, false, Offer::Transformed)
    }

    #[test]
    fn picks() {
        assert_eq!(want("*/*").expect("any").format, Format::Json);
        assert_eq!(
            want("application/vnd.kubernetes.protobuf,application/json").expect("proto").format,
            Format::Protobuf
        );
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(want(kubectl).expect("table").shape, Shape::Table { beta: false });
        assert_eq!(want("text/html,application/yaml;q=0.9").expect("yaml").format, Format::Yaml);
        assert_eq!(want("text/html").expect_err("html").code, 406);
        assert_eq!(want("application/json;as=Nope;v=v1;g=meta.k8s.io").expect_err("shape").code, 406);
        let wire = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(want(wire).expect_err("tables are JSON").code, 406);
        assert_eq!(want(&format!("{wire},application/json")).expect("JSON").shape, Shape::Object);
        assert_eq!(want("application/json;v=v1").expect_err("half a shape").code, 406);
        assert!(want("application/json;stream=watch").is_ok() && want("application/json;stream=x").is_err());
    }
}

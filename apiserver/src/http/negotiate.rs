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

/// What lists may come as beside [`AVAILABLE`], when they are watched.
const STREAMS: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// No media type of the request is one that the route gives at all.
fn not_routed(available: &str) -> ApiError {
    let mut e =
        ApiError::not_acceptable(format!("406: Not Acceptable\n\nAvailable representations: {available}"));
    e.details = Some(Box::default());
    e
}

/// The media types are among those of the route, but what they ask for with their parameters is not to be had.
fn not_acceptable() -> ApiError {
    ApiError::not_acceptable(format!("only the following media types are accepted: {AVAILABLE}"))
}

/// What stands behind a path, which decides what is asked of `Accept` before its parameters are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// A list, which may be watched.
    List,
    /// Anything else that comes in all formats.
    Any,
    /// What comes in one media type and nothing else.
    Only(&'static str),
}

/// Refuses what names no media type of the route: wildcards other than `*/*` match none, and case counts.
///
/// # Errors
/// 406 `NotAcceptable` with the media types there are.
pub fn routed(headers: &HeaderMap, route: Route) -> ApiResult<()> {
    let Some(h) = headers.get(http::header::ACCEPT) else { return Ok(()) };
    let gives = |media: &str| match route {
        Route::Only(one) => media == one,
        _ => [Format::Json, Format::Yaml, Format::Protobuf].iter().any(|f| f.media_type() == media),
    };
    let asked = h.to_str().unwrap_or_default();
    let media = |c: &str| c.split(';').next().unwrap_or_default().trim().to_owned();
    if asked.is_empty() || asked.split(',').map(media).any(|m| m == "*/*" || gives(&m)) {
        return Ok(());
    }
    Err(match route {
        Route::List => not_routed(&format!("{AVAILABLE}, {STREAMS}")),
        Route::Any => not_routed(AVAILABLE),
        Route::Only(one) => not_routed(one),
    })
}

/// Which shapes beside the object a handler offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Objects only (documents of discovery, errors).
    Plain,
    /// Objects and metadata: what upstream converts to no table, as reviews and some subresources.
    Metadata,
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
        // A group or version alone asks for another shape, too, one that there is not; a shape without a name is none.
        let plain = !c.params.iter().any(|(k, v)| matches!(*k, "g" | "v") || (*k == "as" && !v.is_empty()));
        let shape = if plain {
            Shape::Object
        } else {
            if offer == Offer::Plain || g != "meta.k8s.io" || !(v == "v1" || v == "v1beta1") {
                continue;
            }
            let beta = v == "v1beta1";
            match as_ {
                "Table" if format != Format::Protobuf && offer != Offer::Metadata => Shape::Table { beta },
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
    let mut parts = raw.split(';').map(str::trim);
    let media = parts.next().unwrap_or("").to_ascii_lowercase();
    // A parameter without a value makes the whole header unreadable; an empty one at the end does not.
    if parts.any(|p| !p.is_empty() && !p.contains('=')) {
        return Err(unsupported());
    }
    match media.as_str() {
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

    fn want_of(a: &str, offer: Offer) -> ApiResult<Wanted> {
        let mut h = HeaderMap::new();
        h.insert(http::header::ACCEPT, a.parse().expect("header"));
        accept(&h, false, offer)
    }

    fn want(a: &str) -> ApiResult<Wanted> {
        want_of(a, Offer::Transformed)
    }

    #[test]
    fn without_a_table_the_next_is_taken() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(want_of(table, Offer::Metadata).expect_err("no table").code, 406);
        let metadata = format!("{table},application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
        let shape = want_of(&metadata, Offer::Metadata).expect("metadata").shape;
        assert_eq!(shape, Shape::Metadata { beta: false, list: false });
        assert_eq!(want_of(&metadata, Offer::Plain).expect_err("nothing").code, 406);
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
        assert_eq!(want("application/json;as=").expect("no shape").shape, Shape::Object);
    }

    #[test]
    fn routes_take_exact_media_types() {
        let ask = |a: &str, route| {
            let mut h = HeaderMap::new();
            h.insert(http::header::ACCEPT, a.parse().expect("header"));
            routed(&h, route).map_err(|e| e.message)
        };
        assert!(ask("text/html, */*;q=0.1", Route::Any).is_ok());
        assert!(ask("application/json;as=Nope", Route::Any).is_ok(), "parameters come later");
        assert!(ask("application/*", Route::Any).is_err() && ask("Application/json", Route::Any).is_err());
        assert!(ask("text/html", Route::List).unwrap_err().ends_with(STREAMS));
        assert!(
            ask("application/yaml", Route::Only("application/json"))
                .unwrap_err()
                .ends_with(": application/json")
        );
        assert!(routed(&HeaderMap::new(), Route::Only("application/json")).is_ok());
    }

    #[test]
    fn content_types_are_read_as_media_types() {
        let of = |c: &str| {
            let mut h = HeaderMap::new();
            h.insert(http::header::CONTENT_TYPE, c.parse().expect("header"));
            content_type(&h).ok()
        };
        assert_eq!(of("Application/JSON; charset=utf-8;"), Some(Format::Json));
        assert_eq!(of("application/json;a"), None);
        assert_eq!(of("*/*"), None);
    }
}

//! OpenAPI v3: one document per group and version, made from the schema table when it is asked for. Clients keep what
//! they fetched as long as the hash in its address stays the same. v2, all in one document, is made from those.

mod operations;
mod schemas;
mod v2;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::http::negotiate::Wanted;
use crate::http::query::Query;
use crate::http::{Body, Response, respond};
use crate::registry::table::{Group, Table, Version};

/// Answers `/openapi/v2` and what is below `/openapi/v3`.
pub fn answer(
    table: &Table,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
    wanted: Wanted,
) -> Option<Response> {
    if path == "/openapi/v2" {
        return Some(second(table, headers, wanted));
    }
    let rest = path.strip_prefix("/openapi/v3")?;
    let rest = rest.trim_matches('/');
    if rest.is_empty() {
        return Some(respond::json(200, wanted, &index(table)));
    }
    let (g, v) = versions(table).find(|(g, v)| relative(g, v) == rest)?;
    let hash = hash(&relative(g, v));
    let etag = HeaderValue::from_str(&format!("\"{hash}\"")).ok()?;
    let mut r = if headers.get(header::IF_NONE_MATCH) == Some(&etag) {
        let mut r = respond::bytes(304, "application/json", Body::Empty);
        *r.status_mut() = StatusCode::NOT_MODIFIED;
        r
    } else {
        let text = serde_json::to_vec(&document(v)).unwrap_or_default();
        respond::json_text(200, wanted, Bytes::from(text))
    };
    r.headers_mut().insert(header::ETAG, etag);
    if query.get("hash") == Some(&hash) {
        // The address names the content: it can be kept for ever.
        let forever = HeaderValue::from_static("public, immutable, max-age=31536000");
        r.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    Some(r)
}

/// The v2 document, in JSON only: clients that ask for nothing but its protobuf form are told so.
fn second(table: &Table, headers: &HeaderMap, wanted: Wanted) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    if !["json", "*/*", "application/*"].iter().any(|m| accept.contains(m)) {
        return respond::text(406, "406 not acceptable: only application/json is served here\n");
    }
    let etag = HeaderValue::from_str(&format!("\"{}\"", hash("v2"))).ok();
    let mut r = if etag.is_some() && headers.get(header::IF_NONE_MATCH) == etag.as_ref() {
        let mut r = respond::bytes(304, "application/json", Body::Empty);
        *r.status_mut() = StatusCode::NOT_MODIFIED;
        r
    } else {
        let all = versions(table).map(|(_, v)| document(v));
        let text = serde_json::to_vec(&v2::document(all, component_base::version::GIT_VERSION));
        respond::json_text(200, wanted, Bytes::from(text.unwrap_or_default()))
    };
    if let Some(etag) = etag {
        r.headers_mut().insert(header::ETAG, etag);
    }
    r
}

fn versions(table: &Table) -> impl Iterator<Item = (&Group, &Version)> {
    table.groups.iter().flat_map(|g| g.versions.iter().map(move |v| (&**g, v)))
}

/// `api/v1`, `apis/apps/v1`.
fn relative(g: &Group, v: &Version) -> String {
    crate::discovery::documents::path(g.name, v.name).trim_start_matches('/').to_owned()
}

/// Stands for the content of a document: what is served follows from the release and the path alone.
fn hash(relative: &str) -> String {
    let digest = Sha256::digest(format!("{}/{relative}", component_base::version::GIT_VERSION));
    digest.iter().map(|b| format!("{b:02X}")).collect()
}

fn index(table: &Table) -> Value {
    let mut paths = Map::new();
    for (g, v) in versions(table) {
        let p = relative(g, v);
        let url = format!("/openapi/v3/{p}?hash={}", hash(&p));
        paths.insert(p, json!({"serverRelativeURL": url}));
    }
    json!({ "paths": paths })
}

fn document(v: &Version) -> Value {
    let mut schemas = schemas::Schemas::default();
    let mut paths = Map::new();
    for r in v.resources.iter().filter(|r| r.custom.is_none()) {
        operations::add(r, &mut paths, &mut schemas);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": component_base::version::GIT_VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "securitySchemes": {"BearerToken": {
                "type": "apiKey", "in": "header", "name": "authorization",
                "description": "Bearer Token authentication",
            }},
        },
    })
}

//! OpenAPI of aggregated servers. Version 3 has a document per group and version: the index names theirs, and a request
//! for one is passed on. Version 2 is one document: theirs are fetched in the background and merged into it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha512};
use tokio_util::sync::CancellationToken;

use super::Aggregator;
use super::proxy;
use super::service::{Backend, Service};
use super::table::Table;
use crate::app::App;
use crate::http::negotiate::Wanted;
use crate::http::router::Call;
use crate::http::{Body, Response, respond};

const REFRESH: Duration = Duration::from_secs(60);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);
const LIMIT: usize = 64 << 20;
const V3: &str = "/openapi/v3";
const V2: &str = "/openapi/v2";

/// What one server says of its API.
#[derive(Default)]
struct Spec {
    /// API services by this server when it was asked.
    of: Vec<String>,
    /// Paths of documents (`apis/GROUP/VERSION`) and where they are.
    v3: BTreeMap<String, String>,
    v2: Bytes,
    v2_tag: Option<HeaderValue>,
    due: Option<Instant>,
}

/// The documents of all servers.
#[derive(Default)]
pub struct Specs(ArcSwap<BTreeMap<Backend, Arc<Spec>>>);

/// Keeps the documents fresh until `stop`.
pub async fn run(aggregator: Arc<Aggregator>, stop: CancellationToken) {
    let mut changed = aggregator.subscribe();
    loop {
        let table = aggregator.table();
        let mut servers: BTreeMap<Backend, Vec<Arc<Service>>> = BTreeMap::new();
        for s in table.remote().filter(|s| s.available) {
            if let Some(b) = &s.backend {
                servers.entry(b.clone()).or_default().push(Arc::clone(s));
            }
        }
        drop(table);
        let before = aggregator.specs.0.load_full();
        let now = Instant::now();
        let fresh = join_all(servers.into_iter().map(|(backend, mut services)| {
            services.sort_by(|a, b| a.name.cmp(&b.name));
            let old = before.get(&backend).cloned();
            async move {
                let of: Vec<String> = services.iter().map(|s| s.name.clone()).collect();
                let spec = match old {
                    Some(s) if s.of == of && s.due.is_some_and(|d| d > now) => s,
                    old => Arc::new(fetch(&services, of, old.as_deref()).await),
                };
                (backend, spec)
            }
        }));
        let fresh: BTreeMap<Backend, Arc<Spec>> = tokio::select! {
            () = stop.cancelled() => return,
            all = fresh => all.into_iter().collect(),
        };
        let next = fresh.values().filter_map(|s| s.due).min();
        if !(fresh.is_empty() && before.is_empty()) {
            aggregator.specs.0.store(Arc::new(fresh));
        }
        let wait = async {
            match next {
                Some(t) => tokio::time::sleep_until(t.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            more = changed.changed() => if more.is_err() { return },
            () = wait => {}
        }
    }
}

async fn fetch(services: &[Arc<Service>], of: Vec<String>, old: Option<&Spec>) -> Spec {
    let mut spec = Spec { of, ..Spec::default() };
    let Some(one) = services.first() else { return spec };
    let json = (header::ACCEPT, HeaderValue::from_static("application/json"));
    let get = |path: &'static str, headers: Vec<(HeaderName, HeaderValue)>| async move {
        proxy::get(one, path, &headers, &["system:masters"], TIMEOUT, LIMIT).await
    };
    let mut failed = false;
    match get(V3, vec![json.clone()]).await {
        Ok(a) if a.status() == StatusCode::OK => {
            let index: Value = serde_json::from_slice(a.body()).unwrap_or_default();
            for (path, v) in index.get("paths").and_then(Value::as_object).into_iter().flatten() {
                if let Some(url) = v.get("serverRelativeURL").and_then(Value::as_str) {
                    spec.v3.insert(path.clone(), url.to_owned());
                }
            }
        }
        Ok(a) => failed |= a.status().is_server_error(),
        Err(_) => failed = true,
    }
    let mut headers = vec![json];
    if let Some(tag) = old.and_then(|o| o.v2_tag.clone()) {
        headers.push((header::IF_NONE_MATCH, tag));
    }
    match (get(V2, headers).await, old) {
        (Ok(a), Some(old)) if a.status() == StatusCode::NOT_MODIFIED => {
            spec.v2 = old.v2.clone();
            spec.v2_tag = old.v2_tag.clone();
        }
        (Ok(a), _) if a.status() == StatusCode::OK => {
            spec.v2_tag = a.headers().get(header::ETAG).cloned();
            spec.v2 = a.into_body();
        }
        (Ok(a), _) => failed |= a.status().is_server_error(),
        (Err(_), _) => failed = true,
    }
    spec.due = Some(Instant::now() + if failed { PAUSE } else { REFRESH });
    spec
}

/// The headers for this server's own answer: without the tag of a document that holds the other servers', too.
pub fn before<'h>(app: &App, path: &str, headers: &'h HeaderMap) -> Cow<'h, HeaderMap> {
    if path != V2 || app.aggregator.table().has_no_remote() {
        return Cow::Borrowed(headers);
    }
    let mut headers = headers.clone();
    headers.remove(header::IF_NONE_MATCH);
    Cow::Owned(headers)
}

/// Answers a request for a document of another server.
pub async fn answer(app: &App, call: &Call<'_>) -> Option<Response> {
    let path = call.parts.uri.path();
    let table = app.aggregator.table();
    if table.has_no_remote() {
        return None;
    }
    let service = table.target(path.strip_prefix(V3)?)?;
    if !service.available {
        return Some(respond::text(503, "service unavailable\n"));
    }
    let mut headers = Vec::new();
    for h in [header::ACCEPT, header::IF_NONE_MATCH] {
        if let Some(v) = call.parts.headers.get(&h) {
            headers.push((h, v.clone()));
        }
    }
    let target = call.parts.uri.path_and_query().map_or(path, |p| p.as_str());
    let fetched = proxy::get(service, target, &headers, &["system:masters"], TIMEOUT, LIMIT).await;
    Some(match fetched {
        Ok(a) => {
            let mut r = Response::new(Body::from(a.body().clone()));
            *r.status_mut() = a.status();
            for h in
                [header::CONTENT_TYPE, header::ETAG, header::CACHE_CONTROL, header::EXPIRES, header::VARY]
            {
                if let Some(v) = a.headers().get(&h) {
                    r.headers_mut().insert(h, v.clone());
                }
            }
            r
        }
        Err(e) => respond::text(503, format!("error trying to reach service: {e}\n")),
    })
}

/// Adds what other servers have to this server's own answer.
pub fn after(app: &App, path: &str, tag: Option<&HeaderValue>, wanted: Wanted, own: Response) -> Response {
    let v3 = path.trim_end_matches('/') == V3;
    if !(v3 || path == V2) || own.status() != StatusCode::OK {
        return own;
    }
    let specs = app.aggregator.specs.0.load();
    let is_json = own
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    let Body::Full(body) = own.body() else { return own };
    if specs.is_empty() || !is_json {
        return own;
    }
    let Ok(mut document) = serde_json::from_slice::<Value>(body) else { return own };
    let table = app.aggregator.table();
    for (backend, spec) in specs.iter() {
        if v3 {
            add_paths(&mut document, &table, backend, spec);
        } else if let Ok(other) = serde_json::from_slice::<Value>(&spec.v2) {
            add_definitions(&mut document, &table, backend, other);
        }
    }
    let text = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    if v3 {
        return respond::json_text(200, wanted, text);
    }
    let digest: String = Sha512::digest(&text).iter().map(|b| format!("{b:02X}")).collect();
    let new = HeaderValue::from_str(&format!("\"{digest}\"")).ok();
    let mut r = if new.is_some() && tag == new.as_ref() {
        let mut r = respond::bytes(304, "application/json", Body::Empty);
        *r.status_mut() = StatusCode::NOT_MODIFIED;
        r
    } else {
        respond::json_text(200, wanted, text)
    };
    if let Some(v) = new {
        r.headers_mut().insert(header::ETAG, v);
    }
    r
}

/// Whether a path of a document is one that `backend` serves by an API service.
fn belongs(table: &Table, backend: &Backend, path: &str) -> bool {
    table.target(path).is_some_and(|s| s.backend.as_ref() == Some(backend))
}

fn add_paths(index: &mut Value, table: &Table, backend: &Backend, spec: &Spec) {
    let Some(paths) = index.get_mut("paths").and_then(Value::as_object_mut) else { return };
    for (path, url) in &spec.v3 {
        if belongs(table, backend, &format!("/{path}")) {
            paths.insert(path.clone(), serde_json::json!({"serverRelativeURL": url}));
        }
    }
}

/// Definitions that both have are this server's: servers of other releases differ in words only.
fn add_definitions(document: &mut Value, table: &Table, backend: &Backend, mut other: Value) {
    let mut take = |field: &str| match other.get_mut(field).map(Value::take) {
        Some(Value::Object(m)) => m,
        _ => Map::new(),
    };
    let (paths, definitions) = (take("paths"), take("definitions"));
    let mut merge = |field: &str, from: Map<String, Value>, keep: &dyn Fn(&str) -> bool| {
        let into = crate::registry::object::child_mut(crate::registry::object::root_mut(document), field);
        for (k, v) in from {
            if keep(&k) {
                into.entry(k).or_insert(v);
            }
        }
    };
    merge("paths", paths, &|p| belongs(table, backend, p));
    merge("definitions", definitions, &|_| true);
}

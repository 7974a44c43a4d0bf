//! Paths that are no resources: discovery, health, metrics, version, OpenAPI, token issuer discovery.

use std::sync::Arc;

use http::Method;
use serde_json::json;

use super::documents;
use crate::aggregator::openapi as aggregated;
use crate::app::App;
use crate::http::debug;
use crate::http::negotiate::{Offer, Wanted};
use crate::http::operation;
use crate::http::router::Call;
use crate::http::{Response, respond};
use crate::openapi;
use crate::registry::table::Table;
use crate::status::{ApiError, ApiResult};

/// Answers a request for no resource.
pub async fn answer(app: &Arc<App>, mut call: Call<'_>) -> ApiResult<Response> {
    if let Some(r) = debug::answer(app, &mut call).await? {
        return Ok(r);
    }
    if let Some(r) = operation::answer(app, &mut call).await? {
        return Ok(r);
    }
    let path = call.parts.uri.path();
    let wanted = call.wanted(Offer::Plain).unwrap_or(Wanted { pretty: call.pretty, ..Wanted::JSON });
    if let Some(r) = app.health.answer(path, &call.query) {
        return Ok(r);
    }
    if !matches!(call.parts.method, Method::GET | Method::HEAD) {
        return Ok(respond::text(405, "405 method not allowed\n"));
    }
    let table = app.registry.table();
    if let Some(r) = app.discovery.answer(&table, || app.aggregator.view(), path, &call.parts.headers, wanted)
    {
        return Ok(r);
    }
    if path.starts_with("/openapi/") {
        if let Some(r) = aggregated::answer(app, &call).await {
            return Ok(r);
        }
        let headers = aggregated::before(app, path, &call.parts.headers);
        if let Some(r) = openapi::answer(&table, path, &call.query, &headers) {
            let tag = call.parts.headers.get(http::header::IF_NONE_MATCH);
            return Ok(aggregated::after(app, path, tag, wanted, r));
        }
    }
    Ok(match path {
        "/" => respond::json(200, Wanted { pretty: true, ..Wanted::JSON }, &json!({"paths": paths(app)})),
        "/version" | "/version/" => respond::json_text(
            200,
            Wanted { pretty: true, ..Wanted::JSON },
            component_base::serving::health::version().into(),
        ),
        "/metrics" => respond::bytes(200, component_base::metrics::CONTENT_TYPE, metrics(app)),
        "/metrics/slis" => respond::bytes(200, component_base::metrics::CONTENT_TYPE, app.health.slis()),
        "/.well-known/openid-configuration" => match &app.settings.openid_configuration {
            Some(v) => respond::json(200, wanted, v),
            None => not_found(),
        },
        "/openid/v1/jwks" => match &app.settings.jwks {
            Some(v) => respond::bytes(200, "application/jwk-set+json", v.to_string()),
            None => not_found(),
        },
        _ if in_builtin_group(&table, path) => return Err(ApiError::no_such_path()),
        _ => not_found(),
    })
}

/// Whether the path is below that of a group of the server's own, which answers for all versions.
fn in_builtin_group(table: &Table, path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    match parts.next() {
        Some("api") => parts.next().is_some(),
        Some("apis") => parts.next().is_some_and(|g| parts.next().is_some() && table.is_builtin(g)),
        _ => false,
    }
}

/// All metrics, the store's last.
fn metrics(app: &App) -> String {
    let mut text = app.metrics.render();
    if let Some(s) = app.registry.table().iter().find_map(|r| r.storage.as_ref()) {
        s.store.render_metrics(&mut text);
    }
    text
}

fn not_found() -> Response {
    respond::text(404, "404 page not found\n")
}

pub fn paths(app: &App) -> Vec<String> {
    let mut out: Vec<String> = vec!["/api".to_owned(), "/apis".to_owned(), "/apis/".to_owned()];
    for g in &app.registry.table().groups {
        if !g.name.is_empty() {
            out.push(format!("/apis/{}", g.name));
        }
        out.extend(g.versions.iter().map(|v| documents::path(g.name, v.name)));
    }
    for s in app.aggregator.table().remote() {
        out.push(s.path());
        if !s.group.is_empty() {
            out.push(format!("/apis/{}", s.group));
        }
    }
    out.extend(app.health.paths());
    for p in [
        "/flagz",
        "/metrics",
        "/metrics/slis",
        "/statusz",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/version",
    ] {
        out.push(p.to_owned());
    }
    if app.settings.jwks.is_some() {
        out.push("/.well-known/openid-configuration".to_owned());
        out.push("/openid/v1/jwks".to_owned());
    }
    out.sort();
    out.dedup();
    out
}

//! Paths that are no resources: discovery, health, metrics, version, OpenAPI, token issuer discovery.

use std::sync::Arc;

use http::Method;
use serde_json::json;

use super::documents;
use crate::aggregator::openapi as aggregated;
use crate::app::App;
use crate::http::debug;
use crate::http::negotiate::{self, Offer, Route, Wanted};
use crate::http::operation;
use crate::http::router::Call;
use crate::http::{Response, respond};
use crate::openapi;
use crate::registry::method_not_allowed;
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
    // With a slash behind them the checks are paths that lead nowhere.
    if !matches!(path, "/healthz/" | "/livez/" | "/readyz/")
        && let Some(r) = app.health.answer(path, &call.query)
    {
        return Ok(r);
    }
    let table = app.registry.table();
    negotiated(&table, &call)?;
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
        "/" | "/index.html" => {
            respond::json(200, Wanted { pretty: true, ..Wanted::JSON }, &json!({"paths": paths(app)}))
        }
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
        _ if path.starts_with("/version/") || in_builtin_group(&table, path) => {
            return Err(ApiError::no_such_path());
        }
        _ if ends_in_prefix(path) => respond::text(
            500,
            format!(
                "Internal Server Error: \"{path}\": failed to create RequestInfo: unable to determine kind and namespace from url, {path}\n"
            ),
        ),
        _ => not_found(),
    })
}

/// How the paths answer that are neither resources nor documents of other servers: some take GET alone and give what
/// `Accept` names; others take any method; the lists of groups lie between.
///
/// # Errors
/// 405 and 406.
fn negotiated(table: &Table, call: &Call<'_>) -> ApiResult<()> {
    let headers = &call.parts.headers;
    let path = call.parts.uri.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let route = match parts.as_slice() {
        ["api"] => Some(Route::Any),
        ["api", v] if table.serves("", v) => Some(Route::Any),
        ["apis", g, v] if !g.is_empty() && table.serves(g, v) => Some(Route::Any),
        ["version"] | [".well-known", "openid-configuration"] => Some(Route::Only("application/json")),
        ["openid", "v1", "jwks"] => Some(Route::Only("application/jwk-set+json")),
        _ => None,
    };
    if route.is_some() && call.parts.method != Method::GET {
        return Err(method_not_allowed());
    }
    if let Some(r) = route {
        negotiate::routed(headers, r)?;
    }
    let listed = match parts.as_slice() {
        ["apis"] => true,
        ["apis", g] => table.groups.iter().any(|known| known.name == *g),
        _ => false,
    };
    if (listed || route == Some(Route::Any)) && !super::asks_for_all(headers) {
        negotiate::accept(headers, call.pretty, Offer::Plain)?;
    }
    Ok(())
}

/// Whether a path of an API ends where its old form names what is watched or proxied.
fn ends_in_prefix(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    matches!(parts.as_slice(), ["api", _, "watch" | "proxy"] | ["apis", _, _, "watch" | "proxy"])
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

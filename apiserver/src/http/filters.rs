//! The filter chain, in upstream's order: panic guard, audit id, request info, timeout, authentication,
//! impersonation, in-flight limit, authorization, then the handler.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use component_base::serving::listener::Peer;
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderValue, Request};
use hyper::body::Incoming;

use super::negotiate::{self, Offer, Wanted};
use super::query::Query;
use super::{Response, request_info, respond, router};
use crate::app::App;
use crate::authn::impersonation;
use crate::authz::Attributes;
use crate::request::{RequestInfo, UserInfo};
use crate::status::{ApiError, ApiResult};

/// Answers one request.
pub async fn handle(app: Arc<App>, request: Request<Incoming>) -> Response {
    let started = Instant::now();
    let (mut parts, body) = request.into_parts();
    let audit_id = audit_id(&mut parts);
    let query = Query::parse(parts.uri.query());
    let info = request_info::resolve(&parts.method, parts.uri.path(), &query);
    let pretty = negotiate::wants_pretty(&parts.headers, &query);
    // Errors of the filters are told in the format that the client reads, JSON if that is unclear.
    let wanted = negotiate::accept(&parts.headers, pretty, Offer::Transformed).unwrap_or(Wanted::JSON);
    let gzip = negotiate::takes_gzip(&parts.headers);
    let observed = app.metrics.begin(&app, &info);
    let long_running = request_info::is_long_running(&info);

    let call = AssertUnwindSafe(authorized(&app, parts, body, &info, query, pretty)).catch_unwind();
    let outcome = if long_running {
        Ok(call.await)
    } else {
        tokio::time::timeout(app.settings.request_timeout, call).await
    };
    let mut response = match outcome {
        Ok(Ok(Ok(r))) => r,
        Ok(Ok(Err(e))) => respond::error(wanted, &e),
        Ok(Err(_panic)) => {
            tracing::error!(method = %info.verb, path = %info.path, audit_id = %audit_id, "a handler panicked");
            respond::text(500, "This request caused apiserver to panic. Look in the logs for details.\n")
        }
        Err(_elapsed) => respond::error(
            wanted,
            &ApiError::timeout("request did not complete within the allotted timeout", 0),
        ),
    };
    if let Ok(v) = HeaderValue::from_str(&audit_id) {
        response.headers_mut().insert("audit-id", v);
    }
    if gzip {
        response = respond::compress(response);
    }
    app.metrics.end(observed, response.status().as_u16(), started.elapsed());
    response
}

/// The client's `Audit-ID`, or a new one.
fn audit_id(parts: &mut Parts) -> String {
    match parts.headers.get("audit-id").and_then(|v| v.to_str().ok()) {
        Some(v) if !v.is_empty() && v.len() <= 64 => v.to_owned(),
        _ => uuid::Uuid::new_v4().to_string(),
    }
}

async fn authorized(
    app: &Arc<App>,
    mut parts: Parts,
    body: Incoming,
    info: &RequestInfo,
    query: Query,
    pretty: bool,
) -> ApiResult<Response> {
    let user = authenticate(app, &mut parts, info, &query).await?;
    let Some(_permit) = enter(app, info, &user) else {
        return Err(ApiError::too_many_requests("Too many requests, please try again later.", 1));
    };
    let attributes = Attributes::new(&user, info, query.get("fieldSelector"))
        .with_labels(info, query.get("labelSelector"));
    app.authorizer.check_request(&attributes).await?;
    router::route(
        app,
        router::Call {
            parts,
            body: Some(body),
            bytes: Default::default(),
            info,
            query,
            user,
            pretty,
            warnings: Vec::new(),
        },
    )
    .await
}

async fn authenticate(
    app: &App,
    parts: &mut Parts,
    info: &RequestInfo,
    query: &Query,
) -> ApiResult<UserInfo> {
    let peer = parts.extensions.get::<Peer>().cloned();
    let certificates = peer.as_ref().map(|p| &*p.certificates);
    let user = app.authenticator.authenticate(parts, certificates).await?;
    // Credentials have done their work; nothing behind this line needs them.
    app.authenticator.strip_credentials(&mut parts.headers);
    let request = Attributes::new(&user, info, query.get("fieldSelector"));
    let other = impersonation::impersonate(&app.authorizer, &request, &mut parts.headers).await?;
    Ok(other.unwrap_or(user))
}

/// A place among the running requests; long-running ones need none.
fn enter(app: &App, info: &RequestInfo, user: &UserInfo) -> Option<super::inflight::Permit> {
    if request_info::is_long_running(info) || !info.is_resource {
        return Some(super::inflight::Permit::free());
    }
    app.in_flight.enter(info, user)
}

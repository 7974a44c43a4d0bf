//! The filter chain, in upstream's order: shutdown, CORS, panic guard, audit id, request info, deadline,
//! authentication, audit, impersonation, priority and fairness, authorization, then the handler.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use component_base::serving::listener::Peer;
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use parking_lot::Mutex;

use super::edge::Edge;
use super::negotiate::{self, Offer, Wanted};
use super::query::Query;
use super::{Response, deadline, deprecation, request_info, respond, router};
use crate::app::App;
use crate::audit;
use crate::authn::impersonation;
use crate::authz::Attributes;
use crate::flowcontrol::control::{Class, holding};
use crate::flowcontrol::estimate::Stats;
use crate::flowcontrol::{Controller, Entry};
use crate::recency;
use crate::request::{RequestInfo, UserInfo};
use crate::status::{ApiError, ApiResult};
use crate::trace;

/// What the inner filters find out that the outer ones need, however the request ends.
#[derive(Default)]
struct Findings {
    audit: OnceLock<Arc<audit::Context>>,
    class: OnceLock<Class>,
    span: Mutex<Option<trace::Span>>,
}

/// Facts of one request that all filters share.
struct Facts<'a> {
    info: &'a RequestInfo,
    audit_id: &'a str,
    received: jiff::Timestamp,
    /// None where it has no end.
    timeout: Option<Duration>,
    pretty: bool,
}

/// Answers one request.
pub async fn handle(app: Arc<App>, request: Request<Incoming>) -> Response {
    let peer = request.extensions().get::<Peer>().cloned();
    if let Some(r) = app.lifecycle.refusal(request.uri().path()) {
        close(peer.as_ref());
        return r;
    }
    let cross_origin = app.edge.cross_origin(request.headers());
    if let Some(r) = cross_origin.as_ref().and_then(|h| Edge::preflight(request.method(), h)) {
        return r;
    }
    if request.version() == http::Version::HTTP_2 && app.edge.unlucky() {
        close(peer.as_ref());
    }
    let mut response = serve(app.clone(), request, peer).await;
    if let Some(h) = cross_origin {
        response.headers_mut().extend(h);
    }
    app.edge.finish(&mut response);
    response
}

/// Ends the connection once what runs on it is done.
fn close(peer: Option<&Peer>) {
    if let Some(p) = peer {
        p.close.notify_one();
    }
}

async fn serve(app: Arc<App>, request: Request<Incoming>, peer: Option<Peer>) -> Response {
    let started = Instant::now();
    let received = jiff::Timestamp::now();
    let (mut parts, body) = request.into_parts();
    let audit_id = audit_id(&mut parts);
    let query = Query::parse(parts.uri.query());
    let info = request_info::resolve(&parts.method, parts.uri.path(), &query);
    let pretty = negotiate::wants_pretty(&parts.headers, &query);
    // Errors are told in the format that the client reads, never in another shape; in JSON if that is unclear.
    let wanted = negotiate::accept(&parts.headers, pretty, Offer::Plain).unwrap_or(Wanted::JSON);
    let gzip = negotiate::takes_gzip(&parts.headers);
    let kind = parts.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let apply = kind.is_some_and(|k| k.starts_with("application/apply-patch"));
    let observed = app.metrics.begin(&app, &info, &query, apply);
    let long_running = request_info::is_long_running(&info);
    let running = (!long_running).then(|| app.lifecycle.enter());

    let found = Findings::default();
    let timeout =
        if long_running { Ok(None) } else { deadline::of(&query, app.settings.request_timeout).map(Some) };
    let outcome = match timeout {
        Err(e) => {
            begin_audit(
                &app,
                &found,
                &audit::context::Received {
                    parts: &parts,
                    info: &info,
                    user: None,
                    audit_id: &audit_id,
                    at: received,
                    peer: None,
                },
            );
            Ok(Ok(Err(e)))
        }
        Ok(timeout) => {
            let facts = Facts { info: &info, audit_id: &audit_id, received, timeout, pretty };
            // On the heap, as each scope and each filter behind it would hold the state of all that may follow anew: small
            // pieces are allocated faster than one large, and moved less.
            let call = recency::scope(Box::pin(known(&app, parts, body, &facts, query, &found, peer)));
            let call = AssertUnwindSafe(call).catch_unwind();
            match timeout {
                Some(t) => tokio::time::timeout(t, call).await,
                None => Ok(call.await),
            }
        }
    };
    let mut failure = None;
    let mut panicked = false;
    let mut response = match outcome {
        Ok(Ok(Ok(r))) => r,
        Ok(Ok(Err(e))) => {
            let r = respond::error(wanted, &e);
            failure = Some(e);
            r
        }
        Ok(Err(_panic)) => {
            tracing::error!(method = %info.verb, path = %info.path, audit_id = %audit_id, "a handler panicked");
            panicked = true;
            respond::text(500, "This request caused apiserver to panic. Look in the logs for details.\n")
        }
        Err(_elapsed) => {
            let e = ApiError::timeout("request did not complete within the allotted timeout", 0);
            app.metrics.terminated(&observed, 504);
            let r = respond::error(wanted, &e);
            failure = Some(e);
            r
        }
    };
    if let Some(c) = found.class.get() {
        c.tell(response.headers_mut());
    }
    if let Some(t) = &app.tracer
        && let Some(span) = found.span.lock().take()
    {
        t.end(span, response.status().as_u16());
    }
    if let Some(c) = found.audit.get() {
        if panicked {
            c.panicked();
        } else {
            response = c.responded(response, failure.as_ref(), long_running);
        }
    }
    if let Ok(v) = HeaderValue::from_str(&audit_id) {
        response.headers_mut().insert("audit-id", v);
    }
    if gzip {
        response = respond::compress(response);
    }
    drop(running);
    app.metrics.end(observed, response, started)
}

/// The client's `Audit-ID`, or a new one.
fn audit_id(parts: &mut Parts) -> String {
    match parts.headers.get("audit-id").and_then(|v| v.to_str().ok()) {
        Some(v) if !v.is_empty() && v.len() <= 64 => v.to_owned(),
        _ => uuid::Uuid::new_v4().to_string(),
    }
}

/// False: the request may not be served.
fn begin_audit(app: &App, found: &Findings, r: &audit::context::Received<'_>) -> bool {
    let Some(context) = app.auditor.as_ref().and_then(|a| a.begin(r)) else { return true };
    let stored = context.received();
    let _ = found.audit.set(context);
    stored
}

/// Authentication and the beginning of the audit.
async fn known(
    app: &Arc<App>,
    mut parts: Parts,
    body: Incoming,
    f: &Facts<'_>,
    query: Query,
    found: &Findings,
    peer: Option<Peer>,
) -> ApiResult<Response> {
    let certificates = peer.as_ref().map(|p| &*p.certificates);
    let received = |parts: &Parts, user| {
        let peer = peer.as_ref().map(|p| p.address.ip());
        let r = audit::context::Received {
            parts,
            info: f.info,
            user,
            audit_id: f.audit_id,
            at: f.received,
            peer,
        };
        app.auditor.as_ref().and_then(|a| a.begin(&r))
    };
    let started = Instant::now();
    let known = app.authenticator.authenticate(&parts, certificates).await;
    app.metrics.filter("authentication", started.elapsed());
    let user = match known {
        Ok(u) => u,
        Err(e) => {
            if let Some(c) = received(&parts, None) {
                let shown = certificates.is_some_and(|c| !c.is_empty());
                c.unauthenticated(&e, &audit::context::attempted(&parts.headers, shown));
            }
            return Err(e);
        }
    };
    if let Some(t) = &app.tracer {
        *found.span.lock() = t.begin(parts.method.as_str(), f.info, &parts.headers, &user, f.audit_id);
    }
    let context = received(&parts, Some(&user));
    if let Some(c) = &context {
        let stored = c.received();
        let _ = found.audit.set(Arc::clone(c));
        if !stored {
            return Err(ApiError::internal("failed to store audit event"));
        }
    }
    // Credentials have done their work; nothing behind this line needs them.
    app.authenticator.strip_credentials(&mut parts.headers);
    let span = found.span.lock().as_ref().map(trace::Span::as_parent);
    let rest = Box::pin(allowed(app, parts, body, f, query, user, found));
    trace::scope(span, audit::scope(context, rest)).await
}

/// Impersonation, priority and fairness, authorization, handler.
async fn allowed(
    app: &Arc<App>,
    mut parts: Parts,
    body: Incoming,
    f: &Facts<'_>,
    query: Query,
    user: UserInfo,
    found: &Findings,
) -> ApiResult<Response> {
    let info = f.info;
    let user = {
        let request = Attributes::new(&user, info, query.get("fieldSelector"));
        let other = impersonation::impersonate(&app.authorizer, &request, &mut parts.headers).await?;
        other.unwrap_or(user)
    };
    let permit = match &app.flow {
        Some(flow) if !Controller::passes(info) => {
            let stats = size_of(app, info);
            let entry = Entry { info, user: &user, query: &query, stats, timeout: f.timeout };
            let started = Instant::now();
            let entered = flow.enter(&entry).await;
            app.metrics.filter("priorityandfairness", started.elapsed());
            match entered {
                Ok(p) => p,
                Err(refused) => {
                    let _ = found.class.set(refused.class);
                    return Ok(too_many(refused.retry_after));
                }
            }
        }
        _ => None,
    };
    if let Some(p) = &permit {
        let _ = found.class.set(p.class());
    }
    let Some(_place) = enter(app, info, &user) else { return Ok(too_many(1)) };
    let watching = match &app.flow {
        Some(flow) if info.is_resource && info.verb == "watch" => {
            flow.watchers.register(info, query.get("fieldSelector").unwrap_or_default())
        }
        _ => None,
    };
    let attributes = Attributes::new(&user, info, query.get("fieldSelector"))
        .with_labels(info, query.get("labelSelector"));
    let started = Instant::now();
    let decided = app.authorizer.check_request(&attributes).await;
    app.metrics.filter("authorization", started.elapsed());
    decided?;
    let call = router::Call {
        parts,
        body: Some(body),
        bytes: Default::default(),
        info,
        query,
        user,
        pretty: f.pretty,
        warnings: deprecation::of(info).map(|d| d.warning.to_owned()).into_iter().collect(),
    };
    let mut response = holding(permit, Box::pin(router::route(app, call))).await;
    if let Some(d) = deprecation::of(info) {
        app.metrics.deprecated(d, info);
        audit::annotate("k8s.io/deprecated", || "true");
        if !d.removed_release.is_empty() {
            audit::annotate("k8s.io/removed-release", || d.removed_release);
        }
        match &mut response {
            Ok(r) => respond::warn(r, &[d.warning.to_owned()]),
            Err(e) if e.warnings.iter().any(|w| w == d.warning) => {}
            Err(e) => e.warnings.insert(0, d.warning.to_owned()),
        }
    }
    match watching {
        Some(w) => response.map(|r| r.map(|b| b.followed_by(w))),
        None => response,
    }
}

/// The answer to requests for which there is no room.
fn too_many(retry_after: u32) -> Response {
    let mut r = respond::text(429, "Too many requests, please try again later.\n");
    r.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(retry_after));
    r
}

/// How much there is of what a list or watch asks for.
fn size_of(app: &App, info: &RequestInfo) -> Option<Stats> {
    if !info.is_resource || !matches!(info.verb.as_str(), "list" | "watch") {
        return None;
    }
    let table = app.registry.table();
    let r = table.get(&info.api_group, &info.api_version, &info.resource)?;
    let (objects, bytes) = r.storage.as_ref()?.cache.size()?;
    Some(Stats { objects: objects as u64, bytes: bytes as u64 })
}

/// A place among the running requests, where priority and fairness is off; long-running ones need none.
fn enter(app: &App, info: &RequestInfo, user: &UserInfo) -> Option<super::inflight::Permit> {
    if app.flow.is_some() || request_info::is_long_running(info) {
        return Some(super::inflight::Permit::free());
    }
    app.in_flight.enter(info, user)
}

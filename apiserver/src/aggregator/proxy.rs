//! Passing requests on to aggregated API servers: the body streams both ways, upgraded connections are joined, and
//! nothing of the answer but its own headers is believed.

use std::sync::Arc;
use std::time::Duration;

use component_base::serving::listener::Peer;
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::identity;
use super::service::{Backend, Link, RequestBody, Service};
use crate::app::App;
use crate::http::router::Call;
use crate::http::{Body, Response, respond};
use crate::request::{RequestInfo, UserInfo};
use crate::webhook::client::cause;

/// How long a request for discovery may take: clients ask all servers, and a slow one must not hold them up.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Headers that are about one connection only.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A failure, as upstream writes these: text.
fn failed(code: u16, message: &str) -> Response {
    respond::text(code, format!("{message}\n"))
}

/// Answers a request that belongs to another server. The caller has authorized it.
pub async fn answer(app: &Arc<App>, mut call: Call<'_>, service: &Service) -> Response {
    if !service.available {
        return failed(503, "service unavailable");
    }
    let (Some(backend), Some(body)) = (&service.backend, call.body.take()) else {
        return failed(500, "the request cannot be passed on");
    };
    let link = match &service.link {
        Ok(l) => l,
        Err(e) => return failed(500, e),
    };
    let path = call.parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut parts = call.parts;
    if let Err(e) = forwarded(&mut parts, &call.user, backend) {
        return failed(500, &e);
    }
    let reject_redirects = app.settings.reject_redirects;
    if wants_upgrade(&parts.headers) {
        return upgrade(link, backend, parts, &path, body).await;
    }
    strip(&mut parts.headers);
    let uri = match absolute(backend, path) {
        Ok(u) => u,
        Err(e) => return failed(500, &e),
    };
    let request = rebuilt(parts, uri, body.boxed_unsync());
    let sent = link.client.request(request);
    let answer = if is_discovery(call.info) {
        match tokio::time::timeout(DISCOVERY_TIMEOUT, sent).await {
            Ok(a) => a,
            Err(_) => return failed(503, "error trying to reach service: context deadline exceeded"),
        }
    } else {
        sent.await
    };
    match answer {
        Ok(a) => returned(a, reject_redirects),
        Err(e) => failed(503, &format!("error trying to reach service: {}", cause(&e))),
    }
}

/// `/apis/GROUP/VERSION`
fn is_discovery(info: &RequestInfo) -> bool {
    !info.is_resource && info.path.trim_matches('/').split('/').count() == 3
}

fn absolute(backend: &Backend, path: PathAndQuery) -> Result<Uri, String> {
    Uri::builder()
        .scheme(Scheme::HTTPS)
        .authority(authority(backend))
        .path_and_query(path)
        .build()
        .map_err(|e| e.to_string())
}

fn authority(b: &Backend) -> String {
    format!("{}.{}.svc:{}", b.name, b.namespace, b.port)
}

fn rebuilt(parts: Parts, uri: Uri, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = parts.headers;
    request
}

/// Puts in who asks and from where.
fn forwarded(parts: &mut Parts, user: &UserInfo, backend: &Backend) -> Result<(), String> {
    identity::set(&mut parts.headers, user)?;
    crate::trace::propagate(&mut parts.headers);
    if let Some(p) = parts.extensions.get::<Peer>() {
        let own = p.address.ip().to_string();
        let before: Vec<&str> =
            parts.headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
        let chain = before.into_iter().chain([own.as_str()]).collect::<Vec<_>>().join(", ");
        let chain = HeaderValue::from_str(&chain).map_err(|e| e.to_string())?;
        parts.headers.insert("x-forwarded-for", chain);
    }
    let host = HeaderValue::from_str(&authority(backend)).map_err(|e| e.to_string())?;
    parts.headers.insert(header::HOST, host);
    Ok(())
}

/// Whether the client wants to change the protocol.
fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case("upgrade"))
}

/// Removes what is about one connection only, and what its `Connection` header names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|t| t.trim().parse().ok())
        .collect();
    for h in named {
        // Nobody gets rid of who they are this way (CVE-2022-3162's relatives): identity is put in before.
        if !h.as_str().starts_with("x-remote-") {
            headers.remove(h);
        }
    }
    for h in &HOP_BY_HOP {
        headers.remove(h);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// The answer as the client gets it. A redirect would send the client, with its credentials, to where the aggregated
/// server wants (CVE-2022-3172).
fn returned(answer: http::Response<Incoming>, reject_redirects: bool) -> Response {
    let redirect = answer.status().is_redirection() && answer.headers().contains_key(header::LOCATION);
    if redirect && reject_redirects {
        let why = "the backend attempted to redirect this request, which is not permitted";
        return respond::text(502, why);
    }
    let (mut parts, body) = answer.into_parts();
    strip(&mut parts.headers);
    let body = body.map_err(std::io::Error::other).boxed_unsync();
    http::Response::from_parts(parts, Body::Boxed(body))
}

/// Joins the client's connection with one of its own to the server. Only an answer `101` makes them one: after any
/// other answer the connection to the server is closed, so that no further request can follow over it under this
/// server's identity (CVE-2018-1002105).
async fn upgrade(
    link: &Link,
    backend: &Backend,
    mut parts: Parts,
    path: &PathAndQuery,
    body: Incoming,
) -> Response {
    let client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let host = format!("{}.{}.svc", backend.name, backend.namespace);
    let stream = match link.upgrades.connect(true, &host, backend.port).await {
        Ok(s) => s,
        Err(e) => return failed(503, &format!("error dialing backend: {e}")),
    };
    let (mut sender, connection) =
        match hyper::client::conn::http1::handshake::<_, RequestBody>(TokioIo::new(stream)).await {
            Ok(c) => c,
            Err(e) => return failed(503, &format!("error dialing backend: {e}")),
        };
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!(error = %e, "a connection to an aggregated server ended");
        }
    });
    for h in HOP_BY_HOP.iter().filter(|h| **h != header::CONNECTION && **h != header::UPGRADE) {
        parts.headers.remove(h);
    }
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let uri = Uri::from(path.clone());
    let mut answer = match sender.send_request(rebuilt(parts, uri, body.boxed_unsync())).await {
        Ok(a) => a,
        Err(e) => return failed(503, &format!("error sending request: {e}")),
    };
    let code = answer.status();
    if code != StatusCode::SWITCHING_PROTOCOLS {
        if code.as_u16() < 400 {
            return failed(503, &format!("invalid upgrade response: status code {}", code.as_u16()));
        }
        return returned(answer, true);
    }
    let Some(client) = client else {
        return failed(500, "request connection cannot be hijacked");
    };
    let server = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
            // Either side may end the conversation at any time.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
        }
    });
    let (parts, _) = answer.into_parts();
    http::Response::from_parts(parts, Body::Empty)
}

/// One GET as the aggregator itself, with at most `limit` bytes of answer.
///
/// # Errors
/// Why there is no answer.
pub async fn get(
    service: &Service,
    path: &str,
    headers: &[(HeaderName, HeaderValue)],
    groups: &[&str],
    timeout: Duration,
    limit: usize,
) -> Result<http::Response<bytes::Bytes>, String> {
    let backend = service.backend.as_ref().ok_or("the service is this server's own")?;
    let link = service.link.as_ref().map_err(Clone::clone)?;
    let fetch = async {
        let mut request = Request::new(http_body_util::Empty::new().map_err(|e| match e {}).boxed_unsync());
        *request.uri_mut() = format!("https://{}{path}", authority(backend))
            .parse()
            .map_err(|_| format!("unparsable path {path}"))?;
        let user = UserInfo {
            name: "system:kube-aggregator".to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..UserInfo::default()
        };
        identity::set(request.headers_mut(), &user)?;
        for (k, v) in headers {
            request.headers_mut().insert(k.clone(), v.clone());
        }
        let answer = link.client.request(request).await.map_err(|e| cause(&e))?;
        let (parts, body) = answer.into_parts();
        let body = http_body_util::Limited::new(body, limit).collect().await.map_err(|e| e.to_string())?;
        Ok(http::Response::from_parts(parts, body.to_bytes()))
    };
    match tokio::time::timeout(timeout, fetch).await {
        Ok(r) => r,
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}

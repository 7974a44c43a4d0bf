//! The `proxy` subresources of nodes, pods and services: the request goes on to a kubelet, a pod or one of a
//! service's endpoints, and its answer comes back, upgrades included.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::kubelet;
use super::links::Place;
use crate::app::App;
use crate::http::router::Call;
use crate::http::{Body, Response, respond};
use crate::registry::options::ListOptions;
use crate::registry::render;
use crate::registry::resource::Resource;
use crate::registry::select::Filter;
use crate::status::{ApiError, ApiResult};

/// Headers that are about one connection only.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

/// Headers by which a server lets pages of other origins read its answers.
const CORS: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// Where a request goes on to.
struct Target {
    scheme: Scheme,
    /// `HOST:PORT`
    authority: String,
    /// What is dialled, where the host was resolved already: what was checked is what is connected to.
    address: Option<SocketAddr>,
    /// This server shows who it is to kubelets, and to nobody else.
    tls: Arc<ClientConfig>,
}

/// Answers `…/proxy` and `…/proxy/PATH`.
pub async fn answer(app: &Arc<App>, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    if let Some(to) = slash_needed(&call.parts, r.namespaced) {
        let mut answer = respond::bytes(301, "", Body::Empty);
        answer.headers_mut().remove(header::CONTENT_TYPE);
        answer.headers_mut().insert(header::LOCATION, to);
        return Ok(answer);
    }
    let target = match r.resource {
        "nodes" => node(app, &call.info.name).await?,
        "pods" => pod(app, r, &call).await?,
        _ => service(app, r, &call).await?,
    };
    let path = rest_of_path(call.parts.uri.path(), r.namespaced);
    let uri = match call.parts.uri.query() {
        Some(q) => format!("{path}?{q}"),
        None => path,
    };
    let uri: PathAndQuery =
        uri.parse().map_err(|_| ApiError::bad_request("the path to proxy is malformed"))?;
    let body = call.body.take().ok_or_else(|| ApiError::internal("the request's body was read already"))?;
    let place = Place {
        prefix: prefix(call.parts.uri.path(), r.namespaced).to_owned(),
        server: target.authority.clone(),
        client: host_of(&call.parts).to_owned(),
    };
    let request = forwarded(call.parts, uri, &target.authority, body)?;
    forward(&target, place, request).await
}

/// The host that the client asked.
fn host_of(parts: &Parts) -> &str {
    let header = parts.headers.get(header::HOST).and_then(|v| v.to_str().ok());
    header.or_else(|| parts.uri.authority().map(|a| a.as_str())).unwrap_or_default()
}

/// The path up to and with `/proxy`.
fn prefix(path: &str, namespaced: bool) -> &str {
    let end = path.match_indices('/').nth(if namespaced { 7 } else { 5 }).map_or(path.len(), |(i, _)| i);
    &path[..end]
}

/// Where a client that asks for the root without a slash has to go, so that relative links lead below it.
fn slash_needed(parts: &Parts, namespaced: bool) -> Option<HeaderValue> {
    let path = parts.uri.path();
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    if !reads || parts.headers.contains_key(header::UPGRADE) || prefix(path, namespaced) != path {
        return None;
    }
    let query = parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    HeaderValue::from_str(&format!("{path}/{query}")).ok()
}

/// What follows `/proxy` in a path, as it was sent; at least a slash.
fn rest_of_path(path: &str, namespaced: bool) -> String {
    // `/api/v1/nodes/NAME/proxy/…`, `/api/v1/namespaces/NAMESPACE/pods/NAME/proxy/…`
    let before = if namespaced { 8 } else { 6 };
    format!("/{}", path.splitn(before + 1, '/').nth(before).unwrap_or_default())
}

async fn node(app: &App, name: &str) -> ApiResult<Target> {
    let (scheme, name, port) = split_name("node", name)?;
    let kubelet = kubelet::of_node(app, name).await?;
    let (host, own) = kubelet.rsplit_once(':').unwrap_or((&kubelet, ""));
    let is_kubelet = port.is_empty() || port == own;
    let authority = if is_kubelet { kubelet.clone() } else { format!("{host}:{port}") };
    let found = tokio::net::lookup_host(&authority).await;
    let found: Vec<SocketAddr> =
        found.map_err(|e| ApiError::bad_request(format!("lookup {host}: {e}")))?.collect();
    for a in &found {
        check_address(a.ip())?;
    }
    let address = found.first().copied();
    let kubelets = &app.kubelets;
    Ok(match is_kubelet {
        true => Target { scheme: Scheme::HTTPS, authority, address, tls: Arc::clone(&kubelets.tls) },
        // Whoever listens on another port of the node is not the kubelet.
        false => Target { scheme, authority, address, tls: Arc::clone(&kubelets.proxy_tls) },
    })
}

/// `NAME`, `NAME:PORT`, `SCHEME:NAME:PORT` of a `kind` taken apart.
fn split_name<'a>(kind: &str, name: &'a str) -> ApiResult<(Scheme, &'a str, &'a str)> {
    let parts: Vec<&str> = name.split(':').collect();
    let scheme = |s: &str| match s {
        "http" | "" => Some(Scheme::HTTP),
        "https" => Some(Scheme::HTTPS),
        _ => None,
    };
    match parts.as_slice() {
        [name] => Some((Scheme::HTTP, *name, "")),
        [name, port] => Some((Scheme::HTTP, *name, *port)),
        [s, name, port] => scheme(s).map(|s| (s, *name, *port)),
        _ => None,
    }
    .ok_or_else(|| ApiError::bad_request(format!("invalid {kind} request \"{name}\"")))
}

fn authority(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// Nodes, pods and services may not lead back into this machine or its cloud's metadata: their addresses are what their
/// owners write.
fn check_address(ip: IpAddr) -> ApiResult<()> {
    // An IPv4 address is one however it is written.
    let allowed = match ip.to_canonical() {
        IpAddr::V4(a) => {
            !(a.is_loopback()
                || a.is_link_local()
                || a.is_multicast()
                || a.is_unspecified()
                || a.is_broadcast())
        }
        IpAddr::V6(a) => {
            !(a.is_loopback() || a.is_unicast_link_local() || a.is_multicast() || a.is_unspecified())
        }
    };
    if allowed { Ok(()) } else { Err(not_allowed()) }
}

fn not_allowed() -> ApiError {
    ApiError::bad_request("address not allowed")
}

/// The same of an address as its owner wrote it.
fn check_text(ip: &str) -> ApiResult<()> {
    check_address(ip.parse().map_err(|_| not_allowed())?)
}

/// A pod or an endpoint. There is no telling by which authority such a server is trusted.
fn anybody(app: &App, scheme: Scheme, authority: String) -> Target {
    Target { scheme, authority, address: None, tls: Arc::clone(&app.kubelets.proxy_tls) }
}

async fn pod(app: &App, r: &Resource, call: &Call<'_>) -> ApiResult<Target> {
    let (scheme, name, port) = split_name("pod", &call.info.name)?;
    let pod = render::value(r, &app.registry.get(r, &call.info.namespace, name).await?)?;
    let ip = pod.pointer("/status/podIP").and_then(Value::as_str).unwrap_or_default();
    check_text(ip)?;
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let first = containers.into_iter().flatten().find_map(|c| c.pointer("/ports/0/containerPort")?.as_u64());
    let port = if port.is_empty() { first.unwrap_or(80).to_string() } else { port.to_owned() };
    Ok(anybody(app, scheme, authority(ip, &port)))
}

async fn service(app: &App, r: &Resource, call: &Call<'_>) -> ApiResult<Target> {
    let (scheme, name, port) = split_name("service", &call.info.name)?;
    let namespace = &call.info.namespace;
    let service = render::value(r, &app.registry.get(r, namespace, name).await?)?;
    let ports =
        service.pointer("/spec/ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let chosen = ports.iter().find(|p| {
        let number = p["port"].as_u64().map(|n| n.to_string());
        (port.is_empty() && ports.len() == 1) || p["name"] == port || number.as_deref() == Some(port)
    });
    let unavailable = |why: String| ApiError::new(503, "ServiceUnavailable", why);
    let Some(chosen) = chosen else {
        return Err(unavailable(format!("no service port \"{port}\" found for service \"{name}\"")));
    };
    let port_name = chosen["name"].as_str().unwrap_or_default();
    let table = app.registry.table();
    let slices = table
        .get("discovery.k8s.io", "v1", "endpointslices")
        .ok_or_else(|| ApiError::internal("endpointslices are not served"))?;
    let options = ListOptions {
        labels: crate::registry::labels::Selector::parse(&format!("kubernetes.io/service-name={name}"))
            .map_err(ApiError::bad_request)?,
        ..ListOptions::default()
    };
    let filter = Filter::new(slices, &options)?;
    let page = app.registry.list(slices, namespace, &options, &filter).await?;
    let mut all = Vec::new();
    for s in &page.items {
        let slice = render::value(slices, s)?;
        let ports = slice["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(p) = ports.iter().find(|p| p["name"].as_str().unwrap_or_default() == port_name) else {
            continue;
        };
        let Some(number) = p["port"].as_u64() else { continue };
        for e in slice["endpoints"].as_array().into_iter().flatten() {
            if e.pointer("/conditions/ready") == Some(&Value::Bool(false)) {
                continue;
            }
            if let Some(ip) = e.pointer("/addresses/0").and_then(Value::as_str) {
                check_text(ip)?;
                all.push(authority(ip, &number.to_string()));
            }
        }
    }
    if all.is_empty() {
        return Err(unavailable(format!("no endpoints available for service \"{name}\"")));
    }
    let at = rand::random_range(0..all.len());
    Ok(anybody(app, scheme, all.swap_remove(at)))
}

/// The request as it goes on.
fn forwarded(
    parts: Parts,
    uri: PathAndQuery,
    authority: &str,
    body: Incoming,
) -> ApiResult<(Request<Incoming>, Option<hyper::upgrade::OnUpgrade>)> {
    let upgrade = parts.headers.contains_key(header::UPGRADE);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = uri.into();
    let mut headers = parts.headers;
    strip(&mut headers, upgrade);
    let host = HeaderValue::from_str(authority).map_err(|e| ApiError::internal(e.to_string()))?;
    headers.insert(header::HOST, host);
    *request.headers_mut() = headers;
    let mut extensions = parts.extensions;
    let on_upgrade = extensions.remove::<hyper::upgrade::OnUpgrade>().filter(|_| upgrade);
    Ok((request, on_upgrade))
}

/// Removes what is about one connection only; an upgrade keeps what asks for it.
fn strip(headers: &mut HeaderMap, upgrade: bool) {
    for h in HOP_BY_HOP.iter().filter(|h| !(upgrade && **h == header::CONNECTION)) {
        headers.remove(h);
    }
}

fn unreachable(target: &Target, e: impl std::fmt::Display) -> ApiError {
    ApiError::new(
        503,
        "ServiceUnavailable",
        format!("error trying to reach service: {}://{}: {e}", target.scheme, target.authority),
    )
}

async fn forward(
    target: &Target,
    place: Place,
    (request, client): (Request<Incoming>, Option<hyper::upgrade::OnUpgrade>),
) -> ApiResult<Response> {
    let tcp = match target.address {
        Some(a) => TcpStream::connect(a).await,
        None => TcpStream::connect(&target.authority).await,
    };
    let tcp = tcp.map_err(|e| unreachable(target, e))?;
    if target.scheme == Scheme::HTTPS {
        let tls = secure(target, tcp).await?;
        return exchange(target, place, tls, request, client).await;
    }
    exchange(target, place, tcp, request, client).await
}

async fn secure(target: &Target, tcp: TcpStream) -> ApiResult<tokio_rustls::client::TlsStream<TcpStream>> {
    let host = target.authority.rsplit_once(':').map_or(target.authority.as_str(), |(h, _)| h);
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|e| unreachable(target, e))?;
    TlsConnector::from(Arc::clone(&target.tls)).connect(name, tcp).await.map_err(|e| unreachable(target, e))
}

async fn exchange<IO>(
    target: &Target,
    place: Place,
    io: IO,
    request: Request<Incoming>,
    client: Option<hyper::upgrade::OnUpgrade>,
) -> ApiResult<Response>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| unreachable(target, e))?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!(error = %e, "a proxied connection ended");
        }
    });
    let mut answer = sender.send_request(request).await.map_err(|e| unreachable(target, e))?;
    let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let Some(client) = client.filter(|_| switched) {
        let server = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
                // Either side may end the conversation at any time.
                let _ =
                    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
            }
        });
    }
    let (mut parts, body) = answer.into_parts();
    strip(&mut parts.headers, switched);
    // Which origins may read the API is not for what it proxies to say.
    for h in CORS {
        parts.headers.remove(h);
    }
    place.headers(&mut parts.headers);
    let body = place.body(&mut parts.headers, body);
    Ok(http::Response::from_parts(parts, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        let of = |n: &'static str| {
            let (s, name, port) = split_name("pod", n).expect(n);
            (s.to_string(), name, port)
        };
        assert_eq!(of("a"), ("http".into(), "a", ""));
        assert_eq!(of("a:80"), ("http".into(), "a", "80"));
        assert_eq!(of("https:a:web"), ("https".into(), "a", "web"));
        assert!(split_name("pod", "ftp:a:1").is_err() && split_name("pod", "a:b:c:d").is_err());
        assert_eq!(rest_of_path("/api/v1/namespaces/proxy/pods/p/proxy/x/proxy/", true), "/x/proxy/");
        assert_eq!(rest_of_path("/api/v1/nodes/n/proxy", false), "/");
        let to = |method: &str, uri: &str| {
            let parts = Request::builder().method(method).uri(uri).body(()).expect(uri).into_parts().0;
            slash_needed(&parts, true).map(|v| v.to_str().expect("text").to_owned())
        };
        let proxy = "/api/v1/namespaces/n/pods/p/proxy";
        assert_eq!(
            to("GET", &format!("{proxy}?a=b")).as_deref(),
            Some("/api/v1/namespaces/n/pods/p/proxy/?a=b")
        );
        assert_eq!(to("POST", proxy), None);
        assert_eq!(to("GET", &format!("{proxy}/")), None);
        assert_eq!(
            (prefix(&format!("{proxy}/a/b"), true), prefix("/api/v1/nodes/n/proxy/x", false)),
            (proxy, "/api/v1/nodes/n/proxy")
        );
        assert!(check_text("10.1.2.3").is_ok() && check_text("fd00::1").is_ok());
        for bad in ["127.0.0.1", "169.254.169.254", "::1", "", "name", "::ffff:127.0.0.1", "0.0.0.0"] {
            assert!(check_text(bad).is_err(), "{bad}");
        }
        assert_eq!(authority("::1", "80"), "[::1]:80");
    }
}

//! The next hop of a stream, and the client side of an HTTP/1.1 upgrade.

use anyhow::{Context, bail};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::serving::listener::Body;

/// A byte stream to a backend.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Where a stream goes on.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Connects, with TLS where the backend wants it.
    async fn dial(&self) -> anyhow::Result<Box<dyn Io>>;

    /// Full address of what to ask for; only host, path and query are used.
    fn uri(&self) -> &Uri;
}

/// What a backend said to an upgrade.
pub(super) enum Answer {
    Upgraded { head: http::response::Parts, io: TokioIo<Upgraded> },
    Refused(Response<Body>),
}

/// Headers that belong to one hop; all others are passed on.
const HOP_HEADERS: [header::HeaderName; 4] =
    [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::AUTHORIZATION];

/// The client's headers that the backend may see. Credentials end here: each hop has its own.
pub(super) fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut out = headers.clone();
    for name in &HOP_HEADERS {
        out.remove(name);
    }
    out
}

/// Headers that ask a backend for SPDY with one of `protocols`.
pub(super) fn spdy_headers(protocols: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    for p in protocols.iter().filter_map(|p| HeaderValue::from_str(p).ok()) {
        headers.append("x-stream-protocol-version", p);
    }
    headers
}

/// Asks the backend for an upgrade.
pub(super) async fn upgrade(
    backend: &dyn Backend,
    method: Method,
    headers: HeaderMap,
) -> anyhow::Result<Answer> {
    let uri = backend.uri();
    let io = backend.dial().await.with_context(|| format!("connecting to {}", authority(uri)))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.context("HTTP handshake")?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!(error = %e, "stream connection ended");
        }
    });
    let target = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::builder().method(method).uri(target).body(Empty::<Bytes>::new())?;
    *request.headers_mut() = headers;
    request
        .headers_mut()
        .insert(header::HOST, HeaderValue::from_str(authority(uri)).context("host of the backend")?);
    let mut response: Response<Incoming> =
        sender.send_request(request).await.context("asking for an upgrade")?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if response.status().is_informational() {
            bail!("unexpected answer {}", response.status());
        }
        return Ok(Answer::Refused(response.map(|b| b.map_err(std::io::Error::other).boxed_unsync())));
    }
    let upgraded = hyper::upgrade::on(&mut response).await.context("upgrading")?;
    Ok(Answer::Upgraded { head: response.into_parts().0, io: TokioIo::new(upgraded) })
}

fn authority(uri: &Uri) -> &str {
    uri.authority().map_or("localhost", |a| a.as_str())
}

//! Streams into containers: `exec`, `attach` and `port-forward` pass through the API server and the kubelet as
//! upgraded HTTP connections. Both hops call [`serve`] with their backend: the API server with the kubelet, the
//! kubelet with the container runtime's streaming server.
//!
//! What clients speak, and what becomes of it:
//! - SPDY/3.1 is passed through byte by byte ([`relay`]): every runtime understands it.
//! - WebSocket `v5.channel.k8s.io` is translated to SPDY ([`translate`]), since runtimes know WebSocket only up to
//!   `v4`, which cannot close standard input.
//! - WebSocket `SPDY/3.1+portforward.k8s.io` is SPDY in WebSocket messages and unwrapped ([`tunnel`]).
//! - Older WebSocket protocols are passed through.
//!
//! Source: KEP-4006 "Transition from SPDY to WebSockets".

pub mod backend;
pub mod reading;
mod relay;
pub mod spdy;
pub mod translate;
mod tunnel;
mod websocket;

use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::serving::health::text;
use crate::serving::listener::Body;
use backend::Backend;

/// Which streams of a container the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// `exec` or `attach`.
    RemoteCommand(Streams),
    PortForward,
}

/// WebSocket subprotocol whose standard input can be closed.
const V5: &str = "v5.channel.k8s.io";
/// WebSocket subprotocol that carries SPDY.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Answers an upgrade request by connecting it to `backend`. Returns once the upgrade is agreed; the streams then
/// run in the background until either side ends.
///
/// A request that asks for no upgrade is answered with 400, a backend that cannot be reached with 502, and what the
/// backend answers instead of an upgrade is passed on.
pub async fn serve(request: Request<Incoming>, backend: &dyn Backend, purpose: Purpose) -> Response<Body> {
    let headers = request.headers();
    if !wants_upgrade(headers) {
        return text(
            StatusCode::BAD_REQUEST,
            "text/plain; charset=utf-8",
            "unable to upgrade: missing upgrade headers in request".into(),
        );
    }
    let offered = |protocol: &str| subprotocols(headers).any(|p| p.eq_ignore_ascii_case(protocol));
    let result = match purpose {
        Purpose::RemoteCommand(streams) if is_websocket(headers) && offered(V5) => {
            translate::run(request, backend, streams).await
        }
        Purpose::PortForward if is_websocket(headers) && offered(TUNNEL) => {
            tunnel::run(request, backend).await
        }
        _ => relay::run(request, backend).await,
    };
    result.unwrap_or_else(|e| {
        tracing::warn!(error = format!("{e:#}"), "cannot open a stream");
        text(StatusCode::BAD_GATEWAY, "text/plain; charset=utf-8", format!("error dialing backend: {e:#}"))
    })
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && values(headers, header::CONNECTION).any(|v| v.eq_ignore_ascii_case("upgrade"))
}

fn is_websocket(headers: &HeaderMap) -> bool {
    values(headers, header::UPGRADE).any(|v| v.eq_ignore_ascii_case("websocket"))
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    values(headers, header::SEC_WEBSOCKET_PROTOCOL)
}

/// The comma-separated values of a header.
fn values(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

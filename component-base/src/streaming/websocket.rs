//! The server side of a WebSocket upgrade on a hyper request.

use anyhow::Context;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::serving::listener::Body;

/// An agreed WebSocket connection to a client.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The 101 answer with `protocol` chosen (none where the client offered none), and the socket once the client has read it.
pub(super) fn accept(
    request: &mut Request<Incoming>,
    protocol: Option<&'static str>,
) -> anyhow::Result<(Response<Body>, impl Future<Output = Result<Socket, hyper::Error>> + Send + 'static)> {
    let key =
        request.headers().get(header::SEC_WEBSOCKET_KEY).context("the request has no Sec-WebSocket-Key")?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))?;
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    let upgraded = hyper::upgrade::on(request);
    let socket = async move {
        let io = TokioIo::new(upgraded.await?);
        Ok(WebSocketStream::from_raw_socket(io, Role::Server, None).await)
    };
    Ok((response, socket))
}

//! A stream of bytes read over a WebSocket: what clients get who ask for a log by an upgrade request.
//!
//! Without a subprotocol, and with `binary.k8s.io`, pieces are binary messages; with `base64.binary.k8s.io` they are
//! text messages in base64. An empty message comes first, so that the client knows that the stream is open.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt as _, Stream, StreamExt as _};
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio_tungstenite::tungstenite::Message;

use super::websocket::{self, Socket};
use super::{is_websocket, subprotocols, wants_upgrade};
use crate::serving::health::text;
use crate::serving::listener::Body;

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// Whether the client wants to read over a WebSocket.
pub fn wanted(headers: &HeaderMap) -> bool {
    wants_upgrade(headers) && is_websocket(headers)
}

/// Agrees to the upgrade and sends `content` in the background until it ends or the client leaves. A client that
/// offers only subprotocols that are not known is answered with 403.
pub fn serve<S, E>(mut request: Request<Incoming>, content: S) -> Response<Body>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    E: std::fmt::Display + Send + 'static,
{
    let offered: Vec<&str> = subprotocols(request.headers()).filter(|p| !p.is_empty()).collect();
    let protocol = offered.iter().find_map(|p| [BINARY, BASE64].into_iter().find(|known| known == p));
    if protocol.is_none() && !offered.is_empty() {
        let message =
            format!("none of the WebSocket subprotocols {offered:?} is known: use {BINARY} or {BASE64}");
        return text(StatusCode::FORBIDDEN, "text/plain; charset=utf-8", message);
    }
    match websocket::accept(&mut request, protocol) {
        Ok((response, socket)) => {
            tokio::spawn(async move {
                match socket.await {
                    Ok(socket) => send(socket, content, protocol == Some(BASE64)).await,
                    Err(error) => tracing::debug!(%error, "a client left before its stream began"),
                }
            });
            response
        }
        Err(e) => text(StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", format!("{e:#}")),
    }
}

async fn send<S, E>(socket: Socket, mut content: S, base64: bool)
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    let (mut out, mut from_client) = socket.split();
    let message = |piece: Bytes| {
        if base64 { Message::text(STANDARD.encode(piece)) } else { Message::binary(piece) }
    };
    if out.send(message(Bytes::new())).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            piece = content.next() => match piece {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => if out.send(message(piece)).await.is_err() { return },
                Some(Err(error)) => {
                    tracing::debug!(%error, "a stream that is read over a WebSocket broke off");
                    break;
                }
                None => break,
            },
            // Clients only read: anything but a close is ignored, and answers to pings go out with the next piece.
            said = from_client.next() => if !matches!(said, Some(Ok(ref m)) if !m.is_close()) { break },
        }
    }
    // The client may be gone already.
    let _ = out.close().await;
}

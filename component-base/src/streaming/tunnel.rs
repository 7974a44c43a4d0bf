//! SPDY inside WebSocket messages, as kubectl sends port-forwards: the messages' bytes are the SPDY connection's.

use futures::{SinkExt, StreamExt};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::backend::{Answer, Backend, spdy_headers, upgrade};
use super::websocket;
use crate::serving::listener::Body;

/// Bytes read from the backend at a time.
const CHUNK: usize = 32 * 1024;

pub(super) async fn run(
    mut request: Request<Incoming>,
    backend: &dyn Backend,
) -> anyhow::Result<Response<Body>> {
    let far = match upgrade(backend, Method::POST, spdy_headers(&["portforward.k8s.io"])).await? {
        Answer::Refused(response) => return Ok(response),
        Answer::Upgraded { io, .. } => io,
    };
    let (response, socket) = websocket::accept(&mut request, Some(super::TUNNEL))?;
    tokio::spawn(async move {
        let Ok(socket) = socket.await else { return };
        let (mut to_client, mut from_client) = socket.split();
        let (mut from_far, mut to_far) = tokio::io::split(far);
        let up = async {
            while let Some(Ok(message)) = from_client.next().await {
                match message {
                    Message::Binary(data) if to_far.write_all(&data).await.is_err() => return,
                    Message::Close(_) => return,
                    _ => {}
                }
            }
        };
        let down = async {
            let mut buffer = vec![0; CHUNK];
            while let Ok(n) = from_far.read(&mut buffer).await {
                if n == 0 || to_client.send(Message::binary(buffer[..n].to_vec())).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = up => {} , () = down => {} }
        // The client may be gone already.
        let _ = to_client.close().await;
    });
    Ok(response)
}

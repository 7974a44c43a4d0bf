//! WebSocket `v5.channel.k8s.io` on the client's side, SPDY `v4.channel.k8s.io` on the backend's.
//!
//! A WebSocket message begins with the number of its channel; channel 255 says that the client closed the channel
//! named by the next byte. On SPDY every channel is a stream of its own.

use std::collections::BTreeMap;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::Streams;
use super::backend::{Answer, Backend, spdy_headers, upgrade};
use super::spdy::{self, Frame};
use super::websocket;
use crate::serving::listener::Body;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

pub(super) async fn run(
    mut request: Request<Incoming>,
    backend: &dyn Backend,
    streams: Streams,
) -> anyhow::Result<Response<Body>> {
    let far = match upgrade(backend, Method::POST, spdy_headers(&["v4.channel.k8s.io"])).await? {
        Answer::Refused(response) => return Ok(response),
        Answer::Upgraded { io, .. } => io,
    };
    let (response, socket) = websocket::accept(&mut request, Some(super::V5))?;
    tokio::spawn(async move {
        match socket.await {
            Ok(socket) => {
                if let Err(e) = shuttle(socket, far, streams).await {
                    tracing::debug!(error = format!("{e:#}"), "stream ended early");
                }
            }
            Err(e) => tracing::debug!(error = %e, "the client did not finish its upgrade"),
        }
    });
    Ok(response)
}

/// Moves data both ways until the backend has sent everything or a side is gone.
///
/// # Errors
/// A side went away in the middle, or the backend broke the protocol.
pub async fn shuttle<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<S>,
    far: impl AsyncRead + AsyncWrite,
    streams: Streams,
) -> anyhow::Result<()> {
    let mut session = Session::new(streams);
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_far, mut to_far) = tokio::io::split(far);
    to_far.write_all(&session.open()).await.context("opening streams")?;
    let mut input = BytesMut::with_capacity(32 * 1024);
    while !session.finished() {
        tokio::select! {
            message = from_client.next() => match message {
                Some(Ok(Message::Binary(data))) => {
                    let out = session.client_sent(&data);
                    to_far.write_all(&out).await.context("writing to the backend")?;
                }
                None | Some(Err(_) | Ok(Message::Close(_))) => return Ok(()),
                Some(Ok(_)) => {}
            },
            read = from_far.read_buf(&mut input) => {
                let ended = read.context("reading from the backend")? == 0;
                while let Some(frame) = spdy::read(&mut input)? {
                    let (message, reply) = session.backend_sent(frame);
                    if let Some(message) = message {
                        to_client.send(Message::binary(message)).await.context("writing to the client")?;
                    }
                    if !reply.is_empty() {
                        to_far.write_all(&reply).await.context("writing to the backend")?;
                    }
                }
                if ended {
                    break;
                }
            }
        }
    }
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    to_client.send(Message::Close(Some(normal))).await.context("closing")?;
    Ok(())
}

/// Which SPDY stream is which channel, and what is still open. Pure.
struct Session {
    writer: spdy::Writer,
    /// Channel of each SPDY stream.
    channels: BTreeMap<u32, u8>,
    /// Streams on which the backend may still send something.
    open_outputs: Vec<u32>,
}

impl Session {
    fn new(streams: Streams) -> Self {
        let mut wanted = vec![ERROR];
        wanted.extend(streams.stdin.then_some(STDIN));
        wanted.extend(streams.stdout.then_some(STDOUT));
        wanted.extend((streams.stderr && !streams.tty).then_some(STDERR));
        wanted.extend(streams.tty.then_some(RESIZE));
        let channels: BTreeMap<u32, u8> = (1..).step_by(2).zip(wanted).collect();
        let open_outputs =
            channels.iter().filter(|(_, c)| matches!(**c, STDOUT | STDERR | ERROR)).map(|(s, _)| *s);
        let open_outputs = open_outputs.collect();
        Self { writer: spdy::Writer::default(), channels, open_outputs }
    }

    /// The frames that open every stream.
    fn open(&mut self) -> BytesMut {
        let mut out = BytesMut::new();
        for (stream, channel) in &self.channels {
            let name = match *channel {
                STDIN => "stdin",
                STDOUT => "stdout",
                STDERR => "stderr",
                ERROR => "error",
                _ => "resize",
            };
            self.writer.open(*stream, "streamType", name, &mut out);
        }
        out
    }

    fn stream_of(&self, channel: u8) -> Option<u32> {
        self.channels.iter().find(|(_, c)| **c == channel).map(|(s, _)| *s)
    }

    /// A client's message as frames. What is for no open channel is dropped, as upstream does.
    fn client_sent(&self, message: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        match message {
            [CLOSE, channel, ..] => {
                if let Some(stream) = self.stream_of(*channel) {
                    spdy::data(stream, &[], true, &mut out);
                }
            }
            [channel @ (STDIN | RESIZE), data @ ..] => {
                if let Some(stream) = self.stream_of(*channel) {
                    spdy::data(stream, data, false, &mut out);
                }
            }
            _ => {}
        }
        out
    }

    /// A frame of the backend: what to tell the client, and what to answer.
    fn backend_sent(&mut self, frame: Frame) -> (Option<Vec<u8>>, BytesMut) {
        let mut reply = BytesMut::new();
        let mut message = None;
        match frame {
            Frame::Data { stream, data, fin } => {
                message = self.message(stream, &data);
                if fin {
                    self.end(stream);
                }
            }
            Frame::Reply { stream, fin: true } | Frame::Reset { stream } => self.end(stream),
            Frame::Ping { id } => spdy::pong(id, &mut reply),
            Frame::GoAway => self.open_outputs.clear(),
            Frame::Reply { .. } | Frame::Other => {}
        }
        (message, reply)
    }

    fn message(&self, stream: u32, data: &Bytes) -> Option<Vec<u8>> {
        let channel = *self.channels.get(&stream)?;
        if data.is_empty() {
            return None;
        }
        let mut m = Vec::with_capacity(data.len() + 1);
        m.push(channel);
        m.extend_from_slice(data);
        Some(m)
    }

    fn end(&mut self, stream: u32) {
        self.open_outputs.retain(|s| *s != stream);
    }

    /// Whether the backend has closed everything it writes to.
    fn finished(&self) -> bool {
        self.open_outputs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };

    #[test]
    fn ends_when_every_output_and_the_error_stream_are_closed() {
        let mut s = Session::new(ALL);
        let fin = |stream| Frame::Data { stream, data: Bytes::new(), fin: true };
        let (error, stdout, stderr) = (1, s.stream_of(STDOUT).unwrap(), s.stream_of(STDERR).unwrap());
        for stream in [stdout, stderr] {
            s.backend_sent(fin(stream));
            assert!(!s.finished());
        }
        let (message, _) =
            s.backend_sent(Frame::Data { stream: error, data: Bytes::from_static(b"{}"), fin: true });
        assert_eq!(message.unwrap(), [ERROR, b'{', b'}']);
        assert!(s.finished());
    }

    #[test]
    fn closing_standard_input_becomes_a_fin() {
        let s = Session::new(ALL);
        let stdin = s.stream_of(STDIN).unwrap();
        let mut wire = s.client_sent(&[STDIN, b'x']);
        wire.extend(s.client_sent(&[CLOSE, STDIN]));
        let frame =
            |data: &'static [u8], fin| Frame::Data { stream: stdin, data: Bytes::from_static(data), fin };
        assert_eq!(spdy::read(&mut wire).unwrap().unwrap(), frame(b"x", false));
        assert_eq!(spdy::read(&mut wire).unwrap().unwrap(), frame(b"", true));
    }

    #[test]
    fn a_terminal_has_a_resize_stream_and_no_stderr() {
        let s = Session::new(Streams { tty: true, ..ALL });
        assert!(s.stream_of(STDERR).is_none() && s.stream_of(RESIZE).is_some());
        assert!(s.client_sent(&[STDERR, 1]).is_empty(), "clients do not write to outputs");
        assert!(s.client_sent(&[]).is_empty());
    }
}

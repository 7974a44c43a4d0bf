//! The one response body type: bytes that are ready, a stream fed by a task (watches), or a proxied body.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::mpsc;

/// A response body.
pub enum Body {
    /// Nothing (left).
    Empty,
    /// One buffer.
    Full(Bytes),
    /// Pieces that are made when the client is ready for them.
    Pieces(Box<dyn Iterator<Item = io::Result<Bytes>> + Send>),
    /// Chunks as a task produces them; the body ends when the sender is dropped.
    Channel(mpsc::Receiver<Bytes>),
    /// Somebody else's body, for instance a kubelet's.
    Boxed(UnsyncBoxBody<Bytes, io::Error>),
    /// A body, and what is dropped when it has been sent or given up.
    Guarded(Box<Body>, Box<dyn Any + Send>),
}

impl Body {
    /// The same with all its pieces in one, for those who must see the whole answer before the client does.
    pub fn gathered(self) -> Self {
        let Self::Pieces(pieces) = self else { return self };
        let all: Vec<io::Result<Bytes>> = pieces.collect();
        if all.iter().any(Result::is_err) {
            // The client must see it end early.
            return Self::Pieces(Box::new(all.into_iter()));
        }
        all.into_iter()
            .flatten()
            .fold(Vec::new(), |mut out, p| {
                out.extend_from_slice(&p);
                out
            })
            .into()
    }

    /// The same, with something that is dropped at its end.
    pub fn followed_by(self, guard: impl Any + Send) -> Self {
        Self::Guarded(Box::new(self), Box::new(guard))
    }
}

impl From<Bytes> for Body {
    fn from(b: Bytes) -> Self {
        if b.is_empty() { Self::Empty } else { Self::Full(b) }
    }
}

impl From<Vec<u8>> for Body {
    fn from(b: Vec<u8>) -> Self {
        Bytes::from(b).into()
    }
}

impl From<String> for Body {
    fn from(b: String) -> Self {
        Bytes::from(b).into()
    }
}

impl From<&'static str> for Body {
    fn from(b: &'static str) -> Self {
        Bytes::from_static(b.as_bytes()).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(b) => {
                let b = std::mem::take(b);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(b))))
            }
            Self::Pieces(p) => Poll::Ready(p.next().map(|r| r.map(Frame::data))),
            Self::Channel(rx) => rx.poll_recv(cx).map(|o| o.map(|b| Ok(Frame::data(b)))),
            Self::Boxed(b) => Pin::new(b).poll_frame(cx),
            Self::Guarded(b, _) => Pin::new(&mut **b).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) | Self::Pieces(_) | Self::Channel(_) => false,
            Self::Boxed(b) => b.is_end_stream(),
            Self::Guarded(b, _) => b.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(b) => SizeHint::with_exact(b.len() as u64),
            Self::Pieces(_) | Self::Channel(_) => SizeHint::default(),
            Self::Boxed(b) => b.size_hint(),
            Self::Guarded(b, _) => b.size_hint(),
        }
    }
}

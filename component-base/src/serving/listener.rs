//! The accept loop: TCP, TLS, then HTTP/1.1 or HTTP/2 (chosen by ALPN), each request handed to one handler with
//! the facts of its connection. Upgrades (WebSocket, SPDY) work on HTTP/1.1 connections.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::process::Shutdown;

/// Body of the answers.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Facts of the connection that a request came over.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// Certificates that the client showed, verified against the client CA; empty if none.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// Notified, the connection takes no more requests and ends when those on it are done (HTTP/2: `GOAWAY`).
    pub close: Arc<Notify>,
}

/// How connections are served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Requests that one HTTP/2 connection may carry at a time.
    pub max_streams: u32,
    /// Offer HTTP/2.
    pub http2: bool,
    /// How long open connections may finish after shutdown began.
    pub drain: Duration,
    /// Counts TLS handshakes that failed.
    pub handshake_errors: Arc<AtomicU64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_streams: MAX_STREAMS, http2: true, drain: DRAIN_TIMEOUT, handshake_errors: Arc::default() }
    }
}

/// Streams per connection where nothing else is said.
pub const MAX_STREAMS: u32 = 1000;

/// How long a client may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open connections may finish after shutdown began.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a client of this address may connect at all.
pub type Gate = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// How connections are taken in.
#[derive(Clone, Default)]
pub struct Intake {
    /// The TLS configuration, which may be replaced while serving: each connection begins with the newest. Without,
    /// plain HTTP.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// Connections that it refuses are closed before a byte is read. Without, all may connect.
    pub gate: Option<Gate>,
    /// How the connections are served.
    pub options: Options,
}

impl Intake {
    /// One TLS configuration for ever, for everybody.
    pub fn fixed(tls: Option<Arc<ServerConfig>>) -> Self {
        // The receiver keeps the value after the sender is gone.
        Self { tls: tls.map(|config| watch::channel(config).1), ..Self::default() }
    }

    fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls.as_ref().map(|t| TlsAcceptor::from(Arc::clone(&t.borrow())))
    }
}

/// [`serve_with`] for one TLS configuration, or none.
pub async fn serve<H, Fut>(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    handler: H,
    shutdown: Shutdown,
) where
    H: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    serve_with(listener, Intake::fixed(tls), handler, shutdown).await;
}

/// Serves until `shutdown`, then lets open requests finish for a while.
///
/// Requests carry a [`Peer`] in their extensions.
pub async fn serve_with<H, Fut>(listener: TcpListener, intake: Intake, handler: H, shutdown: Shutdown)
where
    H: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let drain = intake.options.drain;
    let options = Arc::new(intake.options.clone());
    let connections = TaskTracker::new();
    loop {
        let (stream, address) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(x) => x,
                Err(e) => {
                    // Out of file descriptors, most likely: give running requests time to free some.
                    warn!(error = %e, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        // Listeners of both families see IPv4 clients under mapped addresses.
        if intake.gate.as_ref().is_some_and(|gate| !gate(address.ip().to_canonical())) {
            debug!(peer = %address, "a connection was refused by its address");
            continue;
        }
        let (acceptor, handler, shutdown) = (intake.acceptor(), handler.clone(), shutdown.clone());
        let options = Arc::clone(&options);
        connections.spawn(async move {
            if let Err(e) = connection(stream, address, acceptor, handler, shutdown, &options).await {
                debug!(peer = %address, error = %e, "connection ended");
            }
        });
    }
    connections.close();
    let _ = tokio::time::timeout(drain, connections.wait()).await;
}

async fn connection<H, Fut>(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    handler: H,
    shutdown: Shutdown,
    options: &Options,
) -> anyhow::Result<()>
where
    H: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    stream.set_nodelay(true)?;
    let close = Arc::new(Notify::new());
    let Some(acceptor) = acceptor else {
        let peer = Peer { address, certificates: Arc::new([]), close };
        return http(stream, peer, handler, shutdown, options).await;
    };
    let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    if !matches!(shaken, Ok(Ok(_))) {
        options.handshake_errors.fetch_add(1, Ordering::Relaxed);
    }
    let tls = shaken??;
    let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|c| c.clone().into_owned()).collect();
    http(tls, Peer { address, certificates, close }, handler, shutdown, options).await
}

/// The answer to `HEAD`: what `GET` would say of its body, without the body.
fn without_body(answer: Response<Body>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(parts, Empty::new().map_err(|never| match never {}).boxed_unsync())
}

async fn http<IO, H, Fut>(
    io: IO,
    peer: Peer,
    handler: H,
    shutdown: Shutdown,
    options: &Options,
) -> anyhow::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let close = Arc::clone(&peer.close);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let only_head = request.method() == Method::HEAD;
        let answer = handler(request);
        async move {
            let answer = answer.await;
            // Over HTTP/1.1 hyper does this itself; over HTTP/2 clients take a body here for a broken stream.
            Ok::<_, Infallible>(if only_head { without_body(answer) } else { answer })
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    if !options.http2 {
        builder = builder.http1_only();
    }
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_streams)
        .keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        r = connection.as_mut() => r,
        () = async { tokio::select! { () = shutdown.cancelled() => {}, () = close.notified() => {} } } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(|e| anyhow::anyhow!(e))
}

//! Connections: resolve, dial, TLS.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::services::Resolve;
use super::tls;

/// How long a connection may take to be made.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// The service behind the host of a URL.
#[derive(Clone)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub port: u16,
    pub resolver: Arc<dyn Resolve>,
}

/// Makes connections for one configuration.
#[derive(Clone)]
pub struct Connector {
    pub tls: Arc<ClientConfig>,
    /// What the certificate must be for, where it is not the URL's host.
    pub server_name: Option<String>,
    /// None: the URL's host is dialled.
    pub service: Option<Service>,
    /// Plain HTTP is refused unless a kubeconfig asks for it.
    pub allow_plain: bool,
}

/// Why a connection could not be made, in upstream's words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DialError(pub String);

impl Connector {
    /// `HOST:PORT` to dial for `host` and `port` of a URL.
    async fn address(&self, host: &str, port: u16) -> Result<String, DialError> {
        match &self.service {
            Some(s) => s.resolver.resolve(&s.namespace, &s.name, s.port).await.map_err(DialError),
            None if host.contains(':') => Ok(format!("[{host}]:{port}")),
            None => Ok(format!("{host}:{port}")),
        }
    }

    /// A connection for a URL of this scheme, host and port.
    ///
    /// # Errors
    /// The service has no address, nobody listens there, or its certificate is refused.
    pub async fn connect(&self, secure: bool, host: &str, port: u16) -> Result<Stream, DialError> {
        let host = host.trim_matches(['[', ']']);
        let address = self.address(host, port).await?;
        let dial = |why: String| DialError(format!("dial tcp {address}: {why}"));
        let tcp = TcpStream::connect(&address).await.map_err(|e| dial(connect_error(&e)))?;
        tcp.set_nodelay(true).map_err(|e| dial(e.to_string()))?;
        if !secure {
            if !self.allow_plain {
                return Err(DialError(format!("the URL of {host} is not https")));
            }
            return Ok(Stream::Plain(tcp));
        }
        let name = self.server_name.as_deref().unwrap_or(host);
        let server = ServerName::try_from(name.to_owned())
            .map_err(|e| DialError(format!("tls: {name:?} cannot be the name of a server: {e}")))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(server, tcp).await.map_err(|e| {
            let cause = e.get_ref().and_then(|i| i.downcast_ref::<rustls::Error>());
            match cause {
                Some(e) => DialError(tls::explain(e, name)),
                None => DialError(if e.kind() == std::io::ErrorKind::UnexpectedEof {
                    "EOF".to_owned()
                } else {
                    e.to_string()
                }),
            }
        })?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

fn connect_error(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => e.to_string(),
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, DialError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let secure = uri.scheme() != Some(&http::uri::Scheme::HTTP);
            let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
            let host = uri.host().unwrap_or_default().to_owned();
            let connecting = this.connect(secure, &host, port);
            match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
                Ok(done) => done.map(TokioIo::new),
                Err(_) => Err(DialError(format!("dial tcp {host}:{port}: i/o timeout"))),
            }
        })
    }
}

/// A connection.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let h2 = match self {
            Self::Plain(_) => false,
            Self::Tls(t) => t.get_ref().1.alpn_protocol() == Some(b"h2"),
        };
        if h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match &mut *self {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

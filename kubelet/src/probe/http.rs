//! A small HTTP client for probes and hooks: one request, no redirects to other hosts, certificates not
//! verified (the kubelet cannot know what a pod serves with), bodies cut at 10 KiB.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;

const MAX_BODY: usize = 10 << 10;

/// One GET.
pub struct Get<'a> {
    pub tls: bool,
    pub host: &'a str,
    pub port: u16,
    pub path: &'a str,
    pub headers: &'a [(String, String)],
    pub user_agent: &'a str,
}

#[derive(Debug)]
struct TrustAnything(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn tls_config() -> Result<Arc<ClientConfig>, String> {
    static CONFIG: std::sync::OnceLock<Result<Arc<ClientConfig>, String>> = std::sync::OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map_err(|e| e.to_string())?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(TrustAnything(provider)))
                .with_no_client_auth();
            Ok(Arc::new(config))
        })
        .clone()
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// A URL as messages show it.
pub fn url(tls: bool, host: &str, port: u16, path: &str) -> String {
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}:{port}{path}", bracketed(host))
}

/// Sends the request; status, body and `Location`, or why there is no answer, in the words clients of upstream know.
pub async fn get(request: &Get<'_>, timeout: Duration) -> Result<(u16, String, Option<String>), String> {
    let url = url(request.tls, request.host, request.port, request.path);
    match tokio::time::timeout(timeout, exchange(request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(format!("Get {url:?}: {e}")),
        Err(_) => Err(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn exchange(request: &Get<'_>) -> Result<(u16, String, Option<String>), String> {
    let target = format!("{}:{}", bracketed(request.host), request.port);
    let stream = TcpStream::connect(&target).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::ConnectionRefused => format!("dial tcp {target}: connect: connection refused"),
        _ => format!("dial tcp {target}: {e}"),
    })?;
    let mut builder = http::Request::get(request.path);
    let has = |name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !has("host") {
        builder = builder.header("Host", &target);
    }
    if !has("user-agent") {
        builder = builder.header("User-Agent", request.user_agent);
    }
    if !has("accept") {
        builder = builder.header("Accept", "*/*");
    }
    for (name, value) in request.headers.iter().filter(|(_, v)| !v.is_empty()) {
        builder = builder.header(name, value);
    }
    let message =
        builder.header("Connection", "close").body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    if request.tls {
        let name = ServerName::try_from(request.host.to_owned()).map_err(|e| e.to_string())?;
        let tls = tokio_rustls::TlsConnector::from(tls_config()?)
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?;
        talk(TokioIo::new(tls), message).await
    } else {
        talk(TokioIo::new(stream), message).await
    }
}

async fn talk<T>(io: T, message: http::Request<Empty<Bytes>>) -> Result<(u16, String, Option<String>), String>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let result = async {
        let response = sender.send_request(message).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let location = response.headers().get("location").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| e.to_string())?;
            if let Some(data) = frame.data_ref() {
                text.extend_from_slice(data);
            }
            if text.len() >= MAX_BODY {
                text.truncate(MAX_BODY);
                break;
            }
        }
        Ok((status, String::from_utf8_lossy(&text).into_owned(), location))
    }
    .await;
    driver.abort();
    result
}

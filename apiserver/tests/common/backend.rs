//! Servers that the API server calls: webhooks and aggregated API servers, over TLS, in this process.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use component_base::pki::{Authority, Subject};
use component_base::process::{self, Shutdown};
use component_base::serving::listener::{self, Body};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::TcpListener;

/// A request that a backend got.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn header(&self, name: &str) -> Vec<String> {
        self.headers.get_all(name).iter().map(|v| v.to_str().expect("text").to_owned()).collect()
    }
}

/// A running backend; dropping it stops it.
pub struct Backend {
    pub port: u16,
    /// In base64, as a `caBundle`.
    pub bundle: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    shutdown: Shutdown,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A whole answer.
pub fn answer(code: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|e| match e {}).boxed_unsync();
    Response::builder().status(code).header("content-type", content_type).body(body).expect("an answer")
}

/// An answer in JSON.
pub fn json(code: u16, v: &Value) -> Response<Body> {
    answer(code, "application/json", v.to_string())
}

impl Backend {
    /// Starts a server for `localhost`, 127.0.0.1 and `names` that answers with what `handler` makes of whole requests.
    pub async fn start<H, F>(names: &[&str], handler: H) -> Self
    where
        H: Fn(Seen) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = Arc::clone(&seen);
        let raw = move |request: Request<Incoming>| {
            let (log, handler) = (Arc::clone(&log), handler.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
                let s = Seen { method: parts.method, path, headers: parts.headers, body };
                log.lock().push(s.clone());
                handler(s).await
            }
        };
        let mut backend = Self::raw(names, raw).await;
        backend.seen = seen;
        backend
    }

    /// Starts a server that answers requests as they come in.
    pub async fn raw<H, F>(names: &[&str], handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        process::install_crypto();
        let authority = Authority::generate("backend-ca").expect("a CA");
        let mut dns_names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        dns_names.push("localhost".to_owned());
        let pair = authority
            .issue(&Subject {
                common_name: "backend".into(),
                dns_names,
                ips: vec!["127.0.0.1".parse().expect("address")],
                server: true,
                ..Subject::default()
            })
            .expect("a certificate");
        let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("certificate")];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("key");
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a TLS configuration");
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("address").port();
        let shutdown = Shutdown::new();
        tokio::spawn(listener::serve(listener, Some(Arc::new(tls)), handler, shutdown.clone()));
        let bundle = STANDARD.encode(&authority.pair().cert);
        Self { port, bundle, seen: Arc::default(), shutdown }
    }

    /// What came in so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub fn forget(&self) {
        self.seen.lock().clear();
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }
}

/// Waits until `check` is fulfilled.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        if let Some(v) = check().await {
            return v;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

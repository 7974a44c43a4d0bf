//! A server in this process, on a free port, over a store in a temporary directory, and a client that speaks
//! HTTP to it with an administrator's certificate.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod backend;

use std::sync::Arc;
use std::time::Duration;

use apiserver::config::Flags;
use apiserver::server::Server;
use apiserver::store::Store;
use apiserver::store::embedded::{Config, Engine};
use bytes::Bytes;
use clap::Parser as _;
use component_base::pki::{Authority, Pair, Subject};
use component_base::process::{self, Shutdown};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

/// A running server; dropping it stops it.
pub struct TestServer {
    pub base: String,
    pub admin: Client,
    authority: Authority,
    shutdown: Shutdown,
    /// Outlives the server: the store's directory.
    _dir: tempfile::TempDir,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A client with one identity.
#[derive(Clone)]
pub struct Client {
    base: String,
    http: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// For requests that HTTP/2 does not have.
    http1: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The JSON body of an answer that must have this code.
    pub fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }
}

impl TestServer {
    /// Starts a server with flags beside the usual ones.
    pub async fn start(extra: &[&str]) -> Self {
        process::install_crypto();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let authority = Authority::generate("test-ca").expect("a CA");
        let serving = authority
            .issue(&Subject {
                common_name: "kube-apiserver".into(),
                ips: vec!["127.0.0.1".parse().expect("address")],
                server: true,
                ..Subject::default()
            })
            .expect("a serving certificate");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
        write("ca.crt", &authority.pair().cert);
        write("server.crt", &serving.cert);
        write("server.key", &serving.key);
        write("sa.key", &Authority::generate("sa").expect("a key").pair().key);
        let mut args = vec![
            "kube-apiserver".to_owned(),
            "--secure-port=0".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--tls-cert-file={}", path("server.crt")),
            format!("--tls-private-key-file={}", path("server.key")),
            format!("--client-ca-file={}", path("ca.crt")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
        ];
        args.extend(extra.iter().map(|s| (*s).to_owned()));
        let flags = Flags::try_parse_from(args).expect("flags");
        let engine = Engine::open(Config::new(dir.path().join("store"))).expect("a store");
        let store: Arc<dyn Store> = engine;
        let shutdown = Shutdown::new();
        let server = Server::build(&flags, store, &shutdown).await.expect("a server");
        let base = format!("https://{}", server.address);
        let (tx, ready) = tokio::sync::oneshot::channel();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            let ready = move || {
                let _ = tx.send(());
            };
            if let Err(e) = server.run(stop, ready).await {
                panic!("the server failed: {e:#}");
            }
        });
        tokio::time::timeout(Duration::from_secs(20), ready).await.expect("ready in time").expect("ready");
        let admin = client(&base, &authority, "admin", &["system:masters"]);
        Self { base, admin, authority, shutdown, _dir: dir }
    }

    /// Tells the server to stop, as a signal would.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// A client of another user.
    pub fn user(&self, name: &str, groups: &[&str]) -> Client {
        client(&self.base, &self.authority, name, groups)
    }

    /// A client without certificate.
    pub fn anonymous(&self) -> Client {
        build(&self.base, &self.authority, None)
    }
}

fn client(base: &str, authority: &Authority, name: &str, groups: &[&str]) -> Client {
    let pair = authority
        .issue(&Subject {
            common_name: name.to_owned(),
            organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
            client: true,
            ..Subject::default()
        })
        .expect("a client certificate");
    build(base, authority, Some(&pair))
}

fn build(base: &str, authority: &Authority, pair: Option<&Pair>) -> Client {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority.pair().cert.as_bytes()).expect("CA");
    roots.add(ca).expect("CA");
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let tls = match pair {
        None => builder.with_no_client_auth(),
        Some(p) => {
            let cert = CertificateDer::from_pem_slice(p.cert.as_bytes()).expect("certificate");
            let key = PrivateKeyDer::from_pem_slice(p.key.as_bytes()).expect("key");
            builder.with_client_auth_cert(vec![cert], key).expect("identity")
        }
    };
    let builder = || hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_only();
    let http1 = builder().enable_http1().build();
    let https = builder().enable_http1().enable_http2().build();
    Client {
        base: base.to_owned(),
        http: HyperClient::builder(TokioExecutor::new()).build(https),
        http1: HyperClient::builder(TokioExecutor::new()).build(http1),
    }
}

impl Client {
    /// Sends a request and leaves the body to be read.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (k, v) in headers {
            request = request.header(*k, *v);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        self.http.request(request).await.expect("an answer")
    }

    /// Sends a request in HTTP/1.1, which may be an upgrade.
    pub async fn open_http1(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> http::Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (k, v) in headers {
            request = request.header(*k, *v);
        }
        let request = request.body(Full::default()).expect("a request");
        self.http1.request(request).await.expect("an answer")
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let (parts, body) = self.open(method, path, headers, body).await.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Method::GET, path, &[("accept", accept)], "").await
    }

    pub async fn post(&self, path: &str, o: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], o.to_string()).await
    }

    pub async fn put(&self, path: &str, o: &Value) -> Answer {
        self.send(Method::PUT, path, &[("content-type", "application/json")], o.to_string()).await
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> Answer {
        let kind = [("content-type", "application/merge-patch+json")];
        self.send(Method::PATCH, path, &kind, patch.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// Starts a watch.
    pub async fn watch(&self, path: &str) -> Watch {
        let response = self.open(Method::GET, path, &[], "").await;
        assert_eq!(response.status(), 200, "{path}");
        Watch { body: response.into_body(), rest: Vec::new() }
    }
}

/// A running watch in JSON.
pub struct Watch {
    body: Incoming,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; none once the server ended the watch.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).expect("an event"));
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame())
                .await
                .expect("an event in time")?
                .expect("a frame");
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }

    /// Type and name of the next event.
    pub async fn step(&mut self) -> (String, String) {
        let e = self.next().await.expect("an event");
        let text = |p: &str| e.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }
}

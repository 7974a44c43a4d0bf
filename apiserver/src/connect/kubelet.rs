//! Connections to kubelets: where a node's kubelet listens, and the TLS identity with which this server calls it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use serde_json::Value;

use crate::app::App;
use crate::registry::{object, render};
use crate::status::{ApiError, ApiResult};
use crate::webhook::tls::{self, Trust, Unverified};

/// HTTP client for kubelets.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// How kubelets are reached.
pub struct Kubelets {
    pub client: HttpClient,
    /// For connections that are upgraded.
    pub tls: Arc<ClientConfig>,
    /// For servers that are proxied and are no kubelets: nothing is shown to them, and nothing is believed of them.
    pub proxy_tls: Arc<ClientConfig>,
    /// `--kubelet-preferred-address-types`
    pub address_types: Vec<String>,
    identity: Option<Arc<Identity>>,
}

/// The client certificate, which may be replaced while connections are made.
#[derive(Debug)]
struct Identity(ArcSwap<CertifiedKey>);

impl Identity {
    fn read(cert: &[u8], key: &[u8]) -> anyhow::Result<CertifiedKey> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
            .collect::<Result<_, _>>()
            .context("--kubelet-client-certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key).context("--kubelet-client-key")?;
        CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .context("--kubelet-client-certificate")
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Contents of the `--kubelet-*` files.
#[derive(Default)]
pub struct Files {
    pub certificate: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
    pub authority: Option<Vec<u8>>,
}

impl Kubelets {
    /// `connect` bounds how long a connection may take to come about.
    pub fn new(files: &Files, address_types: Vec<String>, connect: Duration) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?;
        let builder = match &files.authority {
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for c in CertificateDer::pem_slice_iter(pem) {
                    roots.add(c.context("--kubelet-certificate-authority")?)?;
                }
                builder.with_root_certificates(roots)
            }
            // As upstream: without an authority the kubelet's certificate is not verified.
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider))),
        };
        let identity = match (&files.certificate, &files.key) {
            (Some(cert), Some(key)) => {
                Some(Arc::new(Identity(ArcSwap::from_pointee(Identity::read(cert, key)?))))
            }
            _ => None,
        };
        let config = match &identity {
            Some(i) => builder.with_client_cert_resolver(i.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(connect));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config.clone())
            .https_only()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(2).build(connector);
        let proxy_tls = tls::config(&Trust::Nothing, None, &[]).map_err(anyhow::Error::msg)?;
        Ok(Self { client, tls: Arc::new(config), proxy_tls, address_types, identity })
    }

    /// Takes a new client certificate; connections that are open keep the old one.
    pub fn set_identity(&self, cert: &[u8], key: &[u8]) -> anyhow::Result<()> {
        if let Some(i) = &self.identity {
            i.0.store(Arc::new(Identity::read(cert, key)?));
        }
        Ok(())
    }

    /// `HOST:PORT` of the kubelet on a node.
    pub fn address(&self, node: &Value) -> ApiResult<String> {
        let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
        let addresses = addresses.map(Vec::as_slice).unwrap_or_default();
        let port = node
            .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
            .and_then(Value::as_u64)
            .filter(|p| *p > 0)
            .unwrap_or(10250);
        for t in &self.address_types {
            if let Some(a) =
                addresses.iter().find(|a| a["type"] == t.as_str()).and_then(|a| a["address"].as_str())
            {
                return Ok(if a.contains(':') { format!("[{a}]:{port}") } else { format!("{a}:{port}") });
            }
        }
        Err(ApiError::internal(format!(
            "no preferred addresses found; known addresses: {}",
            Value::from(addresses.to_vec())
        )))
    }
}

/// `HOST:PORT` of the kubelet that runs on the node named `name`.
pub async fn of_node(app: &App, name: &str) -> ApiResult<String> {
    let table = app.registry.table();
    let nodes = table.get("", "v1", "nodes").ok_or_else(|| ApiError::internal("nodes are not served"))?;
    let node = render::value(nodes, &app.registry.get(nodes, "", name).await?)?;
    debug_assert_eq!(object::name(&node), name);
    app.kubelets.address(&node)
}

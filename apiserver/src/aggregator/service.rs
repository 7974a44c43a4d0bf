//! One API service, made ready from its object: where its server is and how it is reached.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

use crate::lookup::{items, text};
use crate::webhook::connect::{self, Connector};
use crate::webhook::services::Resolve;
use crate::webhook::tls::{self, Identity, Trust};

/// Body of a request that is passed on.
pub type RequestBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// HTTP client for one aggregated server.
pub type HttpClient = Client<Connector, RequestBody>;

/// What the clients of all API services are made with.
pub struct Factory {
    pub resolver: Arc<dyn Resolve>,
    /// `--proxy-client-cert-file` and `--proxy-client-key-file`
    pub identity: Option<Identity>,
}

/// The service behind a remote API service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

/// Ways to reach a server.
pub struct Link {
    pub client: HttpClient,
    /// For connections that are upgraded: one request each, in HTTP/1.1.
    pub upgrades: Connector,
    /// What the link was made from.
    ca_bundle: Vec<u8>,
    insecure: bool,
}

/// One API service.
pub struct Service {
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    /// None: this server serves it.
    pub backend: Option<Backend>,
    /// Whether its condition `Available` is true.
    pub available: bool,
    /// Why there is no link, where there is a backend.
    pub link: Result<Arc<Link>, String>,
    /// Changes whenever the specification does.
    pub generation: (String, Value),
}

impl Service {
    /// Reads an `APIService`. `before` is the same one before the change.
    pub fn new(v: &Value, before: Option<&Service>, factory: &Factory) -> Self {
        let spec = v.get("spec").cloned().unwrap_or_default();
        let backend = spec.get("service").filter(|s| s.is_object()).map(|s| Backend {
            namespace: text(s, "/namespace").to_owned(),
            name: text(s, "/name").to_owned(),
            port: crate::webhook::config::port(s.get("port")).unwrap_or(443),
        });
        let ca_bundle = STANDARD.decode(text(&spec, "/caBundle")).unwrap_or_default();
        let insecure = spec.get("insecureSkipTLSVerify") == Some(&Value::Bool(true));
        let link = match &backend {
            None => Err(String::new()),
            Some(b) => match before {
                Some(p) if p.backend.as_ref() == Some(b) && p.same_trust(&ca_bundle, insecure) => {
                    p.link.clone()
                }
                _ => Link::new(b, ca_bundle, insecure, factory).map(Arc::new),
            },
        };
        let available = items(v, "/status/conditions")
            .iter()
            .any(|c| text(c, "/type") == "Available" && text(c, "/status") == "True");
        Self {
            name: text(v, "/metadata/name").to_owned(),
            group: text(&spec, "/group").to_owned(),
            version: text(&spec, "/version").to_owned(),
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or(0),
            version_priority: spec["versionPriority"].as_i64().unwrap_or(0),
            backend,
            available,
            link,
            generation: (text(v, "/metadata/uid").to_owned(), spec),
        }
    }

    fn same_trust(&self, ca_bundle: &[u8], insecure: bool) -> bool {
        self.link.as_ref().is_ok_and(|l| l.ca_bundle == ca_bundle && l.insecure == insecure)
    }

    /// `/apis/GROUP/VERSION`
    pub fn path(&self) -> String {
        crate::discovery::documents::path(&self.group, &self.version)
    }
}

impl Link {
    fn new(b: &Backend, ca_bundle: Vec<u8>, insecure: bool, factory: &Factory) -> Result<Self, String> {
        let trust = match ca_bundle.as_slice() {
            _ if insecure => Trust::Nothing,
            [] => Trust::System,
            pem => Trust::Bundle(pem),
        };
        let identity = factory.identity.as_ref();
        let connector = |alpn: &[&[u8]]| -> Result<Connector, String> {
            Ok(Connector {
                tls: tls::config(&trust, identity, alpn)?,
                server_name: Some(format!("{}.{}.svc", b.name, b.namespace)),
                service: Some(connect::Service {
                    namespace: b.namespace.clone(),
                    name: b.name.clone(),
                    port: b.port,
                    resolver: Arc::clone(&factory.resolver),
                }),
                allow_plain: false,
            })
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(std::time::Duration::from_secs(90))
            .pool_timer(TokioTimer::new())
            .build(connector(&[b"h2", b"http/1.1"])?);
        let upgrades = connector(&[b"http/1.1"])?;
        Ok(Self { client, upgrades, ca_bundle, insecure })
    }
}

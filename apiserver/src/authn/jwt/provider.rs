//! Where an issuer's keys come from: its discovery document names the place, from which they are fetched when a token
//! cannot be verified with those that are known. So a rotated key is learned with the first token that it signs.
//!
//! Source: OpenID Connect Discovery 1.0.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::sync::Mutex;

use super::keys::KeySet;
use super::metrics::Metrics;
use crate::lookup::text;
use crate::webhook::tls::{self, Trust};

/// Documents may have this many bytes.
const DOCUMENT_LIMIT: usize = 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between attempts to find an issuer that is not there yet.
const RETRY: Duration = Duration::from_secs(10);
/// Keys are not fetched more often than this, however many unknown keys tokens name.
const FETCH_PAUSE: Duration = Duration::from_millis(200);
const REDIRECTS: usize = 5;

/// Fetches documents over HTTPS.
pub struct Documents {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Documents {
    /// Trusts the authorities of `ca` (PEM), or those of the machine where it is empty.
    pub fn new(ca: &str) -> Result<Self, String> {
        let trust = if ca.is_empty() { Trust::System } else { Trust::Bundle(ca.as_bytes()) };
        let config = tls::config(&trust, None, &[])?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(TIMEOUT));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config((*config).clone())
            .https_only()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector);
        Ok(Self { client })
    }

    /// The body at `url`.
    pub async fn get(&self, url: &str) -> Result<Bytes, String> {
        let fetch = tokio::time::timeout(TIMEOUT, self.follow(url)).await;
        fetch.unwrap_or_else(|_| Err(format!("Get {url:?}: context deadline exceeded")))
    }

    async fn follow(&self, url: &str) -> Result<Bytes, String> {
        let mut at: Uri = url.parse().map_err(|e| format!("parse {url:?}: {e}"))?;
        for _ in 0..=REDIRECTS {
            let fail = |e: String| format!("Get \"{at}\": {e}");
            let request = Request::get(at.clone()).body(Empty::new()).map_err(|e| fail(e.to_string()))?;
            let response = self.client.request(request).await.map_err(|e| fail(causes(&e)))?;
            let status = response.status();
            if status.is_redirection()
                && let Some(location) = response.headers().get(http::header::LOCATION)
            {
                let base = url::Url::parse(&at.to_string()).map_err(|e| fail(e.to_string()))?;
                let next = location.to_str().ok().and_then(|l| base.join(l).ok());
                let next = next.filter(|n| n.scheme() == "https").ok_or(fail("bad redirect".to_owned()))?;
                at = next.as_str().parse().map_err(|_| fail("bad redirect".to_owned()))?;
                continue;
            }
            let body = Limited::new(response.into_body(), DOCUMENT_LIMIT).collect().await;
            let body = body.map_err(|e| format!("unable to read response body: {e}"))?.to_bytes();
            if status != http::StatusCode::OK {
                let shown = String::from_utf8_lossy(&body[..body.len().min(256)]).into_owned();
                return Err(format!("{status}: {shown}"));
            }
            return Ok(body);
        }
        Err(format!("Get {url:?}: stopped after {REDIRECTS} redirects"))
    }
}

fn causes(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut next = e.source();
    while let Some(c) = next {
        out = format!("{out}: {c}");
        next = c.source();
    }
    out
}

/// An issuer and its keys.
pub struct Provider {
    issuer: String,
    discovery_url: String,
    documents: Documents,
    /// Where the keys are, once discovered.
    jwks_uri: ArcSwapOption<String>,
    keys: ArcSwap<KeySet>,
    /// When keys were last fetched; held while they are.
    fetched: Mutex<Option<Instant>>,
    /// Why discovery fails.
    trouble: ArcSwapOption<String>,
    metrics: Arc<Metrics>,
}

impl Provider {
    /// `discovery_url` is empty where the document is at the issuer's own place.
    pub fn new(
        issuer: &str,
        discovery_url: &str,
        ca: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, String> {
        let discovery_url = if discovery_url.is_empty() {
            format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
        } else {
            discovery_url.to_owned()
        };
        Ok(Arc::new(Self {
            issuer: issuer.to_owned(),
            discovery_url,
            documents: Documents::new(ca)?,
            jwks_uri: ArcSwapOption::empty(),
            keys: ArcSwap::default(),
            fetched: Mutex::new(None),
            trouble: ArcSwapOption::from_pointee("it was not asked yet".to_owned()),
            metrics,
        }))
    }

    /// Discovers the issuer in the background, as often as it takes; an issuer may run on this very cluster. Ends with
    /// the provider.
    pub fn start(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(provider) = weak.upgrade() {
                match provider.discover().await {
                    Ok(()) => return,
                    Err(e) => {
                        tracing::error!(issuer = %provider.issuer, error = %e, "oidc authenticator: initializing plugin");
                        provider.trouble.store(Some(Arc::new(e)));
                    }
                }
                drop(provider);
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// Why tokens of this issuer cannot be verified; none where they can.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.load().as_deref().cloned()
    }

    async fn discover(&self) -> Result<(), String> {
        let body = self.documents.get(&self.discovery_url).await?;
        let document: Value = serde_json::from_slice(&body)
            .map_err(|e| format!("oidc: failed to decode provider discovery object: {e}"))?;
        let found = text(&document, "/issuer");
        if found != self.issuer {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {found:?}",
                self.issuer
            ));
        }
        let uri = text(&document, "/jwks_uri");
        if uri.is_empty() {
            return Err("provider did not return JWKS URL".to_owned());
        }
        self.jwks_uri.store(Some(Arc::new(uri.to_owned())));
        self.trouble.store(None);
        Ok(())
    }

    /// Whether a key of the issuer made the signature.
    pub async fn verify(
        &self,
        algorithm: &str,
        kid: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), String> {
        let known = self.keys.load_full();
        if known.verify(algorithm, kid, message, signature) {
            return Ok(());
        }
        let fresh = self.refresh(&known).await?;
        if fresh.verify(algorithm, kid, message, signature) {
            return Ok(());
        }
        Err("failed to verify signature: failed to verify id token signature".to_owned())
    }

    /// Keys that are newer than `seen`: those that another token's check fetched meanwhile, or the issuer's own.
    async fn refresh(&self, seen: &Arc<KeySet>) -> Result<Arc<KeySet>, String> {
        let Some(uri) = self.jwks_uri.load_full() else {
            return Err("oidc: authenticator not initialized".to_owned());
        };
        let mut fetched = self.fetched.lock().await;
        let now = self.keys.load_full();
        if !Arc::ptr_eq(&now, seen) || fetched.is_some_and(|at| at.elapsed() < FETCH_PAUSE) {
            return Ok(now);
        }
        let result = match self.documents.get(&uri).await {
            Ok(body) => KeySet::parse(&body).map(|keys| (keys, body)),
            Err(e) => Err(e),
        };
        *fetched = Some(Instant::now());
        self.metrics.keys_fetched(&self.issuer, result.as_ref().ok().map(|(_, body)| &body[..]));
        match result {
            Ok((keys, _)) => {
                let keys = Arc::new(keys);
                self.keys.store(keys.clone());
                Ok(keys)
            }
            Err(e) => Err(format!("failed to verify signature: fetching keys {e}")),
        }
    }
}

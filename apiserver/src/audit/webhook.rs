//! Events as `EventList`s to a remote API, whose address and credentials are in a kubeconfig.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::event::Event;

const ATTEMPTS: u32 = 5;
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;

/// The remote API.
pub struct Webhook {
    client: kube::Client,
    /// The path and query of the address, which is taken as it is.
    path: String,
    initial_backoff: Duration,
}

impl Webhook {
    /// Reads the kubeconfig; nothing is sent yet.
    pub async fn new(kubeconfig: &Path, initial_backoff: Duration) -> anyhow::Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig)
            .with_context(|| format!("--audit-webhook-config-file: reading {}", kubeconfig.display()))?;
        let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("--audit-webhook-config-file: using {}", kubeconfig.display()))?;
        config.connect_timeout = Some(Duration::from_secs(10));
        config.read_timeout = Some(Duration::from_secs(30));
        // The client puts requests below the server's address; here that address is the whole of it.
        let path = config.cluster_url.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let mut parts = config.cluster_url.clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url =
            Uri::from_parts(parts).context("--audit-webhook-config-file: the server's address")?;
        let client = kube::Client::try_from(config).context("--audit-webhook-config-file")?;
        Ok(Self { client, path, initial_backoff })
    }

    /// Sends events, again and again for a while where the other side cannot take them.
    pub async fn send(&self, events: &[Arc<Event>]) -> anyhow::Result<()> {
        let mut body =
            br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
        for (i, e) in events.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&e.to_json());
        }
        body.extend_from_slice(b"]}");
        let body = Bytes::from(body);
        let mut wait = self.initial_backoff;
        for attempt in 1.. {
            let error = match self.post(body.clone()).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(e)) => return Err(e),
                Err(Failure::Again(e)) => e,
            };
            if attempt >= ATTEMPTS {
                return Err(error);
            }
            tokio::time::sleep(wait.mul_f64(1.0 + JITTER * rand::random::<f64>())).await;
            wait = wait.mul_f64(FACTOR);
        }
        Ok(())
    }

    async fn post(&self, body: Bytes) -> Result<(), Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.path)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(header::ACCEPT, HeaderValue::from_static("application/json, */*"))
            .body(Body::from(body.to_vec()))
            .map_err(|e| Failure::Final(e.into()))?;
        let answer = self.client.send(request).await.map_err(|e| Failure::Again(e.into()))?;
        let code = answer.status();
        if code.is_success() {
            return Ok(());
        }
        let error = anyhow::anyhow!("the audit webhook answered {code}");
        Err(if code.is_server_error() || code.as_u16() == 429 {
            Failure::Again(error)
        } else {
            Failure::Final(error)
        })
    }
}

enum Failure {
    Again(anyhow::Error),
    Final(anyhow::Error),
}

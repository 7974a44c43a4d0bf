//! A service named by a kubeconfig file, to which reviews are posted: the webhooks of authentication and
//! authorization. Requests go to the very URL of the file's cluster, whatever its path.

use std::path::Path;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Limited};
use kube::Client;
use kube::client::Body;
use serde_json::Value;

/// Answers may have this many bytes.
const ANSWER_LIMIT: usize = 3 * 1024 * 1024;
/// Upstream's back-off: 500 ms, half as much more each time, five attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 5;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    /// None came in time.
    #[error("Post {url:?}: context deadline exceeded")]
    Timeout { url: String },
    /// The service could not be reached, or what it sent is no review.
    #[error("Post {url:?}: {why}")]
    Transport { url: String, why: String },
    /// It answered with an error.
    #[error("the webhook {url:?} answered with status {code}: {message}")]
    Status { url: String, code: u16, message: String },
}

impl RemoteError {
    /// The `result` label of webhook metrics.
    pub fn result(&self) -> &'static str {
        match self {
            Self::Timeout { .. } | Self::Status { code: 504, .. } => "timeout",
            _ => "error",
        }
    }

    /// Whether the next attempt may do better.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Timeout { .. } => false,
            Self::Transport { why, .. } => why.contains("reset") || why.contains("closed before"),
            Self::Status { code, .. } => *code == 429 || *code >= 500,
        }
    }
}

/// See the module.
pub struct Remote {
    client: Client,
    /// Path and query of the cluster's URL.
    target: String,
    url: String,
    timeout: Duration,
}

impl Remote {
    /// `timeout` bounds one attempt.
    pub async fn from_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, String> {
        let fail = |e: anyhow::Error| format!("{e:#}");
        let mut config = component_base::kubeconfig::config(path).await.map_err(fail)?;
        config.read_timeout = Some(timeout);
        let url = config.cluster_url.to_string();
        let parts = std::mem::take(&mut config.cluster_url).into_parts();
        let target = parts.path_and_query.as_ref().map_or("/", |p| p.as_str()).to_owned();
        let mut base = http::uri::Parts::default();
        base.scheme = parts.scheme;
        base.authority = parts.authority;
        base.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = http::Uri::from_parts(base).map_err(|e| format!("{}: {e}", path.display()))?;
        let client = Client::try_from(config).map_err(|e| format!("using {}: {e}", path.display()))?;
        Ok(Self { client, target, url, timeout })
    }

    /// Posts a review and returns the answer, with some patience for failures that pass. `observe` hears of each
    /// attempt's result and time.
    pub async fn post(
        &self,
        review: &Value,
        mut observe: impl FnMut(&Result<Value, RemoteError>, Duration),
    ) -> Result<Value, RemoteError> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let started = tokio::time::Instant::now();
            let result = self.attempt(review).await;
            observe(&result, started.elapsed());
            match result {
                Err(e) if e.is_temporary() && attempt < ATTEMPTS => {
                    tracing::debug!(error = %e, "a webhook call failed and is tried again");
                    tokio::time::sleep(pause).await;
                    pause = pause * 3 / 2;
                }
                other => return other,
            }
        }
        unreachable!("the loop ends by returning")
    }

    async fn attempt(&self, review: &Value) -> Result<Value, RemoteError> {
        let call = tokio::time::timeout(self.timeout, self.exchange(review)).await;
        call.unwrap_or_else(|_| Err(RemoteError::Timeout { url: self.url.clone() }))
    }

    async fn exchange(&self, review: &Value) -> Result<Value, RemoteError> {
        let transport = |why: String| RemoteError::Transport { url: self.url.clone(), why };
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.target)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, concat!("kube-apiserver/", env!("CARGO_PKG_VERSION")))
            .body(Body::from(review.to_string().into_bytes()))
            .map_err(|e| transport(e.to_string()))?;
        let response = self.client.send(request).await.map_err(|e| transport(chain(&e)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        let body = body.map_err(|e| transport(format!("reading the answer: {e}")))?.to_bytes();
        if !status.is_success() {
            let message = String::from_utf8_lossy(&body[..body.len().min(256)]).trim().to_owned();
            return Err(RemoteError::Status { url: self.url.clone(), code: status.as_u16(), message });
        }
        serde_json::from_slice(&body).map_err(|e| transport(format!("the answer is not JSON: {e}")))
    }
}

/// An error with its causes.
fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        let text = c.to_string();
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        cause = c.source();
    }
    out
}

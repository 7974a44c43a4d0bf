//! Plain REST calls with JSON values, and the server's failures as kubectl words them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use futures::Stream;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::cli::Global;

/// A failure that the API server answered, or that came on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("Error from server ({reason}): {message}")]
    Status { reason: String, message: String, code: u16 },
    #[error("Unable to connect to the server: {0}")]
    Connection(String),
}

impl ApiError {
    /// Whether `e` says that what was asked for is not kept any more.
    pub fn is_expired(e: &anyhow::Error) -> bool {
        matches!(e.downcast_ref::<ApiError>(), Some(ApiError::Status { code: 410, .. }))
    }

    /// Whether `e` says that the object is not there.
    pub fn is_not_found(e: &anyhow::Error) -> bool {
        matches!(e.downcast_ref::<ApiError>(), Some(ApiError::Status { code: 404, .. }))
    }
}

/// A connection to one cluster, as one user, with a default namespace.
#[derive(Clone)]
pub struct Rest {
    pub client: Client,
    /// Namespace of the command line, else of the context, else `default`.
    pub namespace: String,
    pub server: String,
}

/// What a request is sent with and wants back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Media<'a> {
    pub content_type: Option<&'a str>,
    pub accept: Option<&'a str>,
}

/// What `kubectl get` accepts: a table if the server makes one.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

impl Rest {
    /// Connects as the command line, `KUBECONFIG`, `~/.kube/config` or, last, a cluster made by `ctl up` here say.
    ///
    /// # Errors
    /// There is no usable kubeconfig.
    pub async fn connect(global: &Global) -> anyhow::Result<Self> {
        let file = load_kubeconfig(global)?;
        let options = KubeConfigOptions { context: global.context.clone(), ..KubeConfigOptions::default() };
        let mut config =
            kube::Config::from_custom_kubeconfig(file, &options).await.context("using the kubeconfig")?;
        config.headers.push((
            http::header::USER_AGENT,
            format!("ctl/{}", component_base::version::GIT_VERSION).parse().context("user agent")?,
        ));
        let namespace = global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).context("building a client from the kubeconfig")?;
        Ok(Self { client, namespace, server: server.trim_end_matches('/').to_owned() })
    }

    /// Sends a request and returns the answer's body as a JSON value; warnings go to standard error.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        media: Media<'_>,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Value> {
        Ok(self.call_with_code(method, path, media, body).await?.1)
    }

    /// As [`Self::call`], with the HTTP status code.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn call_with_code(
        &self,
        method: Method,
        path: &str,
        media: Media<'_>,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<(u16, Value)> {
        let response = self.send(method, path, media, body).await?;
        let code = response.status().as_u16();
        let bytes =
            response.into_body().collect().await.map_err(|e| ApiError::Connection(e.to_string()))?.to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok((code, value))
    }

    /// A GET of JSON.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, Media::default(), None).await
    }

    /// A PATCH of the given kind (`merge`, `strategic-merge`, `json`, `apply`).
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn patch(&self, path: &str, kind: &str, patch: &Value) -> anyhow::Result<Value> {
        let content_type = match kind {
            "apply" => "application/apply-patch+yaml".to_owned(),
            other => format!("application/{other}-patch+json"),
        };
        let media = Media { content_type: Some(&content_type), accept: None };
        self.call(Method::PATCH, path, media, Some(serde_json::to_vec(patch)?)).await
    }

    /// A GET whose body is handed on as lines while it arrives.
    ///
    /// # Errors
    /// [`ApiError`] if the server refuses.
    pub async fn lines(
        &self,
        path: &str,
        media: Media<'_>,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Vec<u8>>> + use<>> {
        let body = self.send(Method::GET, path, media, None).await?.into_body();
        Ok(futures::stream::unfold(
            (body, Vec::new()),
            |(mut body, mut buffer): (Body, Vec<u8>)| async move {
                loop {
                    if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                        let rest = buffer.split_off(end + 1);
                        let line = std::mem::replace(&mut buffer, rest);
                        return Some((Ok(line), (body, buffer)));
                    }
                    match body.frame().await {
                        Some(Ok(frame)) => {
                            if let Some(data) = frame.data_ref() {
                                buffer.extend_from_slice(data);
                            }
                        }
                        Some(Err(e)) => {
                            return Some((Err(ApiError::Connection(e.to_string()).into()), (body, buffer)));
                        }
                        None if buffer.is_empty() => return None,
                        None => return Some((Ok(std::mem::take(&mut buffer)), (body, buffer))),
                    }
                }
            },
        ))
    }

    /// A GET whose body is no text, to be read as it arrives.
    ///
    /// # Errors
    /// [`ApiError`] if the server refuses.
    pub async fn fetch(&self, path: &str) -> anyhow::Result<Response<Body>> {
        self.send(Method::GET, path, Media { accept: Some("*/*"), ..Media::default() }, None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        media: Media<'_>,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(http::header::ACCEPT, media.accept.unwrap_or("application/json"));
        if body.is_some() {
            request =
                request.header(http::header::CONTENT_TYPE, media.content_type.unwrap_or("application/json"));
        }
        let request = request.body(Body::from(body.unwrap_or_default())).context("building a request")?;
        let response = self.client.send(request).await.map_err(|e| match e {
            kube::Error::Api(s) => {
                ApiError::Status { reason: s.reason.clone(), message: s.message.clone(), code: s.code }
            }
            other => ApiError::Connection(root_cause(&other)),
        })?;
        for warning in response.headers().get_all(http::header::WARNING) {
            if let Some(text) = warning.to_str().ok().and_then(warning_text) {
                eprintln!("Warning: {text}");
            }
        }
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        Err(failure(code, &bytes).into())
    }
}

/// The text of a `Warning` header: `299 - "text"`, with quotes and backslashes escaped (RFC 9110).
fn warning_text(header: &str) -> Option<String> {
    let mut chars = header[header.find('"')? + 1..].chars();
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => text.extend(chars.next()),
            c => text.push(c),
        }
    }
}

fn root_cause(e: &dyn std::error::Error) -> String {
    let mut last = e;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// The error in a failed answer: a `Status`, or whatever text came instead.
fn failure(code: u16, body: &[u8]) -> ApiError {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    let reason = status["reason"].as_str().filter(|r| !r.is_empty()).unwrap_or("Unknown").to_owned();
    let message = status["message"].as_str().map(str::to_owned);
    let message = message.unwrap_or_else(|| {
        let text = String::from_utf8_lossy(body);
        if text.trim().is_empty() {
            format!("the server answered with status {code}")
        } else {
            text.trim().to_owned()
        }
    });
    ApiError::Status { reason, message, code }
}

/// The files that the command line, the environment or the defaults name, merged.
fn load_kubeconfig(global: &Global) -> anyhow::Result<Kubeconfig> {
    let paths = kubeconfig_paths(global);
    let mut merged: Option<Kubeconfig> = None;
    for path in &paths {
        let next =
            Kubeconfig::read_from(path).with_context(|| format!("reading kubeconfig {}", path.display()))?;
        merged = Some(match merged {
            None => next,
            Some(first) => first.merge(next).context("merging kubeconfigs")?,
        });
    }
    merged.context("there is no kubeconfig: give --kubeconfig, set KUBECONFIG, or make a cluster with ctl up")
}

/// The kubeconfig files in use, those that exist; the first is the one that `ctl config` changes.
pub fn kubeconfig_paths(global: &Global) -> Vec<PathBuf> {
    if let Some(given) = &global.kubeconfig {
        let text = given.to_string_lossy();
        let paths: Vec<PathBuf> = text.split(':').filter(|p| !p.is_empty()).map(PathBuf::from).collect();
        let existing: Vec<PathBuf> = paths.iter().filter(|p| p.exists()).cloned().collect();
        // None of them exists: let the read fail and name the first.
        return if existing.is_empty() { paths.into_iter().take(1).collect() } else { existing };
    }
    let home = std::env::var_os("HOME").map(|h| Path::new(&h).join(".kube/config"));
    home.into_iter()
        .chain([PathBuf::from(".cluster/admin.kubeconfig")])
        .find(|p| p.exists())
        .into_iter()
        .collect()
}

/// Escapes a query value.
pub fn query(value: &str) -> String {
    url::form_urlencoded::byte_serialize(value.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_unescaped() {
        let header = "299 - \"unknown field \\\"spec.x\\\"\"";
        assert_eq!(warning_text(header).unwrap(), "unknown field \"spec.x\"");
        assert_eq!(warning_text("299 -"), None);
    }

    #[test]
    fn failures_are_worded_as_kubectl_words_them() {
        let e = failure(404, br#"{"kind":"Status","reason":"NotFound","message":"pods \"x\" not found"}"#);
        assert_eq!(e.to_string(), "Error from server (NotFound): pods \"x\" not found");
        assert_eq!(
            failure(502, b"").to_string(),
            "Error from server (Unknown): the server answered with status 502"
        );
    }
}

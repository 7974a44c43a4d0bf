//! Calls: one POST of JSON with a deadline, an answer of bounded size, errors in the words of upstream's client.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use serde_json::Value;

use super::config::{ClientConfig, Target};
use super::connect::{Connector, DialError, Service};
use super::kubeconfig::{Credentials, Identities, Server};
use super::services::Resolve;
use super::tls::{self, Trust};

/// Largest answer that a call reads where it does not say otherwise: an object at its limit, its patch in base64, and
/// room for the envelope.
pub const ANSWER_LIMIT: usize = 16 * 1024 * 1024;

/// How often a server may ask for another try (`Retry-After`).
const RETRIES: usize = 10;

/// Idle connections are closed after this.
const IDLE: Duration = Duration::from_secs(90);

/// How the server calls itself where it calls for its own sake.
const USER_AGENT: &str = concat!("kube-apiserver/", env!("CARGO_PKG_VERSION"));

/// Idle connections kept per server.
const IDLE_CONNECTIONS: usize = 25;

/// Configurations for which clients are kept.
const CLIENTS: usize = 512;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// No answer came; the sentence begins with method and URL.
    #[error("{0}")]
    Transport(String),
    /// No answer came in time.
    #[error("{0}")]
    Timeout(String),
    /// The server answered that it failed.
    #[error("{message}")]
    Status { code: u16, message: String },
}

impl CallError {
    /// The HTTP status that stands for the failure.
    pub fn code(&self) -> u16 {
        match self {
            Self::Config(_) => 500,
            Self::Transport(_) | Self::Timeout(_) => 503,
            Self::Status { code, .. } => *code,
        }
    }
}

/// One call.
pub struct Call {
    pub body: Bytes,
    pub deadline: Duration,
    /// Tells the server the deadline, as `?timeout=`.
    pub tell_deadline: bool,
    pub limit: usize,
    pub headers: HeaderMap,
}

impl Call {
    /// A call with the usual limit.
    pub fn new(body: impl Into<Bytes>, deadline: Duration) -> Self {
        Self {
            body: body.into(),
            deadline,
            tell_deadline: false,
            limit: ANSWER_LIMIT,
            headers: HeaderMap::new(),
        }
    }
}

/// A client for one configuration, with its connections.
pub struct Client {
    http: HttpClient<Connector, Full<Bytes>>,
    url: String,
    credentials: Credentials,
    user_agent: HeaderValue,
}

impl Client {
    fn new(
        url: String,
        connector: Connector,
        credentials: Credentials,
        user_agent: &str,
    ) -> Result<Self, CallError> {
        let parsed: Option<Uri> = url.parse().ok();
        let Some(uri) = parsed.filter(|u| u.host().is_some_and(|h| !h.is_empty())) else {
            return Err(CallError::Config(format!("Unparsable URL: {url}")));
        };
        let bare = uri.path() == "/" && uri.query().is_none() && !url.ends_with('/');
        let url = if bare { format!("{url}/") } else { url };
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let user_agent = HeaderValue::from_str(user_agent).map_err(|e| CallError::Config(e.to_string()))?;
        Ok(Self { http, url, credentials, user_agent })
    }

    /// A client for the server of a kubeconfig file's current context.
    ///
    /// # Errors
    /// The file, or what it refers to, cannot be used.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, CallError> {
        let server = Server::read(path).map_err(CallError::Config)?;
        let trust = match &server.ca {
            _ if server.insecure => Trust::Nothing,
            Some(pem) => Trust::Bundle(pem),
            None => Trust::System,
        };
        let tls = tls::config(&trust, server.credentials.identity.as_ref(), &[b"h2", b"http/1.1"])
            .map_err(|e| CallError::Config(format!("kubeconfig {}: {e}", path.display())))?;
        let connector = Connector { tls, server_name: server.server_name, service: None, allow_plain: true };
        Self::new(server.url, connector, server.credentials, USER_AGENT)
    }

    /// The URL that is called.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts a body of JSON and returns that of a successful answer.
    ///
    /// # Errors
    /// See [`CallError`]. A redirect is no answer.
    pub async fn post(&self, call: Call) -> Result<Bytes, CallError> {
        let url = if call.tell_deadline { with_timeout(&self.url, call.deadline) } else { self.url.clone() };
        let uri: Uri = url.parse().map_err(|_| CallError::Config(format!("Unparsable URL: {url}")))?;
        let deadline = Instant::now() + call.deadline;
        let late = || CallError::Timeout(format!("Post {url:?}: context deadline exceeded"));
        for _ in 0..RETRIES {
            let left = deadline.saturating_duration_since(Instant::now());
            let once = self.once(&url, &uri, &call);
            let (code, headers, body) = match tokio::time::timeout(left, once).await {
                Ok(done) => done?,
                Err(_) => return Err(late()),
            };
            if (200..=206).contains(&code) {
                return Ok(body);
            }
            let again = headers
                .get(header::RETRY_AFTER)
                .filter(|_| code == 429 || code >= 500)
                .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
            let Some(seconds) = again else { return Err(failure(code, &body)) };
            let pause = Duration::from_secs(seconds);
            if Instant::now() + pause >= deadline {
                return Err(failure(code, &body));
            }
            tokio::time::sleep(pause).await;
        }
        Err(CallError::Transport(format!("Post {url:?}: the server asked for another try too often")))
    }

    async fn once(&self, url: &str, uri: &Uri, call: &Call) -> Result<(u16, HeaderMap, Bytes), CallError> {
        let transport = |why: String| CallError::Transport(format!("Post {url:?}: {why}"));
        let mut request = Request::post(uri.clone())
            .body(Full::new(call.body.clone()))
            .map_err(|e| CallError::Config(e.to_string()))?;
        let headers = request.headers_mut();
        *headers = call.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(header::USER_AGENT, self.user_agent.clone());
        crate::trace::propagate(headers);
        self.credentials.apply(headers).map_err(CallError::Config)?;
        let answer = self.http.request(request).await.map_err(|e| transport(cause(&e)))?;
        let (parts, body) = answer.into_parts();
        let body = match Limited::new(body, call.limit).collect().await {
            Ok(b) => b.to_bytes(),
            Err(e) if e.is::<LengthLimitError>() => {
                return Err(transport(format!("the answer is larger than {} bytes", call.limit)));
            }
            Err(e) => return Err(transport(e.to_string())),
        };
        Ok((parts.status.as_u16(), parts.headers, body))
    }
}

/// `URL?timeout=5s`
fn with_timeout(url: &str, deadline: Duration) -> String {
    let whole = deadline.as_secs() + u64::from(deadline.subsec_nanos() > 0);
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}timeout={whole}s")
}

/// The innermost sentence that says what happened to a connection.
pub fn cause(e: &hyper_util::client::legacy::Error) -> String {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(e);
    let mut last = e.to_string();
    while let Some(e) = at {
        if let Some(d) = e.downcast_ref::<DialError>() {
            return d.to_string();
        }
        if let Some(h) = e.downcast_ref::<hyper::Error>()
            && (h.is_incomplete_message() || h.is_closed())
        {
            return "EOF".to_owned();
        }
        last = e.to_string();
        at = e.source();
    }
    last
}

/// What a failing answer means: its own `Status`, or a sentence about its code.
fn failure(code: u16, body: &[u8]) -> CallError {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let status = parsed.filter(|v| v["kind"] == "Status" && v["status"] != "Success");
    if let Some(message) = status.as_ref().and_then(|s| s["message"].as_str()).filter(|m| !m.is_empty()) {
        return CallError::Status { code, message: message.to_owned() };
    }
    let said = String::from_utf8_lossy(&body[..body.len().min(2048)]).trim().to_owned();
    let message = match code {
        409 => "the server reported a conflict".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 if said.is_empty() => "unknown".to_owned(),
        403 => said,
        406 => "the server was unable to respond with a content type that the client supports".to_owned(),
        415 => "the body of the request was in an unknown format".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        422 => "the server rejected our request due to an error in our request".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted, but may still be processing the request".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        _ if code >= 500 => format!("an error on the server ({said:?}) has prevented the request from succeeding"),
        _ => format!("the server responded with the status code {code} but did not return more information"),
    };
    CallError::Status { code: StatusCode::from_u16(code).map_or(500, |c| c.as_u16()), message }
}

/// The clients of all configurations.
pub struct Clients {
    resolver: Arc<dyn Resolve>,
    identities: Identities,
    user_agent: String,
    cache: Mutex<HashMap<ClientConfig, Arc<Client>>>,
}

impl Clients {
    pub fn new(resolver: Arc<dyn Resolve>, identities: Identities, user_agent: &str) -> Self {
        Self { resolver, identities, user_agent: user_agent.to_owned(), cache: Mutex::default() }
    }

    /// The client for `config`: the one used before, or a new one.
    ///
    /// # Errors
    /// The configuration, or the credentials for its target, cannot be used.
    pub fn get(&self, config: &ClientConfig) -> Result<Arc<Client>, CallError> {
        if let Some(c) = self.cache.lock().get(config) {
            return Ok(Arc::clone(c));
        }
        let client = Arc::new(self.build(config)?);
        let mut cache = self.cache.lock();
        if cache.len() >= CLIENTS {
            // Configurations come and go; those in use right now are held by their callers.
            cache.retain(|_, c| Arc::strong_count(c) > 1);
        }
        cache.insert(config.clone(), Arc::clone(&client));
        Ok(client)
    }

    fn build(&self, config: &ClientConfig) -> Result<Client, CallError> {
        let url = config.url();
        let uri: Uri = url.parse().map_err(|_| CallError::Config(format!("Unparsable URL: {url}")))?;
        let host = uri.host().unwrap_or_default();
        let target = format!("{host}:{}", uri.port_u16().unwrap_or(443));
        let credentials = self.identities.for_target(&target).map_err(CallError::Config)?;
        let trust = match config.ca_bundle.as_slice() {
            [] => Trust::System,
            pem => Trust::Bundle(pem),
        };
        // As upstream: one connection per concurrent call, so that a service spreads them over its endpoints.
        let alpn: &[&[u8]] = if is_local(host) { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        let tls = tls::config(&trust, credentials.identity.as_ref(), alpn).map_err(CallError::Config)?;
        let service = match &config.target {
            Target::Url(_) => None,
            Target::Service { namespace, name, port, .. } => Some(Service {
                namespace: namespace.clone(),
                name: name.clone(),
                port: *port,
                resolver: Arc::clone(&self.resolver),
            }),
        };
        let connector = Connector { tls, server_name: config.service_host(), service, allow_plain: false };
        Client::new(url, connector, credentials, &self.user_agent)
    }
}

fn is_local(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}

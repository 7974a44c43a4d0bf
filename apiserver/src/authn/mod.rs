//! Authentication: who sends this request? Front-proxy headers, client certificates and bearer tokens are asked in
//! upstream's order; the first that knows the client decides. A credential that is there but wrong is an answer
//! too: such a request is never let through as anonymous.

pub mod bootstrap_token;
pub mod impersonation;
pub mod jwt;
pub use component_base::keys;
pub mod legacy_token;
pub mod metrics;
pub mod request_header;
pub mod service_account;
pub mod tls;
pub mod token_file;
pub mod token_request;
pub mod token_review;
pub mod token_webhook;
pub mod x509;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use rustls::pki_types::CertificateDer;

use crate::lookup::ObjectLookup;
use crate::request::UserInfo;
use crate::status::{ApiError, ApiResult};

pub const ANONYMOUS: &str = "system:anonymous";
pub const AUTHENTICATED_GROUP: &str = "system:authenticated";
pub const UNAUTHENTICATED_GROUP: &str = "system:unauthenticated";
/// `extra` key under which a user carries the identity of the credential he used.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// Who may come without credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Anonymous {
    /// `/healthz`, `/livez` and `/readyz` alone: enough for load balancers and probes.
    #[default]
    HealthOnly,
    /// `--anonymous-auth=true`: any request; authorization then decides.
    Everywhere,
    /// `--anonymous-auth=false`.
    Nowhere,
    /// The paths that an `AuthenticationConfiguration` lists.
    Paths(Vec<String>),
}

/// What to accept. Everything absent is off.
#[derive(Default)]
pub struct Config {
    /// Contents of `--client-ca-file`.
    pub client_ca: Option<Vec<u8>>,
    pub request_header: Option<request_header::Config>,
    /// Contents of `--token-auth-file`.
    pub token_file: Option<Vec<u8>>,
    pub service_account: Option<service_account::Config>,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    pub anonymous: Anonymous,
    /// Token issuers, and the signature algorithms that their tokens may use.
    pub jwt: (jwt::config::Configuration, Vec<String>),
    pub token_webhook: Option<token_webhook::Config>,
    /// `--api-audiences`: for whom tokens are that do not say so themselves.
    pub api_audiences: Vec<String>,
}

/// A token that was recognised, and for whom it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIdentity {
    pub user: UserInfo,
    /// Audiences that the token and the caller's request share.
    pub audiences: Vec<String>,
}

/// All configured ways to recognise a client. What comes from files can be replaced while requests are served.
pub struct Authenticator {
    request_header: ArcSwapOption<request_header::RequestHeader>,
    x509: ArcSwapOption<x509::X509>,
    token_file: ArcSwapOption<token_file::TokenFile>,
    service_account: Option<Arc<service_account::Verifier>>,
    bootstrap: Option<bootstrap_token::BootstrapTokens>,
    jwt: ArcSwap<jwt::Issuers>,
    token_webhook: Option<token_webhook::TokenWebhook>,
    api_audiences: Vec<String>,
    anonymous: ArcSwap<Anonymous>,
    metrics: metrics::Metrics,
    jwt_metrics: Arc<jwt::metrics::Metrics>,
}

impl Authenticator {
    /// `objects` gives service accounts, pods, secrets and nodes that tokens are bound to.
    pub fn new(config: Config, objects: Arc<dyn ObjectLookup>) -> Result<Self, String> {
        let service_account = match config.service_account {
            Some(c) => Some(Arc::new(service_account::Verifier::new(c, objects.clone())?)),
            None => None,
        };
        let jwt_metrics = Arc::new(jwt::metrics::Metrics::default());
        let issuers = jwt::Issuers::new(&config.jwt.0, &config.jwt.1, jwt_metrics.clone())?;
        let authenticator = Self {
            request_header: ArcSwapOption::empty(),
            x509: ArcSwapOption::empty(),
            token_file: ArcSwapOption::empty(),
            service_account,
            bootstrap: config.bootstrap_tokens.then(|| bootstrap_token::BootstrapTokens::new(objects)),
            jwt: ArcSwap::from_pointee(issuers),
            token_webhook: config.token_webhook.as_ref().map(token_webhook::TokenWebhook::new).transpose()?,
            api_audiences: config.api_audiences,
            anonymous: ArcSwap::from_pointee(config.anonymous),
            metrics: metrics::Metrics::default(),
            jwt_metrics,
        };
        if let Some(c) = config.request_header {
            authenticator.set_request_header(c)?;
        }
        if let Some(pem) = &config.client_ca {
            authenticator.set_client_ca(pem)?;
        }
        if let Some(contents) = &config.token_file {
            authenticator.set_token_file(contents)?;
        }
        Ok(authenticator)
    }

    /// Takes a new `--client-ca-file`. On an error, as in the other setters, the old one stays.
    pub fn set_client_ca(&self, pem: &[u8]) -> Result<(), String> {
        self.x509.store(Some(Arc::new(x509::X509::new("--client-ca-file", pem)?)));
        Ok(())
    }

    /// Takes a new front-proxy CA with its rules.
    pub fn set_request_header(&self, config: request_header::Config) -> Result<(), String> {
        self.request_header.store(Some(Arc::new(request_header::RequestHeader::new(config)?)));
        Ok(())
    }

    /// Takes new static tokens.
    pub fn set_token_file(&self, contents: &[u8]) -> Result<(), String> {
        self.token_file.store(Some(Arc::new(token_file::TokenFile::parse(contents)?)));
        Ok(())
    }

    /// Takes new token issuers.
    pub fn set_issuers(&self, issuers: jwt::Issuers) {
        self.jwt.store(Arc::new(issuers));
    }

    /// Changes who may come without credentials.
    pub fn set_anonymous(&self, anonymous: Anonymous) {
        self.anonymous.store(Arc::new(anonymous));
    }

    /// The metrics of token issuers, which new issuers go on with.
    pub fn jwt_metrics(&self) -> &Arc<jwt::metrics::Metrics> {
        &self.jwt_metrics
    }

    /// Adds the metrics to the server's.
    pub fn register_metrics(&self, shared: &component_base::metrics::Metrics) {
        self.metrics.register(shared);
        self.jwt_metrics.register(shared);
        if let Some(sa) = &self.service_account {
            sa.metrics().register(shared);
        }
    }

    /// The user behind a request, with his groups completed, or `Unauthorized`.
    pub async fn authenticate(
        &self,
        parts: &Parts,
        peer_certs: Option<&[CertificateDer<'_>]>,
    ) -> ApiResult<UserInfo> {
        let started = Instant::now();
        let user = self.recognise(parts, peer_certs.unwrap_or_default()).await;
        self.metrics.attempted(user.as_ref().map(|u| u.name.as_str()), started.elapsed());
        user.ok_or_else(ApiError::unauthorized)
    }

    async fn recognise(&self, parts: &Parts, chain: &[CertificateDer<'_>]) -> Option<UserInfo> {
        let now = SystemTime::now();
        let mut failed = false;
        if let Some(rh) = &*self.request_header.load() {
            match rh.authenticate(&parts.headers, chain, now) {
                Ok(Some(user)) => return Some(with_authenticated(user)),
                Ok(None) => {}
                Err(e) => {
                    failed = true;
                    tracing::debug!(error = %e, "front-proxy credentials were refused");
                }
            }
        }
        if let Some(x509) = &*self.x509.load()
            && !chain.is_empty()
        {
            match x509.authenticate(chain, now) {
                Ok(user) => return Some(with_authenticated(user)),
                Err(e) => {
                    failed = true;
                    tracing::debug!(error = %e, "a client certificate was refused");
                }
            }
        }
        if let Some(token) = bearer_token(&parts.headers) {
            match self.authenticate_token(&token, &[]).await {
                Ok(Some(found)) => return Some(with_authenticated(found.user)),
                Ok(None) => failed = true,
                Err(e) => {
                    failed = true;
                    tracing::debug!(error = %e, "a bearer token was refused");
                }
            }
        }
        if !failed && self.anonymous_may(parts.uri.path()) {
            return Some(UserInfo {
                name: ANONYMOUS.to_owned(),
                groups: vec![UNAUTHENTICATED_GROUP.to_owned()],
                ..UserInfo::default()
            });
        }
        None
    }

    /// Recognises a bearer token for one of `audiences` (empty: this server's own). None: nobody knows it.
    pub async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenIdentity>, String> {
        let now = SystemTime::now();
        // Tokens that name no audience are for this server alone.
        let shared = self.shared_audiences(audiences);
        let plain = |user| Ok(Some(TokenIdentity { user, audiences: shared.clone().unwrap_or_default() }));
        if shared.is_some()
            && let Some(user) = self.token_file.load().as_ref().and_then(|t| t.lookup(token))
        {
            return plain(user);
        }
        let mut errors: Vec<String> = Vec::new();
        if let Some(sa) = &self.service_account {
            match sa.authenticate(token, audiences, now).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(e) => errors.push(e),
            }
        }
        if shared.is_some() {
            if let Some(b) = &self.bootstrap {
                match b.authenticate(token, now).await {
                    Ok(Some(user)) => return plain(user),
                    Ok(None) => {}
                    Err(e) => errors.push(e),
                }
            }
            let issuers = self.jwt.load_full();
            if !issuers.is_empty() {
                match issuers.authenticate(token, unix(now)).await {
                    Ok(Some(user)) => return plain(user),
                    Ok(None) => {}
                    Err(e) => errors.push(e),
                }
            }
        }
        if let Some(w) = &self.token_webhook {
            let wanted = if audiences.is_empty() { &self.api_audiences } else { audiences };
            match w.authenticate(token, wanted, &self.api_audiences).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(e) => errors.push(e),
            }
        }
        match errors.len() {
            0 => Ok(None),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }

    /// Which of the wanted audiences mean this server; none where it is not meant.
    fn shared_audiences(&self, wanted: &[String]) -> Option<Vec<String>> {
        if wanted.is_empty() || self.api_audiences.is_empty() {
            return Some(wanted.to_vec());
        }
        let shared: Vec<String> = wanted.iter().filter(|a| self.api_audiences.contains(a)).cloned().collect();
        (!shared.is_empty()).then_some(shared)
    }

    /// `--api-audiences`.
    pub fn api_audiences(&self) -> &[String] {
        &self.api_audiences
    }

    /// The service-account verifier, where tokens are configured.
    pub fn service_accounts(&self) -> Option<&Arc<service_account::Verifier>> {
        self.service_account.as_ref()
    }

    fn anonymous_may(&self, path: &str) -> bool {
        match &**self.anonymous.load() {
            Anonymous::Everywhere => true,
            Anonymous::Nowhere => false,
            Anonymous::HealthOnly => ["/healthz", "/livez", "/readyz"].contains(&path),
            Anonymous::Paths(paths) => paths.iter().any(|p| p == path),
        }
    }

    /// Takes everything out of the headers that named the client: nothing behind authentication needs it, and what
    /// requests are passed on to must not see it.
    pub fn strip_credentials(&self, headers: &mut HeaderMap) {
        headers.remove(AUTHORIZATION);
        strip_websocket_bearer(headers);
        request_header::strip_standard(headers);
        if let Some(rh) = &*self.request_header.load() {
            rh.strip(headers);
        }
    }
}

/// Takes tokens out of the offered subprotocols; the others stay in order.
fn strip_websocket_bearer(headers: &mut HeaderMap) {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    if !offered.iter().any(|v| v.to_str().is_ok_and(|v| v.contains(WEBSOCKET_BEARER))) {
        return;
    }
    let kept: Vec<&str> = offered
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|p| !p.starts_with(WEBSOCKET_BEARER))
        .collect();
    let kept = http::HeaderValue::from_str(&kept.join(", "));
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(kept) = kept
        && !kept.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

/// The bearer token of a request: from `Authorization`, or from the subprotocol that browsers must use.
fn bearer_token(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let mut words = value.trim().splitn(3, ' ');
        if words.next().is_some_and(|w| w.eq_ignore_ascii_case("bearer")) {
            return words.next().filter(|t| !t.is_empty()).map(str::to_owned);
        }
    }
    let offered: Vec<&str> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .collect();
    let tokens = offered.iter().filter(|p| p.starts_with(WEBSOCKET_BEARER)).count();
    // One token, and another protocol: the server must agree to one, and may not repeat the token.
    if tokens != 1 || offered.len() == tokens {
        return None;
    }
    offered
        .iter()
        .find_map(|p| p.strip_prefix(WEBSOCKET_BEARER))
        .and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
}

/// Every recognised user is in `system:authenticated`, if he is not expressly unauthenticated.
fn with_authenticated(mut user: UserInfo) -> UserInfo {
    let settled =
        user.name == ANONYMOUS || user.in_group(AUTHENTICATED_GROUP) || user.in_group(UNAUTHENTICATED_GROUP);
    if !settled {
        user.groups.push(AUTHENTICATED_GROUP.to_owned());
    }
    user
}

/// Seconds since the epoch.
pub(crate) fn unix(t: SystemTime) -> i64 {
    t.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// A time as API objects carry it, to the second.
pub(crate) fn rfc3339(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds).map(|t| t.to_string()).unwrap_or_default()
}

/// The present as API objects carry it.
pub(crate) fn now_rfc3339() -> String {
    rfc3339(unix(SystemTime::now()))
}

#[cfg(test)]
mod tests;

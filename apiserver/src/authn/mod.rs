//! Authentication: who sends this request? Front-proxy headers, client certificates and bearer tokens are asked in
//! upstream's order; the first that knows the client decides. A credential that is there but wrong is an answer
//! too: such a request is never let through as anonymous.

pub mod bootstrap_token;
pub mod impersonation;
pub mod keys;
pub mod request_header;
pub mod service_account;
pub mod tls;
pub mod token_file;
pub mod token_request;
pub mod token_review;
pub mod x509;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Anonymous {
    /// `/healthz`, `/livez` and `/readyz` alone: enough for load balancers and probes.
    #[default]
    HealthOnly,
    /// `--anonymous-auth=true`: any request; authorization then decides.
    Everywhere,
    /// `--anonymous-auth=false`.
    Nowhere,
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
}

/// A token that was recognised, and for whom it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIdentity {
    pub user: UserInfo,
    /// Audiences that the token and the caller's request share.
    pub audiences: Vec<String>,
}

/// All configured ways to recognise a client.
pub struct Authenticator {
    request_header: Option<request_header::RequestHeader>,
    x509: Option<x509::X509>,
    token_file: Option<token_file::TokenFile>,
    service_account: Option<Arc<service_account::Verifier>>,
    bootstrap: Option<bootstrap_token::BootstrapTokens>,
    anonymous: Anonymous,
}

impl Authenticator {
    /// `objects` gives service accounts, pods, secrets and nodes that tokens are bound to.
    pub fn new(config: Config, objects: Arc<dyn ObjectLookup>) -> Result<Self, String> {
        let service_account = match config.service_account {
            Some(c) => Some(Arc::new(service_account::Verifier::new(c, objects.clone())?)),
            None => None,
        };
        Ok(Self {
            request_header: config.request_header.map(request_header::RequestHeader::new).transpose()?,
            x509: config
                .client_ca
                .as_deref()
                .map(|pem| x509::X509::new("--client-ca-file", pem))
                .transpose()?,
            token_file: config.token_file.as_deref().map(token_file::TokenFile::parse).transpose()?,
            service_account,
            bootstrap: config.bootstrap_tokens.then(|| bootstrap_token::BootstrapTokens::new(objects)),
            anonymous: config.anonymous,
        })
    }

    /// The user behind a request, with his groups completed, or `Unauthorized`.
    pub async fn authenticate(
        &self,
        parts: &Parts,
        peer_certs: Option<&[CertificateDer<'_>]>,
    ) -> ApiResult<UserInfo> {
        let now = SystemTime::now();
        let chain = peer_certs.unwrap_or_default();
        let mut failed = false;
        if let Some(rh) = &self.request_header {
            match rh.authenticate(&parts.headers, chain, now) {
                Ok(Some(user)) => return Ok(with_authenticated(user)),
                Ok(None) => {}
                Err(e) => {
                    failed = true;
                    tracing::debug!(error = %e, "front-proxy credentials were refused");
                }
            }
        }
        if let Some(x509) = &self.x509
            && !chain.is_empty()
        {
            match x509.authenticate(chain, now) {
                Ok(user) => return Ok(with_authenticated(user)),
                Err(e) => {
                    failed = true;
                    tracing::debug!(error = %e, "a client certificate was refused");
                }
            }
        }
        if let Some(token) = bearer_token(&parts.headers) {
            match self.authenticate_token(&token, &[]).await {
                Ok(Some(found)) => return Ok(with_authenticated(found.user)),
                Ok(None) => failed = true,
                Err(e) => {
                    failed = true;
                    tracing::debug!(error = %e, "a bearer token was refused");
                }
            }
        }
        if !failed && self.anonymous_may(parts.uri.path()) {
            return Ok(UserInfo {
                name: ANONYMOUS.to_owned(),
                groups: vec![UNAUTHENTICATED_GROUP.to_owned()],
                ..UserInfo::default()
            });
        }
        Err(ApiError::unauthorized())
    }

    /// Recognises a bearer token for one of `audiences` (empty: this server's own). None: nobody knows it.
    pub async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenIdentity>, String> {
        let plain = |user| Ok(Some(TokenIdentity { user, audiences: audiences.to_vec() }));
        if let Some(user) = self.token_file.as_ref().and_then(|t| t.lookup(token)) {
            return plain(user);
        }
        let mut error = None;
        if let Some(sa) = &self.service_account {
            match sa.authenticate(token, audiences, SystemTime::now()).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(e) => error = Some(e),
            }
        }
        if let Some(b) = &self.bootstrap
            && let Some(user) = b.authenticate(token, SystemTime::now()).await?
        {
            return plain(user);
        }
        match error {
            Some(e) => Err(e),
            None => Ok(None),
        }
    }

    /// The service-account verifier, where tokens are configured.
    pub fn service_accounts(&self) -> Option<&Arc<service_account::Verifier>> {
        self.service_account.as_ref()
    }

    fn anonymous_may(&self, path: &str) -> bool {
        match self.anonymous {
            Anonymous::Everywhere => true,
            Anonymous::Nowhere => false,
            Anonymous::HealthOnly => ["/healthz", "/livez", "/readyz"].contains(&path),
        }
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
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .find_map(|p| p.trim().strip_prefix(WEBSOCKET_BEARER))
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

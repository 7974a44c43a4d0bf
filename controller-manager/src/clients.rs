//! API clients: one HTTP/2 connection for the watches of controllers, one for those of the garbage collector, one for
//! writes.
//!
//! HTTP/2 carries all watches over one TLS session, which keeps both ends' memory small. With service-account
//! credentials every controller writes under its own identity; its token comes from a TokenRequest and is renewed
//! before it ends. Those requests use a session without our client certificate, which would win over the token.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use anyhow::Context;
use component_base::http2::{self, Http};
use http::{HeaderValue, Request, Response, header};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::client::{Body, ConfigExt};
use kube::config::AuthInfo;
use kube::{Api, Client, Config};
use tower::{BoxError, Service, ServiceBuilder};

const NAMESPACE: &str = "kube-system";
const TOKEN_SECONDS: i64 = 3600;

/// Where clients come from.
#[derive(Clone)]
pub struct Clients {
    root: Client,
    config: Arc<Config>,
    per_controller: Option<PerController>,
}

#[derive(Clone)]
struct PerController {
    config: Arc<Config>,
    http: Http,
}

impl Clients {
    /// Reads the kubeconfig; connects only when first used.
    pub async fn new(
        kubeconfig: &Path,
        master: Option<http::Uri>,
        service_accounts: bool,
    ) -> anyhow::Result<Self> {
        let mut config =
            component_base::kubeconfig::config_for(kubeconfig, "kube-controller-manager").await?;
        if let Some(master) = master {
            config.cluster_url = master;
        }
        let root = http2::client(&config)?;
        let per_controller = if service_accounts {
            let mut bare = config.clone();
            bare.auth_info = AuthInfo::default();
            Some(PerController { http: http2::transport(&bare)?, config: Arc::new(bare) })
        } else {
            None
        };
        Ok(Self { root, config: Arc::new(config), per_controller })
    }

    /// The CA that the API server is verified by, PEM; empty if the kubeconfig names none.
    pub fn server_ca(&self) -> String {
        let certs = self.config.root_cert.iter().flatten();
        certs.map(|der| component_base::der::pem("CERTIFICATE", der)).collect()
    }

    /// The daemon's own identity: for watches.
    pub fn root(&self) -> Client {
        self.root.clone()
    }

    /// The same identity on a new connection of its own: for the many metadata watches of the garbage collector, and
    /// for leader election, which must not wait behind anything.
    pub fn connection(&self) -> anyhow::Result<Client> {
        http2::client(&self.config)
    }

    /// What a controller writes with: the service account of that name, or the daemon's own identity.
    pub fn for_controller(&self, name: &str) -> anyhow::Result<Client> {
        let Some(per) = &self.per_controller else { return Ok(self.root()) };
        let tokens = Arc::new(Tokens {
            root: self.root(),
            name: name.to_owned(),
            held: tokio::sync::Mutex::new(None),
        });
        let service = ServiceBuilder::new()
            .layer(per.config.base_uri_layer())
            .layer(per.config.extra_headers_layer()?)
            .map_err(BoxError::from)
            .service(WithToken { inner: per.http.clone(), tokens });
        Ok(Client::new(service, "default"))
    }
}

/// The token of one controller's service account.
struct Tokens {
    root: Client,
    name: String,
    held: tokio::sync::Mutex<Option<(HeaderValue, Instant)>>,
}

impl Tokens {
    async fn get(&self) -> anyhow::Result<HeaderValue> {
        let mut held = self.held.lock().await;
        if let Some((token, renew_at)) = held.as_ref()
            && Instant::now() < *renew_at
        {
            return Ok(token.clone());
        }
        let (token, lifetime) = self
            .request()
            .await
            .with_context(|| format!("getting a token for service account {NAMESPACE}/{}", self.name))?;
        *held = Some((token.clone(), Instant::now() + lifetime.mul_f64(0.8)));
        Ok(token)
    }

    async fn request(&self) -> anyhow::Result<(HeaderValue, Duration)> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.root.clone(), NAMESPACE);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = match accounts.create_token_request(&self.name, &PostParams::default(), &request).await {
            Err(kube::Error::Api(s)) if s.code == 404 => {
                self.create_account(&accounts).await?;
                accounts.create_token_request(&self.name, &PostParams::default(), &request).await?
            }
            other => other?,
        };
        let status = answer.status.context("the server sent no token")?;
        let expires = status.expiration_timestamp.context("the token has no end")?.0;
        let lifetime = expires.duration_since(jiff::Timestamp::now());
        let token = status.token.context("the server sent no token")?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).context("token")?;
        value.set_sensitive(true);
        Ok((value, Duration::try_from(lifetime).unwrap_or_default()))
    }

    async fn create_account(&self, accounts: &Api<ServiceAccount>) -> anyhow::Result<()> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        let params = PostParams::default();
        match accounts.create(&params, &account).await {
            Err(kube::Error::Api(s)) if s.code == 404 => {
                // The namespace is made by the API server itself soon after its start.
                tokio::time::sleep(Duration::from_millis(500)).await;
                accounts.create(&params, &account).await?;
            }
            Err(kube::Error::Api(s)) if s.code == 409 => {}
            other => {
                other?;
            }
        }
        Ok(())
    }

    async fn drop_token(&self) {
        *self.held.lock().await = None;
    }
}

/// Puts the token into each request.
#[derive(Clone)]
struct WithToken {
    inner: Http,
    tokens: Arc<Tokens>,
}

impl Service<Request<Body>> for WithToken {
    type Response = Response<hyper::body::Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (http, tokens) = (self.inner.clone(), self.tokens.clone());
        Box::pin(async move {
            let token = tokens.get().await.map_err(|e| BoxError::from(format!("{e:#}")))?;
            request.headers_mut().insert(header::AUTHORIZATION, token);
            let response = http.request(request).await?;
            if response.status() == http::StatusCode::UNAUTHORIZED {
                // The account was deleted, or keys were changed: the retry gets a new token.
                tokens.drop_token().await;
            }
            Ok(response)
        })
    }
}

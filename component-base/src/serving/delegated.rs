//! Delegated authentication and authorization: a daemon's own endpoints admit whom the API server would, asked
//! through `TokenReview` and `SubjectAccessReview`. Answers are cached for a short time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::request::Parts;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;

use super::identity::{self, Identity};
use super::listener::Peer;

/// How long an answer of the API server is used again.
const TTL: Duration = Duration::from_secs(10);
/// Answers kept at most; beyond that the cache starts over.
const MAX_CACHED: usize = 1024;

/// Asks the API server who a client is and what it may do.
pub struct Delegated {
    client: Client,
    tokens: Cache<Option<Identity>>,
    decisions: Cache<bool>,
}

/// What a client wants to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// A path that is no resource, with the lower-case method.
    Path { path: String, verb: String },
    /// A (sub)resource of the core group, such as `nodes/proxy` of one node.
    Resource { resource: String, subresource: String, name: String, verb: String },
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No valid credentials: answer 401.
    #[error("Unauthorized")]
    Unauthorized,
    /// Answer 403.
    #[error("Forbidden (user={user}, verb={verb}, resource={what})")]
    Forbidden { user: String, verb: String, what: String },
    /// The API server could not be asked: answer 500.
    #[error("cannot ask the API server: {0}")]
    Unavailable(String),
}

impl Delegated {
    pub fn new(client: Client) -> Self {
        Self { client, tokens: Cache::default(), decisions: Cache::default() }
    }

    /// Who sent the request: by client certificate, else by bearer token.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] without valid credentials.
    pub async fn authenticate(&self, parts: &Parts) -> Result<Identity, Refusal> {
        if let Some(cert) = parts.extensions.get::<Peer>().and_then(|p| p.certificates.first()) {
            return identity::from_der(cert).map_err(|_| Refusal::Unauthorized);
        }
        let token = parts
            .headers
            .get(http::header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Bearer "))
            .ok_or(Refusal::Unauthorized)?;
        let identity = match self.tokens.get(token) {
            Some(known) => known,
            None => {
                let answer = self.review(token).await?;
                self.tokens.put(token, answer.clone());
                answer
            }
        };
        identity.ok_or(Refusal::Unauthorized)
    }

    async fn review(&self, token: &str) -> Result<Option<Identity>, Refusal> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), ..Default::default() },
            ..Default::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(unavailable)?;
        let Some(status) = answer.status.filter(|s| s.authenticated == Some(true)) else { return Ok(None) };
        let user = status.user.unwrap_or_default();
        Ok(Some(Identity {
            user: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }

    /// Whether `who` may do `action`.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`] if not.
    pub async fn authorize(&self, who: &Identity, action: &Action) -> Result<(), Refusal> {
        let key = format!("{who:?} {action:?}");
        let allowed = match self.decisions.get(&key) {
            Some(known) => known,
            None => {
                let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
                let answer = api
                    .create(&PostParams::default(), &access_review(who, action))
                    .await
                    .map_err(unavailable)?;
                let allowed = answer.status.is_some_and(|s| s.allowed);
                self.decisions.put(&key, allowed);
                allowed
            }
        };
        if allowed {
            return Ok(());
        }
        let (verb, what) = match action {
            Action::Path { path, verb } => (verb, path.clone()),
            Action::Resource { resource, subresource, verb, .. } => {
                (verb, format!("{resource}/{subresource}"))
            }
        };
        Err(Refusal::Forbidden { user: who.user.clone(), verb: verb.clone(), what })
    }
}

fn unavailable(e: kube::Error) -> Refusal {
    Refusal::Unavailable(e.to_string())
}

fn access_review(who: &Identity, action: &Action) -> SubjectAccessReview {
    let mut spec = SubjectAccessReviewSpec {
        user: Some(who.user.clone()),
        groups: Some(who.groups.clone()),
        uid: Some(who.uid.clone()),
        extra: Some(who.extra.clone()),
        ..Default::default()
    };
    match action {
        Action::Path { path, verb } => {
            spec.non_resource_attributes =
                Some(NonResourceAttributes { path: Some(path.clone()), verb: Some(verb.clone()) });
        }
        Action::Resource { resource, subresource, name, verb } => {
            spec.resource_attributes = Some(ResourceAttributes {
                version: Some("v1".into()),
                resource: Some(resource.clone()),
                subresource: Some(subresource.clone()),
                name: Some(name.clone()),
                verb: Some(verb.clone()),
                ..Default::default()
            });
        }
    }
    SubjectAccessReview { spec, ..Default::default() }
}

struct Cache<V>(Mutex<HashMap<String, (Instant, V)>>);

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<V: Clone> Cache<V> {
    fn get(&self, key: &str) -> Option<V> {
        self.0.lock().get(key).filter(|(at, _)| at.elapsed() < TTL).map(|(_, v)| v.clone())
    }

    fn put(&self, key: &str, value: V) {
        let mut map = self.0.lock();
        if map.len() >= MAX_CACHED {
            map.clear();
        }
        map.insert(key.to_owned(), (Instant::now(), value));
    }
}

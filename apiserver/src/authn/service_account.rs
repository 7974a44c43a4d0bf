//! Service-account tokens: signed by us or by another server of the cluster, and alive only as long as the account
//! and the object they are bound to.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::keys::PublicKey;
use super::{CREDENTIAL_ID, TokenIdentity, legacy_token, unix};
use crate::authz::rules::quoted_list;
use crate::lookup::{self, ObjectLookup, ObjectWriter, Resource, items, text};
use crate::request::UserInfo;

pub const USER_PREFIX: &str = "system:serviceaccount:";
pub const GROUP: &str = "system:serviceaccounts";
pub const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
pub const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
pub const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// Clocks may differ by this much; a deleted object keeps its tokens alive as long.
const LEEWAY: i64 = 60;
/// Tokens whose signature was checked, kept so that a client's next request does not check it again.
const REMEMBER_MAX: usize = 1024;

/// The `--service-account-*` flags that verification needs.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `--service-account-issuer`, all of them.
    pub issuers: Vec<String>,
    /// Of `--service-account-key-file`, all of them.
    pub keys: Vec<PublicKey>,
    /// `--api-audiences`; the issuers where none are given.
    pub api_audiences: Vec<String>,
}

/// See the module.
pub struct Verifier {
    config: Config,
    objects: Arc<dyn ObjectLookup>,
    known: Mutex<HashMap<[u8; 32], Arc<Value>>>,
    /// Records the use of tokens that are kept in secrets.
    writer: OnceLock<Arc<dyn ObjectWriter>>,
    metrics: legacy_token::Metrics,
}

/// Splits `system:serviceaccount:NAMESPACE:NAME`.
pub fn split_user(name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = name.strip_prefix(USER_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// Whether the user is a service account whose token belongs to this node, by what its token says.
pub fn is_on_node(user: &UserInfo, node: &str) -> bool {
    let nodes = user.extra.get(NODE_NAME).map(Vec::as_slice);
    split_user(&user.name).is_some() && matches!(nodes, Some([one]) if one == node)
}

/// The groups of every account of a namespace.
pub fn groups(namespace: &str) -> Vec<String> {
    vec![GROUP.to_owned(), format!("{GROUP}:{namespace}")]
}

impl Verifier {
    pub fn new(mut config: Config, objects: Arc<dyn ObjectLookup>) -> Result<Self, String> {
        if config.issuers.is_empty() {
            return Err("--service-account-issuer: at least one issuer is needed".to_owned());
        }
        if config.keys.is_empty() {
            return Err("--service-account-key-file: at least one key is needed".to_owned());
        }
        if config.api_audiences.is_empty() {
            config.api_audiences = config.issuers.clone();
        }
        Ok(Self {
            config,
            objects,
            known: Mutex::default(),
            writer: OnceLock::new(),
            metrics: legacy_token::Metrics::default(),
        })
    }

    /// Sets what records the use of tokens that are kept in secrets: once.
    pub fn set_writer(&self, writer: Arc<dyn ObjectWriter>) {
        let _ = self.writer.set(writer);
    }

    pub fn metrics(&self) -> &legacy_token::Metrics {
        &self.metrics
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// None where the token is no token of our issuers.
    pub async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        now: SystemTime,
    ) -> Result<Option<TokenIdentity>, String> {
        let Some(claims) = self.claims(token)? else { return Ok(None) };
        let wanted = if audiences.is_empty() { &self.config.api_audiences } else { audiences };
        let own = strings_or_one(&claims, "/aud");
        let own = if own.is_empty() { self.config.api_audiences.clone() } else { own };
        let shared: Vec<String> = own.iter().filter(|a| wanted.contains(a)).cloned().collect();
        if shared.is_empty() {
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted_list(own.iter().map(String::as_str)),
                quoted_list(wanted.iter().map(String::as_str))
            ));
        }
        let user = if text(&claims, "/iss") == legacy_token::ISSUER {
            let writer = self.writer.get();
            legacy_token::judge(&*self.objects, writer, &self.metrics, token, &claims).await?
        } else {
            self.judge(&claims, unix(now)).await?
        };
        Ok(Some(TokenIdentity { user, audiences: shared }))
    }

    /// The claims of a token with a good signature; none where another issuer made it.
    fn claims(&self, token: &str) -> Result<Option<Arc<Value>>, String> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(None);
        };
        let id: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.known.lock().get(&id) {
            return Ok(Some(claims.clone()));
        }
        let Some(claims) = decode(payload) else { return Ok(None) };
        let issuer = text(&claims, "/iss");
        if issuer != legacy_token::ISSUER && !self.config.issuers.iter().any(|i| i == issuer) {
            return Ok(None);
        }
        let Some(header_json) = decode(header) else { return Ok(None) };
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return Ok(None) };
        let kid = text(&header_json, "/kid");
        let mut keys = self.config.keys.iter().filter(|k| kid.is_empty() || k.id == kid).peekable();
        if keys.peek().is_none() {
            return Err("invalid signature, no keys found".to_owned());
        }
        let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
        let good =
            keys.any(|k| k.algorithm.name() == text(&header_json, "/alg") && k.verify(signed, &signature));
        if !good {
            return Err("the token's signature is not by a key of this cluster".to_owned());
        }
        let claims = Arc::new(claims);
        let mut known = self.known.lock();
        if known.len() >= REMEMBER_MAX {
            known.clear();
        }
        known.insert(id, claims.clone());
        Ok(Some(claims))
    }

    /// Checks what changes with time: dates, and the objects that the token stands for.
    async fn judge(&self, claims: &Value, now: i64) -> Result<UserInfo, String> {
        let date = |p: &str| claims.pointer(p).and_then(|v| v.as_i64().or(v.as_f64().map(|f| f as i64)));
        if date("/exp").is_some_and(|exp| now - LEEWAY > exp) {
            return Err("service account token has expired".to_owned());
        }
        if date("/nbf").is_some_and(|nbf| now + LEEWAY < nbf) {
            return Err("service account token is not valid yet".to_owned());
        }
        if date("/iat").is_some_and(|iat| now + LEEWAY < iat) {
            return Err("service account token is issued in the future".to_owned());
        }
        let k = claims.get("kubernetes.io").unwrap_or(&Value::Null);
        let namespace = text(k, "/namespace");
        let name = text(k, "/serviceaccount/name");
        let uid = text(k, "/serviceaccount/uid");
        let account = self.object(lookup::SERVICE_ACCOUNTS, namespace, name).await?;
        let Some(account) = account else { return Err(format!("serviceaccounts \"{name}\" not found")) };
        let found = text(&account, "/metadata/uid");
        if found != uid {
            return Err(format!("service account UID ({found}) does not match claim ({uid})"));
        }
        if deleted(&account, now) {
            return Err(format!("service account {namespace}/{name} has been deleted"));
        }
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(key.to_owned(), vec![value.to_owned()]);
            }
        };
        let bound = |kind: &str| k.get(kind).filter(|v| v.is_object());
        if let Some(secret) = bound("secret") {
            self.alive(lookup::SECRETS, namespace, secret, "secret", now).await?;
        }
        if let Some(pod) = bound("pod") {
            self.alive(lookup::PODS, namespace, pod, "pod", now).await?;
            add(POD_NAME, text(pod, "/name"));
            add(POD_UID, text(pod, "/uid"));
        }
        if let Some(node) = bound("node") {
            if bound("pod").is_none() {
                self.alive(lookup::NODES, "", node, "node", now).await?;
            }
            add(NODE_NAME, text(node, "/name"));
            add(NODE_UID, text(node, "/uid"));
        }
        if let Some(after) = k.get("warnafter").and_then(Value::as_i64).filter(|a| *a != 0) {
            if now > after {
                self.metrics.stale.inc()
            } else {
                self.metrics.valid.inc()
            };
        }
        let jti = text(claims, "/jti");
        if !jti.is_empty() {
            add(CREDENTIAL_ID, &format!("JTI={jti}"));
        }
        Ok(UserInfo {
            name: format!("{USER_PREFIX}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: groups(namespace),
            extra,
        })
    }

    async fn alive(
        &self,
        resource: Resource,
        namespace: &str,
        reference: &Value,
        word: &str,
        now: i64,
    ) -> Result<(), String> {
        let object = self.object(resource, namespace, text(reference, "/name")).await?;
        let Some(object) = object.filter(|o| !deleted(o, now)) else {
            return Err("service account token has been invalidated".to_owned());
        };
        let (found, claimed) = (text(&object, "/metadata/uid"), text(reference, "/uid"));
        if found != claimed {
            return Err(format!(
                "{word} UID ({found}) does not match service account {word} ref claim ({claimed})"
            ));
        }
        Ok(())
    }

    async fn object(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, String> {
        self.objects
            .get(resource, namespace, name)
            .await
            .map_err(|e| format!("reading {} {namespace}/{name}: {e}", resource.resource))
    }
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn strings_or_one(v: &Value, pointer: &str) -> Vec<String> {
    match v.pointer(pointer) {
        Some(Value::String(s)) => vec![s.clone()],
        _ => items(v, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

fn deleted(object: &Value, now: i64) -> bool {
    text(object, "/metadata/deletionTimestamp")
        .parse::<jiff::Timestamp>()
        .is_ok_and(|t| t.as_second() < now - LEEWAY)
}

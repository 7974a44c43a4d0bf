//! Secrets of the type `kubernetes.io/service-account-token`: filled with a token of their account, the namespace and
//! the CA; deleted with the account.
//!
//! Such tokens live as long as their secret. Pods get tokens by TokenRequest and don't need them.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use component_base::controller::informer::{Delta, Store, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use component_base::keys::SigningKey;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::context::{Context, synced};
use crate::util::{errors, meta};

/// The type of secrets that hold tokens.
pub const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
/// Annotation of a secret: its account.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// Annotation of a secret: the uid of its account.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Issuer of tokens that live in secrets.
const ISSUER: &str = "kubernetes/serviceaccount";
/// Tries to take a deleted secret out of its account.
const ATTEMPTS: usize = 6;

/// What has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    /// `namespace/name`
    Secret(String),
    /// A secret that is gone, with the name and uid of the account it was of.
    GoneSecret { key: String, account: String, uid: String },
    /// An account that is gone.
    GoneAccount { key: String, uid: String },
}

/// Whether the secret is of the account of that name and uid.
pub fn is_of(secret: &Secret, account: &str, uid: &str) -> bool {
    meta::annotation(&secret.metadata, ACCOUNT_NAME) == Some(account)
        && meta::annotation(&secret.metadata, ACCOUNT_UID).is_none_or(|u| u.is_empty() || u == uid)
}

/// The secret with what it lacks; `None` if it lacks nothing.
fn filled(
    secret: &Secret,
    account: &ServiceAccount,
    ca: &[u8],
    sign: impl Fn(&serde_json::Value) -> Result<String, String>,
) -> anyhow::Result<Option<Secret>> {
    let held = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map_or(&[][..], |v| v.0.as_slice());
    let mut missing: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    if !ca.is_empty() && held("ca.crt") != ca {
        missing.insert("ca.crt", ca.to_vec());
    }
    let namespace = meta::namespace(&secret.metadata);
    if held("namespace").is_empty() {
        missing.insert("namespace", namespace.as_bytes().to_vec());
    }
    let (name, uid) = (meta::name(&account.metadata), meta::uid(&account.metadata));
    if held("token").is_empty() {
        let token = sign(&json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": meta::name(&secret.metadata),
            "kubernetes.io/serviceaccount/service-account.name": name,
            "kubernetes.io/serviceaccount/service-account.uid": uid,
        }))
        .map_err(|e| anyhow::anyhow!("signing a token for service account {namespace}/{name}: {e}"))?;
        missing.insert("token", token.into_bytes());
    }
    if missing.is_empty() {
        return Ok(None);
    }
    let mut secret = secret.clone();
    let data = secret.data.get_or_insert_default();
    data.extend(missing.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v))));
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_NAME.into(), name.to_owned());
    annotations.insert(ACCOUNT_UID.into(), uid.to_owned());
    Ok(Some(secret))
}

/// Sets the controller up; without a key there is nothing to do.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let Some(path) = ctx.flags.service_account_private_key_file.as_deref() else {
        tracing::info!("no tokens are put into secrets: no --service-account-private-key-file is given");
        return Ok(());
    };
    let pem = std::fs::read(path).with_context(|| {
        format!("error reading key for service account token controller: {}", path.display())
    })?;
    let key = SigningKey::from_pem("--service-account-private-key-file", &pem).map_err(anyhow::Error::msg)?;
    let secrets = ctx.informers.of::<Secret>();
    let accounts = ctx.informers.of::<ServiceAccount>();
    let queue: WorkQueue<Item> = WorkQueue::default();
    let q = queue.clone();
    secrets.on_change(move |d| {
        let secret = d.object();
        let key = key_of(secret.as_ref());
        let annotation = |k| meta::annotation(&secret.metadata, k).unwrap_or_default().to_owned();
        let account = annotation(ACCOUNT_NAME);
        if account.is_empty() {
            return;
        }
        q.add(match d {
            Delta::Deleted(_) => Item::GoneSecret { key, account, uid: annotation(ACCOUNT_UID) },
            _ => Item::Secret(key),
        });
    });
    let q = queue.clone();
    accounts.on_change(move |d| {
        if let Delta::Deleted(account) = d {
            let uid = meta::uid(&account.metadata).to_owned();
            q.add(Item::GoneAccount { key: key_of(account.as_ref()), uid });
        }
    });
    let tokens = Arc::new(Tokens {
        // Upstream, too, writes tokens as itself: this makes the tokens of accounts.
        client: ctx.clients.root(),
        secrets: secrets.store(),
        accounts: accounts.store(),
        key,
        ca: ctx.root_ca()?.into_bytes(),
    });
    let ready = vec![synced(&secrets), synced(&accounts)];
    let workers = ctx.flags.concurrent_serviceaccount_token_syncs;
    ctx.work("serviceaccount_tokens", &queue, workers, ready, move |item| {
        let tokens = tokens.clone();
        async move { tokens.sync(item).await }
    });
    Ok(())
}

struct Tokens {
    client: Client,
    secrets: Store<Secret>,
    accounts: Store<ServiceAccount>,
    key: SigningKey,
    ca: Vec<u8>,
}

impl Tokens {
    async fn sync(&self, item: Item) -> anyhow::Result<()> {
        match item {
            Item::Secret(key) => {
                let Some(secret) = self.secrets.get(&key) else { return Ok(()) };
                self.sync_secret(&key, &secret).await
            }
            Item::GoneSecret { key, account, uid } => self.unlink(&key, &account, &uid).await,
            Item::GoneAccount { key, uid } => {
                let (namespace, name) = split_key(&key);
                let of_account = self.secrets.in_namespace(namespace.unwrap_or_default());
                for secret in of_account.iter().filter(|s| is_of(s, name, &uid)) {
                    self.delete(secret).await?;
                }
                Ok(())
            }
        }
    }

    async fn sync_secret(&self, key: &str, cached: &Secret) -> anyhow::Result<()> {
        let namespace = meta::namespace(&cached.metadata);
        let account = meta::annotation(&cached.metadata, ACCOUNT_NAME).unwrap_or_default();
        let of = |a: &ServiceAccount| is_of(cached, account, meta::uid(&a.metadata));
        let known = self.accounts.find(namespace, account).filter(|a| of(a)).map(|a| a.as_ref().clone());
        let found = match known {
            Some(account) => Some(account),
            // The account may have been made a moment ago.
            None => {
                let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
                api.get_opt(account)
                    .await
                    .with_context(|| format!("getting service account of secret {key}"))?
            }
        };
        let Some(account) = found.filter(|a| of(a)) else {
            tracing::info!(secret = key, account, "the service account does not exist, deleting its token");
            return self.delete(cached).await;
        };
        let sign = |claims: &serde_json::Value| self.key.sign(claims);
        if filled(cached, &account, &self.ca, sign)?.is_none() {
            return Ok(());
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let name = meta::name(&cached.metadata);
        let live = api.get_opt(name).await.with_context(|| format!("getting secret {key}"))?;
        // A newer one will be told by the watch.
        let same = |s: &Secret| s.metadata.resource_version == cached.metadata.resource_version;
        let Some(live) = live.filter(same) else { return Ok(()) };
        let Some(full) = filled(&live, &account, &self.ca, sign)? else { return Ok(()) };
        match api.replace(name, &PostParams::default(), &full).await {
            Err(e) if matches!(errors::code(&e), Some(404 | 409)) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("filling token secret {key}")),
        }
    }

    async fn delete(&self, secret: &Secret) -> anyhow::Result<()> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), meta::namespace(&secret.metadata));
        let name = meta::name(&secret.metadata);
        let same = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
        match api.delete(name, &DeleteParams::default().preconditions(same)).await {
            Err(e) if matches!(errors::code(&e), Some(404 | 409)) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("deleting token secret {name}")),
        }
    }

    /// Takes the name of a deleted secret out of its account.
    async fn unlink(&self, key: &str, account: &str, uid: &str) -> anyhow::Result<()> {
        let (namespace, name) = split_key(key);
        let namespace = namespace.unwrap_or_default();
        if self.secrets.get(key).is_some() || self.accounts.find(namespace, account).is_none() {
            return Ok(());
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        for _ in 0..ATTEMPTS {
            let live =
                api.get_opt(account).await.with_context(|| format!("getting account of secret {key}"))?;
            let Some(mut live) = live else { return Ok(()) };
            let other = !uid.is_empty() && meta::uid(&live.metadata) != uid;
            let Some(secrets) = live.secrets.as_mut().filter(|_| !other) else { return Ok(()) };
            let before = secrets.len();
            secrets.retain(|s| s.name.as_deref() != Some(name));
            if secrets.len() == before {
                return Ok(());
            }
            match api.replace(account, &PostParams::default(), &live).await {
                Ok(_) => return Ok(()),
                Err(e) if errors::not_found(&e) => return Ok(()),
                Err(e) if errors::code(&e) == Some(409) => {}
                Err(e) => return Err(e).with_context(|| format!("removing secret {key} from its account")),
            }
        }
        anyhow::bail!(
            "service account {namespace}/{account} changes too often to remove secret {name} from it"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(data: serde_json::Value) -> Secret {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "ns", "annotations": {ACCOUNT_NAME: "a"}},
            "type": SECRET_TYPE, "data": data
        }))
        .unwrap()
    }

    fn account() -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}})).unwrap()
    }

    #[test]
    fn an_empty_secret_gets_all_and_a_full_one_nothing() {
        let claims = std::cell::RefCell::new(json!(null));
        let sign = |c: &serde_json::Value| {
            *claims.borrow_mut() = c.clone();
            Ok("token".to_owned())
        };
        let full = filled(&secret(json!({})), &account(), b"CA", sign).unwrap().unwrap();
        assert_eq!(claims.borrow()["sub"], "system:serviceaccount:ns:a");
        assert_eq!(claims.borrow()["kubernetes.io/serviceaccount/service-account.uid"], "u");
        let data = full.data.clone().unwrap();
        assert_eq!(data["token"].0, b"token");
        assert_eq!(data["namespace"].0, b"ns");
        assert_eq!(meta::annotation(&full.metadata, ACCOUNT_UID), Some("u"));
        assert!(filled(&full, &account(), b"CA", sign).unwrap().is_none());
        let renewed = filled(&full, &account(), b"CB", sign).unwrap().unwrap();
        assert_eq!(renewed.data.unwrap()["ca.crt"].0, b"CB");
    }

    #[test]
    fn a_secret_is_of_the_account_it_names_by_uid_if_it_says_one() {
        let mut s = secret(json!({}));
        assert!(is_of(&s, "a", "u") && !is_of(&s, "b", "u"));
        s.metadata.annotations.get_or_insert_default().insert(ACCOUNT_UID.into(), "other".into());
        assert!(!is_of(&s, "a", "u"));
    }
}

//! Signs the config map `kube-public/cluster-info` with every bootstrap token that may sign: who holds a token can
//! check that the CA and address in the map are those of the cluster that the token is of.
//!
//! A signature is a JWS with detached content (RFC 7515, appendix F) under `jws-kubeconfig-TOKENID`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use component_base::controller::queue::WorkQueue;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::PostParams;
use kube::runtime::watcher;
use ring::hmac;
use serde_json::json;

use super::{entry, expiration};
use crate::context::{Context, synced};
use crate::util::{errors, meta};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// A signature of the content with a token, without the content.
fn sign(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{header}.{}", URL_SAFE_NO_PAD.encode(content)).as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// Id and secret of a token that may sign now.
fn signer(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let of_name = meta::name(&secret.metadata).strip_prefix("bootstrap-token-")?;
    let (id, token) = (entry(secret, "token-id"), entry(secret, "token-secret"));
    let fine = id == of_name
        && !id.is_empty()
        && !token.is_empty()
        && expiration(secret).is_none_or(|at| now < at)
        && entry(secret, "usage-bootstrap-signing") == "true";
    fine.then_some((id, token))
}

/// The map with the signatures it must have; `None` if it has them, or holds nothing to sign.
fn signed(map: &ConfigMap, secrets: &[Arc<Secret>], now: Timestamp) -> Option<ConfigMap> {
    let data = map.data.as_ref()?;
    let content = data.get(CONTENT)?;
    let mut wanted: BTreeMap<String, String> = data.clone();
    wanted.retain(|key, _| !key.starts_with(SIGNATURE));
    for (id, token) in secrets.iter().filter_map(|s| signer(s, now)) {
        wanted.insert(format!("{SIGNATURE}{id}"), sign(content, id, token));
    }
    if *data == wanted {
        return None;
    }
    Some(ConfigMap { data: Some(wanted), ..map.clone() })
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let secrets = super::tokens(ctx);
    let api = Api::namespaced(ctx.clients.root(), NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let maps = ctx.informers.selected::<ConfigMap>("cluster-info", api, config);
    let queue: WorkQueue<()> = WorkQueue::default();
    let q = queue.clone();
    secrets.on_change(move |_| q.add(()));
    let q = queue.clone();
    maps.on_change(move |_| q.add(()));
    let (client, stores) = (ctx.client("bootstrap-signer")?, (secrets.store(), maps.store()));
    ctx.work("bootstrap_signer_queue", &queue, 1, vec![synced(&secrets), synced(&maps)], move |()| {
        let (client, (secrets, maps)) = (client.clone(), stores.clone());
        async move {
            let Some(map) = maps.find(NAMESPACE, NAME) else { return Ok(()) };
            let Some(map) = signed(&map, &secrets.list(), Timestamp::now()) else { return Ok(()) };
            let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
            match api.replace(NAME, &PostParams::default(), &map).await {
                Err(e) if errors::not_found(&e) => Ok(()),
                other => other.map(|_| ()).context("signing the config map kube-public/cluster-info"),
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn token(id: &str, usage: &str, expiration: &str) -> Arc<Secret> {
        let mut s = Secret::default();
        s.metadata.name = Some(format!("bootstrap-token-{id}"));
        let data = [
            ("token-id", id),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-signing", usage),
            ("expiration", expiration),
        ];
        s.data = Some(data.map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec()))).into());
        Arc::new(s)
    }

    #[test]
    fn signatures_are_those_of_other_implementations() {
        // Header and tag as any JOSE library makes them of this content and key.
        let jws = sign("content", "abcdef", "0123456789abcdef");
        let (header, tag) = jws.split_once("..").unwrap();
        assert_eq!(header, "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9");
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        let message = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9.Y29udGVudA";
        assert!(hmac::verify(&key, message.as_bytes(), &URL_SAFE_NO_PAD.decode(tag).unwrap()).is_ok());
    }

    #[test]
    fn only_tokens_that_may_sign_and_no_old_signatures() {
        let mut map = ConfigMap::default();
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(signed(&map, &[token("aaaaaa", "true", "")], now), None, "there is nothing to sign");
        map.data = Some(
            [("kubeconfig", "x"), ("jws-kubeconfig-gone00", "y")].map(|(k, v)| (k.into(), v.into())).into(),
        );
        let tokens = [
            token("aaaaaa", "true", ""),
            token("bbbbbb", "false", ""),
            token("cccccc", "true", "1969-01-01T00:00:00Z"),
        ];
        let first = signed(&map, &tokens, now).unwrap();
        let keys: Vec<_> = first.data.iter().flatten().map(|(k, _)| k.as_str()).collect();
        assert_eq!(keys, ["jws-kubeconfig-aaaaaa", "kubeconfig"]);
        assert_eq!(signed(&first, &tokens, now), None);
    }
}

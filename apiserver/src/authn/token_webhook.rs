//! `--authentication-token-webhook-config-file`: asks a service by `TokenReview` whose token it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::TokenIdentity;
use crate::lookup::{items, text};
use crate::remote::Remote;
use crate::request::UserInfo;
use crate::ttl_cache::TtlCache;

const TIMEOUT: Duration = Duration::from_secs(10);
const REMEMBER_MAX: usize = 4096;

/// The `--authentication-token-webhook-*` flags.
#[derive(Debug, Clone)]
pub struct Config {
    pub config_file: std::path::PathBuf,
    /// `v1` or `v1beta1`.
    pub version: String,
    pub cache_ttl: Duration,
}

/// See the module.
pub struct TokenWebhook {
    remote: Remote,
    api_version: String,
    cache_ttl: Duration,
    known: TtlCache<[u8; 32], Option<TokenIdentity>>,
}

impl TokenWebhook {
    pub fn new(config: &Config) -> Result<Self, String> {
        if !matches!(config.version.as_str(), "v1" | "v1beta1") {
            return Err(format!(
                "unsupported authentication webhook version {:?}, supported versions are \"v1\", \"v1beta1\"",
                config.version
            ));
        }
        Ok(Self {
            remote: Remote::from_kubeconfig(Path::new(&config.config_file), TIMEOUT)?,
            api_version: format!("authentication.k8s.io/{}", config.version),
            cache_ttl: config.cache_ttl,
            known: TtlCache::new(REMEMBER_MAX),
        })
    }

    /// None where the service does not know the token. Services that do not say for which audiences they vouch, vouch
    /// for `own` alone.
    pub async fn authenticate(
        &self,
        token: &str,
        wanted: &[String],
        own: &[String],
    ) -> Result<Option<TokenIdentity>, String> {
        let mut hasher = Sha256::new();
        hasher.update(token);
        for a in wanted {
            hasher.update([0]);
            hasher.update(a);
        }
        let id: [u8; 32] = hasher.finalize().into();
        if let Some(known) = self.known.get(&id, Instant::now()) {
            return Ok(known);
        }
        let found = self.ask(token, wanted, own).await?;
        self.known.put(id, found.clone(), Instant::now(), self.cache_ttl);
        Ok(found)
    }

    async fn ask(
        &self,
        token: &str,
        wanted: &[String],
        own: &[String],
    ) -> Result<Option<TokenIdentity>, String> {
        let mut review = json!({
            "apiVersion": self.api_version, "kind": "TokenReview", "metadata": {"creationTimestamp": null},
            "spec": {"token": token}, "status": {"user": {}},
        });
        if !wanted.is_empty() {
            review["spec"]["audiences"] = json!(wanted);
        }
        let answer = self.remote.post(&review, |_, _| {}).await.map_err(|e| {
            tracing::error!(error = %e, "the authentication webhook cannot be asked");
            e.to_string()
        })?;
        if text(&answer, "/kind") != "TokenReview" || text(&answer, "/apiVersion") != self.api_version {
            return Err(format!(
                "the webhook answered with {} {}, not with a {} TokenReview",
                text(&answer, "/apiVersion"),
                text(&answer, "/kind"),
                self.api_version
            ));
        }
        judge(&answer, wanted, own)
    }
}

fn strings(v: &Value, pointer: &str) -> Vec<String> {
    items(v, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn judge(answer: &Value, wanted: &[String], own: &[String]) -> Result<Option<TokenIdentity>, String> {
    let mut audiences = Vec::new();
    if !wanted.is_empty() {
        let said = strings(answer, "/status/audiences");
        let vouched = if said.is_empty() { own.to_vec() } else { said };
        audiences = wanted.iter().filter(|a| vouched.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return Ok(None);
        }
    }
    if answer.pointer("/status/authenticated").and_then(Value::as_bool) != Some(true) {
        let error = text(answer, "/status/error");
        return if error.is_empty() { Ok(None) } else { Err(error.to_owned()) };
    }
    let extra: BTreeMap<String, Vec<String>> = answer
        .pointer("/status/user/extra")
        .and_then(Value::as_object)
        .map(|m| m.iter().map(|(k, v)| (k.clone(), strings(v, ""))).collect())
        .unwrap_or_default();
    let user = UserInfo {
        name: text(answer, "/status/user/username").to_owned(),
        uid: text(answer, "/status/user/uid").to_owned(),
        groups: strings(answer, "/status/user/groups"),
        extra,
    };
    Ok(Some(TokenIdentity { user, audiences }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let yes = |audiences: &[&str]| {
            json!({"status": {"authenticated": true, "audiences": audiences,
                "user": {"username": "jane", "groups": ["dev"], "extra": {"k": ["v"]}}}})
        };
        let own = list(&["api"]);
        let found = judge(&yes(&[]), &list(&["api"]), &own).unwrap().unwrap();
        assert_eq!((found.user.name.as_str(), found.audiences), ("jane", list(&["api"])));
        assert_eq!(found.user.extra["k"], ["v"]);
        assert_eq!(judge(&yes(&[]), &list(&["other"]), &own).unwrap(), None);
        assert_eq!(judge(&yes(&["a", "b"]), &list(&["b", "c"]), &own).unwrap().unwrap().audiences, ["b"]);
        assert_eq!(judge(&json!({"status": {}}), &[], &own).unwrap(), None);
        let e = json!({"status": {"error": "expired"}});
        assert_eq!(judge(&e, &[], &own).unwrap_err(), "expired");
    }
}

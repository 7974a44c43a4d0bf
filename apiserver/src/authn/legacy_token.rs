//! Service-account tokens kept in secrets, as they were before tokens could be requested: valid as long as the secret
//! holds them. Their use is tracked by labels, so that tokens that nobody uses can be found and removed.
//!
//! Source: KEP-2799 "Reduction of Secret-based Service Account Tokens".

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prometheus_client::metrics::counter::Counter;
use serde_json::Value;

use super::service_account::split_user;
use crate::lookup::{self, ObjectLookup, ObjectWriter, items, text};
use crate::request::UserInfo;

/// The issuer of such tokens.
pub const ISSUER: &str = "kubernetes/serviceaccount";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// How often tokens were used, under upstream's names.
#[derive(Debug, Default)]
pub struct Metrics {
    pub all: Counter,
    pub automatic: Counter,
    pub manual: Counter,
    pub invalid: Counter,
    /// Tokens of pods that should have been exchanged for new ones.
    pub stale: Counter,
    /// Tokens of pods within that time.
    pub valid: Counter,
}

impl Metrics {
    /// Adds all to the server's metrics.
    pub fn register(&self, shared: &component_base::metrics::Metrics) {
        shared.register(|r| {
            for (name, help, counter) in [
                ("legacy_tokens", "Cumulative legacy service account tokens used", &self.all),
                ("legacy_auto_token_uses", "Cumulative auto-generated legacy tokens used", &self.automatic),
                ("legacy_manual_token_uses", "Cumulative manually created legacy tokens used", &self.manual),
                (
                    "invalid_legacy_auto_token_uses",
                    "Cumulative invalid auto-generated legacy tokens used",
                    &self.invalid,
                ),
                ("stale_tokens", "Cumulative stale projected service account tokens used", &self.stale),
                ("valid_tokens", "Cumulative valid projected service account tokens used", &self.valid),
            ] {
                r.register(format!("serviceaccount_{name}"), help, counter.clone());
            }
        });
    }
}

/// The account of verified claims, where its secret still holds the token.
pub async fn judge(
    objects: &dyn ObjectLookup,
    writer: Option<&Arc<dyn ObjectWriter>>,
    metrics: &Metrics,
    token: &str,
    claims: &Value,
) -> Result<UserInfo, String> {
    let claim = |name: &str, key: &str| match claims.get(key).and_then(Value::as_str) {
        Some(v) if !v.is_empty() => Ok(v),
        _ => Err(format!("{name} claim is missing")),
    };
    let subject = claim("sub", "sub")?;
    let namespace = claim("namespace", "kubernetes.io/serviceaccount/namespace")?;
    let secret_name = claim("secretName", "kubernetes.io/serviceaccount/secret.name")?;
    let name = claim("serviceAccountName", "kubernetes.io/serviceaccount/service-account.name")?;
    let uid = claim("serviceAccountUID", "kubernetes.io/serviceaccount/service-account.uid")?;
    if split_user(subject) != Some((namespace, name)) {
        return Err("sub claim is invalid".to_owned());
    }
    let get = async |resource, name: &str| objects.get(resource, namespace, name).await.ok().flatten();
    let dying = |o: &Value| !text(o, "/metadata/deletionTimestamp").is_empty();
    let Some(secret) = get(lookup::SECRETS, secret_name).await.filter(|s| !dying(s)) else {
        return Err("Token has been invalidated".to_owned());
    };
    let stored = STANDARD.decode(text(&secret, "/data/token")).unwrap_or_default();
    if !super::bootstrap_token::same(&stored, token.as_bytes()) {
        return Err("Token does not match server's copy".to_owned());
    }
    let Some(account) = get(lookup::SERVICE_ACCOUNTS, name).await else {
        return Err(format!("serviceaccounts \"{name}\" not found"));
    };
    if dying(&account) {
        return Err(format!("ServiceAccount {namespace}/{name} has been deleted"));
    }
    let found = text(&account, "/metadata/uid");
    if found != uid {
        return Err(format!("ServiceAccount UID ({found}) does not match claim ({uid})"));
    }
    if let Some(w) = writer {
        track(w, &secret, namespace, secret_name);
    }
    let labels = secret.pointer("/metadata/labels");
    if labels.and_then(|l| l.get(INVALID_SINCE)).and_then(Value::as_str).is_some_and(|v| !v.is_empty()) {
        metrics.invalid.inc();
        return Err(format!(
            "the token in secret {namespace}/{secret_name} for service account {namespace}/{name} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
        ));
    }
    let automatic = items(&account, "/secrets").iter().any(|s| text(s, "/name") == secret_name);
    if automatic {
        metrics.automatic.inc()
    } else {
        metrics.manual.inc()
    };
    metrics.all.inc();
    Ok(UserInfo {
        name: subject.to_owned(),
        uid: uid.to_owned(),
        groups: super::service_account::groups(namespace),
        ..UserInfo::default()
    })
}

/// Labels the secret with today, once a day; the request does not wait for it.
fn track(writer: &Arc<dyn ObjectWriter>, secret: &Arc<Value>, namespace: &str, name: &str) {
    let now = jiff::Timestamp::now();
    let day = |t: jiff::Timestamp| t.strftime("%Y-%m-%d").to_string();
    let today = day(now);
    let tomorrow = day(now.saturating_add(jiff::SignedDuration::from_hours(24)).unwrap_or(now));
    let labels = secret.pointer("/metadata/labels");
    let last = labels.and_then(|l| l.get(LAST_USED)).and_then(Value::as_str).unwrap_or_default();
    // Another server's clock may be a little ahead.
    if last == today || last == tomorrow {
        return;
    }
    let mut new = (**secret).clone();
    new["metadata"]["labels"][LAST_USED] = today.into();
    let (writer, namespace, name) = (writer.clone(), namespace.to_owned(), name.to_owned());
    tokio::spawn(async move {
        if let Err(e) = writer.update(lookup::SECRETS, &namespace, new).await {
            tracing::warn!(secret = %format!("{namespace}/{name}"), error = %e, "the use of a legacy token could not be recorded");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::testing::Objects;
    use serde_json::json;

    fn claims() -> Value {
        json!({"sub": "system:serviceaccount:ns:sa", "kubernetes.io/serviceaccount/namespace": "ns",
            "kubernetes.io/serviceaccount/secret.name": "s", "kubernetes.io/serviceaccount/service-account.name": "sa",
            "kubernetes.io/serviceaccount/service-account.uid": "sa-uid"})
    }

    fn objects(labels: Value) -> Objects {
        Objects::with([
            (lookup::SERVICE_ACCOUNTS, json!({"metadata":{"name":"sa","namespace":"ns","uid":"sa-uid"}})),
            (
                lookup::SECRETS,
                json!({"metadata":{"name":"s","namespace":"ns","labels":labels},"data":{"token":STANDARD.encode("tok")}}),
            ),
        ])
    }

    #[tokio::test]
    async fn secrets_hold_tokens() {
        let metrics = Metrics::default();
        let store = Arc::new(objects(json!({})));
        let writer: Arc<dyn ObjectWriter> = store.clone();
        let ask =
            async |token: &str, claims: Value| judge(&*store, Some(&writer), &metrics, token, &claims).await;
        let user = ask("tok", claims()).await.unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:ns:sa", "sa-uid"));
        assert_eq!((metrics.all.get(), metrics.manual.get(), metrics.automatic.get()), (1, 1, 0));
        assert_eq!(ask("other", claims()).await.unwrap_err(), "Token does not match server's copy");
        for (key, value, want) in [
            ("sub", "system:serviceaccount:other:sa", "sub claim is invalid"),
            ("kubernetes.io/serviceaccount/secret.name", "gone", "Token has been invalidated"),
            ("kubernetes.io/serviceaccount/secret.name", "", "secretName claim is missing"),
            (
                "kubernetes.io/serviceaccount/service-account.uid",
                "x",
                "ServiceAccount UID (sa-uid) does not match claim (x)",
            ),
        ] {
            let mut c = claims();
            c[key] = value.into();
            assert_eq!(ask("tok", c).await.unwrap_err(), want);
        }
        tokio::task::yield_now().await;
        let secret = store.get(lookup::SECRETS, "ns", "s").await.unwrap().unwrap();
        assert_eq!(text(&secret, "/metadata/labels/kubernetes.io~1legacy-token-last-used").len(), 10);
    }

    #[tokio::test]
    async fn tokens_can_be_marked_invalid() {
        let metrics = Metrics::default();
        let store = objects(json!({INVALID_SINCE: "2026-01-01"}));
        let e = judge(&store, None, &metrics, "tok", &claims()).await.unwrap_err();
        assert!(e.starts_with("the token in secret ns/s for service account ns/sa has been marked invalid"));
        assert_eq!(metrics.invalid.get(), 1);
    }
}

//! Secrets with tokens that were made for service accounts automatically by old releases: those that nobody uses any
//! more are marked invalid, and deleted when nobody missed them.
//!
//! Source: KEP-2799. Looked at once a day, as their marks are days.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::informer::Store;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::service_account_tokens::{ACCOUNT_NAME, is_of};
use crate::context::{Context, synced};
use crate::util::{errors, meta};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Says since when the API server tracks the use of tokens.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const PERIOD: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    /// Put the label on that makes it invalid.
    Invalidate,
    Delete,
}

/// What becomes of a secret that its account names and no pod mounts. `cutoff` is the time before which it must have
/// been used last.
fn judge(secret: &Secret, cutoff: Timestamp) -> Verdict {
    let day: Date = cutoff.to_zoned(TimeZone::UTC).date();
    if meta::created(&secret.metadata) >= cutoff || secret.metadata.deletion_timestamp.is_some() {
        return Verdict::Keep;
    }
    let label = |key: &str| secret.metadata.labels.as_ref().and_then(|l| l.get(key));
    if let Some(used) = label(LAST_USED) {
        match used.parse::<Date>() {
            Ok(used) if used < day => {}
            // What can't be read may be yesterday.
            _ => return Verdict::Keep,
        }
    }
    match label(INVALID_SINCE).and_then(|l| l.parse::<Date>().ok()) {
        None => Verdict::Invalidate,
        Some(since) if since >= day => Verdict::Keep,
        Some(_) => Verdict::Delete,
    }
}

/// The secrets that a pod names.
fn secrets_of(spec: &Value, out: &mut BTreeSet<String>) {
    match spec {
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = match key.as_str() {
                    "secretRef" | "secretKeyRef" | "nodePublishSecretRef" | "secret" => value.get("name"),
                    "secretName" => Some(value),
                    _ => None,
                };
                out.extend(name.and_then(Value::as_str).map(str::to_owned));
                if key == "imagePullSecrets" {
                    let names = value.as_array().into_iter().flatten().filter_map(|s| s["name"].as_str());
                    out.extend(names.map(str::to_owned));
                }
                secrets_of(value, out);
            }
        }
        Value::Array(list) => list.iter().for_each(|v| secrets_of(v, out)),
        _ => {}
    }
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let secrets = ctx.informers.of::<Secret>();
    let unused = SignedDuration::try_from(ctx.flags.legacy_service_account_token_clean_up_period.0)
        .context("--legacy-service-account-token-clean-up-period is too long")?;
    let cleaner = Arc::new(Cleaner {
        client: ctx.client("legacy-service-account-token-cleaner")?,
        reader: ctx.clients.root(),
        secrets: secrets.store(),
        unused,
    });
    let ready = synced(&secrets);
    ctx.spawn(async move {
        ready.await;
        loop {
            if let Err(error) = cleaner.clean(Timestamp::now()).await {
                tracing::warn!(error = format!("{error:#}"), "can't look for unused service account tokens");
            }
            tokio::time::sleep(PERIOD).await;
        }
    });
    Ok(())
}

struct Cleaner {
    /// Writes, and reads the day since when tokens are tracked: more the controller's own identity may not.
    client: Client,
    reader: Client,
    secrets: Store<Secret>,
    unused: SignedDuration,
}

impl Cleaner {
    async fn clean(&self, now: Timestamp) -> anyhow::Result<()> {
        let cutoff = now.checked_sub(self.unused).context("the clean-up period")?;
        let mut candidates = self.secrets.list();
        candidates.retain(|s| judge(s, cutoff) != Verdict::Keep);
        if candidates.is_empty() || cutoff < self.tracked_since().await? {
            return Ok(());
        }
        let mut mounted: HashMap<String, BTreeSet<String>> = HashMap::new();
        for secret in candidates {
            let (namespace, name) = (meta::namespace(&secret.metadata), meta::name(&secret.metadata));
            if !self.is_automatic(&secret).await? {
                continue;
            }
            if !mounted.contains_key(namespace) {
                mounted.insert(namespace.to_owned(), self.mounted(namespace).await?);
            }
            if mounted[namespace].contains(name) {
                continue;
            }
            if let Err(error) = self.execute(&secret, judge(&secret, cutoff), now).await {
                tracing::warn!(secret = name, namespace, error = format!("{error:#}"), "unused token");
            }
        }
        Ok(())
    }

    /// The first moment of which it is certain that use was tracked.
    async fn tracked_since(&self) -> anyhow::Result<Timestamp> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), "kube-system");
        let map = api.get(TRACKING).await.context("getting the day since when tokens are tracked")?;
        let since = map.data.as_ref().and_then(|d| d.get("since")).context("no day is given")?;
        let day: Date = since.parse().with_context(|| format!("{since:?} is no day"))?;
        Ok(day.checked_add(1.day())?.to_zoned(TimeZone::UTC)?.timestamp())
    }

    /// Whether the account names the secret, as old releases did.
    async fn is_automatic(&self, secret: &Secret) -> anyhow::Result<bool> {
        let account = meta::annotation(&secret.metadata, ACCOUNT_NAME).unwrap_or_default();
        if account.is_empty() {
            return Ok(false);
        }
        let namespace = meta::namespace(&secret.metadata);
        let api: Api<ServiceAccount> = Api::namespaced(self.reader.clone(), namespace);
        let found = api.get_opt(account).await.context("getting the service account")?;
        Ok(found.is_some_and(|a| {
            is_of(secret, account, meta::uid(&a.metadata))
                && a.secrets.iter().flatten().any(|s| s.name == secret.metadata.name)
        }))
    }

    async fn mounted(&self, namespace: &str) -> anyhow::Result<BTreeSet<String>> {
        let pods = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
        let api: Api<DynamicObject> = Api::namespaced_with(self.reader.clone(), namespace, &pods);
        let mut out = BTreeSet::new();
        let mut params = ListParams::default().limit(500);
        loop {
            let page = api.list(&params).await.with_context(|| format!("listing pods of {namespace}"))?;
            page.items.iter().for_each(|p| secrets_of(&p.data["spec"], &mut out));
            match page.metadata.continue_.filter(|t| !t.is_empty()) {
                Some(token) => params = ListParams::default().limit(500).continue_token(&token),
                None => return Ok(out),
            }
        }
    }

    async fn execute(&self, secret: &Secret, verdict: Verdict, now: Timestamp) -> anyhow::Result<()> {
        let (namespace, name) = (meta::namespace(&secret.metadata), meta::name(&secret.metadata));
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let done = match verdict {
            Verdict::Keep => return Ok(()),
            Verdict::Invalidate => {
                tracing::info!(
                    secret = name,
                    namespace,
                    "marking an unused service account token as invalid"
                );
                let day = now.to_zoned(TimeZone::UTC).date().to_string();
                let patch = json!({"metadata": {"uid": secret.metadata.uid, "labels": {INVALID_SINCE: day}}});
                api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
            }
            Verdict::Delete => {
                tracing::info!(secret = name, namespace, "deleting an unused service account token");
                let same =
                    Preconditions { uid: None, resource_version: secret.metadata.resource_version.clone() };
                api.delete(name, &DeleteParams::default().preconditions(same)).await.map(|_| ())
            }
        };
        match done {
            Err(e) if matches!(errors::code(&e), Some(404 | 409)) => Ok(()),
            other => other.context("writing the secret"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(created: &str, labels: Value) -> Secret {
        serde_json::from_value(
            json!({"metadata": {"name": "s", "creationTimestamp": created, "labels": labels}}),
        )
        .unwrap()
    }

    #[test]
    fn first_invalid_and_then_gone() {
        let cutoff: Timestamp = "2026-01-10T12:00:00Z".parse().unwrap();
        let judge = |created: &str, labels: Value| judge(&secret(created, labels), cutoff);
        let old = "2020-01-01T00:00:00Z";
        assert_eq!(judge("2026-01-11T00:00:00Z", json!({})), Verdict::Keep);
        assert_eq!(judge(old, json!({})), Verdict::Invalidate);
        assert_eq!(judge(old, json!({LAST_USED: "2026-01-10"})), Verdict::Keep);
        assert_eq!(judge(old, json!({LAST_USED: "2026-01-09"})), Verdict::Invalidate);
        assert_eq!(judge(old, json!({LAST_USED: "whenever"})), Verdict::Keep);
        assert_eq!(judge(old, json!({INVALID_SINCE: "2026-01-10"})), Verdict::Keep);
        assert_eq!(judge(old, json!({INVALID_SINCE: "2026-01-09"})), Verdict::Delete);
        assert_eq!(judge(old, json!({INVALID_SINCE: "?"})), Verdict::Invalidate);
    }

    #[test]
    fn pods_name_secrets_in_many_places() {
        let spec = json!({
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}],
                "envFrom": [{"secretRef": {"name": "from"}}]}],
            "volumes": [{"secret": {"secretName": "volume"}}, {"projected": {"sources": [{"secret": {"name": "part"}}]}},
                {"csi": {"nodePublishSecretRef": {"name": "csi"}}}, {"azureFile": {"secretName": "azure"}}]
        });
        let mut found = BTreeSet::new();
        secrets_of(&spec, &mut found);
        let found: Vec<_> = found.iter().map(String::as_str).collect();
        assert_eq!(found, ["azure", "csi", "env", "from", "part", "pull", "volume"]);
    }
}

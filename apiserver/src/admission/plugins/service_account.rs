//! `ServiceAccount`: every pod runs as a service account that exists, and finds its token mounted.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::Rng as _;
use serde_json::{Value, json};

use crate::admission::{Attributes, Environment, Operation, Plugin};
use crate::authz::graph::secret_names;
use crate::kinds::podspec::validate::MIRROR;
use crate::lookup::{self, ObjectLookup, items, text};
use crate::status::ApiResult;

const DEFAULT_ACCOUNT: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Also what token requests recognise as "may be extended".
pub const TOKEN_SECONDS: i64 = 60 * 60 + 7;
/// A new namespace's `default` account is made by a controller: how long to wait for it.
const WAIT_STEPS: u32 = 10;
const WAIT_STEP: Duration = Duration::from_millis(100);

struct ServiceAccount {
    objects: Arc<dyn ObjectLookup>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(ServiceAccount { objects: env.objects.clone() })
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(pod) = object else { return Ok(()) };
        if !attrs.is("", "pods", "") || attrs.operation != Operation::Create {
            return Ok(());
        }
        if pod["metadata"]["annotations"].get(MIRROR).is_some() {
            // Never changed: the kubelet would not know its own pod again.
            return mirror(attrs, pod);
        }
        if text(pod, "/spec/serviceAccountName").is_empty() {
            pod["spec"]["serviceAccountName"] = DEFAULT_ACCOUNT.into();
        }
        // The deprecated alias always shows the same name.
        pod["spec"]["serviceAccount"] = pod["spec"]["serviceAccountName"].clone();
        let account = self.account(attrs, pod).await?;
        let automount = pod.pointer("/spec/automountServiceAccountToken").and_then(Value::as_bool);
        let automount =
            automount.or_else(|| account["automountServiceAccountToken"].as_bool()).unwrap_or(true);
        if automount {
            mount_token(pod);
        }
        if items(pod, "/spec/imagePullSecrets").is_empty() {
            let secrets: Vec<Value> = items(&account, "/imagePullSecrets")
                .iter()
                .map(|s| json!({"name": text(s, "/name")}))
                .collect();
            if !secrets.is_empty() {
                pod["spec"]["imagePullSecrets"] = Value::Array(secrets);
            }
        }
        Ok(())
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(pod) = object else { return Ok(()) };
        let create = attrs.is("", "pods", "") && attrs.operation == Operation::Create;
        let ephemeral = attrs.is("", "pods", "ephemeralcontainers") && attrs.operation == Operation::Update;
        if !create && !ephemeral {
            return Ok(());
        }
        if create && pod["metadata"]["annotations"].get(MIRROR).is_some() {
            return mirror(attrs, pod);
        }
        let name = text(pod, "/spec/serviceAccountName");
        if name.is_empty() {
            let pod_name = text(pod, "/metadata/name");
            return Err(attrs.forbidden(
                Some(pod),
                format!("no service account specified for pod {}/{pod_name}", attrs.namespace),
            ));
        }
        let account = self.account(attrs, pod).await?;
        let enforced = text(&account, "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets");
        if matches!(enforced, "1" | "t" | "T" | "true" | "TRUE" | "True") {
            limit_secrets(&account, pod, ephemeral).map_err(|m| attrs.forbidden(Some(pod), m))?;
        }
        Ok(())
    }
}

impl ServiceAccount {
    async fn account(&self, attrs: &Attributes<'_>, pod: &Value) -> ApiResult<Arc<Value>> {
        let name = text(pod, "/spec/serviceAccountName");
        let tries = if name == DEFAULT_ACCOUNT { WAIT_STEPS } else { 1 };
        for i in 0..tries {
            if i > 0 {
                tokio::time::sleep(WAIT_STEP).await;
            }
            if let Some(a) = self.objects.get(lookup::SERVICE_ACCOUNTS, attrs.namespace, name).await? {
                return Ok(a);
            }
        }
        let ns = attrs.namespace;
        Err(attrs.forbidden(
            Some(pod),
            format!("error looking up service account {ns}/{name}: serviceaccount \"{name}\" not found"),
        ))
    }
}

fn mirror(attrs: &Attributes<'_>, pod: &Value) -> ApiResult<()> {
    let token = items(pod, "/spec/volumes")
        .iter()
        .flat_map(|v| items(v, "/projected/sources"))
        .any(|s| s.get("serviceAccountToken").is_some_and(|t| !t.is_null()));
    let problem = if !text(pod, "/spec/serviceAccountName").is_empty() {
        "a mirror pod may not reference service accounts"
    } else if !secret_names(pod).is_empty() {
        "a mirror pod may not reference secrets"
    } else if token {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(attrs.forbidden(Some(pod), problem))
}

/// A suffix as generated names have it: five letters and digits that cannot form words.
pub(crate) fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

fn mount_token(pod: &mut Value) {
    let existing = items(pod, "/spec/volumes")
        .iter()
        .map(|v| text(v, "/name"))
        .find(|n| n.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", random_suffix()));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for c in containers {
            if items(c, "/volumeMounts").iter().any(|m| text(m, "/mountPath") == MOUNT_PATH) {
                continue;
            }
            needed = true;
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
            match c.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                Some(mounts) => mounts.push(mount),
                None => c["volumeMounts"] = json!([mount]),
            }
        }
    }
    if existing.is_some() || !needed {
        return;
    }
    let volume = json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    });
    match pod["spec"].get_mut("volumes").and_then(Value::as_array_mut) {
        Some(volumes) => volumes.push(volume),
        None => pod["spec"]["volumes"] = json!([volume]),
    }
}

fn limit_secrets(account: &Value, pod: &Value, ephemeral: bool) -> Result<(), String> {
    let account_name = text(account, "/metadata/name");
    let may = |list: &str, name: &str| items(account, list).iter().any(|s| text(s, "/name") == name);
    let refused = |what: String| {
        format!("{what} is not allowed because service account {account_name} does not reference that secret")
    };
    let lists: &[(&str, &str)] = if ephemeral {
        &[("/spec/ephemeralContainers", "ephemeral container")]
    } else {
        for v in items(pod, "/spec/volumes") {
            let name = text(v, "/secret/secretName");
            if !name.is_empty() && !may("/secrets", name) {
                return Err(refused(format!("volume with secret.secretName=\"{name}\"")));
            }
        }
        &[("/spec/initContainers", "init container"), ("/spec/containers", "container")]
    };
    for (list, word) in lists {
        for c in items(pod, list) {
            let container = text(c, "/name");
            for e in items(c, "/env") {
                let name = text(e, "/valueFrom/secretKeyRef/name");
                if !name.is_empty() && !may("/secrets", name) {
                    let var = text(e, "/name");
                    return Err(refused(format!(
                        "{word} {container} with envVar {var} referencing secret.secretName=\"{name}\""
                    )));
                }
            }
            for e in items(c, "/envFrom") {
                let name = text(e, "/secretRef/name");
                if !name.is_empty() && !may("/secrets", name) {
                    return Err(refused(format!(
                        "{word} {container} with envFrom referencing secret.secretName=\"{name}\""
                    )));
                }
            }
        }
    }
    if !ephemeral {
        for (i, s) in items(pod, "/spec/imagePullSecrets").iter().enumerate() {
            let name = text(s, "/name");
            if !may("/imagePullSecrets", name) {
                return Err(format!(
                    "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {account_name} \
                     does not reference that imagePullSecret"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};

    fn account(name: &str, more: Value) -> (lookup::Resource, Value) {
        let mut o = json!({"metadata":{"name":name,"namespace":"ns"}});
        for (k, v) in more.as_object().unwrap() {
            o[k] = v.clone();
        }
        (lookup::SERVICE_ACCOUNTS, o)
    }

    fn pod() -> Value {
        json!({"metadata":{"name":"p"},"spec":{"containers":[{"name":"a"},
            {"name":"b","volumeMounts":[{"name":"x","mountPath":MOUNT_PATH}]}]}})
    }

    #[tokio::test]
    async fn default_account_token_and_pull_secrets() {
        let (env, _) = environment([account("default", json!({"imagePullSecrets":[{"name":"reg"}]}))]);
        let p = build(&env);
        let pod = Write::create(lookup::PODS, "ns").run(&*p, Some(pod())).await.unwrap().unwrap();
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name":"reg"}]));
        let volume = &pod["spec"]["volumes"][0];
        let name = volume["name"].as_str().unwrap();
        assert_eq!(name.len(), VOLUME_PREFIX.len() + 5);
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(volume["projected"]["defaultMode"], 420);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], name);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn opting_out() {
        let (env, _) = environment([account("quiet", json!({"automountServiceAccountToken":false}))]);
        let p = build(&env);
        let mut q = pod();
        q["spec"]["serviceAccountName"] = "quiet".into();
        let out = Write::create(lookup::PODS, "ns").run(&*p, Some(q.clone())).await.unwrap().unwrap();
        assert!(out["spec"].get("volumes").is_none());
        q["spec"]["automountServiceAccountToken"] = true.into();
        let out = Write::create(lookup::PODS, "ns").run(&*p, Some(q)).await.unwrap().unwrap();
        assert_eq!(items(&out, "/spec/volumes").len(), 1);
    }

    #[tokio::test]
    async fn unknown_accounts_and_mirror_pods() {
        let (env, _) = environment([]);
        let p = build(&env);
        let mut q = pod();
        q["spec"]["serviceAccountName"] = "gone".into();
        let e = Write::create(lookup::PODS, "ns").run(&*p, Some(q)).await.unwrap_err();
        assert_eq!(
            e.message,
            "pods \"p\" is forbidden: error looking up service account ns/gone: serviceaccount \"gone\" not found"
        );
        let mut m = pod();
        m["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror":"x"});
        let out = Write::create(lookup::PODS, "ns").run(&*p, Some(m.clone())).await.unwrap().unwrap();
        assert_eq!(out, m);
        m["spec"]["volumes"] = json!([{"name":"s","secret":{"secretName":"x"}}]);
        let e = Write::create(lookup::PODS, "ns").run(&*p, Some(m)).await.unwrap_err();
        assert!(e.message.ends_with("a mirror pod may not reference secrets"));
    }

    #[tokio::test]
    async fn mountable_secrets_only() {
        let (env, _) = environment([account(
            "tight",
            json!({"metadata":{"name":"tight","namespace":"ns","annotations":{"kubernetes.io/enforce-mountable-secrets":"true"}},
                "secrets":[{"name":"ok"}]}),
        )]);
        let p = build(&env);
        let mut q = pod();
        q["spec"]["serviceAccountName"] = "tight".into();
        q["spec"]["volumes"] = json!([{"name":"s","secret":{"secretName":"ok"}}]);
        assert!(Write::create(lookup::PODS, "ns").run(&*p, Some(q.clone())).await.is_ok());
        q["spec"]["volumes"] = json!([{"name":"s","secret":{"secretName":"other"}}]);
        let e = Write::create(lookup::PODS, "ns").run(&*p, Some(q)).await.unwrap_err();
        assert!(e.message.contains("volume with secret.secretName=\"other\" is not allowed"));
    }
}

//! `PodTolerationRestriction`: pods get the default tolerations of their namespace, and may tolerate no more than its
//! list allows. Both are JSON in annotations of the namespace; the configuration has those of the cluster.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::pod_resources::amounts;
use crate::admission::{Attributes, Environment, Operation, Plugin};
use crate::lookup::{self, ObjectLookup, items, text};
use crate::status::{ApiError, ApiResult};

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// The tolerations of the cluster.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Configuration {
    default: Vec<Value>,
    whitelist: Vec<Value>,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
}

struct PodTolerationRestriction {
    objects: Arc<dyn ObjectLookup>,
    cluster: Configuration,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    let cluster = env.configs.pod_toleration_restriction.clone();
    Arc::new(PodTolerationRestriction { objects: env.objects.clone(), cluster })
}

fn applies(attrs: &Attributes<'_>) -> bool {
    attrs.is("", "pods", "") && matches!(attrs.operation, Operation::Create | Operation::Update)
}

/// Whether `a` tolerates everything that `b` does.
fn covers(a: &Value, b: &Value) -> bool {
    let f = |t: &'static str| (text(a, t), text(b, t));
    let (key_a, key_b) = f("/key");
    let (operator_a, operator_b) = f("/operator");
    let (effect_a, effect_b) = f("/effect");
    let seconds = |t: &Value| t.get("tolerationSeconds").and_then(Value::as_i64);
    let fields = ["/key", "/operator", "/value", "/effect"];
    if fields.iter().all(|p| text(a, p) == text(b, p)) && seconds(a) == seconds(b) {
        return true;
    }
    let every_key = key_a.is_empty() && operator_a == "Exists";
    if (key_a != key_b && !every_key) || (effect_a != effect_b && !effect_a.is_empty()) {
        return false;
    }
    if effect_a == "NoExecute"
        && let Some(most) = seconds(a)
        && seconds(b).is_none_or(|s| s > most)
    {
        return false;
    }
    match operator_a {
        "Equal" | "" => operator_b == "Equal" && text(a, "/value") == text(b, "/value"),
        "Exists" => true,
        _ => false,
    }
}

/// `all` without those that others of it cover.
fn merged(all: &[Value]) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for (i, t) in all.iter().enumerate() {
        let covered = out.iter().any(|o| covers(o, t)) || all[i + 1..].iter().any(|o| o != t && covers(o, t));
        if !covered {
            out.push(t.clone());
        }
    }
    out
}

/// Whether the pod asks for any processor or memory.
fn asks_for_resources(pod: &Value) -> bool {
    let asks = |r: &Value| {
        ["requests", "limits"].iter().any(|f| {
            let list = amounts(&r[*f]);
            list.iter().any(|(k, v)| matches!(k.as_str(), "cpu" | "memory") && !v.is_zero())
        })
    };
    let lists = ["/spec/containers", "/spec/initContainers"];
    asks(&pod["spec"]["resources"]) || lists.iter().flat_map(|l| items(pod, l)).any(|c| asks(&c["resources"]))
}

impl PodTolerationRestriction {
    /// The tolerations in an annotation of the namespace; none where it does not have it.
    async fn annotated(&self, namespace: &str, annotation: &str) -> ApiResult<Option<Vec<Value>>> {
        let Some(ns) = self.objects.get(lookup::NAMESPACES, "", namespace).await? else {
            return Err(ApiError::not_found("", "namespaces", namespace));
        };
        match ns["metadata"]["annotations"][annotation].as_str() {
            None => Ok(None),
            Some("") => Ok(Some(Vec::new())),
            Some(text) => serde_json::from_str(text).map(Some).map_err(|e| {
                ApiError::new(500, "", format!("annotation {annotation} of namespace {namespace}: {e}"))
            }),
        }
    }

    async fn check(&self, attrs: &Attributes<'_>, pod: &Value) -> ApiResult<()> {
        let tolerations = items(pod, "/spec/tolerations");
        if tolerations.is_empty() {
            return Ok(());
        }
        let own = self.annotated(attrs.namespace, ALLOWED).await?;
        let scope = if own.is_some() { "namespace" } else { "cluster" };
        let allowed = own.as_deref().unwrap_or(&self.cluster.whitelist);
        if allowed.is_empty() || tolerations.iter().all(|t| allowed.iter().any(|a| covers(a, t))) {
            return Ok(());
        }
        Err(ApiError::new(
            500,
            "",
            format!(
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
            ),
        ))
    }
}

#[async_trait]
impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|_| applies(attrs)) else { return Ok(()) };
        let mut extra = Vec::new();
        if attrs.operation == Operation::Create {
            let own = self.annotated(attrs.namespace, DEFAULTS).await?;
            extra = own.unwrap_or_else(|| self.cluster.default.clone());
        }
        if asks_for_resources(pod) {
            extra.push(json!({
                "key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule",
            }));
        }
        if !extra.is_empty() {
            let all = [items(pod, "/spec/tolerations"), extra.as_slice()].concat();
            pod["spec"]["tolerations"] = merged(&all).into();
        }
        self.check(attrs, pod).await
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        match object.filter(|_| applies(attrs)) {
            Some(pod) => self.check(attrs, pod).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};

    #[test]
    fn who_covers_whom() {
        let t = |k: &str, o: &str, e: &str| json!({"key": k, "operator": o, "effect": e});
        assert!(covers(&t("", "Exists", ""), &t("a", "Equal", "NoExecute")));
        assert!(!covers(&t("a", "Equal", ""), &t("a", "Exists", "NoSchedule")));
        assert!(!covers(&t("b", "Exists", ""), &t("a", "Exists", "")));
        let short = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        assert!(
            !covers(&short, &t("a", "Exists", "NoExecute")) && covers(&t("a", "Exists", "NoExecute"), &short)
        );
        assert_eq!(merged(&[short, t("a", "Exists", "NoExecute")]), [t("a", "Exists", "NoExecute")]);
    }

    #[tokio::test]
    async fn defaults_and_bounds() {
        let annotations = json!({
            DEFAULTS: r#"[{"key": "d", "operator": "Exists"}]"#,
            ALLOWED: r#"[{"key": "d", "operator": "Exists"}, {"key": "ok", "operator": "Exists"}]"#,
        });
        let ns =
            |n: &str, a: &Value| (lookup::NAMESPACES, json!({"metadata": {"name": n, "annotations": a}}));
        let (env, _) = environment([ns("n", &annotations), ns("bad", &json!({DEFAULTS: "nonsense"}))]);
        let p = build(&env);
        let run = async |namespace: &str, tolerations: Value| {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"tolerations": tolerations}});
            Write::create(lookup::PODS, namespace).run(&*p, Some(pod)).await.map(Option::unwrap)
        };
        let out = run("n", Value::Null).await.unwrap();
        assert_eq!(out["spec"]["tolerations"], json!([{"key": "d", "operator": "Exists"}]));
        assert!(run("n", json!([{"key": "ok", "operator": "Exists"}])).await.is_ok());
        let e = run("n", json!([{"key": "no", "operator": "Exists"}])).await.unwrap_err();
        assert!(e.message.ends_with("conflict with its namespace whitelist"), "{e}");
        assert!(run("bad", Value::Null).await.is_err());
    }
}

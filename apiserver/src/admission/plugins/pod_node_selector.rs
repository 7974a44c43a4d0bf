//! `PodNodeSelector`: pods get the node selector of their namespace, and may ask for no other nodes than it allows.
//!
//! The selector of a namespace is in its annotation, or the configured cluster default. The configuration also lists,
//! by namespace, the labels that its pods may select at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::admission::{Attributes, Environment, Operation, Plugin};
use crate::lookup::{self, ObjectLookup};
use crate::registry::names;
use crate::status::{ApiError, ApiResult};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const CLUSTER_DEFAULT: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

struct PodNodeSelector {
    objects: Arc<dyn ObjectLookup>,
    /// The configuration: `clusterDefaultNodeSelector` and namespaces.
    selectors: BTreeMap<String, String>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    let selectors = env.configs.pod_node_selector.clone();
    Arc::new(PodNodeSelector { objects: env.objects.clone(), selectors })
}

/// Reads `a=b,c=d`.
fn parse(selector: &str) -> ApiResult<Labels> {
    let fail = |m: String| ApiError::new(500, "", m);
    let mut out = Labels::new();
    if selector.is_empty() {
        return Ok(out);
    }
    for part in selector.split(',') {
        let Some((key, value)) = part.split_once('=').filter(|(_, v)| !v.contains('=')) else {
            return Err(fail(format!("invalid selector: {part}")));
        };
        let (key, value) = (key.trim(), value.trim());
        if let Err(m) = names::qualified_name(key) {
            return Err(fail(format!("invalid label key {key:?}: {}", m.join("; "))));
        }
        if let Err(m) = names::label_value(value) {
            return Err(fail(format!("invalid label value {value:?}: {}", m.join("; "))));
        }
        out.insert(key.to_owned(), value.to_owned());
    }
    Ok(out)
}

fn selector_of(pod: &Value) -> Labels {
    let m = pod.pointer("/spec/nodeSelector").and_then(Value::as_object);
    m.into_iter().flatten().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
}

fn applies(attrs: &Attributes<'_>) -> bool {
    attrs.is("", "pods", "") && attrs.operation == Operation::Create
}

impl PodNodeSelector {
    async fn of_namespace(&self, name: &str) -> ApiResult<Labels> {
        let Some(namespace) = self.objects.get(lookup::NAMESPACES, "", name).await? else {
            return Err(ApiError::internal(format!("namespace {name} does not exist")));
        };
        match namespace["metadata"]["annotations"][ANNOTATION].as_str() {
            Some(selector) => parse(selector),
            None => parse(self.selectors.get(CLUSTER_DEFAULT).map_or("", String::as_str)),
        }
    }

    /// The namespace's selector, which the pod's must not contradict.
    async fn agreed(&self, attrs: &Attributes<'_>, pod: &Value) -> ApiResult<Labels> {
        let wanted = self.of_namespace(attrs.namespace).await?;
        let own = selector_of(pod);
        if wanted.iter().any(|(k, v)| own.get(k).is_some_and(|mine| mine != v)) {
            let why = "pod node label selector conflicts with its namespace node label selector";
            return Err(attrs.forbidden(Some(pod), why));
        }
        Ok(wanted)
    }

    async fn check(&self, attrs: &Attributes<'_>, pod: &Value) -> ApiResult<()> {
        self.agreed(attrs, pod).await?;
        let allowed = parse(self.selectors.get(attrs.namespace).map_or("", String::as_str))?;
        if !allowed.is_empty() && selector_of(pod).iter().any(|(k, v)| allowed.get(k) != Some(v)) {
            let why = "pod node label selector labels conflict with its namespace whitelist";
            return Err(attrs.forbidden(Some(pod), why));
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|_| applies(attrs)) else { return Ok(()) };
        let mut merged = self.agreed(attrs, pod).await?;
        merged.extend(selector_of(pod));
        if !merged.is_empty() {
            let merged: Map<String, Value> = merged.into_iter().map(|(k, v)| (k, v.into())).collect();
            pod["spec"]["nodeSelector"] = merged.into();
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
    use serde_json::json;

    #[tokio::test]
    async fn namespaces_choose_nodes() {
        let ns = |name: &str, a: Value| {
            (lookup::NAMESPACES, json!({"metadata": {"name": name, "annotations": a}}))
        };
        let (mut env, _) = environment([ns("own", json!({ANNOTATION: "pool=b"})), ns("plain", Value::Null)]);
        env.configs = Arc::new(crate::admission::config::Configs {
            pod_node_selector: [(CLUSTER_DEFAULT, "pool=a"), ("own", "pool=b,disk=ssd")]
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            ..Default::default()
        });
        let p = build(&env);
        let run = async |namespace: &str, selector: Value| {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeSelector": selector}});
            let w = Write::create(lookup::PODS, namespace);
            w.run(&*p, Some(pod)).await.map(|o| o.unwrap()["spec"]["nodeSelector"].clone())
        };
        assert_eq!(run("plain", Value::Null).await.unwrap(), json!({"pool": "a"}));
        assert_eq!(run("own", json!({"disk": "ssd"})).await.unwrap(), json!({"pool": "b", "disk": "ssd"}));
        assert_eq!(
            run("own", json!({"pool": "c"})).await.unwrap_err().message,
            "pods \"p\" is forbidden: pod node label selector conflicts with its namespace node label selector"
        );
        assert_eq!(
            run("own", json!({"x": "y"})).await.unwrap_err().message,
            "pods \"p\" is forbidden: pod node label selector labels conflict with its namespace whitelist"
        );
        assert!(parse("a").is_err() && parse("a=b=c").is_err() && parse("-=x").is_err());
    }
}

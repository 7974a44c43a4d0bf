//! `PodResizeValidator` and `NodeDeclaredFeatureValidator`: what a running pod is changed to must be possible on its
//! node: there is room (KEP-1287), and the node's kubelet has the features for it (KEP-5328).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::pod_resources::pod_total;
use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::kinds::quantity::Amount;
use crate::lookup::{self, ObjectLookup, items, text};
use crate::status::{ApiResult, Cause};

struct PodResize(Arc<dyn ObjectLookup>);
struct DeclaredFeatures(Arc<dyn ObjectLookup>);

pub(crate) fn build_resize(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(PodResize(env.objects.clone()))
}

pub(crate) fn build_features(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(DeclaredFeatures(env.objects.clone()))
}

/// The pod of an update that changes the spec of a pod on a node, and what it was.
fn changed<'a>(attrs: &Attributes<'a>, object: Option<&'a Value>) -> Option<(&'a Value, &'a Value)> {
    let (pod, old) = (object?, attrs.old?);
    let counts = attrs.operation == Operation::Update
        && !text(pod, "/spec/nodeName").is_empty()
        && pod["metadata"]["generation"] != old["metadata"]["generation"];
    counts.then_some((pod, old))
}

async fn node_of(objects: &dyn ObjectLookup, attrs: &Attributes<'_>, pod: &Value) -> ApiResult<Arc<Value>> {
    let name = text(pod, "/spec/nodeName");
    let found = objects.get(lookup::NODES, "", name).await?;
    found.ok_or_else(|| attrs.forbidden(Some(pod), format!("node {name:?} not found")))
}

#[async_trait]
impl Plugin for PodResize {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        if !attrs.is("", "pods", "resize") {
            return Ok(());
        }
        let Some((pod, _)) = changed(attrs, object) else { return Ok(()) };
        let node = node_of(&*self.0, attrs, pod).await?;
        let refuse = |why: String, reason: &str| {
            let mut e = attrs.forbidden(Some(pod), why);
            let cause = Cause { reason: reason.to_owned(), message: String::new(), field: String::new() };
            e.details.get_or_insert_with(Box::default).causes.push(cause);
            Err(e)
        };
        let os = text(&node, "/metadata/labels/kubernetes.io~1os");
        if !matches!(os, "" | "linux") {
            let name = text(&node, "/metadata/name");
            let why = format!("pod resize is only supported on linux nodes, node {name:?} is {os:?}");
            return refuse(why, "UnsupportedPlatform");
        }
        let mut requests = pod_total(pod, "requests");
        super::pod_resources::add(&mut requests, &super::pod_resources::amounts(&pod["spec"]["overhead"]));
        let room = super::pod_resources::amounts(&node["status"]["allocatable"]);
        let of = |list: &super::pod_resources::Amounts, k: &str| list.get(k).copied().unwrap_or(Amount::ZERO);
        let mut short = Vec::new();
        let whole: [(&str, fn(Amount) -> i64); 2] = [("cpu", Amount::milli), ("memory", Amount::value)];
        for (name, whole) in whole {
            let (wanted, there) = (of(&requests, name), of(&room, name));
            if wanted > there {
                let (wanted, there) = (whole(wanted), whole(there));
                short.push(format!("{name}, requested: {wanted}, allocatable: {there}"));
            }
        }
        if short.is_empty() {
            return Ok(());
        }
        let why = format!("node didn't have enough allocatable resources: {}", short.join("; "));
        refuse(why, "NodeCapacity")
    }
}

/// The features that a kubelet needs to make this change.
fn needed(pod: &Value, old: &Value) -> Vec<&'static str> {
    let mut out = Vec::new();
    if pod["spec"]["resources"] != old["spec"]["resources"] {
        out.push("InPlacePodLevelResourcesVerticalScaling");
    }
    let (new, before) = (items(pod, "/spec/initContainers"), items(old, "/spec/initContainers"));
    let resized = before
        .iter()
        .zip(new)
        .any(|(b, n)| text(b, "/restartPolicy") != "Always" && b["resources"] != n["resources"]);
    if resized {
        out.push("InPlacePodVerticalScalingInitContainers");
    }
    out
}

#[async_trait]
impl Plugin for DeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        if !attrs.is("", "pods", "resize") && !attrs.is("", "pods", "") {
            return Ok(());
        }
        let Some((pod, old)) = changed(attrs, object) else { return Ok(()) };
        let needed = needed(pod, old);
        if needed.is_empty() {
            return Ok(());
        }
        let node = node_of(&*self.0, attrs, pod).await?;
        let declared = items(&node, "/status/declaredFeatures");
        let missing: Vec<&str> =
            needed.into_iter().filter(|f| !declared.iter().any(|d| d.as_str() == Some(f))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let name = text(&node, "/metadata/name");
        let why = format!(
            "pod update requires features {} which are not available on node {name:?}",
            missing.join(", ")
        );
        Err(attrs.forbidden(Some(pod), why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use serde_json::json;

    fn pod(generation: u32, cpu: &str) -> Value {
        json!({"metadata": {"name": "p", "generation": generation}, "spec": {"nodeName": "n",
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}}]}})
    }

    #[tokio::test]
    async fn resizes_fit_the_node() {
        let node = json!({"metadata": {"name": "n"}, "status": {
            "allocatable": {"cpu": "2", "memory": "1Gi"}, "declaredFeatures": ["Other"]}});
        let (env, _) = environment([(lookup::NODES, node)]);
        let p = build_resize(&env);
        let mut w = Write::create(lookup::PODS, "ns");
        (w.operation, w.subresource, w.name, w.old) = (Operation::Update, "resize", "p", Some(pod(1, "1")));
        assert!(w.run(&*p, Some(pod(2, "2"))).await.is_ok());
        let e = w.run(&*p, Some(pod(2, "2500m"))).await.unwrap_err();
        assert_eq!(
            e.message,
            "pods \"p\" is forbidden: node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: 2000"
        );
        assert_eq!(e.details.unwrap().causes[0].reason, "NodeCapacity");
        assert!(w.run(&*p, Some(pod(1, "9"))).await.is_ok(), "the spec did not change");
        let features = build_features(&env);
        let mut whole = pod(2, "1");
        whole["spec"]["resources"] = json!({"requests": {"cpu": "2"}});
        let e = w.run(&*features, Some(whole)).await.unwrap_err();
        assert!(e.message.ends_with(
            "pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node \"n\""
        ));
        assert!(w.run(&*features, Some(pod(2, "2"))).await.is_ok());
    }
}

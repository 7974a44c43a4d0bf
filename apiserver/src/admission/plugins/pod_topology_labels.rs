//! `PodTopologyLabels`: a pod carries the zone and region of its node as labels.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::lookup::{self, ObjectLookup, text};
use crate::status::ApiResult;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

struct PodTopologyLabels {
    objects: Arc<dyn ObjectLookup>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(PodTopologyLabels { objects: env.objects.clone() })
}

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(object) = object.filter(|_| attrs.operation == Operation::Create) else { return Ok(()) };
        // A binding's labels are copied to the pod that it binds.
        let node = match (attrs.group, attrs.resource, attrs.subresource) {
            ("", "pods", "") => text(object, "/spec/nodeName"),
            ("", "pods", "binding") if text(object, "/target/kind") == "Node" => text(object, "/target/name"),
            _ => return Ok(()),
        };
        if node.is_empty() {
            return Ok(());
        }
        // Nodes are large, and a binding of a pod is the most frequent write of all.
        let Some(labels) = self.objects.labels(lookup::NODES, "", node).await? else { return Ok(()) };
        for label in LABELS {
            if let Some(value) = labels.get(label) {
                object["metadata"]["labels"][label] = value.into();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use serde_json::json;

    #[tokio::test]
    async fn labels_come_from_the_node() {
        let node = json!({"metadata":{"name":"n","labels":{"topology.kubernetes.io/zone":"z","other":"x"}}});
        let (env, _) = environment([(lookup::NODES, node)]);
        let p = build(&env);
        let mut w = Write::create(lookup::PODS, "ns");
        let out = w.run(&*p, Some(json!({"spec":{"nodeName":"n"}}))).await.unwrap().unwrap();
        assert_eq!(out["metadata"]["labels"], json!({"topology.kubernetes.io/zone":"z"}));
        assert_eq!(w.run(&*p, Some(json!({"spec":{}}))).await.unwrap().unwrap(), json!({"spec":{}}));
        w.subresource = "binding";
        let binding = json!({"target":{"kind":"Node","name":"n"}});
        let out = w.run(&*p, Some(binding)).await.unwrap().unwrap();
        assert_eq!(out["metadata"]["labels"]["topology.kubernetes.io/zone"], "z");
    }
}

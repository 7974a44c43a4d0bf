//! `ExtendedResourceToleration`: pods that ask for an extended resource tolerate the taint of that name, which keeps
//! others away from the nodes that have it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::taints::list;
use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::lookup::{items, text};
use crate::status::ApiResult;

struct ExtendedResourceToleration;

pub(crate) fn build(_env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(ExtendedResourceToleration)
}

/// Whether a resource is one of an administrator or vendor: a qualified name outside of the project's own domain.
fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.") && crate::registry::names::qualified_name(name).is_ok()
}

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let written = matches!(attrs.operation, Operation::Create | Operation::Update);
        let Some(pod) = object.filter(|_| written && attrs.is("", "pods", "")) else { return Ok(()) };
        let wanted: BTreeSet<String> = ["/spec/containers", "/spec/initContainers"]
            .iter()
            .flat_map(|at| items(pod, at))
            .filter_map(|c| c.pointer("/resources/requests")?.as_object())
            .flat_map(|m| m.keys().filter(|k| is_extended(k)).cloned())
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let Some(tolerations) = list(pod, "tolerations") else { return Ok(()) };
        for key in wanted {
            let mine = json!({"key": key, "operator": "Exists", "effect": "NoSchedule"});
            // A toleration of the same taint is replaced, whatever it says about values.
            let same = |t: &Value| {
                text(t, "/key") == key
                    && text(t, "/effect") == "NoSchedule"
                    && text(t, "/operator") == "Exists"
                    && text(t, "/value").is_empty()
            };
            match tolerations.iter_mut().find(|t| same(t)) {
                Some(t) => *t = mine,
                None => tolerations.push(mine),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use crate::lookup;

    #[tokio::test]
    async fn what_is_asked_for_is_tolerated() {
        let p = build(&environment([]).0);
        let pod = json!({"spec": {
            "containers": [{"resources": {"requests": {"cpu": "1", "example.com/gpu": "1", "kubernetes.io/x": "1"}}}],
            "initContainers": [{"resources": {"requests": {"a.b/c": "1"}}}]}});
        let w = Write::create(lookup::PODS, "ns");
        let out = w.run(&*p, Some(pod)).await.unwrap().unwrap();
        let keys: Vec<&str> = items(&out, "/spec/tolerations").iter().map(|t| text(t, "/key")).collect();
        assert_eq!(keys, ["a.b/c", "example.com/gpu"]);
        assert_eq!(w.run(&*p, Some(out.clone())).await.unwrap().unwrap(), out, "nothing is added twice");
    }
}

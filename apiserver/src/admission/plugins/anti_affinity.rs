//! `LimitPodHardAntiAffinityTopology`: pods may keep others away from their node only, not from a whole zone.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::lookup::{items, text};
use crate::status::ApiResult;

const HOST: &str = "kubernetes.io/hostname";
const TERMS: &str = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";

struct LimitPodHardAntiAffinityTopology;

pub(crate) fn build(_env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(LimitPodHardAntiAffinityTopology)
}

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let written = matches!(attrs.operation, Operation::Create | Operation::Update);
        let Some(pod) = object.filter(|_| written && attrs.is("", "pods", "")) else { return Ok(()) };
        match items(pod, TERMS).iter().map(|t| text(t, "/topologyKey")).find(|k| *k != HOST) {
            None => Ok(()),
            Some(key) => Err(attrs.forbidden(
                object,
                format!(
                    "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOST} is allowed"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use crate::lookup;
    use serde_json::json;

    #[tokio::test]
    async fn only_hosts() {
        let p = build(&environment([]).0);
        let pod = |key: &str| {
            Some(json!({"metadata": {"name": "p"}, "spec": {"affinity": {"podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key}]}}}}))
        };
        let w = Write::create(lookup::PODS, "ns");
        assert!(w.run(&*p, pod(HOST)).await.is_ok());
        assert_eq!(
            w.run(&*p, pod("zone")).await.unwrap_err().message,
            "pods \"p\" is forbidden: affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey zone but only key kubernetes.io/hostname is allowed"
        );
    }
}

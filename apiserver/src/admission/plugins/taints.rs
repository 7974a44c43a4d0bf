//! `DefaultTolerationSeconds` and `TaintNodesByCondition`: pods outlive a short node failure, and a new node takes
//! no pods before it is ready.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::lookup::{items, text};
use crate::status::ApiResult;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

struct DefaultTolerationSeconds {
    not_ready: i64,
    unreachable: i64,
}
struct TaintNodes;

pub(crate) fn build_tolerations(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(DefaultTolerationSeconds {
        not_ready: env.settings.default_not_ready_toleration_seconds,
        unreachable: env.settings.default_unreachable_toleration_seconds,
    })
}

pub(crate) fn build_taints(_env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(TaintNodes)
}

/// The list at `spec.FIELD`, made where it is absent.
pub(super) fn list<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let slot = &mut object["spec"][field];
    if slot.is_null() {
        *slot = json!([]);
    }
    slot.as_array_mut()
}

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|_| attrs.is("", "pods", "")) else { return Ok(()) };
        for (key, seconds) in [(NOT_READY, self.not_ready), (UNREACHABLE, self.unreachable)] {
            let tolerated = items(pod, "/spec/tolerations").iter().any(|t| {
                matches!(text(t, "/key"), k if k == key || k.is_empty())
                    && matches!(text(t, "/effect"), "NoExecute" | "")
            });
            if !tolerated && let Some(list) = list(pod, "tolerations") {
                list.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
                }));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for TaintNodes {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(node) = object.filter(|_| attrs.is("", "nodes", "") && attrs.operation == Operation::Create)
        else {
            return Ok(());
        };
        let tainted = items(node, "/spec/taints")
            .iter()
            .any(|t| text(t, "/key") == NOT_READY && text(t, "/effect") == "NoSchedule");
        if !tainted && let Some(list) = list(node, "taints") {
            list.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
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
    async fn tolerations() {
        let (env, _) = environment([]);
        let p = build_tolerations(&env);
        let run = async |t: Value| {
            let pod = Some(json!({"spec":{"tolerations":t}}));
            let out = Write::create(lookup::PODS, "ns").run(&*p, pod).await.unwrap().unwrap();
            items(&out, "/spec/tolerations").len()
        };
        assert_eq!(run(Value::Null).await, 2);
        assert_eq!(run(json!([{"operator":"Exists"}])).await, 1);
        assert_eq!(run(json!([{"key":NOT_READY,"effect":"NoExecute"}])).await, 2);
        assert_eq!(run(json!([{"key":NOT_READY,"effect":"NoSchedule"}])).await, 3);
    }

    #[tokio::test]
    async fn taints() {
        let (env, _) = environment([]);
        let p = build_taints(&env);
        let mut w = Write::create(lookup::NODES, "");
        let out = w.run(&*p, Some(json!({}))).await.unwrap().unwrap();
        assert_eq!(out["spec"]["taints"], json!([{"key":NOT_READY,"effect":"NoSchedule"}]));
        assert_eq!(w.run(&*p, Some(out.clone())).await.unwrap().unwrap(), out);
        w.operation = Operation::Update;
        assert_eq!(w.run(&*p, Some(json!({}))).await.unwrap().unwrap(), json!({}));
    }
}

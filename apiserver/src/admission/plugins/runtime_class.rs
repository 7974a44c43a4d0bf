//! `RuntimeClass`: a pod carries the overhead and the placement of its runtime class.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::taints::list;
use crate::admission::{Attributes, Environment, Operation, Plugin};
use crate::lookup::{self, ObjectLookup, items, text};
use crate::status::ApiResult;

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

struct RuntimeClass {
    objects: Arc<dyn ObjectLookup>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(RuntimeClass { objects: env.objects.clone() })
}

fn concerns(attrs: &Attributes<'_>) -> bool {
    attrs.is("", "pods", "") && attrs.operation == Operation::Create
}

fn map<'a>(v: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    v.pointer(pointer).and_then(Value::as_object).filter(|m| !m.is_empty())
}

impl RuntimeClass {
    async fn class(&self, attrs: &Attributes<'_>, pod: &Value) -> ApiResult<Option<Arc<Value>>> {
        let name = text(pod, "/spec/runtimeClassName");
        if name.is_empty() {
            return Ok(None);
        }
        match self.objects.get(lookup::RUNTIME_CLASSES, "", name).await? {
            Some(c) => Ok(Some(c)),
            None => {
                Err(attrs.forbidden(Some(pod), format!("pod rejected: RuntimeClass \"{name}\" not found")))
            }
        }
    }
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|_| concerns(attrs)) else { return Ok(()) };
        let Some(class) = self.class(attrs, pod).await? else { return Ok(()) };
        if let Some(overhead) = map(&class, "/overhead/podFixed") {
            if map(pod, "/spec/overhead").is_some_and(|o| o != overhead) {
                return Err(attrs.forbidden(Some(pod), MISMATCH));
            }
            pod["spec"]["overhead"] = Value::Object(overhead.clone());
        }
        if let Some(selector) = map(&class, "/scheduling/nodeSelector") {
            for (k, v) in selector {
                let own = text(
                    &pod["spec"]["nodeSelector"],
                    &format!("/{}", k.replace('~', "~0").replace('/', "~1")),
                );
                let wanted = v.as_str().unwrap_or_default();
                let set = pod["spec"]["nodeSelector"].get(k).is_some();
                if set && own != wanted {
                    return Err(attrs.forbidden(
                        Some(pod),
                        format!(
                            "conflict: runtimeClass.scheduling.nodeSelector[{k}] = {wanted}; pod.spec.nodeSelector[{k}] = {own}"
                        ),
                    ));
                }
                pod["spec"]["nodeSelector"][k] = v.clone();
            }
        }
        for t in items(&class, "/scheduling/tolerations") {
            if !items(pod, "/spec/tolerations").contains(t)
                && let Some(list) = list(pod, "tolerations")
            {
                list.push(t.clone());
            }
        }
        Ok(())
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|_| concerns(attrs)) else { return Ok(()) };
        let class = self.class(attrs, pod).await?;
        let defined = class.as_deref().and_then(|c| map(c, "/overhead/podFixed"));
        match (defined, map(pod, "/spec/overhead")) {
            (Some(d), own) if own != Some(d) => Err(attrs.forbidden(object, MISMATCH)),
            (None, Some(_)) => Err(attrs.forbidden(
                object,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use serde_json::json;

    #[tokio::test]
    async fn classes() {
        let (env, _) = environment([(
            lookup::RUNTIME_CLASSES,
            json!({"metadata":{"name":"kata"},"overhead":{"podFixed":{"memory":"100Mi"}},
                "scheduling":{"nodeSelector":{"kata/on":"1"},"tolerations":[{"key":"kata"}]}}),
        )]);
        let p = build(&env);
        let run = async |spec: Value| {
            let pod = Some(json!({"metadata":{"name":"p"},"spec":spec}));
            Write::create(lookup::PODS, "ns").run(&*p, pod).await.map(|o| o.unwrap()["spec"].clone())
        };
        let out = run(json!({"runtimeClassName":"kata","nodeSelector":{"a":"b"}})).await.unwrap();
        assert_eq!(out["overhead"], json!({"memory":"100Mi"}));
        assert_eq!(out["nodeSelector"], json!({"a":"b","kata/on":"1"}));
        assert_eq!(out["tolerations"], json!([{"key":"kata"}]));
        for (spec, want) in [
            (json!({"runtimeClassName":"x"}), "RuntimeClass \"x\" not found"),
            (
                json!({"runtimeClassName":"kata","nodeSelector":{"kata/on":"0"}}),
                "pod.spec.nodeSelector[kata/on] = 0",
            ),
            (json!({"runtimeClassName":"kata","overhead":{"memory":"1"}}), MISMATCH),
            (json!({"overhead":{"memory":"1"}}), "without corresponding RuntimeClass defined Overhead"),
        ] {
            assert!(run(spec).await.unwrap_err().message.ends_with(want));
        }
    }
}

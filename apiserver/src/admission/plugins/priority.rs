//! `Priority`: a pod's priority comes from its class, never from the client.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::admission::{Attributes, Environment, Operation, Plugin};
use crate::lookup::{self, ObjectLookup, text};
use crate::status::ApiResult;

struct Priority {
    objects: Arc<dyn ObjectLookup>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Priority { objects: env.objects.clone() })
}

impl Priority {
    /// The class marked as default; the lowest where several are.
    async fn default_class(&self) -> ApiResult<Option<Arc<Value>>> {
        let all = self.objects.list(lookup::PRIORITY_CLASSES, "").await?;
        Ok(all
            .into_iter()
            .filter(|c| c["globalDefault"].as_bool() == Some(true))
            .min_by_key(|c| c["value"].as_i64().unwrap_or(0)))
    }

    async fn pod(&self, attrs: &Attributes<'_>, pod: &mut Value) -> ApiResult<()> {
        let name = text(pod, "/spec/priorityClassName").to_owned();
        let class = if name.is_empty() {
            self.default_class().await?
        } else {
            let class = self.objects.get(lookup::PRIORITY_CLASSES, "", &name).await?;
            Some(class.ok_or_else(|| {
                attrs.forbidden(Some(pod), format!("no PriorityClass with name {name} was found"))
            })?)
        };
        let (priority, policy) = match &class {
            Some(c) => (c["value"].as_i64().unwrap_or(0), text(c, "/preemptionPolicy").to_owned()),
            None => (0, "PreemptLowerPriority".to_owned()),
        };
        if let Some(sent) = pod["spec"]["priority"].as_i64().filter(|p| *p != priority) {
            return Err(attrs.forbidden(
                Some(pod),
                format!(
                    "the integer value of priority ({sent}) must not be provided in pod spec; priority admission \
                     controller computed {priority} from the given PriorityClass name"
                ),
            ));
        }
        let sent = text(pod, "/spec/preemptionPolicy");
        if !policy.is_empty() && !sent.is_empty() && sent != policy {
            return Err(attrs.forbidden(
                Some(pod),
                format!(
                    "the string value of PreemptionPolicy ({sent}) must not be provided in pod spec; priority \
                     admission controller computed {policy} from the given PriorityClass name"
                ),
            ));
        }
        if let Some(c) = class.filter(|_| name.is_empty()) {
            pod["spec"]["priorityClassName"] = c["metadata"]["name"].clone();
        }
        pod["spec"]["priority"] = priority.into();
        if !policy.is_empty() {
            pod["spec"]["preemptionPolicy"] = policy.into();
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|_| attrs.is("", "pods", "")) else { return Ok(()) };
        match (attrs.operation, attrs.old) {
            (Operation::Create, _) => self.pod(attrs, pod).await,
            (Operation::Update, Some(old)) => {
                for field in ["priority", "preemptionPolicy"] {
                    if pod["spec"][field].is_null() && !old["spec"][field].is_null() {
                        pod["spec"][field] = old["spec"][field].clone();
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(class) = object.filter(|_| attrs.is("scheduling.k8s.io", "priorityclasses", "")) else {
            return Ok(());
        };
        if class["globalDefault"].as_bool() != Some(true) {
            return Ok(());
        }
        let Some(present) = self.default_class().await? else { return Ok(()) };
        let name = text(&present, "/metadata/name");
        if attrs.operation == Operation::Create || name != attrs.object_name(object) {
            return Err(attrs.forbidden(
                object,
                format!("PriorityClass {name} is already marked as default. Only one default can exist"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use serde_json::json;

    fn class(name: &str, value: i64, default: bool) -> (lookup::Resource, Value) {
        (
            lookup::PRIORITY_CLASSES,
            json!({"metadata":{"name":name},"value":value,"globalDefault":default,"preemptionPolicy":"Never"}),
        )
    }

    #[tokio::test]
    async fn pods() {
        let (env, store) = environment([class("high", 1000, false)]);
        let p = build(&env);
        let run = async |spec: Value| {
            let pod = Some(json!({"metadata":{"name":"p"},"spec":spec}));
            Write::create(lookup::PODS, "ns").run(&*p, pod).await.map(|o| o.unwrap()["spec"].clone())
        };
        assert_eq!(
            run(json!({})).await.unwrap(),
            json!({"priority":0,"preemptionPolicy":"PreemptLowerPriority"})
        );
        let high = run(json!({"priorityClassName":"high"})).await.unwrap();
        assert_eq!((&high["priority"], &high["preemptionPolicy"]), (&json!(1000), &json!("Never")));
        assert_eq!(
            run(json!({"priorityClassName":"x"})).await.unwrap_err().message,
            "pods \"p\" is forbidden: no PriorityClass with name x was found"
        );
        assert!(run(json!({"priority":5})).await.unwrap_err().message.contains("(5) must not be provided"));
        let (r, o) = class("std", 7, true);
        store.put(r, o);
        let std = run(json!({})).await.unwrap();
        assert_eq!((&std["priority"], &std["priorityClassName"]), (&json!(7), &json!("std")));
        let second = Some(json!({"metadata":{"name":"b"},"globalDefault":true}));
        let e = Write::create(lookup::PRIORITY_CLASSES, "").run(&*p, second).await.unwrap_err();
        assert!(
            e.message.ends_with("PriorityClass std is already marked as default. Only one default can exist")
        );
    }
}

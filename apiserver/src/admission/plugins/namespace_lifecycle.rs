//! `NamespaceLifecycle`: nothing is created in a namespace that does not exist or is going away, and the
//! namespaces that the cluster itself needs cannot be deleted.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::lookup::{self, ObjectLookup, text};
use crate::status::{ApiError, ApiResult, Cause};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

struct NamespaceLifecycle {
    objects: Arc<dyn ObjectLookup>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(NamespaceLifecycle { objects: env.objects.clone() })
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let is_namespace = attrs.group.is_empty() && attrs.kind == "Namespace";
        if is_namespace {
            if attrs.operation == Operation::Delete && IMMORTAL.contains(&attrs.name) {
                return Err(attrs.forbidden(None, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        let review = attrs.group == "authorization.k8s.io" && attrs.resource == "localsubjectaccessreviews";
        if attrs.namespace.is_empty() || attrs.operation == Operation::Delete || review {
            return Ok(());
        }
        let Some(namespace) = self.objects.get(lookup::NAMESPACES, "", attrs.namespace).await? else {
            return Err(ApiError::not_found("", "namespaces", attrs.namespace));
        };
        if attrs.operation != Operation::Create || text(&namespace, "/status/phase") != "Terminating" {
            return Ok(());
        }
        let ns = attrs.namespace;
        let refusal = attrs.forbidden(
            object.as_deref(),
            format!("unable to create new content in namespace {ns} because it is being terminated"),
        );
        Err(refusal.with_causes(vec![Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {ns} is being terminated"),
            field: "metadata.namespace".to_owned(),
        }]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use serde_json::json;

    fn plugin() -> Arc<dyn Plugin> {
        let ns = |name: &str, phase: &str| {
            (lookup::NAMESPACES, json!({"metadata":{"name":name},"status":{"phase":phase}}))
        };
        build(&environment([ns("live", "Active"), ns("dying", "Terminating")]).0)
    }

    #[tokio::test]
    async fn creates() {
        let p = plugin();
        let pod = || Some(json!({"metadata":{"name":"a"}}));
        assert!(Write::create(lookup::PODS, "live").run(&*p, pod()).await.is_ok());
        let e = Write::create(lookup::PODS, "nope").run(&*p, pod()).await.unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (404, "namespaces \"nope\" not found"));
        let e = Write::create(lookup::PODS, "dying").run(&*p, pod()).await.unwrap_err();
        assert_eq!(
            e.message,
            "pods \"a\" is forbidden: unable to create new content in namespace dying because it is being terminated"
        );
        assert_eq!(e.details.unwrap().causes[0].reason, "NamespaceTerminating");
        let mut update = Write::create(lookup::PODS, "dying");
        update.operation = Operation::Update;
        assert!(update.run(&*p, pod()).await.is_ok());
    }

    #[tokio::test]
    async fn protected_namespaces_stay() {
        let p = plugin();
        let mut w = Write::create(lookup::NAMESPACES, "default");
        w.operation = Operation::Delete;
        w.name = "default";
        let e = w.run(&*p, None).await.unwrap_err();
        assert_eq!(e.message, "namespaces \"default\" is forbidden: this namespace may not be deleted");
        w.name = "live";
        assert!(w.run(&*p, None).await.is_ok());
    }
}

//! `NamespaceAutoProvision` makes the namespace that a new object asks for; `NamespaceExists` refuses writes to
//! namespaces that are not there.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::lookup::{self, ObjectWriter};
use crate::status::{ApiError, ApiResult};

struct AutoProvision(Arc<dyn ObjectWriter>);
struct Exists(Arc<dyn ObjectWriter>);

pub(crate) fn build_auto_provision(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(AutoProvision(env.writer.clone()))
}

pub(crate) fn build_exists(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Exists(env.writer.clone()))
}

fn in_namespace(attrs: &Attributes<'_>) -> bool {
    let namespace = attrs.group.is_empty() && attrs.kind == "Namespace";
    !attrs.namespace.is_empty() && !namespace
}

#[async_trait]
impl Plugin for AutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        if attrs.dry_run || attrs.operation != Operation::Create || !in_namespace(attrs) {
            return Ok(());
        }
        if self.0.get(lookup::NAMESPACES, "", attrs.namespace).await?.is_some() {
            return Ok(());
        }
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": attrs.namespace}});
        match self.0.create(lookup::NAMESPACES, "", namespace).await {
            Err(e) if e.reason != "AlreadyExists" => Err(attrs.forbidden(object.as_deref(), e.message)),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Plugin for Exists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, _object: Option<&Value>) -> ApiResult<()> {
        if attrs.operation == Operation::Connect || !in_namespace(attrs) {
            return Ok(());
        }
        match self.0.get(lookup::NAMESPACES, "", attrs.namespace).await? {
            Some(_) => Ok(()),
            None => Err(ApiError::not_found("", "namespaces", attrs.namespace)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};

    #[tokio::test]
    async fn namespaces_come_or_are_missed() {
        let (env, store) = environment([]);
        let pod = || Some(json!({"metadata": {"name": "p"}}));
        let mut w = Write::create(lookup::PODS, "new");
        let exists = build_exists(&env);
        assert_eq!(w.run(&*exists, pod()).await.unwrap_err().message, "namespaces \"new\" not found");
        let auto = build_auto_provision(&env);
        w.dry_run = true;
        w.run(&*auto, pod()).await.unwrap();
        assert!(store.names(lookup::NAMESPACES).is_empty(), "dry runs make nothing");
        w.dry_run = false;
        w.run(&*auto, pod()).await.unwrap();
        assert_eq!(store.names(lookup::NAMESPACES), ["new"]);
        assert!(w.run(&*exists, pod()).await.is_ok());
    }
}

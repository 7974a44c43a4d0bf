//! `OwnerReferencesPermissionEnforcement`: who sets an owner could make the garbage collector delete the object for
//! them, and who blocks an owner's deletion could keep it alive. So both need the permission to do that directly.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::authz::{self, Authorizer, Decision};
use crate::lookup::{self, ObjectLookup, items, text};
use crate::status::ApiResult;

const OWNERS: &str = "/metadata/ownerReferences";

struct OwnerReferences {
    objects: Arc<dyn ObjectLookup>,
    authorizer: Arc<Authorizer>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(OwnerReferences { objects: env.objects.clone(), authorizer: env.authorizer.clone() })
}

fn blocks(r: &Value) -> bool {
    r.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true)
}

/// References of `object` that block their owner's deletion and did not before.
fn newly_blocking<'a>(object: &'a Value, old: Option<&Value>) -> Vec<&'a Value> {
    let before = old.map_or(&[][..], |o| items(o, OWNERS));
    let was = |r: &Value| before.iter().rfind(|b| text(b, "/uid") == text(r, "/uid")).is_some_and(blocks);
    items(object, OWNERS).iter().filter(|r| blocks(r) && !was(r)).collect()
}

/// Group, version, resource and whether in a namespace.
struct Mapping {
    group: String,
    version: String,
    resource: String,
    namespaced: bool,
}

impl OwnerReferences {
    /// The resource of a kind, built-in or custom.
    async fn mapping(&self, api_version: &str, kind: &str) -> ApiResult<Option<Mapping>> {
        let (group, version) = proto::resources::split_api_version(api_version);
        let built_in = proto::resources().iter().find(|r| {
            r.group == group && r.kind == kind && r.version == version && r.verbs.contains(&"list")
        });
        if let Some(r) = built_in {
            return Ok(Some(Mapping {
                group: group.to_owned(),
                version: version.to_owned(),
                resource: r.resource.to_owned(),
                namespaced: r.namespaced,
            }));
        }
        let custom = self.objects.list(lookup::CUSTOM_RESOURCE_DEFINITIONS, "").await?;
        let found = custom.iter().find(|c| {
            text(c, "/spec/group") == group
                && text(c, "/status/acceptedNames/kind") == kind
                && items(c, "/spec/versions")
                    .iter()
                    .any(|v| text(v, "/name") == version && v["served"].as_bool() == Some(true))
        });
        Ok(found.map(|c| Mapping {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: text(c, "/status/acceptedNames/plural").to_owned(),
            namespaced: text(c, "/spec/scope") == "Namespaced",
        }))
    }

    async fn ask(&self, attrs: &authz::Attributes<'_>) -> Result<(), String> {
        match self.authorizer.authorize(attrs).await {
            Decision::Allow(_) => Ok(()),
            other => Err(other.reason().to_owned()),
        }
    }

    async fn may_block(&self, attrs: &Attributes<'_>, object: &Value, owner: &Value) -> ApiResult<()> {
        let (api_version, kind) = (text(owner, "/apiVersion"), text(owner, "/kind"));
        let Some(m) = self.mapping(api_version, kind).await? else {
            return Err(attrs.forbidden(
                Some(object),
                format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} Kind {kind}: no matches for kind {kind:?} in version {api_version:?}"
                ),
            ));
        };
        let finalize = authz::Attributes {
            api_version: &m.version,
            subresource: "finalizers",
            namespace: if m.namespaced { attrs.namespace } else { "" },
            ..authz::Attributes::resource(attrs.user, "update", &m.group, &m.resource, text(owner, "/name"))
        };
        self.ask(&finalize).await.map_err(|reason| {
            attrs.forbidden(
                Some(object),
                format!(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {reason}, <nil>"
                ),
            )
        })
    }
}

#[async_trait]
impl Plugin for OwnerReferences {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let written = matches!(attrs.operation, Operation::Create | Operation::Update);
        let Some(object) = object.filter(|_| written && !attrs.is("", "pods", "status")) else {
            return Ok(());
        };
        if items(object, OWNERS) == attrs.old.map_or(&[][..], |o| items(o, OWNERS)) {
            return Ok(());
        }
        if attrs.operation != Operation::Create {
            let delete = authz::Attributes {
                api_version: attrs.version,
                namespace: attrs.namespace,
                subresource: attrs.subresource,
                ..authz::Attributes::resource(attrs.user, "delete", attrs.group, attrs.resource, attrs.name)
            };
            self.ask(&delete).await.map_err(|reason| {
                attrs.forbidden(
                    Some(object),
                    format!("cannot set an ownerRef on a resource you can't delete: {reason}, <nil>"),
                )
            })?;
        }
        let blocking = newly_blocking(object, attrs.old);
        if blocking.is_empty() {
            return Ok(());
        }
        let everything = authz::Attributes {
            subresource: "finalizers",
            ..authz::Attributes::resource(attrs.user, "update", "*", "*", "*")
        };
        if self.ask(&everything).await.is_ok() {
            return Ok(());
        }
        for owner in blocking {
            self.may_block(attrs, object, owner).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use serde_json::json;

    fn pod(owners: Value) -> Value {
        json!({"metadata": {"name": "p", "ownerReferences": owners}})
    }

    #[tokio::test]
    async fn owners_need_permission() {
        let p = build(&environment([]).0);
        let owner = |kind: &str, block: bool| json!({"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "1", "blockOwnerDeletion": block});
        let mut w = Write::create(lookup::PODS, "ns");
        assert!(w.run(&*p, Some(pod(json!([owner("ReplicaSet", false)])))).await.is_ok());
        let e = w.run(&*p, Some(pod(json!([owner("ReplicaSet", true)])))).await.unwrap_err();
        assert!(
            e.message.contains(
                "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"
            ),
            "{e}"
        );
        let e = w.run(&*p, Some(pod(json!([owner("Nothing", true)])))).await.unwrap_err();
        assert!(e.message.ends_with("no matches for kind \"Nothing\" in version \"apps/v1\""), "{e}");
        (w.operation, w.name, w.old) = (Operation::Update, "p", Some(pod(Value::Null)));
        let e = w.run(&*p, Some(pod(json!([owner("ReplicaSet", false)])))).await.unwrap_err();
        assert!(e.message.contains("cannot set an ownerRef on a resource you can't delete"), "{e}");
        w.user.groups = vec!["system:masters".into()];
        assert!(w.run(&*p, Some(pod(json!([owner("ReplicaSet", true)])))).await.is_ok());
    }
}

//! The admission plugins, one file each, named as upstream names them.

pub mod always;
pub mod always_pull_images;
pub mod anti_affinity;
pub mod certificates;
pub mod event_rate_limit;
pub mod extended_resource_toleration;
pub mod image_policy;
pub mod limit_ranger;
pub mod namespace_lifecycle;
pub mod namespaces;
pub mod node_restriction;
pub mod owner_references;
pub mod pod_node_selector;
pub mod pod_resize;
pub mod pod_resources;
pub mod pod_security;
pub mod pod_toleration_restriction;
pub mod pod_topology_labels;
pub mod priority;
pub mod resource_quota;
pub mod runtime_class;
pub mod service_account;
pub mod service_external_ips;
pub mod storage;
pub mod taints;

/// Code that several plugins' tests share.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use serde_json::Value;

    use crate::admission::{Attributes, Environment, Operation, Plugin, Settings};
    use crate::authz::Authorizer;
    use crate::lookup::Resource;
    use crate::lookup::testing::Objects;
    use crate::request::UserInfo;
    use crate::status::ApiResult;

    /// An environment over the given objects.
    pub fn environment(objects: impl IntoIterator<Item = (Resource, Value)>) -> (Environment, Arc<Objects>) {
        let store = Arc::new(Objects::with(objects));
        let authorizer = Arc::new(Authorizer::new(&["RBAC".to_owned()]).unwrap());
        let settings = Settings::default();
        let env = Environment {
            objects: store.clone(),
            writer: store.clone(),
            authorizer,
            settings,
            webhooks: Arc::default(),
            policies: Arc::default(),
            configs: Arc::default(),
        };
        (env, store)
    }

    /// One write through one plugin, both phases. The object comes back as admitted.
    pub struct Write<'a> {
        pub user: UserInfo,
        pub resource: Resource,
        pub subresource: &'a str,
        pub namespace: &'a str,
        pub name: &'a str,
        pub operation: Operation,
        pub old: Option<Value>,
        pub dry_run: bool,
    }

    impl Write<'_> {
        pub fn create(resource: Resource, namespace: &str) -> Write<'_> {
            Write {
                user: UserInfo { name: "u".into(), ..UserInfo::default() },
                resource,
                subresource: "",
                namespace,
                name: "",
                operation: Operation::Create,
                old: None,
                dry_run: false,
            }
        }

        pub fn attributes(&self) -> Attributes<'_> {
            Attributes {
                user: &self.user,
                group: self.resource.group,
                version: self.resource.version,
                resource: self.resource.resource,
                kind: self.resource.kind,
                subresource: self.subresource,
                namespace: self.namespace,
                name: self.name,
                operation: self.operation,
                dry_run: self.dry_run,
                old: self.old.as_ref(),
                options: Default::default(),
                warnings: Default::default(),
                reinvocation: Default::default(),
            }
        }

        pub async fn run(&self, plugin: &dyn Plugin, object: Option<Value>) -> ApiResult<Option<Value>> {
            let attrs = self.attributes();
            let mut object = object;
            plugin.admit(&attrs, object.as_mut()).await?;
            plugin.validate(&attrs, object.as_ref()).await?;
            Ok(object)
        }
    }
}

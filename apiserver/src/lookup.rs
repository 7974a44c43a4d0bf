//! How the parts around the registry (authentication, authorization, admission, allocation, bootstrap) read and
//! write API objects without knowing the registry: it implements these traits, tests implement them over a map.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::cache::Pairs;
use crate::status::ApiResult;

pub use component_base::json::{items, text};

/// A resource at the version these parts speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resource {
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    pub kind: &'static str,
}

macro_rules! resources {
    ($($name:ident = $group:literal $version:literal $resource:literal $kind:literal;)*) => {
        $(pub const $name: Resource =
            Resource { group: $group, version: $version, resource: $resource, kind: $kind };)*
    };
}

resources! {
    NAMESPACES = "" "v1" "namespaces" "Namespace";
    NODES = "" "v1" "nodes" "Node";
    PODS = "" "v1" "pods" "Pod";
    SECRETS = "" "v1" "secrets" "Secret";
    SERVICES = "" "v1" "services" "Service";
    ENDPOINTS = "" "v1" "endpoints" "Endpoints";
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts" "ServiceAccount";
    LIMIT_RANGES = "" "v1" "limitranges" "LimitRange";
    RESOURCE_QUOTAS = "" "v1" "resourcequotas" "ResourceQuota";
    PERSISTENT_VOLUME_CLAIMS = "" "v1" "persistentvolumeclaims" "PersistentVolumeClaim";
    PERSISTENT_VOLUMES = "" "v1" "persistentvolumes" "PersistentVolume";
    PRIORITY_CLASSES = "scheduling.k8s.io" "v1" "priorityclasses" "PriorityClass";
    RUNTIME_CLASSES = "node.k8s.io" "v1" "runtimeclasses" "RuntimeClass";
    STORAGE_CLASSES = "storage.k8s.io" "v1" "storageclasses" "StorageClass";
    INGRESS_CLASSES = "networking.k8s.io" "v1" "ingressclasses" "IngressClass";
    IP_ADDRESSES = "networking.k8s.io" "v1" "ipaddresses" "IPAddress";
    SERVICE_CIDRS = "networking.k8s.io" "v1" "servicecidrs" "ServiceCIDR";
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices" "EndpointSlice";
    CLUSTER_ROLES = "rbac.authorization.k8s.io" "v1" "clusterroles" "ClusterRole";
    CLUSTER_ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "clusterrolebindings" "ClusterRoleBinding";
    ROLES = "rbac.authorization.k8s.io" "v1" "roles" "Role";
    ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "rolebindings" "RoleBinding";
    FLOW_SCHEMAS = "flowcontrol.apiserver.k8s.io" "v1" "flowschemas" "FlowSchema";
    PRIORITY_LEVELS =
        "flowcontrol.apiserver.k8s.io" "v1" "prioritylevelconfigurations" "PriorityLevelConfiguration";
    API_SERVICES = "apiregistration.k8s.io" "v1" "apiservices" "APIService";
    CUSTOM_RESOURCE_DEFINITIONS =
        "apiextensions.k8s.io" "v1" "customresourcedefinitions" "CustomResourceDefinition";
    RESOURCE_CLAIMS = "resource.k8s.io" "v1" "resourceclaims" "ResourceClaim";
    LEASES = "coordination.k8s.io" "v1" "leases" "Lease";
}

/// Read access. What is returned is at least as new as the newest write that was acknowledged before the request (see
/// [`crate::recency`]): a security decision made on it is never stale.
#[async_trait]
pub trait ObjectLookup: Send + Sync {
    /// One object; `namespace` is empty for cluster-scoped resources. None where it does not exist.
    async fn get(&self, resource: Resource, namespace: &str, name: &str) -> ApiResult<Option<Arc<Value>>>;

    /// The labels of one object, of which nothing else is read. None where it does not exist.
    async fn labels(&self, resource: Resource, namespace: &str, name: &str) -> ApiResult<Option<Pairs>> {
        let found = self.get(resource, namespace, name).await?;
        Ok(found.map(|o| {
            let labels = o["metadata"]["labels"].as_object().into_iter().flatten();
            labels.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default())).collect()
        }))
    }

    /// All objects of a namespace (empty: of the cluster).
    async fn list(&self, resource: Resource, namespace: &str) -> ApiResult<Vec<Arc<Value>>>;
}

/// Write access for the server itself: no authorization, no admission, but defaults, validation and the
/// bookkeeping of metadata as for any write.
#[async_trait]
pub trait ObjectWriter: ObjectLookup {
    /// Creates and returns the stored object. `AlreadyExists` where the name is taken.
    async fn create(&self, resource: Resource, namespace: &str, object: Value) -> ApiResult<Value>;

    /// Replaces the object. With `metadata.resourceVersion` set it is a compare-and-swap that may end as `Conflict`.
    async fn update(&self, resource: Resource, namespace: &str, object: Value) -> ApiResult<Value>;

    /// Replaces the status, as the `status` subresource does.
    async fn update_status(&self, resource: Resource, namespace: &str, object: Value) -> ApiResult<Value>;

    /// Removes at once. With `uid` only that very object. Absence is `NotFound`.
    async fn delete(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> ApiResult<()>;
}

/// A map of objects for unit tests, with the registry's compare-and-swap rules.
#[cfg(test)]
pub mod testing {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;
    use crate::status::ApiError;

    type Key = (&'static str, String, String);

    /// See the module.
    #[derive(Default)]
    pub struct Objects {
        map: Mutex<BTreeMap<Key, Arc<Value>>>,
        revision: Mutex<u64>,
    }

    impl Objects {
        /// A store that holds `objects`.
        pub fn with(objects: impl IntoIterator<Item = (Resource, Value)>) -> Self {
            let s = Self::default();
            for (r, o) in objects {
                s.put(r, o);
            }
            s
        }

        pub fn put(&self, resource: Resource, mut object: Value) {
            let mut rev = self.revision.lock();
            *rev += 1;
            if object["metadata"]["uid"].is_null() {
                object["metadata"]["uid"] = json!(format!("uid-{rev}"));
            }
            object["metadata"]["resourceVersion"] = json!(rev.to_string());
            let key = (
                resource.resource,
                text(&object, "/metadata/namespace").to_owned(),
                text(&object, "/metadata/name").to_owned(),
            );
            self.map.lock().insert(key, Arc::new(object));
        }

        pub fn names(&self, resource: Resource) -> Vec<String> {
            self.map.lock().keys().filter(|k| k.0 == resource.resource).map(|k| k.2.clone()).collect()
        }
    }

    #[async_trait]
    impl ObjectLookup for Objects {
        async fn get(&self, r: Resource, namespace: &str, name: &str) -> ApiResult<Option<Arc<Value>>> {
            Ok(self.map.lock().get(&(r.resource, namespace.to_owned(), name.to_owned())).cloned())
        }

        async fn list(&self, r: Resource, namespace: &str) -> ApiResult<Vec<Arc<Value>>> {
            let map = self.map.lock();
            Ok(map
                .iter()
                .filter(|(k, _)| k.0 == r.resource && (namespace.is_empty() || k.1 == namespace))
                .map(|(_, v)| v.clone())
                .collect())
        }
    }

    #[async_trait]
    impl ObjectWriter for Objects {
        async fn create(&self, r: Resource, namespace: &str, mut object: Value) -> ApiResult<Value> {
            if !namespace.is_empty() {
                object["metadata"]["namespace"] = json!(namespace);
            }
            let name = text(&object, "/metadata/name").to_owned();
            if self.get(r, namespace, &name).await?.is_some() {
                return Err(ApiError::already_exists(r.group, r.resource, &name));
            }
            self.put(r, object);
            let stored = self.get(r, namespace, &name).await?;
            stored.map(|v| (*v).clone()).ok_or_else(|| ApiError::internal("lost"))
        }

        async fn update(&self, r: Resource, namespace: &str, object: Value) -> ApiResult<Value> {
            let name = text(&object, "/metadata/name").to_owned();
            let Some(old) = self.get(r, namespace, &name).await? else {
                return Err(ApiError::not_found(r.group, r.resource, &name));
            };
            let sent = text(&object, "/metadata/resourceVersion");
            if !sent.is_empty() && sent != text(&old, "/metadata/resourceVersion") {
                return Err(ApiError::modified(r.group, r.resource, &name));
            }
            self.put(r, object);
            let stored = self.get(r, namespace, &name).await?;
            stored.map(|v| (*v).clone()).ok_or_else(|| ApiError::internal("lost"))
        }

        async fn update_status(&self, r: Resource, namespace: &str, object: Value) -> ApiResult<Value> {
            self.update(r, namespace, object).await
        }

        async fn delete(&self, r: Resource, namespace: &str, name: &str, uid: Option<&str>) -> ApiResult<()> {
            let key = (r.resource, namespace.to_owned(), name.to_owned());
            let mut map = self.map.lock();
            match map.get(&key) {
                None => Err(ApiError::not_found(r.group, r.resource, name)),
                Some(o) if uid.is_some_and(|u| u != text(o, "/metadata/uid")) => {
                    Err(ApiError::conflict(r.group, r.resource, name, "Precondition failed: UID"))
                }
                Some(_) => {
                    map.remove(&key);
                    Ok(())
                }
            }
        }
    }
}

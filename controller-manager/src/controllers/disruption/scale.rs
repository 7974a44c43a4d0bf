//! How many pods the owners of some pods are to have.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use component_base::controller::informer::Store;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::discovery::oneshot;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::util::{errors, meta};

/// Knows the built-in owners from the cache, and asks for the scale of all others.
pub struct Owners {
    pub client: Client,
    pub controllers: Store<ReplicationController>,
    pub sets: Store<ReplicaSet>,
    pub deployments: Store<Deployment>,
    pub stateful: Store<StatefulSet>,
    /// Kinds seen before.
    pub kinds: Mutex<HashMap<(String, String), Kind>>,
}

/// The resource of a kind, and whether it has a scale.
#[derive(Clone, Debug)]
pub struct Kind {
    resource: ApiResource,
    scales: bool,
}

/// What the pods' owners come to.
#[derive(Debug, Default)]
pub struct Total {
    pub pods: i32,
    /// Whether some pod has no owner.
    pub unmanaged: bool,
}

fn group(owner: &OwnerReference) -> &str {
    owner.api_version.split_once('/').map_or("", |(group, _)| group)
}

impl Owners {
    /// Adds up the sizes of all owners of the pods, each counted once.
    ///
    /// # Errors
    /// An owner can't be found, or has no scale.
    pub async fn total(&self, pods: &[Arc<Pod>]) -> anyhow::Result<Total> {
        let mut total = Total::default();
        let mut sizes: HashMap<String, i32> = HashMap::new();
        let mut seen: HashSet<&str> = HashSet::new();
        for pod in pods {
            let Some(owner) = meta::controller_of(&pod.metadata) else {
                total.unmanaged = true;
                continue;
            };
            if !seen.insert(&owner.uid) {
                continue;
            }
            let namespace = meta::namespace(&pod.metadata);
            let known = match self.built_in(owner, namespace) {
                Some(known) => Some(known),
                None => self.scale(owner, namespace).await?,
            };
            let name = meta::name(&pod.metadata);
            let (uid, size) = known.ok_or_else(|| anyhow!("found no controllers for pod {name:?}"))?;
            sizes.insert(uid, size);
        }
        total.pods = sizes.into_values().fold(0i32, i32::saturating_add);
        Ok(total)
    }

    /// Uid and size of a built-in owner; for a deployment's replica set those of the deployment.
    fn built_in(&self, owner: &OwnerReference, namespace: &str) -> Option<(String, i32)> {
        match (group(owner), owner.kind.as_str()) {
            ("", "ReplicationController") => {
                let rc = meta::find_owner(&self.controllers, namespace, owner)?;
                Some((owner.uid.clone(), rc.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
            }
            ("apps" | "extensions", "ReplicaSet") => {
                let rs = meta::find_owner(&self.sets, namespace, owner)?;
                let above = meta::controller_of(&rs.metadata).filter(|o| o.kind == "Deployment");
                let Some(above) = above else {
                    return Some((owner.uid.clone(), rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)));
                };
                let d = meta::find_owner(&self.deployments, namespace, above)?;
                Some((above.uid.clone(), d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
            }
            ("apps", "StatefulSet") => {
                let set = meta::find_owner(&self.stateful, namespace, owner)?;
                Some((owner.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)))
            }
            _ => None,
        }
    }

    /// Asks for the owner's scale; `None` if the owner is gone.
    async fn scale(&self, owner: &OwnerReference, namespace: &str) -> anyhow::Result<Option<(String, i32)>> {
        let Kind { resource, scales } = self.kind(owner).await?;
        let named = match resource.group.as_str() {
            "" => resource.plural.clone(),
            group => format!("{}.{group}", resource.plural),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        match api.get_scale(&owner.name).await {
            Ok(scale) => {
                let size = scale.spec.and_then(|s| s.replicas).unwrap_or(0);
                Ok((scale.metadata.uid.as_ref() == Some(&owner.uid)).then(|| (owner.uid.clone(), size)))
            }
            Err(e) if errors::not_found(&e) => {
                if !scales {
                    bail!("{named} does not implement the scale subresource");
                }
                Ok(None)
            }
            Err(e) => {
                Err(anyhow::Error::from(e).context(format!("reading the scale of {named} {}", owner.name)))
            }
        }
    }

    async fn kind(&self, owner: &OwnerReference) -> anyhow::Result<Kind> {
        let key = (owner.api_version.clone(), owner.kind.clone());
        if let Some(known) = self.kinds.lock().get(&key) {
            return Ok(known.clone());
        }
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let gvk = GroupVersionKind::gvk(group, version, &owner.kind);
        let found = oneshot::pinned_kind(&self.client, &gvk).await;
        let (resource, capabilities) = found.with_context(|| {
            format!("no matches for kind {:?} in version {:?}", owner.kind, owner.api_version)
        })?;
        let scales = capabilities.subresources.iter().any(|(r, _)| r.plural == "scale");
        let kind = Kind { resource, scales };
        // One without may get it later.
        if scales {
            self.kinds.lock().insert(key, kind.clone());
        }
        Ok(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSetSpec};
    use kube::Resource;

    fn owners() -> Owners {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("nothing may be asked"))
        });
        Owners {
            client: Client::new(service, "default"),
            controllers: Store::default(),
            sets: Store::default(),
            deployments: Store::default(),
            stateful: Store::default(),
            kinds: Mutex::default(),
        }
    }

    fn owned<K: Resource<DynamicType = ()>>(by: &K) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("ns".into());
        pod.metadata.owner_references = Some(vec![meta::controller_ref(by)]);
        Arc::new(pod)
    }

    #[tokio::test]
    async fn owners_are_counted_once_and_deployments_for_their_sets() {
        let o = owners();
        let mut d = Deployment { spec: Some(DeploymentSpec::default()), ..Deployment::default() };
        (d.metadata.name, d.metadata.namespace, d.metadata.uid) =
            (Some("d".into()), Some("ns".into()), Some("d-uid".into()));
        d.spec.get_or_insert_default().replicas = Some(5);
        let mut pods = Vec::new();
        for (name, size) in [("old", 2), ("new", 3)] {
            let mut rs = ReplicaSet { spec: Some(ReplicaSetSpec::default()), ..ReplicaSet::default() };
            (rs.metadata.name, rs.metadata.namespace, rs.metadata.uid) =
                (Some(name.into()), Some("ns".into()), Some(name.into()));
            rs.spec.get_or_insert_default().replicas = Some(size);
            rs.metadata.owner_references = Some(vec![meta::controller_ref(&d)]);
            pods.push(owned(&rs));
            pods.push(owned(&rs));
            o.sets.insert(Arc::new(rs));
        }
        o.deployments.insert(Arc::new(d));
        let mut lone = ReplicationController::default();
        (lone.metadata.name, lone.metadata.namespace, lone.metadata.uid) =
            (Some("rc".into()), Some("ns".into()), Some("rc-uid".into()));
        pods.push(owned(&lone));
        pods.push(Arc::new(Pod::default()));
        o.controllers.insert(Arc::new(lone));
        let total = o.total(&pods).await.unwrap_or_else(|e| panic!("{e:#}"));
        assert_eq!((total.pods, total.unmanaged), (6, true));
        let mut gone = ReplicaSet::default();
        gone.metadata.name = Some("gone".into());
        assert!(o.total(&[owned(&gone)]).await.is_err());
    }
}

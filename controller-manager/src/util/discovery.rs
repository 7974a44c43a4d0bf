//! Which resources the server has, asked in one or two requests.

use std::time::{Duration, Instant};

use kube::Api;
use kube::client::{APIGroupDiscoveryList, Client};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta};
use kube::discovery::{Discovery, Scope};

/// A resource in the version the server prefers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Kind {
    /// Whether the resource has all these verbs.
    pub fn supports(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|v| self.verbs.iter().any(|has| has == v))
    }

    /// `deployments.apps` or `pods`.
    pub fn group_resource(&self) -> String {
        match self.resource.group.as_str() {
            "" => self.resource.plural.clone(),
            group => format!("{}.{group}", self.resource.plural),
        }
    }

    /// API for the metadata of all objects of the kind.
    pub fn metadata_api(&self, client: Client) -> Api<PartialObjectMeta<DynamicObject>> {
        Api::all_with(client, &self.resource)
    }

    /// API for one namespace, or for the cluster.
    pub fn api(&self, client: Client, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(ns) if self.namespaced => Api::namespaced_with(client, ns, &self.resource),
            _ => Api::all_with(client, &self.resource),
        }
    }
}

/// What discovery found.
#[derive(Debug, Default)]
pub struct Found {
    pub kinds: Vec<Kind>,
    /// Group versions whose server did not answer: their resources are unknown.
    pub stale: Vec<String>,
}

/// Asks the server.
///
/// # Errors
/// The server did not answer.
pub async fn run(client: &Client) -> kube::Result<Found> {
    let aggregated = async {
        let mut all = client.list_core_api_versions_aggregated().await?;
        all.items.extend(client.list_api_groups_aggregated().await?.items);
        kube::Result::Ok(all)
    };
    match aggregated.await {
        Ok(list) if list.items.iter().any(|g| !g.versions.is_empty()) => Ok(from_aggregated(list)),
        Ok(_) | Err(kube::Error::SerdeError(_)) => one_by_one(client).await,
        Err(kube::Error::Api(s)) if s.code == 406 => one_by_one(client).await,
        Err(e) => Err(e),
    }
}

/// What discovery said is not asked again earlier, however much is missing in it.
const PAUSE: Duration = Duration::from_secs(5);

/// Discovery that is asked again when something is missing in what it last said.
pub struct Cached {
    client: Client,
    found: tokio::sync::Mutex<Option<(Instant, Vec<Kind>)>>,
}

impl Cached {
    /// Asks nothing yet.
    pub fn new(client: Client) -> Self {
        Self { client, found: tokio::sync::Mutex::default() }
    }

    /// The first kind that fits.
    ///
    /// # Errors
    /// The server did not answer.
    pub async fn find(&self, fits: impl Fn(&Kind) -> bool) -> kube::Result<Option<Kind>> {
        let mut found = self.found.lock().await;
        if let Some((at, kinds)) = found.as_ref() {
            let known = kinds.iter().find(|k| fits(k));
            if known.is_some() || at.elapsed() < PAUSE {
                return Ok(known.cloned());
            }
        }
        let kinds = run(&self.client).await?.kinds;
        let known = kinds.iter().find(|k| fits(k)).cloned();
        *found = Some((Instant::now(), kinds));
        Ok(known)
    }
}

fn from_aggregated(list: APIGroupDiscoveryList) -> Found {
    let mut found = Found::default();
    for group in list.items {
        let group_name = group.metadata.and_then(|m| m.name).unwrap_or_default();
        // Versions come in the server's order of preference.
        let mut seen = std::collections::HashSet::new();
        for v in group.versions {
            let version = v.version.unwrap_or_default();
            if v.freshness.as_deref() == Some("Stale") {
                found.stale.push(if group_name.is_empty() {
                    version
                } else {
                    format!("{group_name}/{version}")
                });
                continue;
            }
            for r in v.resources {
                let plural = r.resource.unwrap_or_default();
                if r.verbs.is_empty() || !seen.insert(plural.clone()) {
                    continue;
                }
                // The response kind may live in another group (scale, eviction); the resource's own group counts.
                let kind = r.response_kind.and_then(|k| k.kind).unwrap_or_default();
                let gvk = GroupVersionKind::gvk(&group_name, &version, &kind);
                found.kinds.push(Kind {
                    resource: ApiResource::from_gvk_with_plural(&gvk, &plural),
                    namespaced: r.scope.as_deref() == Some("Namespaced"),
                    verbs: r.verbs,
                });
            }
        }
    }
    found
}

async fn one_by_one(client: &Client) -> kube::Result<Found> {
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut found = Found::default();
    for group in discovery.groups() {
        for (resource, caps) in group.recommended_resources() {
            found.kinds.push(Kind {
                resource,
                namespaced: caps.scope == Scope::Namespaced,
                verbs: caps.operations,
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_wins_and_stale_ones_are_named() {
        let list: APIGroupDiscoveryList = serde_json::from_value(serde_json::json!({"items": [
            {"metadata": {"name": "apps"}, "versions": [
                {"version": "v1", "freshness": "Current", "resources": [
                    {"resource": "deployments", "responseKind": {"group": "", "version": "", "kind": "Deployment"},
                     "scope": "Namespaced", "verbs": ["get", "delete"]}]},
                {"version": "v1beta1", "resources": [
                    {"resource": "deployments", "responseKind": {"kind": "Deployment"}, "scope": "Namespaced", "verbs": ["get"]},
                    {"resource": "older", "responseKind": {"kind": "Older"}, "scope": "Cluster", "verbs": ["get"]}]}]},
            {"metadata": {"name": "gone.io"}, "versions": [{"version": "v1", "freshness": "Stale"}]}
        ]})).unwrap_or_default();
        let found = from_aggregated(list);
        let names: Vec<_> =
            found.kinds.iter().map(|k| (k.group_resource(), k.resource.version.as_str())).collect();
        assert_eq!(names, [("deployments.apps".to_owned(), "v1"), ("older.apps".to_owned(), "v1beta1")]);
        assert!(found.kinds[0].namespaced && found.kinds[0].supports(&["delete"]));
        assert!(!found.kinds[1].namespaced);
        assert_eq!(found.stale, ["gone.io/v1"]);
    }
}

//! What a control plane holds before anyone wrote anything: system namespaces, RBAC policy, priority classes,
//! flow schemas and priority levels, API services, the service CIDR and the `kubernetes` service.
//!
//! Runs at every start. A fresh store is filled with concurrent writes, which the store batches; later starts list
//! what is there, compare, and write only differences. Objects that an administrator took over (autoupdate
//! annotation `false`) stay as they are.

pub mod data;
mod diff;
pub mod identity;
pub mod kubernetes_service;
pub mod master_leases;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::lookup::{self, ObjectWriter, Resource, text};
use crate::status::{ApiError, ApiResult};

/// Writes in flight at a time: enough to fill a batch of the store, few enough to leave room for clients.
const CONCURRENCY: usize = 64;

/// How long the first writes are tried again: other servers start at the same time, and a store of several members may
/// lose its first leader.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(250);

/// What differs between installations.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `--service-cluster-ip-range`: one or two CIDRs.
    pub service_cidrs: Vec<String>,
    /// Address of the `kubernetes` service: the first of the primary range.
    pub service_ip: String,
    /// `--kubernetes-service-node-port`; zero for none.
    pub node_port: u16,
    /// `--advertise-address`; empty leaves the endpoints of the `kubernetes` service alone.
    pub advertise_address: String,
    /// `--secure-port`.
    pub secure_port: u16,
    /// `--endpoint-reconciler-type=none` turns the endpoints off.
    pub reconcile_endpoints: bool,
    /// Contents of the config map `kube-system/extension-apiserver-authentication`, from which delegating servers
    /// learn the CAs.
    pub authentication_config: Vec<(String, String)>,
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub created: usize,
    pub updated: usize,
    pub unchanged: usize,
}

/// As [`reconcile`], tried again for a while: each attempt goes on where the last one, or another server, has ended.
///
/// # Errors
/// The failure of the last attempt.
pub async fn reconcile_patiently(writer: &dyn ObjectWriter, settings: &Settings) -> ApiResult<Summary> {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match reconcile(writer, settings).await {
            Err(e) if tokio::time::Instant::now() < end => {
                tracing::info!(error = %e, "the bootstrap objects are not in place yet");
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Brings the store to hold all bootstrap objects. The first failure is returned after everything was tried.
pub async fn reconcile(writer: &dyn ObjectWriter, settings: &Settings) -> ApiResult<Summary> {
    let wanted = data::load().map_err(ApiError::internal)?;
    let mut steps: Vec<Step> = Vec::new();
    for (resource, objects) in wanted {
        let objects = if resource == lookup::SERVICE_CIDRS { vec![service_cidr(settings)] } else { objects };
        let existing = writer.list(resource, "").await?;
        let by_name: HashMap<(&str, &str), &Arc<Value>> = existing
            .iter()
            .map(|o| ((text(o, "/metadata/namespace"), text(o, "/metadata/name")), o))
            .collect();
        for wanted in objects {
            let key = (text(&wanted, "/metadata/namespace"), text(&wanted, "/metadata/name"));
            let existing = by_name.get(&key).map(|o| (*o).clone());
            steps.push(Step { resource, wanted, existing });
        }
    }
    let mut summary = Summary::default();
    let mut failure: Option<ApiError> = None;
    let mut running =
        futures::stream::iter(steps.into_iter().map(|s| s.run(writer))).buffer_unordered(CONCURRENCY);
    while let Some(result) = running.next().await {
        match result {
            Ok(Done::Created) => summary.created += 1,
            Ok(Done::Updated) => summary.updated += 1,
            Ok(Done::Unchanged) => summary.unchanged += 1,
            Err(e) => {
                tracing::debug!(error = %e, "a bootstrap object could not be written");
                failure.get_or_insert(e);
            }
        }
    }
    drop(running);
    service_cidr_ready(writer).await?;
    kubernetes_service::reconcile(writer, settings).await?;
    authentication_config(writer, settings).await?;
    legacy_token_tracking(writer).await?;
    match failure {
        Some(e) => Err(e),
        None => Ok(summary),
    }
}

fn service_cidr(settings: &Settings) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": settings.service_cidrs},
    })
}

/// The default range is always in use: nothing need wait for a controller to say so.
async fn service_cidr_ready(writer: &dyn ObjectWriter) -> ApiResult<()> {
    let Some(cidr) = writer.get(lookup::SERVICE_CIDRS, "", "kubernetes").await? else { return Ok(()) };
    let dying = !text(&cidr, "/metadata/deletionTimestamp").is_empty();
    if dying || lookup::items(&cidr, "/status/conditions").iter().any(|c| text(c, "/type") == "Ready") {
        return Ok(());
    }
    let mut new = (*cidr).clone();
    new["status"] = json!({"conditions": [{
        "type": "Ready", "status": "True", "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": crate::authn::now_rfc3339(),
    }]});
    writer.update_status(lookup::SERVICE_CIDRS, "", new).await.map(drop)
}

enum Done {
    Created,
    Updated,
    Unchanged,
}

struct Step {
    resource: Resource,
    wanted: Value,
    existing: Option<Arc<Value>>,
}

impl Step {
    async fn run(self, writer: &dyn ObjectWriter) -> ApiResult<Done> {
        let namespace = text(&self.wanted, "/metadata/namespace").to_owned();
        let Some(existing) = self.existing else {
            return match writer.create(self.resource, &namespace, self.wanted).await {
                Ok(_) => Ok(Done::Created),
                // Another server of the cluster was faster.
                Err(e) if e.reason == "AlreadyExists" => Ok(Done::Unchanged),
                Err(e) => Err(e),
            };
        };
        match diff::merge(self.resource, &existing, &self.wanted) {
            diff::Change::None => Ok(Done::Unchanged),
            diff::Change::Update(merged) => {
                writer.update(self.resource, &namespace, merged).await.map(|_| Done::Updated)
            }
            diff::Change::Recreate(object) => {
                let name = text(&object, "/metadata/name").to_owned();
                writer.delete(self.resource, &namespace, &name, None).await?;
                writer.create(self.resource, &namespace, object).await.map(|_| Done::Updated)
            }
        }
    }
}

/// Since when the use of tokens in secrets is recorded: what cleans up unused ones must know.
async fn legacy_token_tracking(writer: &dyn ObjectWriter) -> ApiResult<()> {
    let resource = Resource { group: "", version: "v1", resource: "configmaps", kind: "ConfigMap" };
    let (namespace, name) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking");
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    match writer.get(resource, namespace, name).await? {
        Some(old) if text(&old, "/data/since").parse::<jiff::civil::Date>().is_ok() => Ok(()),
        Some(old) => {
            let mut new = (*old).clone();
            new["data"]["since"] = today.into();
            writer.update(resource, namespace, new).await.map(drop)
        }
        None => {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace}, "data": {"since": today},
            });
            match writer.create(resource, namespace, object).await {
                Err(e) if e.reason != "AlreadyExists" => Err(e),
                _ => Ok(()),
            }
        }
    }
}

/// Publishes the CAs that clients are verified with.
pub async fn authentication_config(writer: &dyn ObjectWriter, settings: &Settings) -> ApiResult<()> {
    if settings.authentication_config.is_empty() {
        return Ok(());
    }
    let resource = Resource { group: "", version: "v1", resource: "configmaps", kind: "ConfigMap" };
    let (namespace, name) = ("kube-system", "extension-apiserver-authentication");
    let data: serde_json::Map<String, Value> =
        settings.authentication_config.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let data = Value::Object(data);
    match writer.get(resource, namespace, name).await? {
        Some(old) if old.get("data") == Some(&data) => Ok(()),
        Some(old) => {
            let mut new = (*old).clone();
            new["data"] = data;
            writer.update(resource, namespace, new).await.map(drop)
        }
        None => {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace}, "data": data,
            });
            writer.create(resource, namespace, object).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::ObjectLookup as _;
    use crate::lookup::testing::Objects;

    fn settings() -> Settings {
        Settings {
            node_port: 0,
            service_cidrs: vec!["10.96.0.0/16".into()],
            service_ip: "10.96.0.1".into(),
            advertise_address: "192.0.2.1".into(),
            secure_port: 6443,
            reconcile_endpoints: true,
            authentication_config: vec![("client-ca-file".into(), "PEM".into())],
        }
    }

    #[tokio::test]
    async fn fills_an_empty_store_once() {
        let store = Objects::default();
        let first = reconcile(&store, &settings()).await.unwrap();
        assert_eq!((first.updated, first.unchanged), (0, 0));
        assert_eq!(store.names(lookup::CLUSTER_ROLES).len(), 70);
        assert_eq!(store.names(lookup::NAMESPACES).len(), 4);
        assert!(store.names(lookup::SERVICES).contains(&"kubernetes".to_owned()));
        let second = reconcile(&store, &settings()).await.unwrap();
        assert_eq!((second.created, second.updated), (0, 0));
        assert_eq!(second.unchanged, first.created);
    }

    #[tokio::test]
    async fn repairs_what_was_taken_away_but_respects_owners() {
        let store = Objects::default();
        reconcile(&store, &settings()).await.unwrap();
        let role = store.get(lookup::CLUSTER_ROLES, "", "system:node").await.unwrap().unwrap();
        let mut cut = (*role).clone();
        cut["rules"] = json!([{"verbs":["zap"],"apiGroups":["x"],"resources":["y"]}]);
        store.put(lookup::CLUSTER_ROLES, cut);
        let role = store.get(lookup::CLUSTER_ROLES, "", "system:kube-scheduler").await.unwrap().unwrap();
        let mut owned = (*role).clone();
        owned["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false".into();
        owned["rules"] = json!([]);
        store.put(lookup::CLUSTER_ROLES, owned);
        store.delete(lookup::CLUSTER_ROLE_BINDINGS, "", "cluster-admin", None).await.unwrap();

        let s = reconcile(&store, &settings()).await.unwrap();
        assert_eq!((s.created, s.updated), (1, 1));
        let role = store.get(lookup::CLUSTER_ROLES, "", "system:node").await.unwrap().unwrap();
        let rules = crate::authz::rules::Rule::of_role(&role);
        assert!(crate::authz::rules::uncovered(&rules, &data::node_rules().unwrap()).is_empty());
        assert!(role["rules"].as_array().unwrap().iter().any(|r| r["verbs"] == json!(["zap"])));
        let role = store.get(lookup::CLUSTER_ROLES, "", "system:kube-scheduler").await.unwrap().unwrap();
        assert_eq!(role["rules"], json!([]));
    }
}

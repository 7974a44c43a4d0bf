//! ResourceQuota: keeps `status.used` of every quota at what is really there.
//!
//! Admission charges writes as they come; this controller gives back what deletions, finished pods and changed
//! services free, and counts anew when a quota changes and once per `--resource-quota-sync-period`. The rules of what
//! counts are [`component_base::quota`], shared with admission.
//!
//! Pods and services are counted in the shared stores. Of other kinds [`monitor`] keeps names only, and only of kinds
//! that some quota is about; claims, whose content counts, are listed when their quota is counted.

mod monitor;
mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::informer::{Delta, Store, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use component_base::quantity::Amount;
use component_base::quota::pods::{Amounts, add};
use component_base::quota::{Tracked, scope};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;

use self::monitor::Monitors;
use crate::context::{Context, synced};
use crate::util::{errors, meta, pods};

/// A kind by group and resource name.
type Kind = (String, String);

/// After how long a kind that the server does not have is asked for again.
const UNKNOWN_KIND_RETRY: Duration = Duration::from_secs(30);
/// Objects per request where they are listed.
const PAGE: u32 = 500;

struct Controller {
    client: Client,
    quotas: Store<ResourceQuota>,
    pods: Store<Pod>,
    services: Store<Service>,
    monitors: Arc<Monitors>,
    queue: WorkQueue<String>,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let quotas = ctx.informers.of::<ResourceQuota>();
    let all_pods = ctx.informers.of::<Pod>();
    let services = ctx.informers.of::<Service>();
    let client = ctx.client("resourcequota-controller")?;
    let queue: WorkQueue<String> = WorkQueue::default();
    let replenish = {
        let (quotas, queue) = (quotas.store(), queue.clone());
        move |kind: &Kind, namespace: &str| {
            let tracked = Tracked::of(&kind.0, &kind.1);
            for quota in quotas.in_namespace(namespace) {
                if plan::hard_names(&quota).any(|name| tracked.counts(name)) {
                    queue.add(key_of(quota.as_ref()));
                }
            }
        }
    };
    let monitors = Monitors::new(ctx.clients.clone(), client.clone(), Box::new(replenish.clone()));
    let q = queue.clone();
    quotas.on_change(move |d| {
        let changed = |old: &ResourceQuota, new: &ResourceQuota| {
            old.spec.as_ref().and_then(|s| s.hard.as_ref()) != new.spec.as_ref().and_then(|s| s.hard.as_ref())
        };
        match d {
            Delta::Added(quota) => q.add(key_of(quota.as_ref())),
            Delta::Updated(old, new) if changed(old, new) => q.add(key_of(new.as_ref())),
            _ => {}
        }
    });
    let r = replenish.clone();
    all_pods.on_change(move |d| {
        let frees = match d {
            Delta::Added(_) => false,
            Delta::Deleted(_) => true,
            Delta::Updated(old, new) => frees_something(old, new),
        };
        if frees {
            r(&(String::new(), "pods".into()), meta::namespace(&d.object().metadata));
        }
    });
    services.on_change(move |d| {
        let frees = match d {
            Delta::Added(_) => false,
            Delta::Deleted(_) => true,
            Delta::Updated(old, new) => exposed_as(old) != exposed_as(new),
        };
        if frees {
            replenish(&(String::new(), "services".into()), meta::namespace(&d.object().metadata));
        }
    });
    let c = Arc::new(Controller {
        client,
        quotas: quotas.store(),
        pods: all_pods.store(),
        services: services.store(),
        monitors,
        queue: queue.clone(),
    });
    let period = ctx.flags.resource_quota_sync_period.0;
    if !period.is_zero() {
        let c = c.clone();
        ctx.spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                c.resync();
            }
        });
    }
    let ready = vec![synced(&quotas), synced(&all_pods), synced(&services)];
    ctx.work("resourcequota_primary", &queue, ctx.flags.concurrent_resource_quota_syncs, ready, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
    Ok(())
}

/// Whether a change of a pod may have freed something, or moved it from one scope to another.
fn frees_something(old: &Pod, new: &Pod) -> bool {
    let deadline = |p: &Pod| p.spec.as_ref().is_some_and(|s| s.active_deadline_seconds.is_some());
    let held = |p: &Pod| {
        let status = p.status.as_ref();
        let of = |list: Option<&Vec<k8s_openapi::api::core::v1::ContainerStatus>>| -> Vec<_> {
            list.into_iter().flatten().map(|c| (c.name.clone(), c.resources.clone())).collect()
        };
        (
            of(status.and_then(|s| s.container_statuses.as_ref())),
            of(status.and_then(|s| s.init_container_statuses.as_ref())),
        )
    };
    (pods::is_terminal(new) && !pods::is_terminal(old)) || deadline(old) != deadline(new) || {
        // A container that has only just started did not free anything.
        let (before, after) = (held(old), held(new));
        before != after && before.0.len() == after.0.len()
    }
}

/// The type of a service as far as quotas tell types apart.
fn exposed_as(service: &Service) -> &str {
    let type_ = service.spec.as_ref().and_then(|s| s.type_.as_deref()).unwrap_or_default();
    if matches!(type_, "NodePort" | "LoadBalancer") { type_ } else { "" }
}

impl Controller {
    /// Counts everything anew, and stops watching kinds that no quota is about any more.
    fn resync(&self) {
        let mut wanted = BTreeSet::new();
        for quota in self.quotas.list() {
            wanted.extend(plan::kinds(&quota));
            self.queue.add(key_of(quota.as_ref()));
        }
        self.monitors.keep(&wanted);
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(quota) = self.quotas.get(key) else { return Ok(()) };
        let (counted, unknown) = self.count(&quota).await?;
        if unknown {
            self.queue.add_after(key.to_owned(), UNKNOWN_KIND_RETRY);
        }
        let Some(status) = plan::status(&quota, &counted) else { return Ok(()) };
        let (namespace, name) = split_key(key);
        let mut updated = quota.as_ref().clone();
        updated.status = Some(status);
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace.unwrap_or_default());
        match api.replace_status(name, &PostParams::default(), &updated).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("updating the usage of resource quota {key}")),
        }
    }

    /// What is used of the quota's resources; and whether there were some of a kind that the server does not have,
    /// whose last figure stands.
    async fn count(&self, quota: &ResourceQuota) -> anyhow::Result<(Amounts, bool)> {
        let value = serde_json::to_value(quota)?;
        let namespace = meta::namespace(&quota.metadata);
        let now = Timestamp::now();
        let (mut total, mut unknown) = (Amounts::new(), false);
        for kind in plan::kinds(quota) {
            let tracked = Tracked::of(&kind.0, &kind.1);
            let Some(used) = self.count_kind(&kind, &tracked, &value, namespace, now).await? else {
                unknown = true;
                continue;
            };
            for name in plan::hard_names(quota).filter(|n| tracked.counts(n)) {
                total.entry(name.to_owned()).or_insert(Amount::ZERO);
            }
            add(&mut total, &used);
        }
        Ok((total, unknown))
    }

    /// `None`: the server has no such kind.
    async fn count_kind(
        &self,
        kind: &Kind,
        tracked: &Tracked,
        quota: &Value,
        namespace: &str,
        now: Timestamp,
    ) -> anyhow::Result<Option<Amounts>> {
        let mut used = Amounts::new();
        match (kind.0.as_str(), kind.1.as_str()) {
            ("", "pods") => {
                count_objects(&self.pods.in_namespace(namespace), tracked, quota, now, &mut used)?
            }
            ("", "services") => {
                count_objects(&self.services.in_namespace(namespace), tracked, quota, now, &mut used)?;
            }
            _ if tracked.is_plain() => {
                let Some(n) = self.monitors.count(kind, namespace).await? else { return Ok(None) };
                // Nothing but pods and claims is in a scope.
                if scope::matches(quota, tracked, &Value::Null) {
                    let n = Amount::whole(i64::try_from(n).unwrap_or(i64::MAX));
                    used.extend(tracked.usage(&Value::Null, now).into_keys().map(|name| (name, n)));
                }
            }
            _ => {
                // The watch tells when to count again.
                if self.monitors.count(kind, namespace).await?.is_none() {
                    return Ok(None);
                }
                let Some(found) = self.monitors.find(kind).await? else { return Ok(None) };
                let api = found.api(self.client.clone(), Some(namespace));
                let mut params = ListParams::default().limit(PAGE);
                loop {
                    let page = api
                        .list(&params)
                        .await
                        .with_context(|| format!("listing {} of namespace {namespace}", kind.1))?;
                    let objects: Vec<_> = page.items.into_iter().map(Arc::new).collect();
                    count_objects(&objects, tracked, quota, now, &mut used)?;
                    match page.metadata.continue_.filter(|token| !token.is_empty()) {
                        Some(token) => params = ListParams::default().limit(PAGE).continue_token(&token),
                        None => break,
                    }
                }
            }
        }
        Ok(Some(used))
    }
}

fn count_objects<K: Serialize>(
    objects: &[Arc<K>],
    tracked: &Tracked,
    quota: &Value,
    now: Timestamp,
    used: &mut Amounts,
) -> anyhow::Result<()> {
    for object in objects {
        let object = serde_json::to_value(object.as_ref())?;
        if scope::matches(quota, tracked, &object) {
            add(used, &tracked.usage(&object, now));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, deadline: Option<i64>) -> Pod {
        serde_json::from_value(serde_json::json!({
            "spec": {"containers": [], "activeDeadlineSeconds": deadline}, "status": {"phase": phase}
        }))
        .unwrap()
    }

    #[test]
    fn pods_free_what_they_used_when_they_end_and_change_scope_by_a_deadline() {
        assert!(frees_something(&pod("Running", None), &pod("Succeeded", None)));
        assert!(!frees_something(&pod("Pending", None), &pod("Running", None)));
        assert!(frees_something(&pod("Running", None), &pod("Running", Some(5))));
    }

    #[test]
    fn services_are_told_apart_as_quotas_do() {
        let of = |t: &str| -> Service {
            serde_json::from_value(serde_json::json!({"spec": {"type": t}})).unwrap()
        };
        assert_eq!(exposed_as(&of("ClusterIP")), exposed_as(&of("ExternalName")));
        assert_ne!(exposed_as(&of("NodePort")), exposed_as(&of("LoadBalancer")));
    }
}

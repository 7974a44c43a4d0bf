//! Disruption budgets: how many pods may be evicted now.
//!
//! Reads budgets, pods and their owners; writes the budgets' status, and takes back the `DisruptionTarget` condition of
//! pods that were not deleted after all. [`plan`] decides, [`scale`] finds out how many pods there should be. The
//! eviction handler of the API server spends what the status allows; a budget that can't be judged allows nothing.

mod plan;
mod scale;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Delta, Store, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;

use self::plan::Expected;
use self::scale::Owners;
use crate::context::{Context, synced};
use crate::util::selector::{Selector, shown};
use crate::util::{errors, meta, pods};

const NAME: &str = "disruption-controller";
/// Source of events.
const EVENTS: &str = "controllermanager";

struct Controller {
    client: Client,
    events: EventRecorder,
    budgets: Store<PodDisruptionBudget>,
    pods: Store<Pod>,
    owners: Owners,
    queue: WorkQueue<String>,
    /// Pods with a condition that may be stale.
    stale: WorkQueue<String>,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let client = ctx.client(NAME)?;
    let budgets = ctx.informers.of::<PodDisruptionBudget>();
    let all_pods = ctx.informers.of::<Pod>();
    let controllers = ctx.informers.of::<ReplicationController>();
    let sets = ctx.informers.of::<ReplicaSet>();
    let deployments = ctx.informers.of::<Deployment>();
    let stateful = ctx.informers.of::<StatefulSet>();
    let owners = Owners {
        client: client.clone(),
        controllers: controllers.store(),
        sets: sets.store(),
        deployments: deployments.store(),
        stateful: stateful.store(),
        kinds: Mutex::default(),
    };
    let c = Arc::new(Controller {
        client,
        events: ctx.events.for_component(EVENTS),
        budgets: budgets.store(),
        pods: all_pods.store(),
        owners,
        queue: WorkQueue::default(),
        stale: WorkQueue::default(),
    });
    let queue = c.queue.clone();
    budgets.on_change(move |d| queue.add(key_of(d.object().as_ref())));
    let this = c.clone();
    all_pods.on_change(move |d| this.pod_changed(d));
    let ready = || {
        vec![
            synced(&budgets),
            synced(&all_pods),
            synced(&controllers),
            synced(&sets),
            synced(&deployments),
            synced(&stateful),
        ]
    };
    let this = c.clone();
    ctx.work("disruption", &c.queue, 1, ready(), move |key| {
        let c = this.clone();
        async move { c.sync(&key).await.with_context(|| format!("disruption budget {key}")) }
    });
    let queue = c.stale.clone();
    ctx.work("stale_pod_disruption", &queue, 1, ready(), move |key| {
        let c = c.clone();
        async move { c.clear_stale(&key).await }
    });
    Ok(())
}

/// A budget without a selector covers nothing, one with an empty selector everything.
fn selector(pdb: &PodDisruptionBudget) -> anyhow::Result<Option<Selector>> {
    pdb.spec.as_ref().and_then(|s| s.selector.as_ref()).map(Selector::new).transpose()
}

impl Controller {
    fn pod_changed(&self, d: &Delta<Pod>) {
        let pod = d.object();
        let old = d.old().filter(|_| !d.is_deleted());
        let counts = |p: &Pod| {
            let meta = &p.metadata;
            (
                pods::is_ready(p),
                meta.deletion_timestamp.is_some(),
                meta.labels.clone(),
                meta.owner_references.clone(),
            )
        };
        if !d.is_deleted()
            && let Some(left) = plan::stale_in(pod, Timestamp::now())
        {
            self.stale.add_after(key_of(pod.as_ref()), Duration::try_from(left).unwrap_or_default());
        }
        if old.is_some_and(|o| counts(o) == counts(pod)) {
            return;
        }
        let mut covering = 0;
        for pdb in self.budgets.in_namespace(meta::namespace(&pod.metadata)) {
            let Ok(Some(selector)) = selector(&pdb) else { continue };
            let now = selector.matches(pod.metadata.labels.as_ref());
            if now || old.is_some_and(|o| selector.matches(o.metadata.labels.as_ref())) {
                self.queue.add(key_of(pdb.as_ref()));
            }
            covering += usize::from(now);
        }
        if covering > 1 && old.is_none() && !d.is_deleted() {
            let message = format!(
                "Pod {:?}/{:?} matches multiple PodDisruptionBudgets.",
                meta::namespace(&pod.metadata),
                meta::name(&pod.metadata)
            );
            self.events.warning(&meta::reference(pod.as_ref()), "MultiplePodDisruptionBudgets", message);
        }
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(pdb) = self.budgets.get(key) else { return Ok(()) };
        let done = self.count(key, &pdb).await;
        let Err(e) = done else { return Ok(()) };
        let conflict = e.downcast_ref::<kube::Error>().is_some_and(|e| errors::code(e) == Some(409));
        if !conflict && let Some(status) = plan::failed(&pdb, format!("{e:#}"), Timestamp::now()) {
            self.write(&pdb, status).await.context("allowing no disruptions")?;
        }
        Err(e)
    }

    async fn count(&self, key: &str, pdb: &Arc<PodDisruptionBudget>) -> anyhow::Result<()> {
        let object = meta::reference(pdb.as_ref());
        let mut covered = Vec::new();
        if let Some(selector) = selector(pdb).context("selector")? {
            covered = self.pods.in_namespace(meta::namespace(&pdb.metadata));
            covered.retain(|p| selector.matches(p.metadata.labels.as_ref()));
        }
        if covered.is_empty() {
            self.events.normal(&object, "NoPods", "No matching pods found");
        }
        let expected = match plan::expected(pdb) {
            Expected::Nothing => Ok(0),
            Expected::Counted => Ok(i32::try_from(covered.len()).unwrap_or(i32::MAX)),
            Expected::Scaled => self.scaled(pdb, &covered).await,
        };
        let numbers = expected.and_then(|n| Ok((n, plan::desired(pdb, n)?)));
        let (expected, desired) = numbers.inspect_err(|e| {
            let message = format!("Failed to calculate the number of expected pods: {e:#}");
            self.events.warning(&object, "CalculateExpectedPodCountFailed", message);
        })?;
        let now = Timestamp::now();
        let disrupted = plan::disrupted(pdb, &covered, now);
        for pod in &disrupted.overdue {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.events.warning(&meta::reference(pod.as_ref()), "NotDeleted", message);
        }
        if let Some(status) = plan::status(pdb, &covered, expected, desired, &disrupted.pods, now) {
            self.write(pdb, status).await?;
        }
        if let Some(again) = disrupted.again.and_then(|d| Duration::try_from(d).ok()) {
            self.queue.add_after(key.to_owned(), again + Duration::from_secs(1));
        }
        Ok(())
    }

    async fn scaled(&self, pdb: &PodDisruptionBudget, covered: &[Arc<Pod>]) -> anyhow::Result<i32> {
        let total = self.owners.total(covered).await?;
        if total.unmanaged {
            let selector = pdb.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the \
                 status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account \
                 for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                shown(Some(&selector))
            );
            self.events.warning(&meta::reference(pdb), "UnmanagedPods", message);
        }
        Ok(total.pods)
    }

    async fn write(&self, pdb: &PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> kube::Result<()> {
        let api: Api<PodDisruptionBudget> =
            Api::namespaced(self.client.clone(), meta::namespace(&pdb.metadata));
        let updated = PodDisruptionBudget { status: Some(status), ..pdb.clone() };
        match api.replace_status(meta::name(&pdb.metadata), &PostParams::default(), &updated).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn clear_stale(&self, key: &str) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        let now = Timestamp::now();
        let Some(left) = plan::stale_in(&pod, now) else { return Ok(()) };
        if left.is_positive() {
            self.stale.add_after(key.to_owned(), Duration::try_from(left).unwrap_or_default());
            return Ok(());
        }
        let (namespace, name) = split_key(key);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace.unwrap_or_default());
        let condition = json!({
            "type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
            "lastTransitionTime": meta::api_time(now), "observedGeneration": pod.metadata.generation,
        });
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
            "status": {"conditions": [condition]},
        });
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("clearing the condition of pod {key}")),
        }
    }
}

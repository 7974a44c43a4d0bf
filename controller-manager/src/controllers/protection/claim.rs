//! Claims in use by pods.

use std::sync::Arc;

use anyhow::Context as _;
use component_base::controller::informer::{Store, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, Client};

use super::{Need, need, write};
use crate::context::{Context, synced};
use crate::util::volumes::{PODS_BY_CLAIM, ephemeral_claim_name, index_pods_by_claim, is_for_pod, volumes};
use crate::util::{meta, pods};

const FINALIZER: &str = "kubernetes.io/pvc-protection";

struct Controller {
    client: Client,
    claims: Store<PersistentVolumeClaim>,
    pods: Store<Pod>,
}

/// Whether the kubelet has ended the pod, or somebody has given it up: only garbage collection is left.
fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Whether a pod may still need the claim. Pods without a node do not count: a kubelet starts no pod whose claim is
/// being deleted.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = meta::name(&claim.metadata);
    !pods::node(pod).is_empty()
        && volumes(pod).any(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(source), _) => source.claim_name == name,
            (None, Some(_)) => {
                !is_shut_down(pod) && ephemeral_claim_name(pod, v) == name && is_for_pod(pod, claim).is_ok()
            }
            (None, None) => false,
        })
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let pvcs = ctx.informers.of::<PersistentVolumeClaim>();
    let all_pods = ctx.informers.of::<Pod>();
    all_pods.store().add_index(PODS_BY_CLAIM, index_pods_by_claim);
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    pvcs.on_change(move |d| {
        if !d.is_deleted() && need(&d.object().metadata, FINALIZER) != Need::Nothing {
            q.add(key_of(d.object().as_ref()));
        }
    });
    let (q, claims) = (queue.clone(), pvcs.store());
    all_pods.on_change(move |d| {
        let pod = d.object();
        if !d.is_deleted() && !pods::is_terminal(pod) && !is_shut_down(pod) {
            return;
        }
        let held =
            |key: &String| claims.get(key).is_some_and(|c| need(&c.metadata, FINALIZER) == Need::Release);
        index_pods_by_claim(pod).into_iter().filter(held).for_each(|key| q.add(key));
    });
    let c = Arc::new(Controller {
        client: ctx.client("pvc-protection-controller")?,
        claims: pvcs.store(),
        pods: all_pods.store(),
    });
    ctx.work("pvcprotection", &queue, 10, vec![synced(&pvcs), synced(&all_pods)], move |key| {
        let c = c.clone();
        async move { c.sync(&key).await.with_context(|| format!("protecting claim {key}")) }
    });
    Ok(())
}

impl Controller {
    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(claim) = self.claims.get(key) else { return Ok(()) };
        let namespace = split_key(key).0.unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        match need(&claim.metadata, FINALIZER) {
            Need::Nothing => Ok(()),
            Need::Add => Ok(write(&api, &claim, FINALIZER, true).await?),
            Need::Release if self.in_use(key, namespace, &claim).await? => Ok(()),
            Need::Release => Ok(write(&api, &claim, FINALIZER, false).await?),
        }
    }

    /// Asks the server at last: a pod that was created a moment ago may not be in our store yet.
    async fn in_use(
        &self,
        key: &str,
        namespace: &str,
        claim: &PersistentVolumeClaim,
    ) -> anyhow::Result<bool> {
        if self.pods.by_index(PODS_BY_CLAIM, key).iter().any(|p| uses(p, claim)) {
            return Ok(true);
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let fresh = api.list(&ListParams::default()).await.context("listing pods")?;
        Ok(fresh.items.iter().any(|p| uses(p, claim)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}"))
    }

    fn claim(owner: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "p-data", "namespace": "n", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]}}))
        .unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn pods_without_a_node_do_not_hold_a_claim() {
        let direct = json!([{"name": "d", "persistentVolumeClaim": {"claimName": "p-data"}}]);
        let waiting = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [], "volumes": direct}});
        assert!(!uses(&pod(waiting.clone()), &claim("u")));
        let mut bound = waiting;
        bound["spec"]["nodeName"] = json!("node");
        assert!(uses(&pod(bound.clone()), &claim("u")));
        bound["status"] = json!({"phase": "Succeeded"});
        assert!(uses(&pod(bound), &claim("u")), "until it is deleted");
    }

    #[test]
    fn ephemeral_claims_are_held_by_their_own_pod_until_it_is_shut_down() {
        let mut p = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"nodeName": "node",
            "containers": [], "volumes": [{"name": "data", "ephemeral": {}}]}});
        assert!(uses(&pod(p.clone()), &claim("u")));
        assert!(!uses(&pod(p.clone()), &claim("another pod of that name")));
        p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        p["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        assert!(!uses(&pod(p), &claim("u")));
    }
}

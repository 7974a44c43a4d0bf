//! Pod garbage collector: removes pods that nobody else will: bound to a node that is gone, terminating without ever
//! having had a node, on a node declared out of service, and terminated ones beyond a threshold.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::informer::{Delta, Store, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};

use super::endpointslice::BY_NODE;
use crate::context::{Context, synced};
use crate::util::{errors, meta, pods};

/// A node that is gone may come back under the same name: its pods wait this long.
const QUARANTINE: Duration = Duration::from_secs(40);
const TERMINATED: &str = "terminated";
/// Key of the sweep over terminated pods.
const SWEEP: &str = "";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

struct Controller {
    client: Client,
    pods: Store<Pod>,
    nodes: Store<Node>,
    queue: WorkQueue<String>,
    threshold: usize,
}

/// Why a pod must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Its node does not exist: to be made sure of at the server.
    NodeGone,
    /// It is terminating and was never bound.
    NeverBound,
    /// It is terminating on a node that is out of service.
    OutOfService,
}

fn judge(pod: &Pod, node: Option<&Node>) -> Option<Why> {
    let terminating = pod.metadata.deletion_timestamp.is_some();
    if pods::node(pod).is_empty() {
        return terminating.then_some(Why::NeverBound);
    }
    let Some(node) = node else { return Some(Why::NodeGone) };
    let ready = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == "Ready" && c.status == "True");
    (terminating && !ready && is_out_of_service(node)).then_some(Why::OutOfService)
}

fn is_out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE)
}

/// The pods to delete so that `threshold` terminated ones are left: evicted ones first, then the oldest.
fn surplus(mut terminated: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    let count = terminated.len().saturating_sub(threshold);
    let evicted = |p: &Pod| p.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
    terminated.sort_by_cached_key(|p| (!evicted(p), meta::created(&p.metadata), key_of(p.as_ref())));
    terminated.truncate(count);
    terminated
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let all_pods = ctx.informers.of::<Pod>();
    let nodes = ctx.informers.of::<Node>();
    all_pods.store().add_index(BY_NODE, |p| vec![pods::node(p).to_owned()]);
    all_pods
        .store()
        .add_index(TERMINATED, |p| pods::is_terminal(p).then(|| TERMINATED.to_owned()).into_iter().collect());
    let threshold = usize::try_from(ctx.flags.terminated_pod_gc_threshold).unwrap_or(0);
    let c = Arc::new(Controller {
        client: ctx.client("pod-garbage-collector")?,
        pods: all_pods.store(),
        nodes: nodes.store(),
        queue: WorkQueue::default(),
        threshold,
    });
    let this = c.clone();
    all_pods.on_change(move |d| this.pod_changed(d));
    let this = c.clone();
    nodes.on_change(move |d| {
        let node = d.object();
        let wait = if d.is_deleted() { QUARANTINE } else { Duration::ZERO };
        if d.is_deleted() || is_out_of_service(node) {
            for pod in this.pods.by_index(BY_NODE, meta::name(&node.metadata)) {
                this.queue.add_after(key_of(pod.as_ref()), wait);
            }
        }
    });
    let queue = c.queue.clone();
    ctx.work("pod_gc", &queue, 2, vec![synced(&all_pods), synced(&nodes)], move |key| {
        let c = c.clone();
        async move { if key == SWEEP { c.sweep().await } else { c.sync(&key).await } }
    });
    Ok(())
}

impl Controller {
    fn pod_changed(&self, d: &Delta<Pod>) {
        let pod = d.object();
        if d.is_deleted() {
            return;
        }
        if self.threshold > 0 && pods::is_terminal(pod) && d.old().is_none_or(|o| !pods::is_terminal(o)) {
            self.queue.add_after(SWEEP.to_owned(), Duration::from_secs(1));
        }
        let bound = !pods::node(pod).is_empty();
        if bound && d.old().is_none_or(|o| pods::node(o).is_empty()) {
            // Nodes are not known in order: only after the quarantine does a missing node mean anything.
            if self.nodes.get(pods::node(pod)).is_none() {
                self.queue.add_after(key_of(pod.as_ref()), QUARANTINE);
            }
        }
        if pod.metadata.deletion_timestamp.is_some() {
            self.queue.add(key_of(pod.as_ref()));
        }
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        let node = self.nodes.get(pods::node(&pod));
        let (why, message) = match judge(&pod, node.as_deref()) {
            None => return Ok(()),
            Some(Why::NodeGone) => {
                let api: Api<Node> = Api::all(self.client.clone());
                let there = api
                    .get_metadata_opt(pods::node(&pod))
                    .await
                    .context("making sure that the node is gone")?;
                if there.is_some() {
                    return Ok(());
                }
                ("its node is gone", "PodGC: node no longer exists")
            }
            Some(Why::NeverBound) => ("it was never bound to a node", ""),
            Some(Why::OutOfService) => ("its node is out of service", "PodGC: node is out-of-service"),
        };
        tracing::info!(pod = key, why, "deleting pod");
        self.delete(key, &pod, message).await
    }

    async fn sweep(&self) -> anyhow::Result<()> {
        for pod in surplus(self.pods.by_index(TERMINATED, TERMINATED), self.threshold) {
            self.delete(&key_of(pod.as_ref()), &pod, "").await?;
        }
        Ok(())
    }

    async fn delete(&self, key: &str, pod: &Pod, message: &str) -> anyhow::Result<()> {
        let (namespace, name) = split_key(key);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace.unwrap_or_default());
        // A pod that did not end must say that it failed, or its owner would wait for it.
        if !pods::is_terminal(pod) && !message.is_empty() {
            let condition = pods::disruption_target("DeletionByPodGC", message, Timestamp::now());
            let patch = serde_json::json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"phase": "Failed", "conditions": [condition]},
            });
            match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Err(e) if errors::not_found(&e) => return Ok(()),
                other => {
                    other.with_context(|| format!("marking pod {key} as failed"))?;
                }
            }
        }
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        match api.delete(name, &DeleteParams::default().grace_period(0).preconditions(same)).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("deleting pod {key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, PodSpec, PodStatus, Taint};

    fn pod(node: &str, terminating: bool) -> Pod {
        let mut p = Pod {
            spec: Some(PodSpec { node_name: Some(node.into()), ..PodSpec::default() }),
            ..Pod::default()
        };
        if terminating {
            p.metadata.deletion_timestamp = Some(meta::api_time(Timestamp::UNIX_EPOCH));
        }
        p
    }

    #[test]
    fn who_must_go() {
        let node = Node::default();
        let taint = Taint { key: OUT_OF_SERVICE.into(), effect: "NoExecute".into(), ..Taint::default() };
        let spec = NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() };
        let broken = Node { spec: Some(spec), ..Node::default() };
        assert_eq!(judge(&pod("n", false), None), Some(Why::NodeGone));
        assert_eq!(judge(&pod("n", false), Some(&node)), None);
        assert_eq!(judge(&pod("", true), None), Some(Why::NeverBound));
        assert_eq!(judge(&pod("", false), None), None);
        assert_eq!(judge(&pod("n", true), Some(&node)), None);
        assert_eq!(judge(&pod("n", true), Some(&broken)), Some(Why::OutOfService));
        assert_eq!(judge(&pod("n", false), Some(&broken)), None);
    }

    #[test]
    fn old_and_evicted_ones_go_first() {
        let make = |name: &str, age: i64, reason: Option<&str>| {
            let mut p = pod("n", false);
            p.metadata.name = Some(name.into());
            p.metadata.creation_timestamp =
                Some(meta::api_time(Timestamp::from_second(age).unwrap_or_default()));
            p.status = Some(PodStatus { reason: reason.map(str::to_owned), ..PodStatus::default() });
            Arc::new(p)
        };
        let all = vec![make("young", 9, None), make("old", 1, None), make("evicted", 8, Some("Evicted"))];
        let names: Vec<_> = surplus(all.clone(), 1).iter().map(|p| key_of(p.as_ref())).collect();
        assert_eq!(names, ["evicted", "old"]);
        assert!(surplus(all, 3).is_empty());
    }
}

//! Taint eviction: pods leave nodes whose `NoExecute` taints they do not tolerate, or not any longer.
//!
//! Deadlines come from the objects (when the taint was added), so a restart neither forgets nor prolongs them.

use std::sync::Arc;
use std::time::Duration;

use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Store, key_of};
use component_base::controller::queue::WorkQueue;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;

use super::endpointslice::BY_NODE;
use crate::context::{Context, synced};
use crate::util::taints::{NO_EXECUTE, must_leave_at};
use crate::util::{eviction, meta, pods};

struct Controller {
    client: Client,
    events: EventRecorder,
    pods: Store<Pod>,
    nodes: Store<Node>,
    queue: WorkQueue<String>,
}

fn no_execute(node: &Node) -> Vec<&k8s_openapi::api::core::v1::Taint> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.effect == NO_EXECUTE).collect()
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let all_pods = ctx.informers.of::<Pod>();
    let nodes = ctx.informers.of::<Node>();
    all_pods.store().add_index(BY_NODE, |p| vec![pods::node(p).to_owned()]);
    let c = Arc::new(Controller {
        client: ctx.client("node-controller")?,
        events: ctx.events.for_component("taint-eviction-controller"),
        pods: all_pods.store(),
        nodes: nodes.store(),
        queue: WorkQueue::default(),
    });
    let this = c.clone();
    all_pods.on_change(move |d| {
        let pod = d.object();
        let tolerations = |p: &Pod| p.spec.as_ref().and_then(|s| s.tolerations.clone());
        let news =
            d.old().is_none_or(|o| pods::node(o) != pods::node(pod) || tolerations(o) != tolerations(pod));
        if news && !d.is_deleted() && !pods::node(pod).is_empty() {
            this.queue.add(key_of(pod.as_ref()));
        }
    });
    let this = c.clone();
    nodes.on_change(move |d| {
        let node = d.object();
        if d.is_deleted() || d.old().map(|o| no_execute(o)) == Some(no_execute(node)) {
            return;
        }
        for pod in this.pods.by_index(BY_NODE, meta::name(&node.metadata)) {
            this.queue.add(key_of(pod.as_ref()));
        }
    });
    let queue = c.queue.clone();
    ctx.work("taint_eviction", &queue, 8, vec![synced(&all_pods), synced(&nodes)], move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
    Ok(())
}

impl Controller {
    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let Some(node) = self.nodes.get(pods::node(&pod)) else { return Ok(()) };
        let taints: Vec<_> = no_execute(&node).into_iter().cloned().collect();
        let now = Timestamp::now();
        let Some(at) = must_leave_at(&pod, &taints, now) else { return Ok(()) };
        if at > now {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            self.queue.add_after(key.to_owned(), wait);
            return Ok(());
        }
        self.evict(key, &pod).await
    }

    async fn evict(&self, key: &str, pod: &Pod) -> anyhow::Result<()> {
        let message = format!("Marking for deletion Pod {key}");
        self.events.normal(&meta::reference(pod), "TaintManagerEviction", message);
        let message = "Taint manager: deleting due to NoExecute taint";
        let why = pods::disruption_target("DeletionByTaintManager", message, Timestamp::now());
        eviction::evict(&self.client, key, pod, why).await
    }
}

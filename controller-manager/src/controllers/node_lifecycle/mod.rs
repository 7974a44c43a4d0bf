//! Node lifecycle: notices nodes that went silent, and taints nodes by their conditions.
//!
//! A node is heard through its Lease and through its status. Each node has one timer, set to when its silence would be
//! too long, so healthy nodes cost nothing but their heartbeats. [`judge`] decides about a node, [`zones`] about how
//! fast evictions may start. The taint-eviction controller acts on the taints.

pub(crate) mod judge;
mod zones;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Delta, Store};
use component_base::controller::queue::WorkQueue;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;

use self::judge::{Evicting, Health, condition, health};
use self::zones::{Limits, Turn, Zones};
use super::endpointslice::BY_NODE;
use crate::context::{Context, synced};
use crate::util::{errors, meta, pods};

/// What is remembered of a node; by this daemon's own clock.
struct Seen {
    heard: Instant,
    was: Health,
}

struct Controller {
    client: Client,
    events: EventRecorder,
    nodes: Store<Node>,
    pods: Store<Pod>,
    queue: WorkQueue<String>,
    seen: Mutex<HashMap<String, Seen>>,
    zones: Mutex<Zones>,
    grace: Duration,
    startup_grace: Duration,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let nodes = ctx.informers.of::<Node>();
    let leases = ctx.informers.of::<Lease>();
    let all_pods = ctx.informers.of::<Pod>();
    all_pods.store().add_index(BY_NODE, |p| vec![pods::node(p).to_owned()]);
    let flags = &ctx.flags;
    let limits = Limits {
        rate: flags.node_eviction_rate,
        secondary_rate: flags.secondary_node_eviction_rate,
        unhealthy: flags.unhealthy_zone_threshold,
        large: flags.large_cluster_size_threshold,
    };
    let c = Arc::new(Controller {
        client: ctx.client("node-controller")?,
        events: ctx.events.for_component("node-controller"),
        nodes: nodes.store(),
        pods: all_pods.store(),
        queue: WorkQueue::default(),
        seen: Mutex::default(),
        zones: Mutex::new(Zones::new(limits)),
        grace: flags.node_monitor_grace_period.0,
        startup_grace: flags.node_startup_grace_period.0,
    });
    let this = c.clone();
    nodes.on_change(move |d| this.node_changed(d));
    let this = c.clone();
    leases.on_change(move |d| {
        let renewed = |l: &Lease| l.spec.as_ref().and_then(|s| s.renew_time.clone());
        if !d.is_deleted() && d.old().is_none_or(|o| renewed(o) != renewed(d.object())) {
            this.heard(meta::name(&d.object().metadata));
        }
    });
    let queue = c.queue.clone();
    let ready = vec![synced(&nodes), synced(&leases), synced(&all_pods)];
    ctx.work("node_lifecycle_controller", &queue, 4, ready, move |name| {
        let c = c.clone();
        async move { c.sync(&name).await }
    });
    Ok(())
}

fn zone_of(node: &Node) -> String {
    let label = |k: &str| node.metadata.labels.as_ref().and_then(|l| l.get(k).cloned()).unwrap_or_default();
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

impl Controller {
    fn heard(&self, name: &str) {
        if let Some(seen) = self.seen.lock().get_mut(name) {
            seen.heard = Instant::now();
        }
    }

    fn node_changed(&self, d: &Delta<Node>) {
        let node = d.object();
        let name = meta::name(&node.metadata);
        if d.is_deleted() {
            self.seen.lock().remove(name);
            self.zones.lock().remove(name);
            let message = format!("Node {name} event: Removing Node {name} from Controller");
            self.events.normal(&meta::reference(node.as_ref()), "RemovingNode", message);
            self.queue.forget(&name.to_owned());
            return;
        }
        let first = !self.seen.lock().contains_key(name);
        if first {
            // Silence before our start is not counted: we were not there to hear.
            let seen = Seen { heard: Instant::now(), was: health(node) };
            self.seen.lock().insert(name.to_owned(), seen);
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            self.events.normal(&meta::reference(node.as_ref()), "RegisteredNode", message);
        } else {
            let beat = |n: &Node| condition(n, "Ready").and_then(|c| c.last_heartbeat_time.clone());
            let reported = condition(node, "Ready").is_some_and(|c| c.status != "Unknown");
            if reported && d.old().is_none_or(|o| beat(o) != beat(node)) {
                self.heard(name);
            }
        }
        let (held, released) = {
            let mut zones = self.zones.lock();
            let before = zones.all_silent();
            zones.update(name, &zone_of(node), health(node) == Health::Ready);
            (before, zones.all_silent())
        };
        self.queue.add(name.to_owned());
        if held != released || d.old().is_some_and(|o| health(o) != health(node)) {
            // The pace of evictions may have changed for those that wait.
            for other in self.nodes.list().iter().filter(|n| health(n) != Health::Ready) {
                self.queue.add(meta::name(&other.metadata).to_owned());
            }
        }
    }

    async fn sync(&self, name: &str) -> anyhow::Result<()> {
        let Some(node) = self.nodes.get(name) else { return Ok(()) };
        let grace = judge::grace(&node, self.grace, self.startup_grace);
        let (silence, was) = match self.seen.lock().get_mut(name) {
            Some(seen) => (seen.heard.elapsed(), std::mem::replace(&mut seen.was, health(&node))),
            None => return Ok(()),
        };
        if silence > grace {
            let conditions = judge::silent_conditions(&node, Timestamp::now());
            if !conditions.is_empty() {
                tracing::warn!(
                    node = name,
                    seconds = silence.as_secs(),
                    "node is silent, its status is unknown from now on"
                );
                if let Some(seen) = self.seen.lock().get_mut(name) {
                    seen.was = was;
                }
                return self.write_conditions(name, &conditions).await;
            }
        } else {
            // Looks again when the silence would be too long; heartbeats until then push it on.
            self.queue.add_after(name.to_owned(), grace - silence + Duration::from_millis(100));
        }
        let now_health = health(&node);
        if was == Health::Ready && now_health != Health::Ready {
            let message = format!("Node {name} status is now: NodeNotReady");
            self.events.normal(&meta::reference(node.as_ref()), "NodeNotReady", message);
        }
        if now_health == Health::Unknown || (was == Health::Ready && now_health == Health::NotReady) {
            self.pods_not_ready(name).await?;
        }
        self.sync_taints(name, &node).await
    }

    async fn write_conditions(
        &self,
        name: &str,
        conditions: &[k8s_openapi::api::core::v1::NodeCondition],
    ) -> anyhow::Result<()> {
        let patch = serde_json::json!({"status": {"conditions": conditions}});
        let api: Api<Node> = Api::all(self.client.clone());
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("updating the conditions of node {name}")),
        }
    }

    /// Takes the pods of a silent node out of services.
    async fn pods_not_ready(&self, node: &str) -> anyhow::Result<()> {
        for pod in self.pods.by_index(BY_NODE, node) {
            if !pods::is_ready(&pod) {
                continue;
            }
            let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
            let mut ready = pods::condition(&pod, "Ready").cloned().unwrap_or_default();
            ready.status = "False".into();
            ready.last_transition_time = Some(meta::api_time(Timestamp::now()));
            let patch = serde_json::json!({
                "metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [ready]},
            });
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Err(e) if errors::not_found(&e) => {}
                other => {
                    other.with_context(|| format!("marking pod {namespace}/{name} as not ready"))?;
                    self.events.warning(&meta::reference(pod.as_ref()), "NodeNotReady", "Node is not ready");
                }
            }
        }
        Ok(())
    }

    async fn sync_taints(&self, name: &str, node: &Node) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let silent = self.zones.lock().all_silent();
        let mut evicting = if silent { Evicting::Never } else { Evicting::NotYet };
        let (mut wanted, missing) = judge::taints(node, evicting, now);
        if missing {
            let turn = self.zones.lock().turn(name, Instant::now());
            match turn {
                Turn::Now => {
                    evicting = Evicting::Allowed;
                    wanted = judge::taints(node, evicting, now).0;
                }
                Turn::After(wait) => self.queue.add_after(name.to_owned(), wait),
                Turn::Hold => {}
            }
        }
        let Some(taints) = wanted else { return Ok(()) };
        let taints = if taints.is_empty() { serde_json::Value::Null } else { serde_json::json!(taints) };
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints},
        });
        let api: Api<Node> = Api::all(self.client.clone());
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("changing the taints of node {name}")),
        }
    }
}

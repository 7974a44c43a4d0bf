//! Nodes without machines: they register, keep their leases, and say that bound pods run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use component_base::controller::watching;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::raw::{requests, version};
use super::seen::Seen;

/// Requests on their way at a time.
const IN_FLIGHT: usize = 32;
/// How often a kubelet renews its lease.
const LEASE_EVERY: Duration = Duration::from_secs(10);

/// All hollow nodes.
pub struct Fleet {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The name of a node.
pub fn name(i: usize) -> String {
    format!("hollow-{i:05}")
}

fn node(i: usize) -> Value {
    let name = name(i);
    let sizes = json!({"cpu": "4", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Hollow"});
    json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", i % 10)}},
        "status": {"capacity": sizes, "allocatable": sizes,
            "conditions": [condition("Ready", "True"), condition("MemoryPressure", "False"),
                condition("DiskPressure", "False"), condition("PIDPressure", "False")]},
    })
}

impl Fleet {
    /// Registers nodes and starts what keeps them alive.
    ///
    /// # Errors
    /// A node cannot be registered.
    pub async fn start(client: Client, nodes: usize) -> anyhow::Result<Self> {
        let api: Api<Node> = Api::all(client.clone());
        futures::stream::iter((0..nodes).map(Ok))
            .try_for_each_concurrent(IN_FLIGHT, |i| {
                let api = api.clone();
                async move {
                    let node: Node = serde_json::from_value(node(i))?;
                    api.create(&PostParams::default(), &node)
                        .await
                        .with_context(|| format!("registering node {}", name(i)))?;
                    // Admission taints new nodes as not ready; the controller that untaints them does not run.
                    let untainted = json!({"spec": {"taints": null}});
                    api.patch(&name(i), &PatchParams::default(), &Patch::Merge(untainted)).await?;
                    anyhow::Ok(())
                }
            })
            .await?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(stop.clone().run_until_cancelled_owned(renew(client.clone(), nodes)));
        tasks.spawn(stop.clone().run_until_cancelled_owned(run_pods(client, tasks.clone())));
        tasks.close();
        Ok(Self { stop, tasks })
    }

    /// Ends everything.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// Renews all leases, spread over the period.
async fn renew(client: Client, nodes: usize) {
    const NAMESPACE: &str = "kube-node-lease";
    let (api, leases) =
        (Api::<Lease>::namespaced(client.clone(), NAMESPACE), requests::<Lease>(Some(NAMESPACE)));
    let pause = LEASE_EVERY / u32::try_from(nodes).unwrap_or(1);
    let mut tick = tokio::time::interval(pause.max(Duration::from_micros(100)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // What the server has, for the next update: a kubelet does not read its lease each time either.
    let mut known: Vec<Option<String>> = vec![None; nodes];
    for i in (0..nodes).cycle() {
        tick.tick().await;
        let name = name(i);
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let there = known[i].take();
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": NAMESPACE, "resourceVersion": there},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}})
        .to_string()
        .into_bytes();
        let request = match there {
            Some(_) => leases.replace(&name, &PostParams::default(), lease),
            None => leases.create(&PostParams::default(), lease),
        };
        let Ok(request) = request else { continue };
        // Without a namespace or under load a renewal may fail; the next one begins anew.
        known[i] = match client.request_text(request).await {
            Ok(lease) => version(&lease),
            Err(kube::Error::Api(e)) if e.code == 409 => {
                api.get(&name).await.ok().and_then(|lease| lease.metadata.resource_version)
            }
            Err(_) => None,
        };
    }
}

/// Says of bound pods that they run, and lets deleted ones go, as a kubelet would.
async fn run_pods(client: Client, tasks: TaskTracker) {
    let bound = watcher::Config::default().fields("spec.nodeName!=");
    let mut events = watching::events(Api::<Seen>::all(client.clone()), bound);
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Some(event) = events.next().await {
        let (Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if pod.phase() != "Pending" && !leaving {
            continue;
        }
        let Ok(permit) = slots.clone().acquire_owned().await else { return };
        let client = client.clone();
        tasks.spawn(async move {
            let _permit = permit;
            let pods = requests::<Pod>(Some(pod.metadata.namespace.as_deref().unwrap_or("default")));
            let name = pod.metadata.name.as_deref().unwrap_or("");
            let request = if leaving {
                pods.delete(name, &DeleteParams::default().grace_period(0))
            } else {
                let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let status = json!({"status": {"phase": "Running", "startTime": now,
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}});
                pods.patch_subresource("status", name, &PatchParams::default(), &Patch::Strategic(status))
            };
            if let Ok(request) = request {
                // Gone or changed meanwhile: the watch tells.
                let _ = client.request_text(request).await;
            }
        });
    }
}

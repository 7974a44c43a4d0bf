//! Gives every node its own range of pod addresses out of the cluster's.

mod ranges;

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;

use self::ranges::{Cidr, Pool};
use crate::context::{Context, synced};
use crate::flags::Flags;
use crate::util::meta;

fn cidrs(flag: &str, text: &str) -> anyhow::Result<Vec<Cidr>> {
    let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    parts.map(|p| p.parse().map_err(|e| anyhow::anyhow!("{flag}: {e}"))).collect()
}

fn pools(flags: &Flags) -> anyhow::Result<Vec<Pool>> {
    let cluster = cidrs("--cluster-cidr", &flags.cluster_cidr)?;
    if cluster.is_empty() {
        bail!("--allocate-node-cidrs needs --cluster-cidr, the range to take them from");
    }
    if cluster.len() > 2 || (cluster.len() == 2 && cluster[0].is_v4() == cluster[1].is_v4()) {
        bail!("--cluster-cidr must hold one range, or one of each family");
    }
    let services = cidrs("--service-cluster-ip-range", &flags.service_cluster_ip_range)?;
    let pick = |own: u8, single: u8, default: u8| match (own, single) {
        (0, 0) => default,
        (0, n) => n,
        (n, _) => n,
    };
    let single = if cluster.len() == 1 { flags.node_cidr_mask_size } else { 0 };
    cluster
        .into_iter()
        .map(|c| {
            let bits = match c.is_v4() {
                true => pick(flags.node_cidr_mask_size_ipv4, single, 24),
                false => pick(flags.node_cidr_mask_size_ipv6, single, 64),
            };
            let mut pool = Pool::new(c, bits)?;
            // Service addresses must stay apart from pods'.
            services.iter().for_each(|s| pool.occupy(s));
            Ok(pool)
        })
        .collect()
}

/// Ranges a node has.
fn held(node: &Node) -> Vec<Cidr> {
    let Some(spec) = node.spec.as_ref() else { return Vec::new() };
    let all: Vec<Cidr> = spec.pod_cidrs.iter().flatten().filter_map(|c| c.parse().ok()).collect();
    if all.is_empty() { spec.pod_cidr.iter().filter_map(|c| c.parse().ok()).collect() } else { all }
}

/// Sets the controller up, if the flags ask for it.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    if !ctx.flags.allocate_node_cidrs {
        return Ok(());
    }
    let pools = Arc::new(Mutex::new(pools(&ctx.flags)?));
    let nodes = ctx.informers.of::<Node>();
    let queue: WorkQueue<String> = WorkQueue::default();
    // Nodes with ranges that the watch has not shown yet.
    let given: Arc<Mutex<HashSet<String>>> = Arc::default();
    let (q, p, g) = (queue.clone(), pools.clone(), given.clone());
    nodes.on_change(move |d| {
        let node = d.object();
        if d.is_deleted() || !held(node).is_empty() {
            g.lock().remove(meta::name(&node.metadata));
        }
        let mut pools = p.lock();
        for cidr in held(node) {
            for pool in pools.iter_mut() {
                if d.is_deleted() { pool.release(&cidr) } else { pool.occupy(&cidr) }
            }
        }
        if !d.is_deleted() && held(node).is_empty() {
            q.add(meta::name(&node.metadata).to_owned());
        }
    });
    let client = ctx.client("node-controller")?;
    let events = ctx.events.for_component("cidrAllocator");
    let store = nodes.store();
    // One worker: ranges are given out in order. It starts only when all nodes were seen, so none is given twice.
    ctx.work("node_ipam", &queue, 1, vec![synced(&nodes)], move |name| {
        let (client, events, store, pools) = (client.clone(), events.clone(), store.clone(), pools.clone());
        let given = given.clone();
        async move {
            let Some(node) = store.get(&name).filter(|n| held(n).is_empty()) else { return Ok(()) };
            if given.lock().contains(&name) {
                return Ok(());
            }
            let taken: Option<Vec<Cidr>> = {
                let mut pools = pools.lock();
                let taken: Vec<Option<Cidr>> = pools.iter_mut().map(Pool::take).collect();
                if taken.iter().all(Option::is_some) {
                    Some(taken.into_iter().flatten().collect())
                } else {
                    for (pool, cidr) in pools.iter_mut().zip(taken) {
                        cidr.iter().for_each(|c| pool.release(c));
                    }
                    None
                }
            };
            let Some(taken) = taken else {
                let message = format!("Node {name} status is now: CIDRNotAvailable");
                events.normal(&meta::reference(node.as_ref()), "CIDRNotAvailable", message);
                bail!("no pod range is left for node {name}: --cluster-cidr is too small");
            };
            let text: Vec<String> = taken.iter().map(ToString::to_string).collect();
            let patch = serde_json::json!({
                "metadata": {"uid": node.metadata.uid},
                "spec": {"podCIDR": text[0], "podCIDRs": text},
            });
            let api: Api<Node> = Api::all(client);
            // Before the write, so that the watch, which may be faster than the answer, finds it to remove.
            given.lock().insert(name.clone());
            if let Err(e) = api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                given.lock().remove(&name);
                let mut pools = pools.lock();
                for (pool, cidr) in pools.iter_mut().zip(&taken) {
                    pool.release(cidr);
                }
                drop(pools);
                // What the node has by now is noted when the watch shows it.
                let message = format!("Node {name} status is now: CIDRAssignmentFailed");
                events.normal(&meta::reference(node.as_ref()), "CIDRAssignmentFailed", message);
                return Err(e).with_context(|| format!("giving node {name} the ranges {}", text.join(",")));
            }
            tracing::info!(node = name, ranges = text.join(","), "pod ranges assigned");
            Ok(())
        }
    });
    Ok(())
}

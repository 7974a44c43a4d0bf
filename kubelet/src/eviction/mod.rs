//! Eviction: pods that use more local storage than they may, and, when the node runs short of memory, the pod
//! that is furthest above its request. The choice is pure.

mod local_storage;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use k8s_cri::v1::ContainerStats;

use self::local_storage::Places;
use crate::{
    context::Context,
    events::WARNING,
    node::machine::{eviction_hard, meminfo, threshold},
    pod::{PodManager, resources, sandbox, shared::PodShared, spec},
    util::quantity::from_bytes,
    volume::PodDirs,
};

const EVERY: Duration = Duration::from_secs(10);

/// A pod that could be evicted for memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub uid: String,
    pub usage: i64,
    pub request: i64,
    pub priority: i32,
}

/// Upstream's order: who uses more than requested goes first, then lower priority, then the largest excess.
pub fn rank(list: &mut [Candidate]) {
    list.sort_by_key(|c| (c.usage <= c.request, c.priority, std::cmp::Reverse(c.usage - c.request)));
}

/// Looks every ten seconds, for ever. Costs nothing where no pod has a limit and memory is plenty.
pub async fn run(ctx: Arc<Context>, pods: Arc<PodManager>) {
    loop {
        tokio::time::sleep(EVERY).await;
        for p in pods.running() {
            let pod = p.pod();
            if !local_storage::has_limits(&pod) {
                continue;
            }
            let layers = if local_storage::limits_containers(&pod) {
                // Without an answer only the volumes are judged, until the next time.
                writable_layers(&ctx, &p).await
            } else {
                None
            };
            let logs = sandbox::log_directory(Path::new(&ctx.config.pod_logs_dir), &pod);
            let at = Places { dirs: PodDirs::new(&ctx.root_dir, &p.uid), logs };
            let found = tokio::task::spawn_blocking(move || {
                let used = local_storage::measure(&pod, &at, layers.as_ref());
                local_storage::exceeded(&pod, &used)
            });
            if let Ok(Some(message)) = found.await {
                evict(&ctx, &p, message);
            }
        }
        memory(&ctx, &pods).await;
    }
}

/// Bytes of the writable layers of a pod's containers, by name.
async fn writable_layers(ctx: &Context, p: &PodShared) -> Option<HashMap<String, i64>> {
    let stats = ctx.cri.pod_stats(&p.sandbox_id()?).await.ok()?;
    let of = |c: ContainerStats| {
        let bytes = c.writable_layer?.used_bytes?.value;
        Some((c.attributes?.metadata?.name, i64::try_from(bytes).unwrap_or(i64::MAX)))
    };
    Some(stats.linux?.containers.into_iter().filter_map(of).collect())
}

async fn memory(ctx: &Context, pods: &PodManager) {
    let limit = threshold(&eviction_hard(&ctx.config, "memory.available"), ctx.machine.memory);
    let available = meminfo("MemAvailable");
    if available >= limit {
        return;
    }
    let mut list = Vec::new();
    for p in pods.running() {
        let pod = p.pod();
        // Pods that the node itself depends on stay.
        if spec::is_static(&pod) || spec::spec(&pod).priority.is_some_and(|x| x >= 2_000_000_000) {
            continue;
        }
        let Some(sandbox) = p.sandbox_id() else { continue };
        let Ok(stats) = ctx.cri.pod_stats(&sandbox).await else { continue };
        let usage =
            stats.linux.and_then(|l| l.memory).and_then(|m| m.working_set_bytes).map_or(0, |v| v.value);
        list.push(Candidate {
            uid: p.uid.clone(),
            usage: usage as i64,
            request: resources::pod_request(spec::spec(&pod), "memory"),
            priority: spec::spec(&pod).priority.unwrap_or(0),
        });
    }
    rank(&mut list);
    let Some(victim) = list.first() else { return };
    let Some(p) = pods.by_uid(&victim.uid) else { return };
    let shown = |bytes: i64| from_bytes(bytes).0;
    let message = format!(
        "The node was low on resource: memory. Threshold quantity: {}, available: {}. ",
        shown(limit),
        shown(available)
    );
    evict(ctx, &p, message);
}

fn evict(ctx: &Context, p: &PodShared, message: String) {
    let pod = p.pod();
    if pod.metadata.deletion_timestamp.is_some() || !p.evict("Evicted", &message) {
        return;
    }
    tracing::warn!(pod = spec::key(&pod), message, "evicting a pod");
    ctx.recorder.pod(&pod, WARNING, "Evicted", message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excess_over_the_request_goes_first() {
        let c = |uid: &str, usage, request, priority| Candidate { uid: uid.into(), usage, request, priority };
        let mut list =
            vec![c("fits", 50, 100, 0), c("vip", 90, 10, 5), c("small", 20, 10, 0), c("big", 80, 10, 0)];
        rank(&mut list);
        let order: Vec<&str> = list.iter().map(|c| c.uid.as_str()).collect();
        assert_eq!(order, ["big", "small", "vip", "fits"]);
    }
}

//! Eviction: pods that use more local storage than they may, and, when the node runs short of memory, the pod
//! that is furthest above its request. The choice is pure.

use std::{os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    context::Context,
    events::WARNING,
    node::machine::{eviction_hard, meminfo, threshold},
    pod::{PodManager, resources, shared::PodShared, spec},
    util::quantity::{from_bytes, value},
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

/// Bytes that a folder takes on disk, without following links or leaving its file system.
fn disk_usage(root: &Path) -> i64 {
    let Ok(meta) = std::fs::symlink_metadata(root) else { return 0 };
    let device = meta.dev();
    let mut total = 0;
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            total += meta.blocks() as i64 * 512;
            if meta.is_dir() && meta.dev() == device {
                stack.push(entry.path());
            }
        }
    }
    total
}

/// The volume of a pod that exceeds its limit, as the eviction's message.
fn over_limit(pod: &Pod, dirs: &PodDirs) -> Option<String> {
    for v in spec::spec(pod).volumes.iter().flatten() {
        let Some(e) = &v.empty_dir else { continue };
        let in_memory = e.medium.as_deref().is_some_and(|m| !m.is_empty());
        let Some(limit) = e.size_limit.as_ref().filter(|q| value(q) > 0 && !in_memory) else { continue };
        if disk_usage(&dirs.volume("empty-dir", &v.name)) > value(limit) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", v.name, limit.0));
        }
    }
    None
}

fn has_limits(pod: &Pod) -> bool {
    spec::spec(pod).volumes.iter().flatten().any(|v| {
        v.empty_dir
            .as_ref()
            .is_some_and(|e| e.size_limit.is_some() && e.medium.as_deref().unwrap_or("").is_empty())
    })
}

/// Looks every ten seconds, for ever. Costs nothing where no pod has a limit and memory is plenty.
pub async fn run(ctx: Arc<Context>, pods: Arc<PodManager>) {
    loop {
        tokio::time::sleep(EVERY).await;
        for p in pods.running() {
            let pod = p.pod();
            if !has_limits(&pod) {
                continue;
            }
            let dirs = PodDirs::new(&ctx.root_dir, &p.uid);
            let found = tokio::task::spawn_blocking(move || over_limit(&pod, &dirs)).await;
            if let Ok(Some(message)) = found {
                evict(&ctx, &p, message);
            }
        }
        memory(&ctx, &pods).await;
    }
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

    #[test]
    fn a_full_empty_dir_is_found() {
        let root = std::env::temp_dir().join(format!("kubelet-evict-{}", std::process::id()));
        let dirs = PodDirs::new(&root, "u");
        let dir = dirs.volume("empty-dir", "v");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "64Ki"}}]}}))
        .unwrap();
        assert!(has_limits(&pod));
        assert_eq!(over_limit(&pod, &dirs), None);
        std::fs::write(dir.join("sub/f"), vec![1u8; 128 << 10]).unwrap();
        assert_eq!(
            over_limit(&pod, &dirs).unwrap(),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". "
        );
        std::fs::remove_dir_all(root).unwrap();
    }
}

//! Pods that the runtime or the disk knows and no source does: stopped and removed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    context::Context,
    cri::{ContainerState, labels, observe::Observer},
    volume::{PodDirs, setup},
};

/// Between tries to give devices back.
const DEVICES_RETRY: Duration = Duration::from_secs(60);

/// Uids in the runtime that are not in `known`.
pub async fn find(ctx: &Context, known: &HashSet<String>) -> anyhow::Result<HashSet<String>> {
    let (sandboxes, containers) =
        tokio::try_join!(ctx.cri.list_sandboxes(None), ctx.cri.list_containers(None))?;
    let of = |l: &std::collections::HashMap<String, String>| l.get(labels::POD_UID).cloned();
    let mut found: HashSet<String> = sandboxes.iter().filter_map(|s| of(&s.labels)).collect();
    found.extend(containers.iter().filter_map(|c| of(&c.labels)));
    // Only folders and cgroups may be left of a pod whose kubelet died in between.
    if let Ok(entries) = std::fs::read_dir(ctx.root_dir.join("pods")) {
        found.extend(entries.flatten().filter_map(|e| e.file_name().into_string().ok()));
    }
    found.extend(ctx.cgroups.pods());
    found.extend(ctx.dra.pods());
    found.retain(|uid| !known.contains(uid));
    Ok(found)
}

/// Stops and removes everything of one pod, with the grace period its containers were created with.
pub async fn reap(ctx: Arc<Context>, uid: String) {
    tracing::info!(uid, "removing a pod that no source knows");
    let mut observer = Observer::default();
    let view = match observer.observe(&ctx.cri, &uid).await {
        Ok(view) => view,
        Err(e) => {
            tracing::warn!(uid, error = %e, "cannot look at an orphaned pod");
            return;
        }
    };
    let stops = view.alive().map(|c| {
        let (ctx, id) = (ctx.clone(), c.id.clone());
        async move {
            let grace = match ctx.cri.container_status(&id).await {
                Ok(s) => s.annotations.get(labels::POD_TERMINATION_GRACE).and_then(|g| g.parse().ok()),
                Err(_) => None,
            };
            if let Err(e) = ctx.cri.stop_container(&id, grace.unwrap_or(30)).await {
                tracing::warn!(container = id, error = %e, "cannot stop an orphaned container");
            }
        }
    });
    futures::future::join_all(stops).await;
    remove_from_runtime(&ctx, &uid).await;
    tokio::spawn(give_devices_back(ctx.clone(), uid.clone()));
    if let Err(e) = setup::tear_down(&ctx.csi, PodDirs::new(&ctx.root_dir, &uid)).await {
        tracing::warn!(uid, error = e, "cannot remove the volumes of an orphaned pod");
        return;
    }
    let work = tokio::task::spawn_blocking(move || ctx.cgroups.remove_pod(&uid).map_err(|e| (uid, e)));
    if let Ok(Err((uid, e))) = work.await {
        tracing::warn!(uid, error = %e, "cannot clean up after an orphaned pod");
    }
}

/// Unprepares the devices of a pod that is gone. A driver may come back later than the kubelet.
async fn give_devices_back(ctx: Arc<Context>, uid: String) {
    while let Err(error) = ctx.dra.unprepare(&uid).await {
        tracing::warn!(uid, error, "cannot give back the devices of an orphaned pod, trying again");
        tokio::time::sleep(DEVICES_RETRY).await;
    }
}

/// Removes a stopped pod's containers and sandboxes.
pub async fn remove_from_runtime(ctx: &Context, uid: &str) {
    let mut observer = Observer::default();
    let Ok(view) = observer.observe(&ctx.cri, uid).await else { return };
    for s in view.sandboxes.iter().filter(|s| s.ready) {
        if let Err(e) = ctx.cri.stop_sandbox(&s.id).await {
            tracing::warn!(sandbox = s.id, error = %e, "cannot stop a sandbox");
        }
    }
    for c in &view.containers {
        if c.state == ContainerState::Running {
            continue;
        }
        super::ops::remove_container(ctx, &c.id, &c.log_path).await;
        remove_log_link(ctx, &c.name, &c.id);
    }
    for s in &view.sandboxes {
        if let Err(e) = ctx.cri.remove_sandbox(&s.id).await {
            tracing::warn!(sandbox = s.id, error = %e, "cannot remove a sandbox");
        }
    }
}

fn remove_log_link(ctx: &Context, name: &str, id: &str) {
    if ctx.config.pod_logs_dir != "/var/log/pods" {
        return;
    }
    let suffix = format!("_{name}-{id}.log");
    let Ok(entries) = std::fs::read_dir("/var/log/containers") else { return };
    for e in entries.flatten() {
        if e.file_name().to_string_lossy().ends_with(&suffix) {
            // Gone already is as good.
            let _ = std::fs::remove_file(e.path());
        }
    }
}

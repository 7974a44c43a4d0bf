//! Housekeeping of the whole node: images when the disk fills, and container logs that grow.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    context::Context,
    cri::ContainerState,
    events::WARNING,
    image::gc::{Policy, Usage, collect},
    node::machine::disk,
    pod::PodManager,
    util::quantity::parse_milli,
};

const IMAGE_ROUND: Duration = Duration::from_secs(300);

/// Image collection, for ever.
pub async fn images(ctx: Arc<Context>) {
    let policy = Policy {
        high_percent: ctx.config.image_gc_high_threshold_percent,
        low_percent: ctx.config.image_gc_low_threshold_percent,
        min_age: ctx.config.image_minimum_gc_age.0,
    };
    let mut usage = Usage::default();
    loop {
        tokio::time::sleep(IMAGE_ROUND).await;
        let place = match ctx.cri.image_fs_info().await {
            Ok(info) => {
                info.image_filesystems.first().and_then(|f| f.fs_id.as_ref()).map(|id| id.mountpoint.clone())
            }
            Err(_) => None,
        };
        let d = disk(place.as_deref().map_or(&*ctx.root_dir, Path::new));
        if let Err(e) = collect(&ctx.cri, &mut usage, &policy, (d.capacity, d.available)).await {
            ctx.recorder.node(WARNING, "ImageGCFailed", e.to_string());
            tracing::warn!(error = %e, "image collection failed");
        }
    }
}

/// Rotates logs of running containers that exceed `containerLogMaxSize`, for ever.
pub async fn logs(ctx: Arc<Context>, pods: Arc<PodManager>) {
    let max = parse_milli(&ctx.config.container_log_max_size).map_or(10 << 20, |m| (m / 1000) as u64);
    let every = ctx.config.container_log_monitor_interval.0.max(Duration::from_secs(3));
    loop {
        tokio::time::sleep(every).await;
        for pod in pods.all() {
            let runtime = pod.runtime.read().clone();
            for c in runtime.containers.iter().filter(|c| c.state == ContainerState::Running) {
                let path = Path::new(&c.log_path);
                if std::fs::metadata(path).is_ok_and(|m| m.len() > max)
                    && let Err(e) = rotate(&ctx, &c.id, path).await
                {
                    tracing::warn!(path = %path.display(), error = %e, "cannot rotate a container log");
                }
            }
        }
    }
}

/// Renames the log aside, tells the runtime to open a new one, and removes the oldest copies.
async fn rotate(ctx: &Context, id: &str, path: &Path) -> anyhow::Result<()> {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let aside = path.with_file_name(format!(
        "{}.{stamp}",
        path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    ));
    std::fs::rename(path, &aside)?;
    if let Err(e) = ctx.cri.reopen_container_log(id).await {
        // The container goes on writing to the old file: give it its name back.
        std::fs::rename(&aside, path)?;
        return Err(e.into());
    }
    let mut copies = rotations(path);
    let keep = ctx.config.container_log_max_files.saturating_sub(1) as usize;
    copies.sort();
    let extra = copies.len().saturating_sub(keep);
    for old in copies.into_iter().take(extra) {
        std::fs::remove_file(old)?;
    }
    Ok(())
}

fn rotations(path: &Path) -> Vec<std::path::PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().map(|n| n.to_string_lossy().into_owned()))
    else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)))
        .collect()
}

//! Local persistent volumes: a folder of the node, bound into the pod's own folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;

use super::{PodDirs, mounts, ownership, persistent::Claimed, setup};

/// Binds `source` into the pod's folder and gives it to the pod's group. Safe to repeat.
pub fn mount(dirs: &PodDirs, c: &Claimed, source: &Path, pod: &Pod) -> Result<PathBuf, String> {
    let shown = source.display();
    let meta = fs::metadata(source).map_err(|e| format!("local volume path {shown}: {e}"))?;
    if !meta.is_dir() {
        return Err(format!(
            "local volume path {shown} is not a folder; a device with a file system has to be mounted by the node's administrator first"
        ));
    }
    let target = dirs.volume("local-volume", c.name());
    if mounts::is_mount_point(&target).map_err(|e| e.to_string())? {
        return Ok(target);
    }
    let options: Vec<String> = c.volume.spec.clone().unwrap_or_default().mount_options.unwrap_or_default();
    let flags = mounts::bind_flags(&options)?;
    fs::create_dir_all(&target).map_err(|e| format!("creating {}: {e}", target.display()))?;
    mounts::bind(source, &target).map_err(|e| e.to_string())?;
    let finish = || {
        if !flags.is_empty() {
            mounts::remount(&target, flags)?;
        }
        match setup::fs_group(pod) {
            Some(gid) if !c.read_only => {
                ownership::set_group(&target, gid, false, setup::only_on_mismatch(pod))
            }
            _ => Ok(()),
        }
    };
    finish().map_err(|e| {
        // Mounted means ready: undo, so that the next try does all of it.
        if let Err(e) = mounts::unmount(&target) {
            tracing::warn!(error = %e, "cannot undo a mount");
        }
        e.to_string()
    })?;
    Ok(target)
}

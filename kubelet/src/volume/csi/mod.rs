//! CSI volumes: drivers that registered on this node are asked to stage and publish what pods need, and to undo it.
//!
//! [`registry`] knows the drivers and [`node_info`] tells the cluster of them, [`request`] says what is asked,
//! [`wire`] carries it, [`disk`] remembers on disk what was done, so that a restart forgets nothing.
//!
//! A volume's note is written before its driver is first asked, and goes after it was last asked: whatever happens in
//! between, tearing down asks again, which drivers must allow.

mod attachment;
mod disk;
mod mount;
pub mod node_info;
pub mod registry;
mod request;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use self::{
    disk::Note,
    registry::Registry,
    wire::{Empty, Undo, capability::STAGE_UNSTAGE_VOLUME},
};
use super::{PodDirs, mounts};

pub use attachment::NodeVolumes;

/// The node's CSI drivers and volumes.
pub struct Csi {
    pub registry: Registry,
    root: PathBuf,
    node_name: String,
    /// One operation at a time per volume.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Mount points that are complete.
    published: Mutex<HashSet<PathBuf>>,
    /// Attached volumes that must stay so, as the node's status calls them.
    in_use: Mutex<BTreeSet<String>>,
    /// Rings when `in_use` changed.
    pub in_use_changed: Notify,
    node: watch::Sender<NodeVolumes>,
}

impl Csi {
    /// Reads what an earlier kubelet left.
    pub fn new(root: &Path, node_name: &str) -> Self {
        let notes = disk::all(root);
        let attached = notes.iter().filter(|n| !n.attachment.is_empty());
        Self {
            registry: Registry::default(),
            root: root.to_owned(),
            node_name: node_name.to_owned(),
            locks: Mutex::default(),
            published: Mutex::default(),
            in_use: Mutex::new(attached.map(Note::unique_name).collect()),
            in_use_changed: Notify::new(),
            node: watch::channel(NodeVolumes::default()).0,
        }
    }

    /// What the node's status lists as `volumesInUse`.
    pub fn in_use(&self) -> Vec<String> {
        self.in_use.lock().iter().cloned().collect()
    }

    fn lock_of(&self, driver: &str, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock();
        // Those that nobody holds are made anew when needed.
        locks.retain(|_, l| Arc::strong_count(l) > 1);
        locks.entry(format!("{driver}^{handle}")).or_default().clone()
    }

    /// Gives back all CSI volumes of a pod. Safe to repeat.
    ///
    /// # Errors
    /// A driver is not there, or could not do it: nothing of that volume may be removed yet.
    pub async fn tear_down(&self, dirs: &PodDirs) -> Result<(), String> {
        for (dir, note) in disk::pod_volumes(&dirs.root) {
            let failed =
                |e: String| format!("UnmountVolume.TearDown failed for volume {:?} : {e}", note.spec_volume);
            let lock = self.lock_of(&note.driver, &note.handle);
            let _alone = lock.lock().await;
            self.unpublish(&dir, &note).await.map_err(failed)?;
            self.unstage(&note).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn unpublish(&self, dir: &Path, note: &Note) -> Result<(), String> {
        let driver = self.registry.get(&note.driver)?;
        let target = dir.join("mount");
        let path = target.to_string_lossy().into_owned();
        let undo = Undo { volume_id: note.handle.clone(), path };
        let _: Empty = driver
            .socket
            .call("/csi.v1.Node/NodeUnpublishVolume", undo)
            .await
            .map_err(|e| wire::shown(&e))?;
        self.published.lock().remove(&target);
        leave(dir, &target)
    }

    /// Unstages a volume that no pod of the node has any longer. The caller holds the volume's lock.
    async fn unstage(&self, note: &Note) -> Result<(), String> {
        if !note.is_persistent() || disk::is_used(&self.root, &note.driver, &note.handle) {
            return Ok(());
        }
        let dir = disk::staging(&self.root, &note.driver, &note.handle);
        if Note::read(&dir).is_some() {
            let driver = self.registry.get(&note.driver)?;
            let target = dir.join("globalmount");
            if driver.can(STAGE_UNSTAGE_VOLUME) {
                let path = target.to_string_lossy().into_owned();
                let undo = Undo { volume_id: note.handle.clone(), path };
                let _: Empty = driver
                    .socket
                    .call("/csi.v1.Node/NodeUnstageVolume", undo)
                    .await
                    .map_err(|e| wire::shown(&e))?;
            }
            leave(&dir, &target)?;
        }
        if self.in_use.lock().remove(&note.unique_name()) {
            self.in_use_changed.notify_one();
        }
        Ok(())
    }

    /// Unstages what a kubelet that died left staged for nobody; called when the driver is there again.
    pub async fn release_unused(&self, driver: &str) {
        for note in disk::staged(&self.root, driver) {
            let lock = self.lock_of(&note.driver, &note.handle);
            let _alone = lock.lock().await;
            if let Err(e) = self.unstage(&note).await {
                tracing::warn!(
                    driver,
                    volume = note.handle,
                    error = e,
                    "cannot unstage a volume that nobody uses"
                );
            }
        }
    }
}

/// Removes note and mount point, unless something is still mounted there.
fn leave(dir: &Path, target: &Path) -> Result<(), String> {
    if mounts::is_mount_point(target).map_err(|e| e.to_string())? {
        return Err(format!("{} is still mounted after the driver has unmounted it", target.display()));
    }
    disk::forget(dir, target).map_err(|e| format!("removing {}: {e}", dir.display()))
}

//! Waiting until a volume is attached to the node.
//!
//! The kubelet first says that it uses the volume, so that the controller does not detach it, then waits until the
//! node's status calls it attached, and takes what the attacher found out from the VolumeAttachment.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use k8s_openapi::api::{core::v1::Node, storage::v1::VolumeAttachment};
use kube::{Api, Client};
use sha2::{Digest, Sha256};

use super::{Csi, disk::Note};

/// How long one try waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the node's status says about volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeVolumes {
    pub attached: BTreeSet<String>,
    pub in_use: BTreeSet<String>,
}

impl NodeVolumes {
    pub fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let attached = status.iter().flat_map(|s| s.volumes_attached.iter().flatten());
        Self {
            attached: attached.map(|v| v.name.clone()).collect(),
            in_use: status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).cloned().collect(),
        }
    }
}

/// Name of the VolumeAttachment.
pub fn name(driver: &str, handle: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("csi-{hex}")
}

impl Csi {
    /// The node's object has changed.
    pub fn node_changed(&self, node: &Node) {
        let now = NodeVolumes::of(node);
        self.node.send_if_modified(|known| {
            let news = *known != now;
            *known = now;
            news
        });
    }

    /// Waits until the volume is attached; gives what its attacher says about it.
    pub(super) async fn attached(
        &self,
        client: &Client,
        note: &Note,
    ) -> Result<HashMap<String, String>, String> {
        let volume = note.unique_name();
        if self.in_use.lock().insert(volume.clone()) {
            self.in_use_changed.notify_one();
        }
        let mut node = self.node.subscribe();
        let both = node.wait_for(|n| n.in_use.contains(&volume) && n.attached.contains(&volume));
        if tokio::time::timeout(PATIENCE, both).await.is_err() {
            return Err(format!("volume {volume} is not attached according to the node's status"));
        }
        let api: Api<VolumeAttachment> = Api::all(client.clone());
        let found = api.get(&note.attachment).await.map_err(|e| {
            format!("volume {} has GET error for volume attachment {}: {e}", note.handle, note.attachment)
        })?;
        let status = found.status.unwrap_or_default();
        if !status.attached {
            return Err(format!(
                "volume {} is not attached for volume attachment {}",
                note.handle, note.attachment
            ));
        }
        Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect())
    }
}

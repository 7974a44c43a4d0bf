//! Annotations, finalizers and event reasons of binding, and the provisioners that once were part of Kubernetes.

/// On a claim: its binding went through once.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or volume: the controller chose the other side, not the user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the scheduler has chosen this node, provisioning may start.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a volume: who provisioned it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a volume of an in-tree type: the CSI driver that took it over.
pub const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// On a claim: who is asked to provision it.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// As [`STORAGE_PROVISIONER`], for older provisioners.
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a volume: its file system was not grown yet, and was this large before.
pub const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
/// Keeps volumes provisioned in-tree until their storage is deleted.
pub const IN_TREE_FINALIZER: &str = "kubernetes.io/pv-controller";

pub const AVAILABLE: &str = "Available";
pub const BOUND: &str = "Bound";
pub const FAILED: &str = "Failed";
pub const LOST: &str = "Lost";
pub const PENDING: &str = "Pending";
pub const RELEASED: &str = "Released";

pub const FAILED_BINDING: &str = "FailedBinding";
pub const VOLUME_MISMATCH: &str = "VolumeMismatch";
pub const VOLUME_FAILED_RECYCLE: &str = "VolumeFailedRecycle";
pub const VOLUME_FAILED_DELETE: &str = "VolumeFailedDelete";
pub const EXTERNAL_PROVISIONING: &str = "ExternalProvisioning";
pub const PROVISIONING_FAILED: &str = "ProvisioningFailed";
pub const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";
pub const WAIT_FOR_POD_SCHEDULED: &str = "WaitForPodScheduled";

/// The CSI driver that took over an in-tree provisioner (KEP-625).
pub fn csi_driver(in_tree: &str) -> Option<&'static str> {
    Some(match in_tree {
        "kubernetes.io/aws-ebs" => "ebs.csi.aws.com",
        "kubernetes.io/azure-disk" => "disk.csi.azure.com",
        "kubernetes.io/azure-file" => "file.csi.azure.com",
        "kubernetes.io/cinder" => "cinder.csi.openstack.org",
        "kubernetes.io/gce-pd" => "pd.csi.storage.gke.io",
        "kubernetes.io/portworx-volume" => "pxd.portworx.com",
        "kubernetes.io/vsphere-volume" => "csi.vsphere.vmware.com",
        _ => return None,
    })
}

/// Whether a provisioner would have to be part of this program.
pub fn is_in_tree(provisioner: &str) -> bool {
    provisioner.starts_with("kubernetes.io/")
}

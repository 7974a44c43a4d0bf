//! What is asked of a driver for a volume. Pure.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;

use super::wire::{AccessMode, AccessType, Empty, MountVolume, VolumeCapability};
use crate::pod::spec;

/// A volume as the driver is told of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    pub driver: String,
    pub handle: String,
    pub fs_type: String,
    pub mount_flags: Vec<String>,
    /// The API's name of the first access mode.
    pub access_mode: String,
    pub block: bool,
    pub read_only: bool,
    pub attributes: HashMap<String, String>,
}

/// `VolumeCapability.AccessMode.Mode` for an access mode of the API. Drivers that tell single writers apart from
/// single nodes get the finer modes.
fn mode(access_mode: &str, fine: bool) -> i32 {
    match (access_mode, fine) {
        ("ReadWriteOnce", true) => 7,
        ("ReadWriteOncePod", true) => 6,
        ("ReadOnlyMany", _) => 3,
        ("ReadWriteMany", _) => 5,
        _ => 1,
    }
}

/// The capability of a volume; `group`: the driver itself gives the volume to this group.
pub fn capability(asked: &Asked, fine: bool, group: Option<u32>) -> VolumeCapability {
    let access = if asked.block {
        AccessType::Block(Empty {})
    } else {
        AccessType::Mount(MountVolume {
            fs_type: asked.fs_type.clone(),
            mount_flags: asked.mount_flags.clone(),
            volume_mount_group: group.map(|g| g.to_string()).unwrap_or_default(),
        })
    };
    VolumeCapability {
        access_type: Some(access),
        access_mode: Some(AccessMode { mode: mode(&asked.access_mode, fine) }),
    }
}

/// What drivers that want it are told of the pod.
pub fn pod_info(pod: &Pod, ephemeral: bool) -> HashMap<String, String> {
    let account = spec::spec(pod).service_account_name.clone().unwrap_or_default();
    [
        ("csi.storage.k8s.io/pod.name", spec::name(pod).to_owned()),
        ("csi.storage.k8s.io/pod.namespace", spec::namespace(pod).to_owned()),
        ("csi.storage.k8s.io/pod.uid", spec::uid(pod).to_owned()),
        ("csi.storage.k8s.io/serviceAccount.name", account),
        ("csi.storage.k8s.io/ephemeral", ephemeral.to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}

/// Whether the kubelet gives the volume's files to the pod's group, by the driver's `fsGroupPolicy`.
pub fn changes_group(policy: Option<&str>, asked: &Asked) -> bool {
    if asked.block || asked.read_only {
        return false;
    }
    match policy {
        Some("None") => false,
        Some("File") => true,
        _ => !asked.fs_type.is_empty() && asked.access_mode == "ReadWriteOnce",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(access_mode: &str) -> Asked {
        Asked { access_mode: access_mode.into(), fs_type: "ext4".into(), ..Asked::default() }
    }

    #[test]
    fn modes_are_finer_for_drivers_that_know_them() {
        let of = |m: &str, fine| capability(&asked(m), fine, None).access_mode.unwrap().mode;
        assert_eq!((of("ReadWriteOnce", false), of("ReadWriteOnce", true)), (1, 7));
        assert_eq!((of("ReadWriteOncePod", false), of("ReadWriteOncePod", true)), (1, 6));
        assert_eq!((of("ReadOnlyMany", true), of("ReadWriteMany", false)), (3, 5));
    }

    #[test]
    fn groups_are_changed_by_policy() {
        assert!(changes_group(None, &asked("ReadWriteOnce")));
        assert!(!changes_group(None, &asked("ReadWriteMany")), "others may use it");
        assert!(changes_group(Some("File"), &asked("ReadWriteMany")));
        assert!(!changes_group(Some("None"), &asked("ReadWriteOnce")));
        assert!(!changes_group(Some("File"), &Asked { read_only: true, ..asked("ReadWriteOnce") }));
    }
}

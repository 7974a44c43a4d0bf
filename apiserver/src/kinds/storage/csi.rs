//! CSI drivers, what nodes run of them, and the capacity they tell.

use k8s_openapi::api::storage::v1 as api;

use crate::kinds::quantity::canonical;
use crate::kinds::semantic::{items, next_generation, same};
use crate::registry::strategy::{Context, Strategy};

/// Rules of CSI drivers.
pub struct CsiDriver;

/// Rules of CSI nodes.
pub struct CsiNode;

/// Rules of CSI storage capacities.
pub struct CsiStorageCapacity;

impl Strategy for CsiDriver {
    type Object = api::CSIDriver;

    fn default(&self, d: &mut api::CSIDriver) {
        let spec = &mut d.spec;
        spec.attach_required.get_or_insert(true);
        for flag in [
            &mut spec.pod_info_on_mount,
            &mut spec.storage_capacity,
            &mut spec.requires_republish,
            &mut spec.se_linux_mount,
        ] {
            flag.get_or_insert(false);
        }
        spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
        if items(&spec.volume_lifecycle_modes).is_empty() {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
    }

    fn prepare_update(&self, _cx: &mut Context, d: &mut api::CSIDriver, old: &api::CSIDriver) {
        let changed = !same(&d.spec, &old.spec);
        next_generation(&mut d.metadata, &old.metadata, changed);
    }
}

impl Strategy for CsiNode {
    type Object = api::CSINode;
}

impl Strategy for CsiStorageCapacity {
    type Object = api::CSIStorageCapacity;

    fn default(&self, c: &mut api::CSIStorageCapacity) {
        for q in [&mut c.capacity, &mut c.maximum_volume_size].into_iter().flatten() {
            canonical(q);
        }
    }
}

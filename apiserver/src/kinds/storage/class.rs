//! Storage classes and volume attributes classes.

use k8s_openapi::api::storage::v1 as api;

use crate::registry::strategy::Strategy;

/// Rules of storage classes.
pub struct StorageClass;

/// Rules of volume attributes classes.
pub struct VolumeAttributesClass;

impl Strategy for StorageClass {
    type Object = api::StorageClass;

    fn default(&self, c: &mut api::StorageClass) {
        c.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
        c.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
    }
}

impl Strategy for VolumeAttributesClass {
    type Object = api::VolumeAttributesClass;
}

//! CSI volumes.

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, Pod, Volume};

use super::{
    persistent::Claimed,
    setup::{Mounted, Setup},
};

/// The node's CSI drivers.
#[derive(Default)]
pub struct Csi {}

impl Csi {
    pub async fn mount_claimed(
        &self,
        _: &Setup<'_>,
        _: &Pod,
        _: &Claimed,
        source: &CSIPersistentVolumeSource,
    ) -> Result<Mounted, String> {
        Err(format!("driver name {} not found in the list of registered CSI drivers", source.driver))
    }

    pub async fn mount_inline(
        &self,
        _: &Setup<'_>,
        _: &Pod,
        _: &Volume,
        source: &CSIVolumeSource,
    ) -> Result<Mounted, String> {
        Err(format!("driver name {} not found in the list of registered CSI drivers", source.driver))
    }
}

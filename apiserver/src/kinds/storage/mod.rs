//! Kinds of `storage.k8s.io` and `resource.k8s.io`.

pub mod attachment;
mod claim_status;
pub mod class;
pub mod csi;
pub mod device;
mod device_validation;

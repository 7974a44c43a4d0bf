//! What a claim or volume looks like after a step of binding; `None` where nothing has to be written.

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::matching::{claim_ref, is_reserved_for};
use super::names::{
    BETA_STORAGE_PROVISIONER, BIND_COMPLETED, BOUND, BOUND_BY_CONTROLLER, PENDING, PRE_RESIZE_CAPACITY,
    STORAGE_PROVISIONER,
};
use crate::util::{meta, volumes};

fn annotate(metadata: &mut ObjectMeta, key: &str, value: &str) {
    metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

/// Binds the volume to the claim. A volume that nobody had reserved is marked as bound by the controller, so that the
/// binding may be undone.
pub fn volume_bound(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let reserved = is_reserved_for(volume, claim);
    let done = reserved && claim_ref(volume).is_some_and(|r| r.uid.is_some() && r.uid == claim.metadata.uid);
    if done {
        return None;
    }
    let mut bound = volume.clone();
    bound.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    });
    if !reserved {
        annotate(&mut bound.metadata, BOUND_BY_CONTROLLER, "yes");
    }
    Some(bound)
}

/// Undoes a binding: what the controller had bound becomes free, what a user had reserved stays reserved by name.
pub fn volume_unbound(volume: &PersistentVolume) -> PersistentVolume {
    let mut free = volume.clone();
    if meta::annotation(&free.metadata, BOUND_BY_CONTROLLER).is_some() {
        free.spec.get_or_insert_default().claim_ref = None;
        if let Some(annotations) = free.metadata.annotations.as_mut() {
            annotations.remove(BOUND_BY_CONTROLLER);
        }
    } else if let Some(reference) = free.spec.as_mut().and_then(|s| s.claim_ref.as_mut()) {
        reference.uid = None;
    }
    free
}

/// Gives the volume a phase; a message says why it failed.
pub fn volume_in_phase(volume: &PersistentVolume, phase: &str, message: &str) -> Option<PersistentVolume> {
    if volumes::volume_phase(volume) == phase {
        return None;
    }
    let mut changed = volume.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.message = (!message.is_empty()).then(|| message.to_owned());
    Some(changed)
}

/// Binds the claim to the volume and notes that its binding went through.
pub fn claim_bound(claim: &PersistentVolumeClaim, volume: &str) -> Option<PersistentVolumeClaim> {
    let names_it = volumes::volume_name(claim) == volume;
    if names_it && meta::annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return None;
    }
    let mut bound = claim.clone();
    if !names_it {
        bound.spec.get_or_insert_default().volume_name = Some(volume.to_owned());
        annotate(&mut bound.metadata, BOUND_BY_CONTROLLER, "yes");
    }
    annotate(&mut bound.metadata, BIND_COMPLETED, "yes");
    Some(bound)
}

/// Gives the claim a phase, with what it got from `volume`, or nothing.
///
/// Capacity is set only when the claim becomes bound: later it is the resizer's and the kubelet's.
///
/// # Errors
/// The volume says no capacity.
pub fn claim_in_phase(
    claim: &PersistentVolumeClaim,
    phase: &str,
    volume: Option<&PersistentVolume>,
) -> Result<Option<PersistentVolumeClaim>, String> {
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    let before = status.phase.replace(phase.to_owned());
    match volume {
        None => {
            status.access_modes = None;
            status.capacity = None;
            status.current_volume_attributes_class_name = None;
        }
        Some(volume) => {
            let spec = volume.spec.clone().unwrap_or_default();
            status.access_modes = spec.access_modes;
            if before.as_deref() != Some(phase) {
                let capacity = spec.capacity.filter(|c| c.contains_key("storage"));
                let Some(mut capacity) = capacity else {
                    let name = meta::name(&volume.metadata);
                    return Err(format!("PersistentVolume {name:?} is without a storage capacity"));
                };
                let small = meta::annotation(&volume.metadata, PRE_RESIZE_CAPACITY);
                if let Some(small) = small.filter(|s| s.parse::<proto::quantity::Quantity>().is_ok()) {
                    capacity.insert("storage".into(), Quantity(small.to_owned()));
                }
                status.capacity = Some(capacity);
                if before.as_deref() == Some(PENDING) && phase == BOUND {
                    status.current_volume_attributes_class_name = spec.volume_attributes_class_name;
                }
            }
        }
    }
    Ok((changed != *claim).then_some(changed))
}

/// Gives the claim a storage class.
pub fn claim_of_class(claim: &PersistentVolumeClaim, class: &str) -> PersistentVolumeClaim {
    let mut changed = claim.clone();
    changed.spec.get_or_insert_default().storage_class_name = Some(class.to_owned());
    changed
}

/// Asks a provisioner for the claim's volume.
pub fn claim_provisioned_by(claim: &PersistentVolumeClaim, driver: &str) -> Option<PersistentVolumeClaim> {
    if meta::annotation(&claim.metadata, STORAGE_PROVISIONER) == Some(driver) {
        return None;
    }
    let mut changed = claim.clone();
    annotate(&mut changed.metadata, BETA_STORAGE_PROVISIONER, driver);
    annotate(&mut changed.metadata, STORAGE_PROVISIONER, driver);
    Some(changed)
}

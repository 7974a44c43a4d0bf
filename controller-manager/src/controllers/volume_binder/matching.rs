//! Which volume fits a claim, and which of those that fit is taken.

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};

use super::names::AVAILABLE;
use crate::util::selector::Selector;
use crate::util::{meta, volumes};

/// The claim a volume is reserved for or bound to.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a volume is reserved for this claim: same name, and same uid if one is given.
pub fn is_reserved_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|r| {
        r.name == claim.metadata.name
            && r.namespace == claim.metadata.namespace
            && r.uid.as_deref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
    })
}

/// Whether claim and volume are of the same mode: file system or block device.
pub fn same_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    of(volume.spec.as_ref().and_then(|s| s.volume_mode.as_ref()))
        == of(claim.spec.as_ref().and_then(|s| s.volume_mode.as_ref()))
}

fn modes_cover(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let has: Vec<&String> = volume.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).collect();
    claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).all(|mode| has.contains(&mode))
}

fn same_attributes_class(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of = |name: Option<&String>| name.cloned().unwrap_or_default();
    of(volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref()))
        == of(claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref()))
}

/// Whether the volume that a claim asks for by name can be had.
///
/// # Errors
/// Why not, in upstream's words.
pub fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let no = |why: &str| Err(why.to_owned());
    if volume.metadata.deletion_timestamp.is_some() {
        return Err(format!("the volume is marked for deletion {:?}", meta::name(&volume.metadata)));
    }
    if volumes::capacity(volume) < volumes::requested(claim) {
        return no("requested PV is too small");
    }
    if volumes::volume_class(volume) != volumes::claim_class(claim) {
        return no("storageClassName does not match");
    }
    if !same_attributes_class(volume, claim) {
        return no("volumeAttributesClassName does not match");
    }
    if !same_mode(volume, claim) {
        return no("incompatible volumeMode");
    }
    if !modes_cover(volume, claim) {
        return no("incompatible accessMode");
    }
    Ok(())
}

/// Whether a free volume may be given to a claim that names none.
pub fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim, selector: &Selector) -> bool {
    claim_ref(volume).is_none()
        && volumes::volume_phase(volume) == AVAILABLE
        && satisfies(volume, claim).is_ok()
        && selector.matches(volume.metadata.labels.as_ref())
}

/// What a claim's selector says; none selects everything.
///
/// # Errors
/// The selector is no valid one.
pub fn selector(claim: &PersistentVolumeClaim) -> anyhow::Result<Selector> {
    let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.map_or_else(|| Ok(Selector::default()), Selector::new)
}

/// The volume for a claim: one that is reserved for it, else (unless `reserved_only`) the free one with the fewest
/// access modes, the least capacity, and the first name of all that fit.
///
/// # Errors
/// The claim's selector is no valid one.
pub fn best<'a, V: std::ops::Deref<Target = PersistentVolume>>(
    volumes: &'a [V],
    claim: &PersistentVolumeClaim,
    reserved_only: bool,
) -> anyhow::Result<Option<&'a V>> {
    let selector = selector(claim)?;
    let rank = |v: &PersistentVolume| {
        let modes = v.spec.as_ref().and_then(|s| s.access_modes.as_ref()).map_or(0, Vec::len);
        (modes, volumes::capacity(v), meta::name(&v.metadata).to_owned())
    };
    let usable = |v: &PersistentVolume| {
        v.metadata.deletion_timestamp.is_none()
            && volumes::capacity(v) >= volumes::requested(claim)
            && same_mode(v, claim)
            && same_attributes_class(v, claim)
            && modes_cover(v, claim)
    };
    let reserved = volumes.iter().filter(|v| is_reserved_for(v, claim) && usable(v)).min_by_key(|v| rank(v));
    if reserved.is_some() || reserved_only {
        return Ok(reserved);
    }
    Ok(volumes.iter().filter(|v| fits(v, claim, &selector)).min_by_key(|v| rank(v)))
}

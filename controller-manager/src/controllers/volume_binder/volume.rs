//! What happens next to a volume, and who deletes the storage behind it.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::matching::{claim_ref, same_mode};
use super::names::{AVAILABLE, BOUND, FAILED, MIGRATED_TO, PROVISIONED_BY, RELEASED, is_in_tree};
use crate::util::{meta, volumes};

/// What to do with a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It belongs to nobody, or is only reserved.
    Free,
    /// It and its claim are bound to each other.
    Bound,
    /// Its claim has to go on with the binding.
    WakeClaim,
    /// Its claim can never be bound to it.
    Mismatch,
    /// Its claim got another volume.
    Unbind,
    /// Its claim is gone.
    Reclaim,
}

/// Whether the volume is already known to be released: a failure shall stay visible while it is tried again.
pub fn is_released(volume: &PersistentVolume) -> bool {
    matches!(volumes::volume_phase(volume), RELEASED | FAILED)
}

/// Decides about a volume; `claim` is the claim that it is bound to, by name.
pub fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Step {
    let Some(reference) = claim_ref(volume) else { return Step::Free };
    let Some(uid) = reference.uid.as_ref().filter(|uid| !uid.is_empty()) else { return Step::Free };
    let Some(claim) = claim.filter(|c| c.metadata.uid.as_ref() == Some(uid)) else { return Step::Reclaim };
    let wanted = volumes::volume_name(claim);
    if wanted.is_empty() {
        return if same_mode(volume, claim) { Step::WakeClaim } else { Step::Mismatch };
    }
    if wanted == meta::name(&volume.metadata) {
        return Step::Bound;
    }
    let made_for_it = meta::annotation(&volume.metadata, PROVISIONED_BY).is_some();
    if made_for_it && policy(volume) == "Delete" { Step::Reclaim } else { Step::Unbind }
}

/// The volume's phase in a state that [`plan`] calls free or bound.
pub fn phase(step: &Step) -> Option<&'static str> {
    match step {
        Step::Free => Some(AVAILABLE),
        Step::Bound => Some(BOUND),
        _ => None,
    }
}

/// What happens to the volume when its claim is gone.
pub fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// Who deletes a volume's storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleter {
    /// The provisioner that made it.
    External,
    /// This program, by removing a folder of this machine.
    HostPath(PathBuf),
    /// Nobody can.
    None(String),
}

/// Finds who deletes the storage of a volume.
pub fn deleter(volume: &PersistentVolume) -> Deleter {
    let annotation = |key| meta::annotation(&volume.metadata, key).filter(|v| !v.is_empty());
    if let Some(provisioner) = annotation(PROVISIONED_BY)
        && !is_in_tree(provisioner)
    {
        return Deleter::External;
    }
    let spec = volume.spec.as_ref();
    if annotation(MIGRATED_TO).is_some() || spec.is_some_and(|s| s.csi.is_some()) {
        return Deleter::External;
    }
    let name = meta::name(&volume.metadata);
    let Some(path) = spec.and_then(|s| s.host_path.as_ref()).map(|h| Path::new(&h.path)) else {
        return Deleter::None(format!(
            "error getting deleter volume plugin for volume {name:?}: no volume plugin matched"
        ));
    };
    // Only ever below /tmp: the path is of the controller manager's machine, not of the node that used the volume.
    let below = path.strip_prefix("/tmp").is_ok_and(|rest| {
        rest.components().next().is_some() && rest.components().all(|c| matches!(c, Component::Normal(_)))
    });
    if below {
        Deleter::HostPath(path.to_owned())
    } else {
        Deleter::None(format!(
            "host_path deleter only supports /tmp/.+ but received provided {}",
            path.display()
        ))
    }
}

//! What happens next to a claim.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::matching::{best, claim_ref, is_reserved_for, satisfies};
use super::names::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, FAILED_BINDING, SELECTED_NODE, VOLUME_MISMATCH,
    WAIT_FOR_FIRST_CONSUMER, WAIT_FOR_POD_SCHEDULED,
};
use crate::util::{meta, volumes};

/// An event about a claim or volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Note {
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }

    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }
}

/// What to do with a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Bind it to this volume, or finish doing so.
    Bind(Arc<PersistentVolume>),
    /// Give it the default class and look again.
    AssignClass(String),
    /// Have a volume made by the provisioner of its class.
    Provision,
    /// It waits; say why.
    Wait(Option<Note>),
    /// What it was bound to is gone.
    Lose(Note),
    /// It contradicts itself; a person must look.
    Refuse(Note),
}

/// What a claim's next step depends on.
pub trait View {
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    /// Volumes reserved for the claim, and free ones of its class.
    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>>;
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
    /// The class for claims that name none.
    fn default_class(&self) -> Option<String>;
    /// Names of the pods that use the claim and have no node yet.
    fn unscheduled_pods(&self, claim: &PersistentVolumeClaim) -> Vec<String>;
}

/// Whether claims of this class wait until a pod uses them.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// Decides about a claim.
///
/// # Errors
/// Its selector is no valid one.
pub fn plan(claim: &PersistentVolumeClaim, view: &impl View) -> anyhow::Result<Step> {
    if meta::annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return Ok(bound(claim, view));
    }
    if volumes::volume_name(claim).is_empty() {
        any_volume(claim, view)
    } else {
        Ok(named_volume(claim, view))
    }
}

fn any_volume(claim: &PersistentVolumeClaim, view: &impl View) -> anyhow::Result<Step> {
    let class = volumes::claim_class(claim);
    let delayed =
        !class.is_empty() && view.class(class).is_some_and(|class| waits_for_consumer(class.as_ref()));
    if let Some(volume) = best(&view.candidates(claim), claim, delayed)? {
        return Ok(Step::Bind(volume.clone()));
    }
    if !volumes::claim_has_class(claim)
        && let Some(default) = view.default_class()
    {
        return Ok(Step::AssignClass(default));
    }
    if delayed && meta::annotation(&claim.metadata, SELECTED_NODE).is_none() {
        return Ok(Step::Wait(Some(waiting(&view.unscheduled_pods(claim)))));
    }
    if !class.is_empty() {
        return Ok(Step::Provision);
    }
    let message = "no persistent volumes available for this claim and no storage class is set";
    Ok(Step::Wait(Some(Note::normal(FAILED_BINDING, message))))
}

fn waiting(pods: &[String]) -> Note {
    match pods {
        [] => {
            Note::normal(WAIT_FOR_FIRST_CONSUMER, "waiting for first consumer to be created before binding")
        }
        [pod] => Note::normal(WAIT_FOR_POD_SCHEDULED, format!("waiting for pod {pod} to be scheduled")),
        pods => Note::normal(
            WAIT_FOR_POD_SCHEDULED,
            format!("waiting for pods {} to be scheduled", pods.join(",")),
        ),
    }
}

fn named_volume(claim: &PersistentVolumeClaim, view: &impl View) -> Step {
    let name = volumes::volume_name(claim);
    let Some(volume) = view.volume(name) else { return Step::Wait(None) };
    if claim_ref(&volume).is_none() {
        return match satisfies(&volume, claim) {
            Ok(()) => Step::Bind(volume),
            Err(why) => {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                Step::Wait(Some(Note::warning(VOLUME_MISMATCH, message)))
            }
        };
    }
    if is_reserved_for(&volume, claim) {
        return Step::Bind(volume);
    }
    let taken = Note::warning(FAILED_BINDING, format!("volume {name:?} already bound to a different claim."));
    // A claim that the controller had bound keeps the mark that it is; without it somebody took the mark away.
    if meta::annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_some() {
        Step::Refuse(taken)
    } else {
        Step::Wait(Some(taken))
    }
}

fn bound(claim: &PersistentVolumeClaim, view: &impl View) -> Step {
    let name = volumes::volume_name(claim);
    if name.is_empty() {
        let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return Step::Lose(Note::warning("ClaimLost", message));
    }
    let Some(volume) = view.volume(name) else {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return Step::Lose(Note::warning("ClaimLost", message));
    };
    match claim_ref(&volume) {
        Some(r) if r.uid != claim.metadata.uid => Step::Lose(Note::warning(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        )),
        _ => Step::Bind(volume),
    }
}

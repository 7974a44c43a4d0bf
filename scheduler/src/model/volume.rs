//! What is kept of claims, volumes and storage classes.

use super::labels::{Labels, Selector, Str};
use super::node::{NodeSelector, NodeTerm};

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub namespace: Str,
    pub name: Str,
    pub uid: Str,
    /// Owner pod's UID, for ephemeral volumes.
    pub owner_pod: Option<Str>,
    pub volume: Option<Str>,
    /// The binding controller finished (`pv.kubernetes.io/bind-completed`).
    pub bind_completed: bool,
    pub class: Option<Str>,
    pub lost: bool,
    pub deleting: bool,
    pub modes: Box<[Str]>,
    pub block: bool,
    pub selector: Option<Selector>,
    pub request: i64,
    pub selected_node: Option<Str>,
}

/// A PersistentVolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub name: Str,
    pub labels: Labels,
    pub class: Str,
    pub modes: Box<[Str]>,
    pub block: bool,
    pub capacity: i64,
    /// Namespace, name and (once bound) UID of the claim it is for.
    pub claim: Option<(Str, Str, Option<Str>)>,
    pub available: bool,
    pub deleting: bool,
    pub affinity: Option<NodeSelector>,
    /// Driver and handle of a CSI volume.
    pub csi: Option<(Str, Str)>,
}

/// A StorageClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub name: Str,
    pub wait: bool,
    pub provisioner: Str,
    pub topologies: Box<[NodeTerm]>,
}

/// A CSIStorageCapacity: how much a driver can still provision for some nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub class: Str,
    /// The largest volume that can be had, or what is free; `None` when nothing is said.
    pub limit: Option<i64>,
    /// The nodes this is about; `None` for no node at all.
    pub nodes: Option<Selector>,
}

impl Capacity {
    /// Whether a volume of a class and size can be had on a node with these labels.
    #[must_use]
    pub fn suffices(&self, class: &str, size: i64, labels: &Labels) -> bool {
        self.class.as_ref() == class
            && self.limit.is_some_and(|l| l >= size)
            && self.nodes.as_ref().is_some_and(|s| s.matches(labels))
    }
}

impl Class {
    /// Whether something makes volumes of this class on demand.
    #[must_use]
    pub fn provisions(&self) -> bool {
        !self.provisioner.is_empty() && self.provisioner.as_ref() != "kubernetes.io/no-provisioner"
    }
}

//! Changes in the cluster that may let a pending pod run.

use std::ops::BitOr;

use k8s_openapi::api::resource::v1 as api;

use crate::model::{NodeFacts, PodInfo};

/// The kind of object that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A pod on a node.
    AssignedPod,
    /// The pending pod itself.
    UnscheduledPod,
    Node,
    Claim,
    Volume,
    StorageClass,
    CsiNode,
    CsiDriver,
    CsiStorageCapacity,
    Namespace,
    ResourceClaim,
    ResourceSlice,
    DeviceClass,
}

/// What changed about it, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action(u16);

impl Action {
    pub const ADD: Self = Self(1);
    pub const DELETE: Self = Self(2);
    pub const ALLOCATABLE: Self = Self(4);
    pub const LABELS: Self = Self(8);
    pub const TAINTS: Self = Self(16);
    pub const SCALE_DOWN: Self = Self(32);
    pub const TOLERATIONS: Self = Self(64);
    pub const GATES: Self = Self(128);
    pub const UPDATE: Self = Self(256);
    pub const FEATURES: Self = Self(512);
    /// The names of claims that were made for the pod.
    pub const GENERATED_CLAIM: Self = Self(1024);
    pub const NONE: Self = Self(0);

    /// Whether the sets share a member.
    #[must_use]
    pub fn meets(self, o: Self) -> bool {
        self.0 & o.0 != 0
    }
}

impl BitOr for Action {
    type Output = Self;
    fn bitor(self, o: Self) -> Self {
        Self(self.0 | o.0)
    }
}

impl Action {
    /// The union, in constants.
    #[must_use]
    pub const fn or(self, o: Self) -> Self {
        Self(self.0 | o.0)
    }
}

/// One change, with the object where plugins look at it.
#[derive(Clone, Copy, Debug)]
pub struct ClusterEvent<'a> {
    pub resource: Resource,
    pub action: Action,
    pub node: Option<&'a NodeFacts>,
    pub pod: Option<&'a PodInfo>,
    pub claim: Option<ClaimChange<'a>>,
}

/// A ResourceClaim before and after.
#[derive(Clone, Copy, Debug)]
pub struct ClaimChange<'a> {
    /// None for a new one.
    pub old: Option<&'a api::ResourceClaim>,
    pub new: &'a api::ResourceClaim,
}

impl<'a> ClusterEvent<'a> {
    /// An event without an object.
    #[must_use]
    pub fn of(resource: Resource, action: Action) -> Self {
        Self { resource, action, node: None, pod: None, claim: None }
    }

    /// A node event: what changed between two states of it. Heartbeats change nothing.
    #[must_use]
    pub fn node(old: Option<&NodeFacts>, new: &'a NodeFacts) -> Self {
        let action = match old {
            None => Action::ADD,
            Some(o) => {
                let flag = |changed: bool, a: Action| if changed { a } else { Action::NONE };
                flag(o.allocatable != new.allocatable || o.max_pods != new.max_pods, Action::ALLOCATABLE)
                    | flag(o.labels != new.labels, Action::LABELS)
                    | flag(o.features != new.features, Action::FEATURES)
                    | flag(o.taints != new.taints || o.unschedulable != new.unschedulable, Action::TAINTS)
            }
        };
        Self { node: Some(new), ..Self::of(Resource::Node, action) }
    }

    /// A pod event.
    #[must_use]
    pub fn pod(resource: Resource, action: Action, pod: &'a PodInfo) -> Self {
        Self { pod: Some(pod), ..Self::of(resource, action) }
    }

    /// A ResourceClaim event.
    #[must_use]
    pub fn claim(change: ClaimChange<'a>) -> Self {
        let action = if change.old.is_some() { Action::UPDATE } else { Action::ADD };
        Self { claim: Some(change), ..Self::of(Resource::ResourceClaim, action) }
    }

    /// The name of the event, as metrics label it.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match (self.resource, self.action) {
            (Resource::AssignedPod, Action::ADD) => "AssignedPodAdd",
            (Resource::AssignedPod, Action::DELETE) => "AssignedPodDelete",
            (Resource::AssignedPod, _) => "AssignedPodUpdate",
            (Resource::UnscheduledPod, Action::ADD) => "UnscheduledPodAdd",
            (Resource::UnscheduledPod, Action::DELETE) => "UnscheduledPodDelete",
            (Resource::UnscheduledPod, _) => "UnscheduledPodUpdate",
            (Resource::Node, Action::ADD) => "NodeAdd",
            (Resource::Node, a) if a.meets(Action::ALLOCATABLE) => "NodeAllocatableChange",
            (Resource::Node, a) if a.meets(Action::LABELS) => "NodeLabelChange",
            (Resource::Node, _) => "NodeTaintChange",
            (Resource::Claim, Action::ADD) => "PvcAdd",
            (Resource::Claim, _) => "PvcUpdate",
            (Resource::Volume, Action::ADD) => "PvAdd",
            (Resource::Volume, _) => "PvUpdate",
            (Resource::StorageClass, _) => "StorageClassAdd",
            (Resource::CsiNode, Action::ADD) => "CSINodeAdd",
            (Resource::CsiNode, _) => "CSINodeUpdate",
            (Resource::CsiDriver, _) => "CSIDriverUpdate",
            (Resource::CsiStorageCapacity, Action::ADD) => "CSIStorageCapacityAdd",
            (Resource::CsiStorageCapacity, _) => "CSIStorageCapacityUpdate",
            (Resource::Namespace, _) => "NamespaceUpdate",
            (Resource::ResourceClaim, Action::ADD) => "ResourceClaimAdd",
            (Resource::ResourceClaim, _) => "ResourceClaimUpdate",
            (Resource::ResourceSlice, Action::ADD) => "ResourceSliceAdd",
            (Resource::ResourceSlice, _) => "ResourceSliceUpdate",
            (Resource::DeviceClass, Action::ADD) => "DeviceClassAdd",
            (Resource::DeviceClass, _) => "DeviceClassUpdate",
        }
    }
}

//! What is kept of a pod.

use super::affinity::PodTerms;
use super::labels::{Labels, Requirement, Selector, Str};
use super::node::{NodeSelector, NodeTerm, Toleration};
use super::requests::Requests;
use crate::dra::ClaimRef;
use crate::dra::extended::Asks;

/// A host port a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Host address; empty stands for all addresses.
    pub ip: Str,
    pub protocol: Str,
    pub port: i32,
}

impl HostPort {
    /// Whether both can't be on one node.
    #[must_use]
    pub fn conflicts(&self, o: &Self) -> bool {
        let any = |s: &str| s.is_empty() || s == "0.0.0.0";
        self.port == o.port && self.protocol == o.protocol && (self.ip == o.ip || any(&self.ip) || any(&o.ip))
    }
}

/// The controller that owns a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub kind: Str,
    pub name: Str,
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpreadConstraint {
    pub max_skew: i32,
    pub topology_key: Str,
    /// `DoNotSchedule` (a filter) or `ScheduleAnyway` (a score).
    pub hard: bool,
    pub selector: Selector,
    pub min_domains: i32,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

/// A volume that matters to scheduling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeUse {
    /// A claim in the pod's namespace; `ephemeral` ones are made by a controller.
    Claim { name: Str, ephemeral: bool },
    /// An inline disk that only one pod may write: identity, and whether read-only use is shareable here.
    Disk { id: Str, shareable: bool },
}

/// What only matters until the pod has a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Want {
    pub scheduler: Box<str>,
    pub gates: Box<[Str]>,
    pub tolerations: Box<[Toleration]>,
    pub node_selector: Box<[Requirement]>,
    pub required_nodes: Option<NodeSelector>,
    pub preferred_nodes: Box<[(i32, NodeTerm)]>,
    pub spread: Box<[SpreadConstraint]>,
    /// Normalised images of all containers, with repetitions.
    pub images: Box<[Str]>,
    pub containers: usize,
    pub owner: Option<Owner>,
    pub nominated: Option<Str>,
    /// The `PodScheduled` condition in force: status is False, reason, message.
    pub condition: Option<(Box<str>, Box<str>)>,
    /// Dynamic resource claims, in the pod's order.
    pub resource_claims: Box<[ClaimRef]>,
    /// What its containers ask for of resources that a device class may stand for.
    pub extended: Box<[Asks]>,
    /// The pod belongs to a pod group.
    pub grouped: bool,
    /// Features of the kubelet that the pod needs, by feature gate.
    pub features: Box<[Str]>,
}

/// A pod as the scheduler knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    pub uid: Str,
    pub namespace: Str,
    pub name: Str,
    pub generation: i64,
    pub labels: Labels,
    pub node: Option<Str>,
    pub priority: i32,
    pub preempt_never: bool,
    /// Succeeded or failed: it no longer uses anything.
    pub finished: bool,
    pub deleting: bool,
    /// Being deleted because the scheduler preempted it.
    pub disrupted: bool,
    /// Seconds since the epoch.
    pub created: i64,
    pub started: Option<i64>,
    pub requests: Requests,
    pub ports: Box<[HostPort]>,
    pub volumes: Box<[VolumeUse]>,
    pub terms: Option<Box<PodTerms>>,
    /// Present as long as the pod has no node.
    pub want: Option<Box<Want>>,
}

impl PodInfo {
    /// `namespace/name`, as log lines and messages show a pod.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The pod's inter-pod terms.
    #[must_use]
    pub fn terms(&self) -> &PodTerms {
        static NONE: std::sync::LazyLock<PodTerms> = std::sync::LazyLock::new(PodTerms::default);
        self.terms.as_deref().unwrap_or(&NONE)
    }

    /// The pod's wishes; those of a pod that has a node are empty.
    #[must_use]
    pub fn want(&self) -> &Want {
        static NONE: std::sync::LazyLock<Want> = std::sync::LazyLock::new(Want::default);
        self.want.as_deref().unwrap_or(&NONE)
    }

    /// Whether all taints of the given effects are tolerated; otherwise the first that is not.
    #[must_use]
    pub fn untolerated<'t>(
        &self,
        taints: &'t [super::node::Taint],
        effects: &[super::node::Effect],
    ) -> Option<&'t super::node::Taint> {
        let tolerations = &self.want().tolerations;
        taints
            .iter()
            .filter(|t| effects.contains(&t.effect))
            .find(|t| !tolerations.iter().any(|x| x.tolerates(t)))
    }

    /// Node selector and required node affinity together.
    #[must_use]
    pub fn node_matches(&self, name: &str, labels: &Labels) -> bool {
        let w = self.want();
        w.node_selector.iter().all(|r| r.matches(labels))
            && w.required_nodes.as_ref().is_none_or(|s| s.matches(name, labels))
    }

    /// Names of the claims this pod mounts.
    pub fn claims(&self) -> impl Iterator<Item = (&Str, bool)> {
        self.volumes.iter().filter_map(|v| match v {
            VolumeUse::Claim { name, ephemeral } => Some((name, *ephemeral)),
            VolumeUse::Disk { .. } => None,
        })
    }
}

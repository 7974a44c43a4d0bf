//! Facts about a node that decisions depend on: labels, taints, capacity, images.

use super::labels::{Labels, Requirement, Str};
use super::resources::Resources;

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

impl Effect {
    /// Parses the API's name.
    #[must_use]
    pub fn parse(s: &str) -> Option<Self> {
        Some(match s {
            "NoSchedule" => Self::NoSchedule,
            "PreferNoSchedule" => Self::PreferNoSchedule,
            "NoExecute" => Self::NoExecute,
            _ => return None,
        })
    }
}

/// A taint on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    pub key: Str,
    pub value: Str,
    pub effect: Effect,
}

/// A toleration of a pod. An empty key with `exists` tolerates everything; no effect means all effects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    pub key: Str,
    pub op: TolerationOp,
    pub value: Str,
    pub effect: Option<Effect>,
}

/// How a toleration compares values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TolerationOp {
    Equal,
    Exists,
    Lt,
    Gt,
}

impl Toleration {
    /// Whether this toleration covers `t`.
    #[must_use]
    pub fn tolerates(&self, t: &Taint) -> bool {
        if self.effect.is_some_and(|e| e != t.effect) || (!self.key.is_empty() && self.key != t.key) {
            return false;
        }
        let numbers = || Some((t.value.parse::<i64>().ok()?, self.value.parse::<i64>().ok()?));
        match self.op {
            TolerationOp::Exists => true,
            TolerationOp::Equal => !self.key.is_empty() && self.value == t.value,
            TolerationOp::Lt => numbers().is_some_and(|(taint, mine)| taint < mine),
            TolerationOp::Gt => numbers().is_some_and(|(taint, mine)| taint > mine),
        }
    }
}

/// One alternative of a node selector: every requirement must hold. Without any it matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    pub labels: Box<[Requirement]>,
    /// Requirements on fields; only `metadata.name` exists.
    pub fields: Box<[Requirement]>,
}

impl NodeTerm {
    /// Whether a node with this name and these labels matches.
    #[must_use]
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        (!self.labels.is_empty() || !self.fields.is_empty())
            && self.labels.iter().all(|r| r.matches(labels))
            && self.fields.iter().all(|r| r.matches_value(Some(name)))
    }

    /// The names this term restricts itself to, when it does.
    #[must_use]
    pub fn names(&self) -> Option<&[Str]> {
        self.fields.iter().find(|r| r.op == super::Op::In).map(|r| r.values.as_ref())
    }
}

/// Alternatives, one of which must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSelector(pub Box<[NodeTerm]>);

impl NodeSelector {
    /// Whether a node with this name and these labels matches.
    #[must_use]
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.0.iter().any(|t| t.matches(name, labels))
    }
}

/// What the API server says about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: Box<str>,
    pub labels: Labels,
    pub taints: Box<[Taint]>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub max_pods: i64,
    /// Image names on the node with their sizes.
    pub images: Box<[(Str, i64)]>,
    /// Features the kubelet says it has.
    pub features: Box<[Str]>,
    /// Region and zone, for interleaving nodes.
    pub zone: String,
}

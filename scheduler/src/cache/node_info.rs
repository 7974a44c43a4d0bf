//! A node with what its pods use, added up.

use std::sync::Arc;

use super::Slot;
use crate::model::{HostPort, NodeFacts, PodInfo, Resources, Str};

/// One node. Its facts are absent while only pods naming it are known.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub slot: Slot,
    pub name: Str,
    pub(super) facts: Option<Arc<NodeFacts>>,
    pub pods: Vec<Arc<PodInfo>>,
    pub requested: Resources,
    /// CPU and memory with defaults for containers that ask for none.
    pub nonzero: (i64, i64),
}

impl NodeInfo {
    pub(super) fn new(slot: Slot, name: Str) -> Self {
        Self { slot, name, facts: None, pods: Vec::new(), requested: Resources::default(), nonzero: (0, 0) }
    }

    /// What the API server says about the node.
    #[must_use]
    pub fn facts(&self) -> &NodeFacts {
        static NONE: std::sync::LazyLock<NodeFacts> = std::sync::LazyLock::new(NodeFacts::default);
        self.facts.as_deref().unwrap_or(&NONE)
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&Str> {
        self.facts().labels.get(key)
    }

    /// Host ports in use.
    pub fn ports(&self) -> impl Iterator<Item = &HostPort> {
        self.pods.iter().flat_map(|p| p.ports.iter())
    }

    /// Counts a pod in. Finished pods use nothing.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests.asked);
        self.nonzero.0 += pod.requests.nonzero.0;
        self.nonzero.1 += pod.requests.nonzero.1;
        self.pods.push(pod);
    }

    /// Counts a pod out.
    pub fn remove(&mut self, uid: &str) {
        let Some(i) = self.pods.iter().position(|p| p.uid.as_ref() == uid) else { return };
        let pod = self.pods.swap_remove(i);
        self.requested.sub(&pod.requests.asked);
        self.nonzero.0 -= pod.requests.nonzero.0;
        self.nonzero.1 -= pod.requests.nonzero.1;
    }
}

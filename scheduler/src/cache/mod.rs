//! The scheduler's picture of the cluster, kept up to date change by change.
//!
//! One task owns the cache and decides on it, so it is its own snapshot: no copy is made per decision. Pods the
//! scheduler has just placed are *assumed* here at once; the watch confirms them, a failed binding forgets them.

mod counts;
mod node_info;
mod terms;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use counts::{CountKey, Counts, TermSelector};
pub use node_info::NodeInfo;
pub use terms::{ExistingTerm, TermKind, TermTable};

use crate::model::volume::{Claim, Class, Volume};
use crate::model::{Labels, NodeFacts, PodInfo, Selector, Str};

/// A node's place in the cache; stable while the node exists, reused later.
pub type Slot = usize;

/// A pod on a node.
#[derive(Clone, Debug)]
struct Placed {
    pod: Arc<PodInfo>,
    slot: Slot,
    assumed: bool,
}

/// Services and workload controllers whose selectors give a pod its default spreading.
#[derive(Default, Debug)]
pub struct Selectors {
    /// Per namespace: services by name.
    pub services: HashMap<Str, BTreeMap<Str, Selector>>,
    /// Selector of a controller by kind, namespace and name.
    pub owners: HashMap<(Str, Str, Str), Selector>,
}

/// Storage objects.
#[derive(Default, Debug)]
pub struct Storage {
    pub claims: HashMap<(Str, Str), Claim>,
    pub volumes: BTreeMap<Str, Volume>,
    pub classes: HashMap<Str, Class>,
    /// Per node: CSI driver and how many of its volumes fit.
    pub csi_limits: HashMap<Str, Vec<(Str, Option<i64>)>>,
    /// Volumes promised to a claim by a decision that is not yet visible: volume → claim.
    pub promised: HashMap<Str, (Str, Str)>,
}

/// A disruption budget, as far as preemption cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub namespace: Str,
    pub selector: Selector,
    pub allowed: i32,
    /// Pods whose disruption has already been counted.
    pub disrupted: Box<[Str]>,
}

/// Everything decisions are made from.
#[derive(Default, Debug)]
pub struct Cache {
    nodes: Vec<Option<NodeInfo>>,
    free: Vec<Slot>,
    by_name: HashMap<Str, Slot>,
    /// Existing nodes, zones interleaved.
    order: Vec<Slot>,
    order_stale: bool,
    pods: HashMap<Str, Placed>,
    /// On how many nodes an image is.
    image_nodes: HashMap<Str, usize>,
    // Memo of pod counts per selector: filled by the first decision that needs a selector, then maintained.
    counts: RefCell<Counts>,
    terms: TermTable,
    pub namespaces: HashMap<Str, Labels>,
    pub selectors: Selectors,
    pub storage: Storage,
    pub budgets: HashMap<(Str, Str), Budget>,
    /// Pods without a node that have one nominated: node → UIDs.
    nominated: HashMap<Str, Vec<Arc<PodInfo>>>,
}

impl Cache {
    /// Adds a node or updates what is known of it. Returns the facts it replaced.
    pub fn set_node(&mut self, facts: NodeFacts) -> Option<NodeFacts> {
        let slot = self.slot_for(&facts.name);
        let node = self.nodes[slot].as_mut()?;
        let old = node.facts.take();
        for (image, _) in old.iter().flat_map(|f| f.images.iter()) {
            if let Some(n) = self.image_nodes.get_mut(image) {
                *n -= 1;
                if *n == 0 {
                    self.image_nodes.remove(image);
                }
            }
        }
        for (image, _) in &facts.images {
            *self.image_nodes.entry(image.clone()).or_default() += 1;
        }
        if old.as_ref().is_none_or(|o| o.zone != facts.zone) {
            self.order_stale = true;
        }
        node.facts = Some(Arc::new(facts));
        self.refresh_order();
        old.map(Arc::unwrap_or_clone)
    }

    /// Removes a node. Pods still on it keep its slot until they are gone.
    pub fn remove_node(&mut self, name: &str) {
        let Some(&slot) = self.by_name.get(name) else { return };
        if let Some(facts) = self.nodes[slot].as_mut().and_then(|n| n.facts.take()) {
            for (image, _) in &facts.images {
                if let Some(n) = self.image_nodes.get_mut(image) {
                    *n -= 1;
                    if *n == 0 {
                        self.image_nodes.remove(image);
                    }
                }
            }
        }
        self.order_stale = true;
        self.drop_if_unused(slot);
        self.refresh_order();
    }

    fn slot_for(&mut self, name: &str) -> Slot {
        if let Some(&slot) = self.by_name.get(name) {
            return slot;
        }
        let name: Str = name.into();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() - 1
        });
        self.nodes[slot] = Some(NodeInfo::new(slot, name.clone()));
        self.by_name.insert(name, slot);
        slot
    }

    fn drop_if_unused(&mut self, slot: Slot) {
        let unused = self.nodes[slot].as_ref().is_some_and(|n| n.facts.is_none() && n.pods.is_empty());
        if unused && let Some(n) = self.nodes[slot].take() {
            self.by_name.remove(&n.name);
            self.free.push(slot);
        }
    }

    /// Nodes in turn from each zone, so that a partial search sees all zones.
    fn refresh_order(&mut self) {
        if !std::mem::take(&mut self.order_stale) {
            return;
        }
        let mut zones: BTreeMap<&str, Vec<(&str, Slot)>> = BTreeMap::new();
        for n in self.nodes.iter().flatten() {
            if let Some(f) = &n.facts {
                zones.entry(&f.zone).or_default().push((&n.name, n.slot));
            }
        }
        let mut zones: Vec<_> = zones.into_values().collect();
        for z in &mut zones {
            z.sort_unstable();
        }
        let longest = zones.iter().map(Vec::len).max().unwrap_or(0);
        self.order =
            (0..longest).flat_map(|i| zones.iter().filter_map(move |z| z.get(i).map(|x| x.1))).collect();
    }

    /// Slots of all existing nodes, zones interleaved.
    #[must_use]
    pub fn order(&self) -> &[Slot] {
        &self.order
    }

    /// All existing nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.order.iter().filter_map(|&s| self.nodes[s].as_ref())
    }

    /// The node in a slot.
    #[must_use]
    pub fn node_at(&self, slot: Slot) -> Option<&NodeInfo> {
        self.nodes.get(slot).and_then(Option::as_ref).filter(|n| n.facts.is_some())
    }

    /// An existing node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).and_then(|&s| self.node_at(s))
    }

    /// How many existing nodes have an image.
    #[must_use]
    pub fn image_spread(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// Number of pods on nodes, and of those that are only assumed to be.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.pods.len(), self.pods.values().filter(|p| p.assumed).count())
    }

    /// A pod that has, or is assumed to have, a node.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|p| &p.pod)
    }

    /// True for a pod whose binding the watch has not shown yet.
    #[must_use]
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|p| p.assumed)
    }

    /// UIDs of pods the watch has shown on a node.
    pub fn confirmed_uids(&self) -> impl Iterator<Item = &Str> {
        self.pods.iter().filter(|(_, p)| !p.assumed).map(|(uid, _)| uid)
    }

    /// A pod the API server says is on a node. Returns what was known of it before.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) -> Option<Arc<PodInfo>> {
        let old = self.remove_pod(&pod.uid);
        self.place(pod, false);
        old
    }

    /// Takes it that `pod` will run on its node.
    pub fn assume(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        self.place(pod, true);
    }

    /// Undoes [`Self::assume`], unless the watch has confirmed the pod meanwhile.
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove_pod(uid);
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, assumed: bool) {
        let Some(node) = pod.node.clone() else { return };
        let slot = self.slot_for(&node);
        if let Some(n) = self.nodes[slot].as_mut() {
            n.add(pod.clone());
        }
        self.counts.get_mut().change(&pod, slot, true);
        self.terms.change(&pod, slot, true);
        self.pods.insert(pod.uid.clone(), Placed { pod, slot, assumed });
    }

    /// Removes a pod from its node.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let placed = self.pods.remove(uid)?;
        if let Some(n) = self.nodes[placed.slot].as_mut() {
            n.remove(uid);
        }
        self.counts.get_mut().change(&placed.pod, placed.slot, false);
        self.terms.change(&placed.pod, placed.slot, false);
        self.drop_if_unused(placed.slot);
        Some(placed.pod)
    }

    /// Per slot, how many pods match `key`.
    #[must_use]
    pub fn count(&self, key: CountKey) -> Arc<Vec<u32>> {
        self.counts.borrow_mut().get(key, &self.nodes)
    }

    /// Inter-pod terms of the pods on nodes.
    #[must_use]
    pub fn terms(&self) -> &TermTable {
        &self.terms
    }

    /// Notes that `pod`, which has no node, waits for room on `node`; `None` withdraws it.
    pub fn nominate(&mut self, pod: &Arc<PodInfo>, node: Option<Str>) {
        self.nominated.retain(|_, list| {
            list.retain(|p| p.uid != pod.uid);
            !list.is_empty()
        });
        if let Some(node) = node {
            self.nominated.entry(node).or_default().push(pod.clone());
        }
    }

    /// Pods nominated to a node.
    #[must_use]
    pub fn nominated(&self, node: &str) -> &[Arc<PodInfo>] {
        self.nominated.get(node).map_or(&[], Vec::as_slice)
    }

    /// True when no pod is nominated anywhere.
    #[must_use]
    pub fn no_nominations(&self) -> bool {
        self.nominated.is_empty()
    }

    /// Namespaces whose labels match.
    pub fn namespaces_matching<'a>(&'a self, s: &'a Selector) -> impl Iterator<Item = &'a Str> {
        self.namespaces.iter().filter(|(_, l)| s.matches(l)).map(|(n, _)| n)
    }
}

//! The scheduler's picture of the cluster, kept up to date change by change.
//!
//! One task owns the cache and decides on it, so it is its own snapshot: no copy is made per decision. Pods the
//! scheduler has just placed are *assumed* here at once; the watch confirms them, a failed binding forgets them.

mod counts;
mod log;
mod node_info;
mod terms;
#[cfg(test)]
mod tests;
mod topology;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use counts::{CountKey, Counts, TermSelector};
pub use log::ChangeLog;
pub use node_info::NodeInfo;
pub use terms::{ExistingTerm, TermKind, TermTable};
pub use topology::{NOWHERE, Topology};

use crate::dra::Dra;
use crate::model::volume::{Capacity, Claim, Class, Volume};
use crate::model::{Effect, Labels, NodeFacts, PodInfo, Selector, Str};

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
    /// CSI drivers that say how much they can still provision.
    pub capacity_drivers: HashMap<Str, bool>,
    /// What they say, by namespace and name.
    pub capacities: HashMap<(Str, Str), Capacity>,
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

/// Topology keys remembered; a cluster uses a handful.
const MAX_TOPOLOGIES: usize = 64;

fn has_soft_taint(f: &NodeFacts) -> bool {
    f.taints.iter().any(|t| t.effect == Effect::PreferNoSchedule)
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
    assumed: usize,
    /// Nodes that have an image, with its size there.
    image_nodes: HashMap<Str, HashMap<Slot, i64>>,
    /// How many nodes have a taint that only makes them less attractive.
    soft_tainted: usize,
    log: ChangeLog,
    // Memo of topologies: filled by the first decision that needs a key, then maintained.
    topologies: RefCell<HashMap<Str, Arc<Topology>>>,
    // Memo of pod counts per selector: filled by the first decision that needs a selector, then maintained.
    counts: RefCell<Counts>,
    terms: TermTable,
    pub namespaces: HashMap<Str, Labels>,
    pub selectors: Selectors,
    pub storage: Storage,
    pub dra: Dra,
    pub budgets: HashMap<(Str, Str), Budget>,
    /// How often budgets have changed.
    pub budget_changes: u64,
    /// Pods without a node that have one nominated, by node.
    nominated: HashMap<Str, Vec<Arc<PodInfo>>>,
    /// Where a pod is nominated to, by UID.
    nominated_to: HashMap<Str, Str>,
}

impl Cache {
    /// Adds a node or updates what is known of it. Returns the facts it replaced.
    pub fn set_node(&mut self, facts: NodeFacts) -> Option<NodeFacts> {
        let slot = self.slot_for(&facts.name);
        let node = self.nodes[slot].as_mut()?;
        if node.facts.as_deref() == Some(&facts) {
            return Some(facts);
        }
        let old = node.facts.replace(Arc::new(facts));
        let new = node.facts.clone()?;
        if let Some(o) = &old {
            self.forget_facts(slot, o, Some(&new));
        }
        self.soft_tainted += usize::from(has_soft_taint(&new));
        for (image, size) in &new.images {
            self.image_nodes.entry(image.clone()).or_default().insert(slot, *size);
        }
        if old.as_ref().is_none_or(|o| o.zone != new.zone) {
            self.order_stale = true;
        }
        if old.as_ref().is_none_or(|o| o.labels != new.labels) {
            self.relabel(slot, Some(&new.labels));
        }
        self.log.push(slot);
        self.refresh_order();
        old.map(Arc::unwrap_or_clone)
    }

    /// Takes out of the indexes what a node no longer has.
    fn forget_facts(&mut self, slot: Slot, old: &NodeFacts, new: Option<&NodeFacts>) {
        self.soft_tainted -= usize::from(has_soft_taint(old));
        if new.is_some_and(|n| n.images == old.images) {
            return;
        }
        for (image, _) in &old.images {
            if let Some(on) = self.image_nodes.get_mut(image) {
                on.remove(&slot);
                if on.is_empty() {
                    self.image_nodes.remove(image);
                }
            }
        }
    }

    fn relabel(&mut self, slot: Slot, labels: Option<&Labels>) {
        self.topologies.get_mut().retain(|key, t| {
            let t = Arc::make_mut(t);
            t.set(slot, labels.and_then(|l| l.get(key)));
            !t.is_stale()
        });
    }

    /// Removes a node. Pods still on it keep its slot until they are gone.
    pub fn remove_node(&mut self, name: &str) {
        let Some(&slot) = self.by_name.get(name) else { return };
        if let Some(facts) = self.nodes[slot].as_mut().and_then(|n| n.facts.take()) {
            self.forget_facts(slot, &facts, None);
        }
        self.relabel(slot, None);
        self.log.push(slot);
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

    /// The nodes that have an image, with its size there.
    #[must_use]
    pub fn image_nodes(&self, image: &str) -> Option<&HashMap<Slot, i64>> {
        self.image_nodes.get(image)
    }

    /// Whether some node has a taint that only makes it less attractive.
    #[must_use]
    pub fn has_soft_taints(&self) -> bool {
        self.soft_tainted > 0
    }

    /// What changed lately.
    #[must_use]
    pub fn log(&self) -> &ChangeLog {
        &self.log
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes by their value of a label.
    #[must_use]
    pub fn topology(&self, key: &Str) -> Arc<Topology> {
        let mut known = self.topologies.borrow_mut();
        if let Some(t) = known.get(key) {
            return t.clone();
        }
        if known.len() >= MAX_TOPOLOGIES {
            known.clear();
        }
        let t = Arc::new(Topology::build(key, &self.nodes));
        known.insert(key.clone(), t.clone());
        t
    }

    /// Number of pods on nodes, and of those that are only assumed to be.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.pods.len(), self.assumed)
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
        self.log.push(slot);
        self.counts.get_mut().change(&pod, slot, true);
        self.terms.change(&pod, slot, true);
        self.assumed += usize::from(assumed);
        self.pods.insert(pod.uid.clone(), Placed { pod, slot, assumed });
    }

    /// Removes a pod from its node.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let placed = self.pods.remove(uid)?;
        self.assumed -= usize::from(placed.assumed);
        if let Some(n) = self.nodes[placed.slot].as_mut() {
            n.remove(uid);
        }
        self.log.push(placed.slot);
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
        let before = match &node {
            Some(n) => self.nominated_to.insert(pod.uid.clone(), n.clone()),
            None => self.nominated_to.remove(&pod.uid),
        };
        if let Some(old) = before {
            self.touch(&old);
            if let Some(list) = self.nominated.get_mut(&old) {
                list.retain(|p| p.uid != pod.uid);
                if list.is_empty() {
                    self.nominated.remove(&old);
                }
            }
        }
        if let Some(node) = node {
            self.touch(&node);
            self.nominated.entry(node).or_default().push(pod.clone());
        }
    }

    fn touch(&mut self, node: &str) {
        if let Some(slot) = self.by_name.get(node) {
            self.log.push(*slot);
        }
    }

    /// The node a pod is nominated to.
    #[must_use]
    pub fn nomination(&self, uid: &str) -> Option<&Str> {
        self.nominated_to.get(uid)
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

//! What is known of devices: slices, classes, claims, and what is allocated.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use expressions::device::Selector;
use k8s_openapi::api::resource::v1 as api;

use super::claims::Claims;
use super::model::{Amounts, Class, DeviceId, Nodes, PoolId, Slice, quantity};
use crate::cache::Slot;
use crate::model::Str;

/// Selectors kept compiled; a cluster uses a handful.
const MAX_SELECTORS: usize = 256;

/// A compiled selector, or why it does not compile.
pub type Compiled = Arc<Result<Selector, String>>;

/// Everything that allocation looks at.
#[derive(Debug, Default)]
pub struct Dra {
    pub claims: Claims,
    pub slices: Slices,
    pub classes: HashMap<Str, Class>,
    // Memo of compiled expressions.
    selectors: RefCell<HashMap<Str, Compiled>>,
    // What the nodes checked last could give to a pod, so that scoring and binding need not search again.
    found: RefCell<Found>,
}

/// Allocations for one pod, by node; one for each claim that has none yet.
#[derive(Debug, Default)]
struct Found {
    /// The UID; none before the first pod.
    pod: Option<Str>,
    nodes: HashMap<Slot, Arc<Vec<api::AllocationResult>>>,
}

impl Dra {
    /// The compiled form of an expression.
    pub fn selector(&self, expression: &Str) -> Compiled {
        let mut known = self.selectors.borrow_mut();
        if let Some(s) = known.get(expression) {
            return s.clone();
        }
        if known.len() >= MAX_SELECTORS {
            known.clear();
        }
        let compiled = Arc::new(Selector::new(expression));
        known.insert(expression.clone(), compiled.clone());
        compiled
    }

    /// Begins the search for a pod: what was found for another is forgotten.
    pub fn begin(&self, pod: &Str) {
        *self.found.borrow_mut() = Found { pod: Some(pod.clone()), nodes: HashMap::new() };
    }

    /// Keeps what a node could give to the pod.
    pub fn keep(&self, node: Slot, allocations: Vec<api::AllocationResult>) {
        self.found.borrow_mut().nodes.insert(node, Arc::new(allocations));
    }

    /// What the node could give to the pod, if that was found out in this decision.
    #[must_use]
    pub fn kept(&self, pod: &str, node: Slot) -> Option<Arc<Vec<api::AllocationResult>>> {
        let found = self.found.borrow();
        if found.pod.as_deref() != Some(pod) {
            return None;
        }
        found.nodes.get(&node).cloned()
    }
}

/// Slices by pool, and the pools a node may have devices from.
#[derive(Debug, Default)]
pub struct Slices {
    pools: BTreeMap<PoolId, BTreeMap<Str, Arc<Slice>>>,
    pool_of: HashMap<Str, PoolId>,
    /// Pools with slices for one node alone: how many.
    on_node: HashMap<Str, BTreeMap<PoolId, usize>>,
    /// Pools with other slices: how many.
    shared: BTreeMap<PoolId, usize>,
}

/// The node a slice is only for; counters concern all nodes.
fn only_for(s: &Slice) -> Option<&Str> {
    match &s.nodes {
        Nodes::One(n) if s.counters.is_empty() => Some(n),
        _ => None,
    }
}

fn less(counts: &mut BTreeMap<PoolId, usize>, id: &PoolId) {
    if let Some(n) = counts.get_mut(id) {
        *n -= 1;
        if *n == 0 {
            counts.remove(id);
        }
    }
}

impl Slices {
    /// Adds a slice or replaces it. True if there was one of that name.
    pub fn set(&mut self, s: Arc<Slice>) -> bool {
        let replaced = self.remove(&s.name);
        let counts = match only_for(&s) {
            Some(node) => self.on_node.entry(node.clone()).or_default(),
            None => &mut self.shared,
        };
        *counts.entry(s.pool.clone()).or_default() += 1;
        self.pool_of.insert(s.name.clone(), s.pool.clone());
        self.pools.entry(s.pool.clone()).or_default().insert(s.name.clone(), s);
        replaced
    }

    /// Takes a slice out. True if there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(id) = self.pool_of.remove(name) else { return false };
        let Some(pool) = self.pools.get_mut(&id) else { return false };
        let gone = pool.remove(name);
        if pool.is_empty() {
            self.pools.remove(&id);
        }
        match gone.as_deref().map(only_for) {
            Some(Some(node)) => {
                if let Some(counts) = self.on_node.get_mut(node) {
                    less(counts, &id);
                    if counts.is_empty() {
                        self.on_node.remove(node);
                    }
                }
            }
            Some(None) => less(&mut self.shared, &id),
            None => {}
        }
        true
    }

    /// Names of all slices.
    pub fn names(&self) -> impl Iterator<Item = &Str> {
        self.pool_of.keys()
    }

    /// The pools that may have devices for a node, in order, with all their slices by name.
    pub fn pools(&self, node: &str) -> impl Iterator<Item = (&PoolId, &BTreeMap<Str, Arc<Slice>>)> {
        let own = self.on_node.get(node).into_iter().flat_map(BTreeMap::keys);
        let ids: BTreeSet<&PoolId> = own.chain(self.shared.keys()).collect();
        ids.into_iter().filter_map(|id| Some((id, self.pools.get(id)?)))
    }
}

/// What is given away of a device that several claims can have.
#[derive(Clone, Debug, Default)]
struct Share {
    claims: usize,
    amounts: Amounts,
}

/// What is given away.
#[derive(Clone, Debug, Default)]
pub struct Allocated {
    whole: HashMap<DeviceId, usize>,
    shared: HashMap<DeviceId, Share>,
}

impl Allocated {
    /// Adds what an allocation gives away, or takes it back. Access for administrators takes nothing.
    pub fn change(&mut self, a: &api::AllocationResult, add: bool) {
        for r in a.devices.iter().flat_map(|d| d.results.iter().flatten()) {
            if r.admin_access == Some(true) {
                continue;
            }
            let id = DeviceId::of(r);
            if r.share_id.is_none() {
                self.change_whole(id, add);
            } else {
                self.change_share(id, r, add);
            }
        }
    }

    fn change_whole(&mut self, id: DeviceId, add: bool) {
        if add {
            *self.whole.entry(id).or_default() += 1;
        } else if let Some(n) = self.whole.get_mut(&id) {
            *n -= 1;
            if *n == 0 {
                self.whole.remove(&id);
            }
        }
    }

    fn change_share(&mut self, id: DeviceId, r: &api::DeviceRequestAllocationResult, add: bool) {
        let share = self.shared.entry(id.clone()).or_default();
        share.claims = if add { share.claims + 1 } else { share.claims.saturating_sub(1) };
        for (name, q) in r.consumed_capacity.iter().flatten() {
            let q = quantity(q);
            match share.amounts.get_mut(name.as_str()) {
                Some(sum) => *sum = if add { *sum + q } else { *sum - q },
                None if add => drop(share.amounts.insert(name.as_str().into(), q)),
                None => {}
            }
        }
        if share.claims == 0 {
            self.shared.remove(&id);
        }
    }

    /// Whether a claim has the device for itself.
    #[must_use]
    pub fn whole(&self, id: &DeviceId) -> bool {
        self.whole.contains_key(id)
    }

    /// What claims have of a device that several can have; none if no claim has a part.
    #[must_use]
    pub fn share(&self, id: &DeviceId) -> Option<&Amounts> {
        self.shared.get(id).map(|s| &s.amounts)
    }

    /// Whether any claim has the device or a part of it.
    #[must_use]
    pub fn any(&self, id: &DeviceId) -> bool {
        self.whole(id) || self.shared.contains_key(id)
    }
}

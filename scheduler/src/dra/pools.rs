//! The pools of devices that a node can use.
//!
//! A driver publishes a pool as several slices of one generation. While it replaces them, some are missing or of the
//! generation before: nothing is taken from such a pool (KEP-4381, "ResourceSlice").

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::model::{Amounts, Device, DeviceId, PoolId, Slice};
use super::state::Slices;
use crate::model::{Labels, Str};

/// A pool as one node sees it.
#[derive(Debug)]
pub struct Pool<'a> {
    pub id: &'a PoolId,
    /// Not all slices are there.
    pub incomplete: bool,
    /// Its slices contradict each other.
    pub invalid: bool,
    /// Slices with devices for the node, by name.
    pub slices: Vec<&'a Slice>,
    /// The others, whose devices take from the same counters.
    pub elsewhere: Vec<&'a Slice>,
    pub counters: HashMap<&'a str, &'a Amounts>,
}

impl<'a> Pool<'a> {
    fn empty(id: &'a PoolId) -> Self {
        Self {
            id,
            incomplete: false,
            invalid: false,
            slices: Vec::new(),
            elsewhere: Vec::new(),
            counters: HashMap::new(),
        }
    }

    /// Whether devices can be taken from it.
    #[must_use]
    pub fn usable(&self) -> bool {
        !self.incomplete && !self.invalid
    }

    /// The name of one of its devices.
    #[must_use]
    pub fn device_id(&self, d: &Device) -> DeviceId {
        DeviceId { driver: self.id.driver.clone(), pool: self.id.pool.clone(), device: d.name.clone() }
    }

    fn waits(&self) -> bool {
        self.slices.iter().flat_map(|s| &s.devices).any(|d| d.binding.is_some())
    }
}

fn is_for(s: &Slice, node: &str, labels: &Labels) -> bool {
    // Counters are needed wherever the devices are.
    if !s.counters.is_empty() {
        return true;
    }
    if s.per_device {
        return s.devices.iter().any(|d| d.nodes.has(node, labels));
    }
    s.nodes.has(node, labels)
}

/// The pools a node can use, in the order they are tried: by driver and name, those whose devices have to be got
/// ready first at the end.
#[must_use]
pub fn on_node<'a>(slices: &'a Slices, node: &str, labels: &Labels) -> Vec<Pool<'a>> {
    let found = slices.pools(node).filter_map(|(id, all)| pool(id, all, node, labels));
    let (last, mut first): (Vec<_>, Vec<_>) = found.partition(Pool::waits);
    first.extend(last);
    first
}

fn pool<'a>(
    id: &'a PoolId,
    all: &'a BTreeMap<Str, Arc<Slice>>,
    node: &str,
    labels: &Labels,
) -> Option<Pool<'a>> {
    let relevant: Vec<&Slice> = all.values().map(Arc::as_ref).filter(|s| is_for(s, node, labels)).collect();
    let generation = relevant.iter().map(|s| s.generation).max()?;
    let relevant: Vec<&Slice> = relevant.into_iter().filter(|s| s.generation == generation).collect();
    let count = usize::try_from(relevant.first()?.count).unwrap_or(usize::MAX);
    let mut elsewhere = Vec::new();
    if relevant.len() != count {
        // The other slices are for other nodes, missing, or of a newer generation that has nothing for this node.
        if all.values().any(|s| s.generation > generation) {
            return None;
        }
        let current = all.values().map(Arc::as_ref).filter(|s| s.generation == generation);
        let (known, others): (Vec<&Slice>, Vec<&Slice>) =
            current.partition(|s| relevant.iter().any(|r| std::ptr::eq(*r, *s)));
        if known.len() + others.len() != count {
            return Some(Pool { incomplete: true, ..Pool::empty(id) });
        }
        elsewhere = others;
    }
    Some(build(id, relevant, elsewhere).unwrap_or(Pool { invalid: true, ..Pool::empty(id) }))
}

/// The pool; none if it is invalid.
fn build<'a>(id: &'a PoolId, relevant: Vec<&'a Slice>, elsewhere: Vec<&'a Slice>) -> Option<Pool<'a>> {
    let (with_counters, slices): (Vec<&Slice>, Vec<&Slice>) =
        relevant.into_iter().partition(|s| !s.counters.is_empty());
    let mut names = HashSet::new();
    if !slices.iter().flat_map(|s| &s.devices).all(|d| names.insert(&d.name)) {
        return None;
    }
    let mut counters: HashMap<&str, &Amounts> = HashMap::new();
    for (name, amounts) in with_counters.iter().flat_map(|s| &s.counters) {
        if counters.insert(name, amounts).is_some() {
            return None;
        }
    }
    let known = |(set, amounts): &(Str, Amounts)| {
        counters.get(set.as_ref()).is_some_and(|c| amounts.keys().all(|name| c.contains_key(name)))
    };
    let mut devices = slices.iter().chain(&elsewhere).flat_map(|s| &s.devices);
    if !devices.all(|d| d.consumes.iter().all(known)) {
        return None;
    }
    Some(Pool { slices, elsewhere, counters, ..Pool::empty(id) })
}

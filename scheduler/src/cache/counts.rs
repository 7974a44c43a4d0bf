//! How many pods match a selector, per node, maintained as pods come and go.
//!
//! Spreading and pod affinity ask the same questions for every replica of a workload. The first asks by scanning
//! the pods, the rest read a vector. Entries nobody asked for lately are dropped.

use std::collections::HashMap;
use std::sync::Arc;

use super::{NodeInfo, Slot};
use crate::model::{PodInfo, Selector, Str};

/// Pods picked by namespace and selector. No namespaces stands for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TermSelector {
    pub namespaces: Option<Box<[Str]>>,
    pub selector: Selector,
}

/// What is counted: pods that match all terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CountKey {
    pub terms: Box<[TermSelector]>,
    /// Leave out pods that are being deleted.
    pub skip_deleting: bool,
}

impl CountKey {
    fn matches(&self, p: &PodInfo) -> bool {
        !(self.skip_deleting && p.deleting)
            && self.terms.iter().all(|t| {
                t.namespaces.as_ref().is_none_or(|ns| ns.contains(&p.namespace))
                    && t.selector.matches(&p.labels)
            })
    }
}

#[derive(Debug)]
struct Entry {
    per_slot: Arc<Vec<u32>>,
    used: u64,
}

/// The memo.
#[derive(Default, Debug)]
pub struct Counts {
    entries: HashMap<CountKey, Entry>,
    clock: u64,
}

/// Beyond this many selectors the least recently used are dropped.
const MAX_ENTRIES: usize = 256;

impl Counts {
    pub(super) fn get(&mut self, key: CountKey, nodes: &[Option<NodeInfo>]) -> Arc<Vec<u32>> {
        self.clock += 1;
        if let Some(e) = self.entries.get_mut(&key) {
            e.used = self.clock;
            if e.per_slot.len() < nodes.len() {
                Arc::make_mut(&mut e.per_slot).resize(nodes.len(), 0);
            }
            return e.per_slot.clone();
        }
        if self.entries.len() >= MAX_ENTRIES {
            let mut ages: Vec<u64> = self.entries.values().map(|e| e.used).collect();
            ages.sort_unstable();
            let limit = ages[ages.len() / 2];
            self.entries.retain(|_, e| e.used > limit);
        }
        let per_slot: Vec<u32> = nodes
            .iter()
            .map(|n| n.as_ref().map_or(0, |n| n.pods.iter().filter(|p| key.matches(p)).count() as u32))
            .collect();
        let per_slot = Arc::new(per_slot);
        self.entries.insert(key, Entry { per_slot: per_slot.clone(), used: self.clock });
        per_slot
    }

    pub(super) fn change(&mut self, pod: &PodInfo, slot: Slot, added: bool) {
        for (key, e) in &mut self.entries {
            if !key.matches(pod) {
                continue;
            }
            // Copied only while a decision still holds the vector.
            let v = Arc::make_mut(&mut e.per_slot);
            if v.len() <= slot {
                v.resize(slot + 1, 0);
            }
            if added {
                v[slot] += 1;
            } else {
                assert!(v[slot] > 0, "pod {} leaves a node it was never counted on", pod.key());
                v[slot] -= 1;
            }
        }
    }
}

//! Which nodes share a value of a label (a zone, a host name), as numbers.
//!
//! Spreading and pod affinity add up counts per topology value for every decision. With values numbered per key
//! and a table from slot to number that is a walk over two arrays instead of a look-up of strings per node.

use std::collections::HashMap;

use super::NodeInfo;
use crate::model::Str;

/// The number of nodes without the label.
pub const NOWHERE: u32 = u32::MAX;

/// The values of one label key.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    numbers: HashMap<Str, u32>,
    /// Per slot, the number of its node's value.
    of_slot: Vec<u32>,
}

impl Topology {
    pub(super) fn build(key: &str, nodes: &[Option<NodeInfo>]) -> Self {
        let mut out = Self { numbers: HashMap::new(), of_slot: vec![NOWHERE; nodes.len()] };
        for n in nodes.iter().flatten() {
            out.set(n.slot, n.label(key));
        }
        out
    }

    pub(super) fn set(&mut self, slot: usize, value: Option<&Str>) {
        if self.of_slot.len() <= slot {
            self.of_slot.resize(slot + 1, NOWHERE);
        }
        self.of_slot[slot] = match value {
            None => NOWHERE,
            Some(v) => match self.numbers.get(v) {
                Some(n) => *n,
                None => {
                    let n = self.numbers.len() as u32;
                    self.numbers.insert(v.clone(), n);
                    n
                }
            },
        };
    }

    /// Whether most numbers belong to values no node has any more.
    pub(super) fn is_stale(&self) -> bool {
        self.numbers.len() > 2 * self.of_slot.len() + 64
    }

    /// How many values there are, used or once used; numbers are below it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// True when no node has the label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The number of the value that the node in `slot` has, or [`NOWHERE`].
    #[must_use]
    pub fn at(&self, slot: usize) -> u32 {
        self.of_slot.get(slot).copied().unwrap_or(NOWHERE)
    }

    /// The same as an index; `None` for nodes without the label.
    #[must_use]
    pub fn index(&self, slot: usize) -> Option<usize> {
        let n = self.at(slot);
        (n != NOWHERE).then_some(n as usize)
    }
}

//! ImageLocality: nodes that already have the pod's images start it sooner.

use std::collections::HashMap;

use crate::cache::{NodeInfo, Slot};
use crate::framework::{Cycle, MAX_SCORE, Plugin, Scorer};

/// The plugin.
pub struct ImageLocality;

const MIB: i64 = 1024 * 1024;
/// Less image data than this on a node is not worth considering.
const LOW: i64 = 23 * MIB;
/// Per container, more than this does not make a node better.
const HIGH_PER_CONTAINER: i64 = 1000 * MIB;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn may_score(&self, cx: Cycle<'_>) -> bool {
        cx.pod.want().images.iter().any(|i| cx.cache.image_nodes(i).is_some())
    }

    fn score<'a>(&'a self, cx: Cycle<'a>, _feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        let total = cx.cache.order().len().max(1) as f64;
        // A size counts in proportion to how many nodes have the image, so that one node with a rare image does
        // not attract every pod.
        let mut sizes: HashMap<Slot, i64> = HashMap::new();
        for on in cx.pod.want().images.iter().filter_map(|i| cx.cache.image_nodes(i)) {
            let spread = on.len() as f64 / total;
            for (slot, size) in on {
                *sizes.entry(*slot).or_default() += (*size as f64 * spread) as i64;
            }
        }
        Some(Box::new(Local { sizes, high: HIGH_PER_CONTAINER * cx.pod.want().containers.max(1) as i64 }))
    }
}

struct Local {
    sizes: HashMap<Slot, i64>,
    high: i64,
}

impl Scorer for Local {
    fn normalizes(&self) -> bool {
        false
    }

    fn score(&self, n: &NodeInfo) -> i64 {
        let sum = self.sizes.get(&n.slot).copied().unwrap_or(0);
        MAX_SCORE * (sum.clamp(LOW, self.high) - LOW) / (self.high - LOW)
    }
}

//! ImageLocality: nodes that already have the pod's images start it sooner.

use crate::cache::NodeInfo;
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

    fn score<'a>(&'a self, cx: Cycle<'a>, _feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        let total = cx.cache.order().len().max(1);
        // A size counts in proportion to how many nodes have the image, so that one node with a rare image does
        // not attract every pod.
        let images: Vec<(&str, f64)> = cx
            .pod
            .want()
            .images
            .iter()
            .filter_map(|i| {
                let on = cx.cache.image_spread(i);
                (on > 0).then(|| (i.as_ref(), on as f64 / total as f64))
            })
            .collect();
        if images.is_empty() {
            return None;
        }
        Some(Box::new(Local { images, high: HIGH_PER_CONTAINER * cx.pod.want().containers.max(1) as i64 }))
    }
}

struct Local<'a> {
    images: Vec<(&'a str, f64)>,
    high: i64,
}

impl Scorer for Local<'_> {
    fn score(&self, n: &NodeInfo) -> i64 {
        let on_node = &n.facts().images;
        let sum: i64 = self
            .images
            .iter()
            .filter_map(|(image, spread)| {
                let (_, size) = on_node.iter().find(|(name, _)| name.as_ref() == *image)?;
                Some((*size as f64 * spread) as i64)
            })
            .sum();
        MAX_SCORE * (sum.clamp(LOW, self.high) - LOW) / (self.high - LOW)
    }
}

//! How fast nodes may be tainted for eviction: a zone where most nodes are silent is more likely cut off than broken,
//! and where everything is silent it is we who are cut off. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Limits from the flags.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nodes per second in a healthy zone.
    pub rate: f64,
    /// Nodes per second in a large unhealthy zone; small ones are left alone.
    pub secondary_rate: f64,
    /// Share of silent nodes from which on a zone is unhealthy.
    pub unhealthy: f64,
    /// Nodes above which a zone is large.
    pub large: usize,
}

#[derive(Default)]
struct Zone {
    ready: usize,
    not_ready: usize,
    next: Option<Instant>,
}

/// What a node that should be tainted may do.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Be tainted now.
    Now,
    /// Wait so long.
    After(Duration),
    /// Wait until the state of zones changes.
    Hold,
}

/// All zones, and each node's share in them.
pub struct Zones {
    limits: Limits,
    nodes: HashMap<String, (String, bool)>,
    zones: HashMap<String, Zone>,
}

impl Zones {
    pub fn new(limits: Limits) -> Self {
        Self { limits, nodes: HashMap::new(), zones: HashMap::new() }
    }

    /// A node is in a zone and ready, or not.
    pub fn update(&mut self, node: &str, zone: &str, ready: bool) {
        self.remove(node);
        let z = self.zones.entry(zone.to_owned()).or_default();
        *(if ready { &mut z.ready } else { &mut z.not_ready }) += 1;
        self.nodes.insert(node.to_owned(), (zone.to_owned(), ready));
    }

    /// A node is gone.
    pub fn remove(&mut self, node: &str) {
        if let Some((zone, ready)) = self.nodes.remove(node)
            && let Some(z) = self.zones.get_mut(&zone)
        {
            *(if ready { &mut z.ready } else { &mut z.not_ready }) -= 1;
            // An empty zone keeps its place in the queue only as long as it has nodes.
            if z.ready + z.not_ready == 0 {
                self.zones.remove(&zone);
            }
        }
    }

    /// Whether no node anywhere is ready: then nobody is evicted.
    pub fn all_silent(&self) -> bool {
        !self.zones.is_empty() && self.zones.values().all(|z| z.ready == 0 && z.not_ready > 0)
    }

    fn rate(&self, zone: &Zone) -> f64 {
        let total = zone.ready + zone.not_ready;
        let share = zone.not_ready as f64 / total.max(1) as f64;
        if zone.ready == 0 || zone.not_ready <= 2 || share < self.limits.unhealthy {
            self.limits.rate
        } else if total > self.limits.large {
            self.limits.secondary_rate
        } else {
            0.0
        }
    }

    /// Asks for a node's turn; [`Turn::Now`] uses it up.
    pub fn turn(&mut self, node: &str, now: Instant) -> Turn {
        if self.all_silent() {
            return Turn::Hold;
        }
        let Some((name, _)) = self.nodes.get(node) else { return Turn::Hold };
        let name = name.clone();
        let rate = self.zones.get(&name).map_or(0.0, |z| self.rate(z));
        if rate <= 0.0 {
            return Turn::Hold;
        }
        let Some(zone) = self.zones.get_mut(&name) else { return Turn::Hold };
        match zone.next {
            Some(next) if next > now => Turn::After(next - now),
            _ => {
                zone.next = Some(now + Duration::from_secs_f64((1.0 / rate).min(86_400.0)));
                Turn::Now
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones() -> Zones {
        Zones::new(Limits { rate: 0.1, secondary_rate: 0.01, unhealthy: 0.55, large: 50 })
    }

    #[test]
    fn one_node_every_ten_seconds() {
        let mut z = zones();
        for i in 0..10 {
            z.update(&format!("n{i}"), "a", i > 2);
        }
        let now = Instant::now();
        assert_eq!(z.turn("n0", now), Turn::Now);
        assert_eq!(z.turn("n1", now), Turn::After(Duration::from_secs(10)));
        assert_eq!(z.turn("n1", now + Duration::from_secs(10)), Turn::Now);
    }

    #[test]
    fn nobody_is_evicted_when_all_are_silent() {
        let mut z = zones();
        z.update("n0", "a", false);
        assert!(z.all_silent());
        assert_eq!(z.turn("n0", Instant::now()), Turn::Hold);
        z.update("n1", "b", true);
        assert_eq!(z.turn("n0", Instant::now()), Turn::Now);
        z.remove("n1");
        assert!(z.all_silent());
    }

    #[test]
    fn small_unhealthy_zones_are_left_alone_and_large_ones_slowed() {
        let mut z = zones();
        for i in 0..10 {
            z.update(&format!("n{i}"), "a", i >= 6);
        }
        assert_eq!(z.turn("n0", Instant::now()), Turn::Hold);
        let now = Instant::now();
        for i in 0..100 {
            z.update(&format!("m{i}"), "b", i >= 60);
        }
        assert_eq!(z.turn("m0", now), Turn::Now);
        assert_eq!(z.turn("m1", now), Turn::After(Duration::from_secs(100)));
    }
}

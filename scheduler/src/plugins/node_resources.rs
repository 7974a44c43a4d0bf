//! NodeResourcesFit and NodeResourcesBalancedAllocation: room on the node, and how evenly it is used.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::cache::NodeInfo;
use crate::config::args;
use crate::dra::extended;
use crate::framework::{Action, ClusterEvent, Cycle, Filter, MAX_SCORE, Plugin, Rejection, Resource, Scorer};
use crate::model::{PodInfo, Resources, Str};

const FIT: &str = "NodeResourcesFit";
const BALANCED: &str = "NodeResourcesBalancedAllocation";

/// A piecewise linear function of utilisation (0–100), for RequestedToCapacityRatio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(Vec<(i64, i64)>);

impl Shape {
    fn new(points: &[args::ShapePoint]) -> Result<Self, String> {
        let pts: Vec<(i64, i64)> =
            points.iter().map(|p| (i64::from(p.utilization), i64::from(p.score) * 10)).collect();
        let rising = pts.windows(2).all(|w| w[0].0 < w[1].0);
        let bounded = pts.iter().all(|p| (0..=100).contains(&p.0) && (0..=100).contains(&p.1));
        if pts.is_empty() || !rising || !bounded {
            return Err(format!(
                "{FIT}: requestedToCapacityRatio.shape needs points of rising utilization 0..100 and score 0..10"
            ));
        }
        Ok(Self(pts))
    }

    fn at(&self, x: i64) -> i64 {
        let pts = &self.0;
        match pts.iter().position(|p| x <= p.0) {
            Some(0) => pts[0].1,
            Some(i) => {
                let ((x0, y0), (x1, y1)) = (pts[i - 1], pts[i]);
                y0 + (y1 - y0) * (x - x0) / (x1 - x0)
            }
            None => pts[pts.len() - 1].1,
        }
    }
}

/// How NodeResourcesFit prefers nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    Least,
    Most,
    Ratio(Shape),
}

/// Resources with weights.
type Weighted = Vec<(Str, i64)>;

fn weighted(list: &[args::ResourceWeight]) -> Result<Weighted, String> {
    if list.is_empty() {
        return Ok(vec![("cpu".into(), 1), ("memory".into(), 1)]);
    }
    list.iter()
        .map(|r| match r.weight {
            0 => Ok((r.name.as_str().into(), 1)),
            w @ 1..=100 => Ok((r.name.as_str().into(), w)),
            w => Err(format!("resource weight of {} is {w}; it must be between 1 and 100", r.name)),
        })
        .collect()
}

/// Room on the node.
pub struct Fit {
    strategy: Strategy,
    resources: Weighted,
    ignored: HashSet<String>,
    ignored_groups: HashSet<String>,
}

impl Fit {
    pub fn new(a: &args::Fit) -> Result<Self, String> {
        let s = a.scoring_strategy.clone().unwrap_or_default();
        let strategy = match s.type_.as_deref() {
            None | Some("LeastAllocated") => Strategy::Least,
            Some("MostAllocated") => Strategy::Most,
            Some("RequestedToCapacityRatio") => {
                let shape = s.requested_to_capacity_ratio.as_ref().map(|r| r.shape.as_slice());
                Strategy::Ratio(Shape::new(shape.unwrap_or_default())?)
            }
            Some(o) => {
                return Err(format!(
                    "{FIT}: scoringStrategy.type {o:?} is not LeastAllocated, MostAllocated or RequestedToCapacityRatio"
                ));
            }
        };
        Ok(Self {
            strategy,
            resources: weighted(&s.resources)?,
            ignored: a.ignored_resources.iter().cloned().collect(),
            ignored_groups: a.ignored_resource_groups.iter().cloned().collect(),
        })
    }

    fn ignores(&self, name: &str) -> bool {
        self.ignored.contains(name)
            || name.split_once('/').is_some_and(|(group, _)| self.ignored_groups.contains(group))
    }

    /// Everything the node is short of; `None` when the pod fits. True when even an empty node is too small.
    ///
    /// A resource that a device class stands for is looked after by the DynamicResources plugin on nodes where no device
    /// plugin reports it.
    fn shortage(
        &self,
        ask: &Resources,
        backed: &[Str],
        n: &NodeInfo,
    ) -> Option<(Vec<Cow<'static, str>>, bool)> {
        let f = n.facts();
        let mut reasons: Vec<Cow<'static, str>> = Vec::new();
        let mut never = false;
        if n.pods.len() as i64 + 1 > f.max_pods {
            reasons.push("Too many pods".into());
            never |= f.max_pods < 1;
        }
        let mut want = |name: &'static str, ask: i64, has: i64, used: i64| {
            if ask > 0 && ask > has - used {
                reasons.push(Cow::Borrowed(name));
                never |= ask > has;
            }
        };
        want("Insufficient cpu", ask.cpu, f.allocatable.cpu, n.requested.cpu);
        want("Insufficient memory", ask.memory, f.allocatable.memory, n.requested.memory);
        want("Insufficient ephemeral-storage", ask.ephemeral, f.allocatable.ephemeral, n.requested.ephemeral);
        for (name, amount) in &ask.scalar {
            let has = f.allocatable.get(name);
            if has == 0 && backed.contains(name) {
                continue;
            }
            if *amount > 0 && *amount > has - n.requested.get(name) && !self.ignores(name) {
                reasons.push(format!("Insufficient {name}").into());
                never |= *amount > has;
            }
        }
        (!reasons.is_empty()).then_some((reasons, never))
    }
}

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        FIT
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let ask = &cx.pod.requests.asked;
        let backed = extended::backed_names(&cx.cache.dra, cx.pod);
        Ok(Filter::Check(Box::new(move |n| match self.shortage(ask, &backed, n) {
            None => Ok(()),
            Some((reasons, never)) => {
                Err(Rejection { plugin: FIT, reasons, resolvable: !never, failed: false })
            }
        })))
    }

    fn score<'a>(&'a self, cx: Cycle<'a>, _feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        let ask = self.resources.iter().map(|(name, _)| asked(cx.pod, name, true)).collect();
        Some(Box::new(FitScore { fit: self, ask }))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::AssignedPod, Action::DELETE.or(Action::SCALE_DOWN)),
                (Resource::UnscheduledPod, Action::SCALE_DOWN),
                (Resource::Node, Action::ADD.or(Action::ALLOCATABLE)),
                (Resource::DeviceClass, Action::ADD.or(Action::UPDATE)),
            ]
        }
    }

    fn hint(&self, pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        let ask = &pod.requests.asked;
        if e.resource == Resource::DeviceClass {
            return !pod.want().extended.is_empty();
        }
        match (e.node, e.pod) {
            // A node that is too small even when empty is no help.
            (Some(n), _) => {
                n.max_pods >= 1
                    && ask.cpu <= n.allocatable.cpu
                    && ask.memory <= n.allocatable.memory
                    && ask.ephemeral <= n.allocatable.ephemeral
                    && ask.scalar.iter().all(|(name, v)| {
                        let has = n.allocatable.get(name);
                        // What the node has none of, a device class may stand for.
                        *v <= has || self.ignores(name) || (has == 0 && extended::possible(name))
                    })
            }
            // A pod that held nothing this pod needs only frees its place in the pod count.
            _ => true,
        }
    }
}

/// What the pod asks of a resource; scoring assumes a little CPU and memory of pods that ask for none.
fn asked(pod: &PodInfo, name: &str, nonzero: bool) -> i64 {
    match name {
        "cpu" if nonzero => pod.requests.nonzero.0,
        "memory" if nonzero => pod.requests.nonzero.1,
        n => pod.requests.asked.get(n),
    }
}

fn used(n: &NodeInfo, name: &str, nonzero: bool) -> i64 {
    match name {
        "cpu" if nonzero => n.nonzero.0,
        "memory" if nonzero => n.nonzero.1,
        r => n.requested.get(r),
    }
}

struct FitScore<'a> {
    fit: &'a Fit,
    ask: Vec<i64>,
}

impl Scorer for FitScore<'_> {
    fn normalizes(&self) -> bool {
        false
    }

    fn score(&self, n: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for ((name, weight), ask) in self.fit.resources.iter().zip(&self.ask) {
            let has = n.facts().allocatable.get(name);
            // Nodes are not compared by extended resources that they lack or the pod does not want.
            if has == 0 || (*ask == 0 && !matches!(name.as_ref(), "cpu" | "memory")) {
                continue;
            }
            let total = used(n, name, true) + ask;
            let one = match &self.fit.strategy {
                Strategy::Least if total > has => 0,
                Strategy::Least => (has - total) * MAX_SCORE / has,
                Strategy::Most => total.min(has) * MAX_SCORE / has,
                Strategy::Ratio(shape) if total > has => shape.at(100),
                Strategy::Ratio(shape) => shape.at(total * 100 / has),
            };
            // An empty ratio says nothing about the node.
            if matches!(self.fit.strategy, Strategy::Ratio(_)) && one == 0 {
                continue;
            }
            sum += one * weight;
            weights += weight;
        }
        match (&self.fit.strategy, weights) {
            (_, 0) => 0,
            (Strategy::Ratio(_), w) => (sum as f64 / w as f64).round() as i64,
            (_, w) => sum / w,
        }
    }
}

/// Even use of CPU and memory.
pub struct Balanced {
    resources: Weighted,
}

impl Balanced {
    pub fn new(a: &args::Balanced) -> Result<Self, String> {
        if let Some(r) = a.resources.iter().find(|r| r.weight > 1) {
            return Err(format!("{BALANCED}: weight of resource {} is {}; it must be 1", r.name, r.weight));
        }
        Ok(Self { resources: weighted(&a.resources)? })
    }
}

impl Plugin for Balanced {
    fn name(&self) -> &'static str {
        BALANCED
    }

    fn is_local(&self) -> bool {
        true
    }

    fn score<'a>(&'a self, cx: Cycle<'a>, _feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        let ask: Vec<i64> = self.resources.iter().map(|(n, _)| asked(cx.pod, n, false)).collect();
        // Pods that ask for nothing don't change the balance; comparing would pile them onto one node.
        ask.iter().any(|a| *a > 0).then(|| Box::new(BalancedScore { balanced: self, ask }) as Box<dyn Scorer>)
    }
}

struct BalancedScore<'a> {
    balanced: &'a Balanced,
    ask: Vec<i64>,
}

impl BalancedScore<'_> {
    /// 100 minus the spread of the used fractions.
    fn evenness(&self, n: &NodeInfo, with_pod: bool) -> i64 {
        let mut fractions = [0f64; 8];
        let mut len = 0;
        for ((name, _), ask) in self.balanced.resources.iter().zip(&self.ask) {
            let has = n.facts().allocatable.get(name);
            let skip = has == 0 || (*ask == 0 && !matches!(name.as_ref(), "cpu" | "memory"));
            if skip || len == fractions.len() {
                continue;
            }
            let total = used(n, name, false) + if with_pod { *ask } else { 0 };
            fractions[len] = (total as f64 / has as f64).min(1.0);
            len += 1;
        }
        let f = &fractions[..len];
        let deviation = match f {
            [] | [_] => 0.0,
            [a, b] => ((a - b) / 2.0).abs(),
            _ => {
                let mean = f.iter().sum::<f64>() / len as f64;
                (f.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / len as f64).sqrt()
            }
        };
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }
}

impl Scorer for BalancedScore<'_> {
    fn normalizes(&self) -> bool {
        false
    }

    fn score(&self, n: &NodeInfo) -> i64 {
        // What counts is whether the pod makes the balance better: 75 for no change.
        let half = MAX_SCORE / 2;
        half + (half + self.evenness(n, true) - self.evenness(n, false)) / 2
    }
}

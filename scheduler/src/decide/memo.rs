//! What was found out about every node for pods of one shape, brought up to date by looking at changed nodes only.
//!
//! The replicas of a workload ask the same of a node. The first pod of a shape is decided by looking at a part of
//! the cluster; from the second on there is a table with a verdict and a score for every node, and a decision costs
//! a walk over an array. The table holds what is local ([`Plugin::is_local`]); the rest is asked every time.

use std::sync::Arc;

use super::compiled::Compiled;
use crate::cache::{Cache, Slot};
use crate::dra::extended;
use crate::framework::{Cycle, Plugin, Profile, Rejection, Scorer};
use crate::model::{HostPort, NodeSelector, NodeTerm, Requirement, Str, Toleration, requests::Requests};
use crate::preempt::Victims;

/// Shapes remembered: the workloads that are scaled up at a time.
const SHAPES: usize = 8;

/// The part of a pod that local plugins look at.
#[derive(Debug)]
struct Shape {
    profile: String,
    priority: i32,
    node: Option<Str>,
    requests: Requests,
    ports: Box<[HostPort]>,
    tolerations: Box<[Toleration]>,
    node_selector: Box<[Requirement]>,
    required_nodes: Option<NodeSelector>,
    preferred_nodes: Box<[(i32, NodeTerm)]>,
    features: Box<[Str]>,
    /// Resources that device classes stand for.
    backed: Vec<Str>,
}

impl Shape {
    fn new(profile: &Profile, cx: Cycle<'_>) -> Self {
        let p = cx.pod;
        let w = p.want();
        Self {
            profile: profile.name.clone(),
            priority: p.priority,
            node: p.node.clone(),
            requests: p.requests.clone(),
            ports: p.ports.clone(),
            tolerations: w.tolerations.clone(),
            node_selector: w.node_selector.clone(),
            required_nodes: w.required_nodes.clone(),
            preferred_nodes: w.preferred_nodes.clone(),
            features: w.features.clone(),
            backed: extended::backed_names(&cx.cache.dra, cx.pod),
        }
    }

    fn fits(&self, profile: &Profile, cx: Cycle<'_>) -> bool {
        let (p, w) = (cx.pod, cx.pod.want());
        self.requests == p.requests
            && self.priority == p.priority
            && self.node == p.node
            && self.ports == p.ports
            && self.tolerations == w.tolerations
            && self.node_selector == w.node_selector
            && self.required_nodes == w.required_nodes
            && self.preferred_nodes == w.preferred_nodes
            && self.features == w.features
            && self.profile == profile.name
            && self.backed == extended::backed_names(&cx.cache.dra, cx.pod)
    }
}

/// There is no node in the slot.
const NO_NODE: u16 = 0;
/// The pod fits.
const FITS: u16 = 1;
/// The first kind of objection.
const KINDS: u16 = 2;

/// A score that has to be brought into range over the feasible nodes.
#[derive(Debug)]
struct Raw {
    plugin: &'static str,
    weight: i64,
    scores: Vec<i64>,
}

/// The highest score, how many slots have it, and how many fit at all.
#[derive(Debug, PartialEq)]
pub struct Top {
    pub sum: i64,
    pub equals: usize,
    pub fitting: usize,
}

/// Verdicts and scores per slot.
#[derive(Debug, Default)]
pub struct Table {
    upto: u64,
    verdicts: Vec<u16>,
    kinds: Vec<Rejection>,
    /// Weighted sum of the scores that need no normalizing.
    sums: Vec<i64>,
    raw: Vec<Raw>,
    /// Plugins whose scores are in here.
    scorers: Vec<&'static str>,
    /// Per slot, who would have to go to make room.
    victims: Vec<Option<Arc<Victims>>>,
    budgets: u64,
}

/// Tables by shape, the latest used first.
#[derive(Debug, Default)]
pub struct Memos(Vec<(Shape, Option<Table>)>);

impl Memos {
    /// The table for pods like this one, brought up to date. `None` for the first of its shape.
    pub fn table(&mut self, profile: &Profile, cx: Cycle<'_>, compiled: &Compiled<'_>) -> Option<&mut Table> {
        match self.0.iter().position(|(s, _)| s.fits(profile, cx)) {
            Some(0) => {}
            Some(i) => self.0[..=i].rotate_right(1),
            None => {
                self.0.truncate(SHAPES - 1);
                self.0.insert(0, (Shape::new(profile, cx), None));
                return None;
            }
        }
        let table = self.0[0].1.get_or_insert_default();
        table.refresh(profile, cx, compiled);
        Some(table)
    }
}

impl Table {
    fn refresh(&mut self, profile: &Profile, cx: Cycle<'_>, compiled: &Compiled<'_>) {
        let cache = cx.cache;
        let scorers: Vec<(&dyn Plugin, i64, Box<dyn Scorer + '_>)> = profile
            .scores()
            .filter(|(p, _)| p.is_local() && p.may_score(cx))
            .filter_map(|(p, w)| Some((p, w, p.score(cx, &[])?)))
            .collect();
        if !scorers.iter().map(|(p, ..)| p.name()).eq(self.scorers.iter().copied()) {
            *self = Self {
                scorers: scorers.iter().map(|(p, ..)| p.name()).collect(),
                raw: scorers
                    .iter()
                    .filter(|(.., s)| s.normalizes())
                    .map(|(p, weight, _)| Raw { plugin: p.name(), weight: *weight, scores: Vec::new() })
                    .collect(),
                ..Self::default()
            };
        }
        let slots = cache.slots();
        let whole = self.verdicts.len() != slots || usize::from(u16::MAX - KINDS) <= self.kinds.len();
        self.verdicts.resize(slots, NO_NODE);
        self.sums.resize(slots, 0);
        self.victims.resize(slots, None);
        self.raw.iter_mut().for_each(|r| r.scores.resize(slots, 0));
        if self.budgets != cache.budget_changes {
            self.budgets = cache.budget_changes;
            self.victims.fill(None);
        }
        match cache.log().since(self.upto) {
            Some(changed) if !whole => {
                for slot in changed {
                    self.update(cache, slot, compiled, &scorers);
                }
            }
            _ => {
                self.kinds.clear();
                for slot in 0..slots {
                    self.update(cache, slot, compiled, &scorers);
                }
            }
        }
        self.upto = cache.log().end();
    }

    fn update(
        &mut self,
        cache: &Cache,
        slot: Slot,
        compiled: &Compiled<'_>,
        scorers: &[(&dyn Plugin, i64, Box<dyn Scorer + '_>)],
    ) {
        self.victims[slot] = None;
        let Some(n) = cache.node_at(slot) else {
            self.verdicts[slot] = NO_NODE;
            return;
        };
        if let Err(r) = compiled.check_local(n) {
            let kind = self.kinds.iter().position(|k| *k == r).unwrap_or_else(|| {
                self.kinds.push(r);
                self.kinds.len() - 1
            });
            self.verdicts[slot] = KINDS.saturating_add(u16::try_from(kind).unwrap_or(u16::MAX));
            return;
        }
        self.verdicts[slot] = FITS;
        self.sums[slot] = 0;
        let mut raw = self.raw.iter_mut();
        for (p, weight, s) in scorers {
            let score = s.score(n);
            if !s.normalizes() {
                super::choose::assert_range(p.name(), score);
                self.sums[slot] += score * weight;
            } else if let Some(r) = raw.next() {
                r.scores[slot] = score;
            }
        }
    }

    /// Slots where the pod fits as far as this table goes.
    pub fn fitting(&self) -> impl Iterator<Item = Slot> {
        self.verdicts.iter().enumerate().filter(|(_, v)| **v == FITS).map(|(s, _)| s)
    }

    /// The highest score; none if nothing fits, or sums are not the whole score.
    #[must_use]
    pub fn top(&self) -> Option<Top> {
        if !self.raw.is_empty() {
            return None;
        }
        let mut top: Option<Top> = None;
        for (verdict, sum) in self.verdicts.iter().zip(&self.sums) {
            if *verdict != FITS {
                continue;
            }
            let t = top.get_or_insert(Top { sum: *sum, equals: 0, fitting: 0 });
            t.fitting += 1;
            if *sum > t.sum {
                (t.sum, t.equals) = (*sum, 0);
            }
            t.equals += usize::from(*sum == t.sum);
        }
        top
    }

    /// Fitting slots with this score.
    pub fn with_sum(&self, sum: i64) -> impl Iterator<Item = Slot> {
        self.fitting().filter(move |s| self.sums[*s] == sum)
    }

    /// The kinds of objections; [`Self::objections`] refers to them.
    #[must_use]
    pub fn kinds(&self) -> &[Rejection] {
        &self.kinds
    }

    /// Slots that object, with the index of the kind of objection.
    pub fn objections(&self) -> impl Iterator<Item = (Slot, usize)> {
        let refusing = self.verdicts.iter().enumerate().filter(|(_, v)| **v >= KINDS);
        refusing.map(|(s, v)| (s, usize::from(v - KINDS)))
    }

    /// Weighted local scores of the feasible slots.
    #[must_use]
    pub fn scores(&self, profile: &Profile, cx: Cycle<'_>, feasible: &[Slot]) -> Vec<i64> {
        let mut totals: Vec<i64> = feasible.iter().map(|s| self.sums[*s]).collect();
        for r in &self.raw {
            let Some(scorer) = profile.plugin(r.plugin).and_then(|p| p.score(cx, &[])) else { continue };
            let mut scores: Vec<i64> = feasible.iter().map(|s| r.scores[*s]).collect();
            scorer.normalize(&mut scores);
            for (t, s) in totals.iter_mut().zip(scores) {
                super::choose::assert_range(r.plugin, s);
                *t += s * r.weight;
            }
        }
        totals
    }

    /// Whether a plugin's scores are in here.
    #[must_use]
    pub fn has_scores_of(&self, plugin: &str) -> bool {
        self.scorers.contains(&plugin)
    }

    /// Who would have to go from a node, if that was found out since the node last changed.
    pub fn victims(&mut self, slot: Slot) -> Option<&mut Option<Arc<Victims>>> {
        self.victims.get_mut(slot)
    }
}

//! Why a pod fits nowhere, and how that is told.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::cache::Slot;
use crate::framework::Rejection;

/// Why a pod fits nowhere. Nodes that object alike share one rejection.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub total: usize,
    /// Set when a plugin refused the pod before looking at nodes.
    pub everywhere: Option<Rejection>,
    /// Set when a plugin failed: the attempt is void.
    pub failure: Option<String>,
    kinds: Vec<Rejection>,
    nodes: Vec<(Slot, u16)>,
    /// Nodes that were not looked at because the pod restricts itself to others.
    pub excluded: Option<(Rejection, usize)>,
    /// Names of the plugins that refused.
    pub plugins: BTreeSet<&'static str>,
}

impl Diagnosis {
    /// A diagnosis without any objection yet.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self { total, ..Self::default() }
    }

    /// Notes that a plugin refused the pod before nodes were looked at.
    #[must_use]
    pub fn everywhere(mut self, r: Rejection) -> Self {
        self.kind(r.clone());
        self.everywhere = Some(r);
        self
    }

    /// Notes a node's objection.
    pub fn refuse(&mut self, slot: Slot, r: Rejection) {
        let kind = self.kind(r);
        self.nodes.push((slot, kind));
    }

    /// The number under which [`Self::refuse_as`] takes an objection.
    pub fn kind(&mut self, r: Rejection) -> u16 {
        self.plugins.insert(r.plugin);
        if r.failed {
            self.failure.get_or_insert_with(|| r.reasons.join(", "));
        }
        let i = self.kinds.iter().position(|k| *k == r).unwrap_or_else(|| {
            self.kinds.push(r);
            self.kinds.len() - 1
        });
        // Reasons are combinations of resources: there are never so many.
        u16::try_from(i).unwrap_or(u16::MAX)
    }

    /// Notes a node's objection by its number.
    pub fn refuse_as(&mut self, slot: Slot, kind: u16) {
        self.nodes.push((slot, kind));
    }

    /// Drops all objections of nodes.
    pub fn clear_nodes(&mut self) {
        self.nodes.clear();
    }

    /// The objections of the nodes that were looked at.
    pub fn rejections(&self) -> impl Iterator<Item = (Slot, &Rejection)> {
        self.nodes.iter().filter_map(|(slot, k)| Some((*slot, self.kinds.get(usize::from(*k))?)))
    }

    /// The objection of one node.
    #[must_use]
    pub fn of(&self, slot: Slot) -> Option<&Rejection> {
        self.rejections().find(|(s, _)| *s == slot).map(|(_, r)| r)
    }

    /// The message of events and conditions, in upstream's form.
    #[must_use]
    pub fn message(&self) -> String {
        if let Some(r) = &self.everywhere {
            return format!("0/{} nodes are available: {}.", self.total, r.reasons.join(", "));
        }
        let mut per_kind = vec![0usize; self.kinds.len()];
        for (_, k) in &self.nodes {
            if let Some(n) = per_kind.get_mut(usize::from(*k)) {
                *n += 1;
            }
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (r, n) in self.kinds.iter().zip(&per_kind).filter(|(_, n)| **n > 0) {
            for reason in &r.reasons {
                *counts.entry(reason).or_default() += n;
            }
        }
        if let Some((r, n)) = &self.excluded {
            for reason in &r.reasons {
                *counts.entry(reason).or_default() += n;
            }
        }
        histogram(self.total, counts.iter().map(|(r, n)| (Cow::Borrowed(*r), *n)))
    }
}

/// `0/N nodes are available: 1 reason, 2 other reason.`
#[must_use]
pub fn histogram<'a>(total: usize, counts: impl Iterator<Item = (Cow<'a, str>, usize)>) -> String {
    let mut parts: Vec<String> = counts.map(|(r, n)| format!("{n} {r}")).collect();
    parts.sort();
    let sep = if parts.is_empty() { "" } else { " " };
    let end = if parts.is_empty() { "" } else { "." };
    format!("0/{total} nodes are available:{sep}{}{end}", parts.join(", "))
}

//! Affinity terms of pods that already run, each distinct term once, with the nodes it applies to.
//!
//! The replicas of a workload share their terms, so an incoming pod is matched against a handful of terms instead
//! of every pod in the cluster.

use std::collections::HashMap;

use super::Slot;
use crate::model::{AffinityTerm, PodInfo};

/// What a term asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TermKind {
    RequiredAnti,
    Required,
    /// A preference with its weight; negative for anti-affinity.
    Preferred(i32),
}

/// A term and its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExistingTerm {
    pub kind: TermKind,
    pub term: AffinityTerm,
}

/// Distinct terms with the number of pods that carry them per slot.
#[derive(Default, Debug)]
pub struct TermTable {
    terms: HashMap<ExistingTerm, SlotCounts>,
}

/// Pods per slot, in order of slots: compact, and quick to walk.
#[derive(Default, Debug)]
pub struct SlotCounts(Vec<(u32, u32)>);

impl SlotCounts {
    /// Slots with how many pods they have.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, u32)> {
        self.0.iter().map(|(s, n)| (*s as Slot, *n))
    }

    fn change(&mut self, slot: Slot, added: bool) {
        let slot = slot as u32;
        match (self.0.binary_search_by_key(&slot, |x| x.0), added) {
            (Ok(i), true) => self.0[i].1 += 1,
            (Err(i), true) => self.0.insert(i, (slot, 1)),
            (Ok(i), false) if self.0[i].1 > 1 => self.0[i].1 -= 1,
            (Ok(i), false) => {
                self.0.remove(i);
            }
            (Err(_), false) => {}
        }
    }
}

impl TermTable {
    /// All terms with the slots of nodes whose pods carry them.
    pub fn iter(&self) -> impl Iterator<Item = (&ExistingTerm, &SlotCounts)> {
        self.terms.iter()
    }

    /// True when no running pod has any term.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub(super) fn change(&mut self, pod: &PodInfo, slot: Slot, added: bool) {
        let t = pod.terms();
        let all = t
            .required_anti
            .iter()
            .map(|x| (TermKind::RequiredAnti, x))
            .chain(t.required.iter().map(|x| (TermKind::Required, x)))
            .chain(t.preferred.iter().map(|(w, x)| (TermKind::Preferred(*w), x)))
            .chain(t.preferred_anti.iter().map(|(w, x)| (TermKind::Preferred(-*w), x)));
        for (kind, term) in all {
            let key = ExistingTerm { kind, term: term.clone() };
            if added {
                self.terms.entry(key).or_default().change(slot, true);
                continue;
            }
            let Some(slots) = self.terms.get_mut(&key) else { continue };
            slots.change(slot, false);
            if slots.0.is_empty() {
                self.terms.remove(&key);
            }
        }
    }
}

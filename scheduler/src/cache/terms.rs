//! Affinity terms of pods that already run, each distinct term once, with the nodes it applies to.
//!
//! The replicas of a workload share their terms, so an incoming pod is matched against a handful of terms instead
//! of every pod in the cluster.

use std::collections::{BTreeMap, HashMap};

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
    terms: HashMap<ExistingTerm, BTreeMap<Slot, u32>>,
}

impl TermTable {
    /// All terms with the slots of nodes whose pods carry them.
    pub fn iter(&self) -> impl Iterator<Item = (&ExistingTerm, &BTreeMap<Slot, u32>)> {
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
                *self.terms.entry(key).or_default().entry(slot).or_default() += 1;
                continue;
            }
            let Some(slots) = self.terms.get_mut(&key) else { continue };
            if let Some(n) = slots.get_mut(&slot) {
                *n -= 1;
                if *n == 0 {
                    slots.remove(&slot);
                }
            }
            if slots.is_empty() {
                self.terms.remove(&key);
            }
        }
    }
}

//! Changing the size of a deployment that is paused, or in the middle of a rollout: every replica set grows or shrinks
//! in proportion, so that the risk taken by a half-done rollout stays what it was.

use super::model::{
    self, DESIRED, MAX, max_surge, replicas, rs_actual, rs_available, rs_number, rs_replicas,
};
use super::plan::Rollout;
use crate::util::meta;

impl Rollout {
    /// Whether the deployment was resized since its replica sets were last told.
    pub(super) fn was_resized(&self) -> bool {
        let wanted = replicas(&self.d);
        self.sets
            .iter()
            .filter(|s| rs_replicas(s) > 0)
            .any(|s| rs_number(s, DESIRED).is_some_and(|n| n != wanted))
    }

    /// Spreads the wanted size over the replica sets.
    pub(super) fn scale_in_proportion(&mut self) {
        let wanted = replicas(&self.d);
        let active: Vec<usize> =
            self.by_age().into_iter().filter(|&i| rs_replicas(&self.sets[i]) > 0).collect();
        let only = match active.as_slice() {
            [] => self.new.or_else(|| self.by_age().pop()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(i) = only {
            self.scale_set(i, wanted);
            return;
        }
        if active.is_empty() {
            return;
        }
        if self.is_saturated() {
            let new = self.new;
            for i in active.into_iter().filter(|i| Some(*i) != new) {
                self.scale_set(i, 0);
            }
            return;
        }
        if model::is_recreate(&self.d) {
            // Nothing to spread: the old ones are on their way to zero. Only the new size is noted.
            for i in active {
                self.scale_set(i, rs_replicas(&self.sets[i]));
            }
            return;
        }
        self.spread(active);
    }

    /// The new replica set carries the whole deployment already.
    fn is_saturated(&self) -> bool {
        let wanted = replicas(&self.d);
        self.new.map(|i| &self.sets[i]).is_some_and(|rs| {
            rs_replicas(rs) == wanted && rs_number(rs, DESIRED) == Some(wanted) && rs_available(rs) == wanted
        })
    }

    fn spread(&mut self, mut active: Vec<usize>) {
        let wanted = replicas(&self.d);
        let allowed = if wanted > 0 { wanted + max_surge(&self.d) } else { 0 };
        let to_add = allowed - active.iter().map(|&i| rs_replicas(&self.sets[i])).sum::<i32>();
        // Big ones first; of equal ones the newer grows and the older shrinks first.
        active.sort_by_key(|&i| {
            let (time, name) = model::age_key(&self.sets[i]);
            let age = time.as_second();
            (-rs_replicas(&self.sets[i]), if to_add > 0 { -age } else { age }, name)
        });
        let mut added = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for &i in &active {
            let size = rs_replicas(&self.sets[i]);
            let change = self.share(i, to_add, added);
            added += change;
            sizes.push(size + change);
        }
        if let Some(first) = sizes.first_mut()
            && to_add != 0
        {
            *first = (*first + to_add - added).max(0);
        }
        for (i, size) in active.into_iter().zip(sizes) {
            self.scale_set(i, size);
        }
    }

    /// What of `to_add` is for this replica set, when `added` was given out before.
    fn share(&self, i: usize, to_add: i32, added: i32) -> i32 {
        let size = rs_replicas(&self.sets[i]);
        if size == 0 || to_add == 0 || to_add == added {
            return 0;
        }
        let fair = self.fair_change(i, size);
        let left = to_add - added;
        if to_add > 0 { fair.min(left) } else { fair.max(left) }
    }

    fn fair_change(&self, i: usize, size: i32) -> i32 {
        let wanted = replicas(&self.d);
        if wanted == 0 {
            return -size;
        }
        let before = rs_number(&self.sets[i], MAX)
            .filter(|m| *m != 0)
            .unwrap_or_else(|| self.d.status.as_ref().and_then(|s| s.replicas).unwrap_or(0));
        if before == 0 {
            return 0;
        }
        let scaled = f64::from(size) * f64::from(wanted + max_surge(&self.d)) / f64::from(before);
        scaled.round() as i32 - size
    }

    /// Deletes replica sets beyond the history limit: the oldest revisions that are empty and settled.
    pub(super) fn clean_history(&mut self) {
        let Some(limit) =
            self.d.spec.as_ref().and_then(|s| s.revision_history_limit).filter(|l| *l != i32::MAX)
        else {
            return;
        };
        let mut old: Vec<usize> = (0..self.sets.len())
            .filter(|i| Some(*i) != self.new && self.sets[*i].metadata.deletion_timestamp.is_none())
            .collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|&i| (model::revision(&self.sets[i]), model::age_key(&self.sets[i])));
        for i in old.into_iter().take(surplus) {
            let rs = &self.sets[i];
            let observed = rs.status.as_ref().and_then(|s| s.observed_generation);
            if rs_actual(rs) == 0 && rs_replicas(rs) == 0 && rs.metadata.generation <= observed {
                self.delete_set(meta::name(&rs.metadata).to_owned());
            }
        }
    }
}

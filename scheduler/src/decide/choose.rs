//! Scoring: the best of the nodes that would do.

use rand::Rng;

use super::memo::Table;
use crate::cache::{NodeInfo, Slot};
use crate::framework::{Cycle, MAX_SCORE, Plugin, Profile};

/// Stops at a plugin whose score is out of range: the sum would be meaningless.
pub fn assert_range(plugin: &str, score: i64) {
    assert!(
        (0..=MAX_SCORE).contains(&score),
        "plugin {plugin} gave a score of {score}, which is not in 0..=100"
    );
}

/// Weighted scores of slots. `table` has those of local plugins already.
pub fn totals(profile: &Profile, cx: Cycle<'_>, slots: &[Slot], table: Option<&Table>) -> Vec<i64> {
    let mut totals = match table {
        Some(t) => t.scores(profile, cx, slots),
        None => vec![0; slots.len()],
    };
    let known = |p: &dyn Plugin| p.is_local() && table.is_some_and(|t| t.has_scores_of(p.name()));
    let asked: Vec<(&dyn Plugin, i64)> =
        profile.scores().filter(|(p, _)| p.may_score(cx) && !known(*p)).collect();
    if !asked.is_empty() {
        let feasible: Vec<&NodeInfo> = slots.iter().filter_map(|s| cx.cache.node_at(*s)).collect();
        for (plugin, weight) in asked {
            let Some(scorer) = plugin.score(cx, &feasible) else { continue };
            let mut raw: Vec<i64> = feasible.iter().map(|n| scorer.score(n)).collect();
            scorer.normalize(&mut raw);
            for (t, s) in totals.iter_mut().zip(&raw) {
                assert_range(plugin.name(), *s);
                *t += s * weight;
            }
        }
    }
    totals
}

/// The slot with the highest weighted score; dice among equals.
pub fn best<R: Rng>(
    profile: &Profile,
    cx: Cycle<'_>,
    slots: &[Slot],
    table: Option<&Table>,
    rng: &mut R,
) -> Option<Slot> {
    let totals = totals(profile, cx, slots, table);
    let top = totals.iter().max()?;
    let equals = totals.iter().filter(|t| *t == top).count();
    let pick = if equals > 1 { rng.random_range(0..equals) } else { 0 };
    totals.iter().zip(slots).filter(|(t, _)| *t == top).nth(pick).map(|(_, s)| *s)
}

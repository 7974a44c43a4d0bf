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

/// The plugins with a say in this, but for those whose scores are in the table.
fn asked<'a>(
    profile: &'a Profile,
    cx: Cycle<'a>,
    table: Option<&'a Table>,
) -> impl Iterator<Item = (&'a dyn Plugin, i64)> {
    let known = move |p: &dyn Plugin| p.is_local() && table.is_some_and(|t| t.has_scores_of(p.name()));
    profile.scores().filter(move |(p, _)| p.may_score(cx) && !known(*p))
}

/// Weighted scores of slots. `table` has those of local plugins already.
pub fn totals(profile: &Profile, cx: Cycle<'_>, slots: &[Slot], table: Option<&Table>) -> Vec<i64> {
    let mut totals = match table {
        Some(t) => t.scores(profile, cx, slots),
        None => vec![0; slots.len()],
    };
    let asked: Vec<(&dyn Plugin, i64)> = asked(profile, cx, table).collect();
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
    totals.iter().zip(slots).filter(|(t, _)| *t == top).nth(dice(equals, rng)).map(|(_, s)| *s)
}

/// [`best`] of all slots that fit by the table, and how many these are. None: none fits, or the table is not all that
/// counts.
pub fn best_known<R: Rng>(
    profile: &Profile,
    cx: Cycle<'_>,
    table: &Table,
    rng: &mut R,
) -> Option<(Slot, usize)> {
    if asked(profile, cx, Some(table)).next().is_some() {
        return None;
    }
    let top = table.top()?;
    Some((table.with_sum(top.sum).nth(dice(top.equals, rng))?, top.fitting))
}

fn dice<R: Rng>(equals: usize, rng: &mut R) -> usize {
    if equals > 1 { rng.random_range(0..equals) } else { 0 }
}

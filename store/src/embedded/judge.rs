//! Members compare their states at entries that the leader names. Where one differs, all that notice ask the others, and
//! the one that stands against a majority of the voters stops, the leader too. Where there is no majority, whoever
//! differs from the leader stops: rather no answer than one of two.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::node::Message;
use super::peer::Served;
use crate::StoreError;

/// How long members that do not answer are asked again.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(300);

/// The digest of this member's state, and the leader's, after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    pub index: u64,
    pub ours: u64,
    pub leaders: u64,
}

/// What the digests of the voters mean for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It agrees with a majority.
    Agrees,
    /// A majority agrees on something else.
    Differs,
    /// Too few have answered yet.
    Open,
    /// There is no majority for anything.
    Split,
}

/// `digests`: of each voter; none of those that have not said.
pub fn verdict(ours: u64, digests: &[Option<u64>]) -> Verdict {
    let need = digests.len() / 2 + 1;
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for digest in digests.iter().flatten() {
        *counts.entry(*digest).or_default() += 1;
    }
    let unknown = digests.iter().filter(|d| d.is_none()).count();
    match counts.iter().max_by_key(|(_, n)| **n) {
        Some((digest, n)) if *n >= need && *digest == ours => Verdict::Agrees,
        Some((_, n)) if *n >= need => Verdict::Differs,
        Some((_, n)) if n + unknown >= need => Verdict::Open,
        _ => Verdict::Split,
    }
}

fn fenced(index: u64, against: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "the state of this member differs from {against} at entry {index} of the log: it does not serve any more; remove \
         it from the store (ctl store remove) and add another, or restore the store from a backup if the others are wrong"
    ))
}

/// Sees to it that this member stops when it is the odd one out. Ends with the engine.
pub async fn watch(me: u64, served: Served) {
    let mut checked = served.proposer.progress.checked.subscribe();
    while checked.changed().await.is_ok() {
        let check = *checked.borrow_and_update();
        let leads = served.proposer.leader.borrow().is_me;
        if check.ours == check.leaders && !leads {
            continue;
        }
        if check.ours != check.leaders {
            tracing::warn!(
                index = check.index,
                "this member's state differs from the leader's; asking the others"
            );
        }
        if let Err(e) = judge(me, &served, check, leads).await {
            tracing::error!(error = %e, "this member is fenced");
            // If the node has gone, it serves no more anyway.
            let _ = served.node.send(Message::Fence(e));
            return;
        }
    }
}

/// An error where this member must stop.
async fn judge(me: u64, served: &Served, check: Checked, leads: bool) -> Result<(), StoreError> {
    let deadline = Instant::now() + PATIENCE;
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    loop {
        let Some(peers) = served.proposer.peers.clone() else { return Ok(()) };
        let voters = peers.voters();
        known.insert(me, check.ours);
        let mut asked = JoinSet::new();
        for voter in voters.iter().copied().filter(|v| !known.contains_key(v)) {
            let peers = Arc::new(peers.clone());
            asked.spawn(async move { (voter, peers.digest(voter, check.index).await) });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok((voter, Some(digest))) = answer {
                known.insert(voter, digest);
            }
        }
        let digests: Vec<Option<u64>> = voters.iter().map(|v| known.get(v).copied()).collect();
        match verdict(check.ours, &digests) {
            Verdict::Agrees => return Ok(()),
            Verdict::Differs => return Err(fenced(check.index, "that of a majority of the members")),
            Verdict::Open if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Verdict::Open | Verdict::Split if check.ours != check.leaders => {
                return Err(fenced(check.index, "the leader's, and no majority agrees on either"));
            }
            Verdict::Open => return Ok(()),
            Verdict::Split => {
                tracing::error!(index = check.index, leads, "no majority of the members has the same state");
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odd_one_out_of_a_majority_differs() {
        use Verdict::{Agrees, Differs, Open, Split};
        let cases: &[(u64, &[Option<u64>], Verdict)] = &[
            (1, &[Some(1), Some(1), Some(1)], Agrees),
            (1, &[Some(1), Some(2), Some(2)], Differs),
            (2, &[Some(1), Some(2), Some(2)], Agrees),
            (1, &[Some(1), Some(2), None], Open),
            (1, &[Some(1), Some(1), None], Agrees),
            (1, &[Some(1), Some(2), Some(3)], Split),
            (1, &[Some(1), Some(2)], Split),
            (1, &[Some(1), None], Open),
            // A learner, which has no vote.
            (9, &[Some(1), Some(1), None], Differs),
            (1, &[Some(1), Some(2), Some(2), None, None], Open),
            (1, &[Some(1), Some(1), Some(2), Some(2), Some(3)], Split),
            (1, &[], Split),
        ];
        for (ours, digests, expected) in cases {
            assert_eq!(verdict(*ours, digests), *expected, "{ours} of {digests:?}");
        }
    }
}

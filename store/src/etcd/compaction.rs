//! Compaction of history, in agreement with every other API server on the same etcd, upstream's included: the key
//! `compact_rev_key` holds the last revision compacted, and its version counts the rounds. Who finds the version it
//! saw last does the round; the others take over its numbers and see each other again an interval later.

use std::sync::Weak;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse};

use super::Inner;
use super::connect::{Failure, Kind, Repeat};
use super::convert::to_i64;
use crate::{Revision, StoreError};

const KEY: &str = "compact_rev_key";

/// What a round leaves for the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Round {
    version: i64,
    /// The newest revision then; compacted by the next round.
    revision: Revision,
}

fn number(value: &[u8]) -> Revision {
    std::str::from_utf8(value).ok().and_then(|s| s.parse().ok()).unwrap_or(0)
}

/// Reads what was compacted before this server came.
pub async fn learn(inner: &Inner) -> Result<(), StoreError> {
    let answer = inner
        .endpoints
        .call(
            Repeat::Safe,
            |client| async move { client.kv_client().get(KEY, Some(GetOptions::new())).await },
        )
        .await
        .map_err(Failure::unavailable)?;
    if let Some(kv) = answer.kvs().first() {
        inner.compacted(number(kv.value()));
    }
    Ok(())
}

/// Compacts until the engine is gone.
pub async fn run(inner: Weak<Inner>, interval: Duration) {
    let mut round = Round::default();
    loop {
        tokio::time::sleep(interval).await;
        let Some(inner) = inner.upgrade() else { return };
        match once(&inner, round).await {
            Ok(next) => round = next,
            Err(e) => tracing::warn!(error = %e, "compacting etcd failed; the next round tries again"),
        }
    }
}

/// One round.
async fn once(inner: &Inner, last: Round) -> Result<Round, StoreError> {
    let txn = Txn::new()
        .when([Compare::version(KEY, CompareOp::Equal, last.version)])
        .and_then([TxnOp::put(KEY, last.revision.to_string(), None)])
        .or_else([TxnOp::get(KEY, None)]);
    let call = |client: Client| {
        let txn = txn.clone();
        async move { client.kv_client().txn(txn).await }
    };
    let answer = inner.endpoints.call(Repeat::Unsent, call).await.map_err(Failure::unavailable)?;
    let revision = inner.saw(answer.header());
    if !answer.succeeded() {
        let found = answer.op_responses().into_iter().find_map(|r| match r {
            TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next(),
            _ => None,
        });
        let Some(kv) = found else { return Ok(Round { version: 0, revision }) };
        inner.compacted(number(kv.value()));
        return Ok(Round { version: kv.version(), revision });
    }
    let next = Round { version: last.version + 1, revision };
    // The first round of a new cluster only leaves its mark.
    if last.revision > 0 {
        let done = inner
            .endpoints
            .call(Repeat::Safe, |client| async move {
                client.kv_client().compact(to_i64(last.revision), None).await
            })
            .await;
        match done {
            Ok(_) => inner.compacted(last.revision),
            // Somebody did more.
            Err(f) if f.kind() == Kind::Compacted => {}
            Err(f) => return Err(f.unavailable()),
        }
    }
    Ok(next)
}

#[cfg(test)]
pub async fn two_rounds(inner: &Inner) -> Result<(), StoreError> {
    let first = once(inner, Round::default()).await?;
    let second = once(inner, first).await?;
    once(inner, second).await.map(|_| ())
}

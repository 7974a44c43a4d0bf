//! How new what a request looks up must be.
//!
//! A decision must rest on all writes that were acknowledged before the request came. The store is asked for its revision
//! once, with the first look-up, and not for each of the dozen that a write comes with (account, namespace, limits,
//! quotas, classes): a member of a group asks the leader for it. A write of the request itself begins anew.

use std::cell::Cell;
use std::sync::Arc;

use crate::cache::Freshness;
use crate::store::{Revision, Store, StoreError};

/// A revision, and which store (by address: servers may keep some resources elsewhere) it is of.
type Known = Option<(usize, Revision)>;

tokio::task_local! {
    static KNOWN: Cell<Known>;
}

/// Runs what serves one request.
pub async fn scope<F: Future>(f: F) -> F::Output {
    KNOWN.scope(Cell::new(None), f).await
}

/// How new a look-up in what is cached of `store` must be. Outside of requests: as new as can be.
///
/// # Errors
/// The store does not answer.
pub async fn freshness(store: &Arc<dyn Store>) -> Result<Freshness, StoreError> {
    let at = Arc::as_ptr(store).cast::<()>() as usize;
    match KNOWN.try_with(Cell::get) {
        Ok(Some((of, revision))) if of == at => Ok(Freshness::AtLeast(revision)),
        Ok(None) => {
            let revision = store.current_revision().await?;
            let _ = KNOWN.try_with(|k| k.set(Some((at, revision))));
            Ok(Freshness::AtLeast(revision))
        }
        _ => Ok(Freshness::Newest),
    }
}

/// The request has written, or has seen that somebody else did: what it looks up now must be newer.
pub fn forget() {
    // Outside of requests there is nothing to forget.
    let _ = KNOWN.try_with(|k| k.set(None));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::MemoryStore;
    use crate::store::{Op, Txn};

    async fn least(store: &Arc<dyn Store>) -> Option<Revision> {
        match freshness(store).await.expect("the store answers") {
            Freshness::AtLeast(r) => Some(r),
            _ => None,
        }
    }

    async fn write(store: &Arc<dyn Store>) -> Revision {
        let op = Op::Put { value: "v".into(), ttl_seconds: 0 };
        let key = format!("/k{}", store.current_revision().await.expect("the store answers"));
        store.txn(Txn { key, expected: 0, op }).await.expect("written");
        store.current_revision().await.expect("the store answers")
    }

    #[tokio::test]
    async fn a_request_asks_once_and_anew_after_a_write() {
        let (store, other): (Arc<dyn Store>, Arc<dyn Store>) = (MemoryStore::new(), MemoryStore::new());
        let first = write(&store).await;
        scope(async {
            assert_eq!(least(&store).await, Some(first));
            let second = write(&store).await;
            assert_eq!(least(&store).await, Some(first), "what came later need not be seen");
            assert_eq!(least(&other).await, None, "another store counts its own revisions");
            forget();
            assert_eq!(least(&store).await, Some(second));
        })
        .await;
        assert_eq!(least(&store).await, None, "outside of requests");
        forget();
    }
}

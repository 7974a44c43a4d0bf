//! Everything from and to an etcd at once, for moving between stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::{GetOptions, PutOptions};
use tokio::task::JoinSet;

use super::connect::{Failure, Repeat};
use super::convert::to_i64;
use super::{Etcd, Inner, PAGE};
use crate::{KeyValue, Revision, StoreError};

/// Puts under way.
const PUTS: usize = 128;
/// The key whose writes take revisions up to where they must be; removed at the end.
const COUNTER: &str = "coxswain_migration";

impl Etcd {
    /// The revision now, at which [`Etcd::page_of_all`] is asked.
    pub(crate) async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.current_revision().await
    }

    /// The next keys after `after` (in etcd's form, empty for the first) at a revision, each with the seconds it has
    /// left, zero for ever. And where to go on; none at the end.
    pub(crate) async fn page_of_all(
        &self,
        after: &[u8],
        revision: Revision,
        leases: &mut BTreeMap<i64, u64>,
    ) -> Result<(Vec<(KeyValue, u64)>, Option<Vec<u8>>), StoreError> {
        let inner = &self.inner;
        let mut start = inner.keys.to_etcd("/registry/");
        if !after.is_empty() {
            start = after.to_vec();
            start.push(0);
        }
        let end = inner.keys.end_to_etcd("/registry0");
        let (items, ..) = inner.page(&start, &end, revision, PAGE / 10).await?;
        let mut page = Vec::with_capacity(items.len());
        for kv in &items {
            let left = match kv.lease() {
                0 => 0,
                lease => match leases.get(&lease) {
                    Some(left) => *left,
                    None => *leases.entry(lease).or_insert(inner.left(lease).await?),
                },
            };
            page.push((inner.keys.key_value(kv)?, left));
        }
        Ok((page, items.last().map(|kv| kv.key().to_vec())))
    }

    /// Fails where there are keys already.
    pub(crate) async fn check_empty(&self) -> Result<(), StoreError> {
        let (items, ..) = self.page_of_all(&[], 0, &mut BTreeMap::new()).await?;
        match items.first() {
            None => Ok(()),
            Some((kv, _)) => Err(StoreError::Refused(format!(
                "etcd holds {} already: give another --etcd-prefix, or one that is empty",
                kv.key
            ))),
        }
    }

    /// Writes until the revision is at least this. `told` hears how far it is.
    pub(crate) async fn advance(
        &self,
        to: Revision,
        told: &mut dyn FnMut(Revision),
    ) -> Result<(), StoreError> {
        let mut at = self.revision().await?;
        while at < to {
            let batch = (to - at).min(10_000);
            let puts = (0..batch).map(|_| (COUNTER.as_bytes().to_vec(), Vec::new(), None));
            self.put_all(puts).await?;
            at = self.revision().await?;
            told(at);
        }
        let remove =
            |client: etcd_client::Client| async move { client.kv_client().delete(COUNTER, None).await };
        self.inner.endpoints.call(Repeat::Safe, remove).await.map_err(Failure::unavailable)?;
        Ok(())
    }

    /// Puts keys; `leases` remembers the one for each expiry (Unix seconds).
    pub(crate) async fn put_page(
        &self,
        page: Vec<(KeyValue, u64)>,
        now: u64,
        leases: &mut BTreeMap<u64, i64>,
    ) -> Result<(), StoreError> {
        let mut puts = Vec::with_capacity(page.len());
        for (kv, expiry) in page {
            let lease = match expiry {
                0 => None,
                expiry => Some(match leases.get(&expiry) {
                    Some(id) => *id,
                    None => {
                        let left = expiry.saturating_sub(now).max(1);
                        *leases.entry(expiry).or_insert(self.inner.grant(left).await?)
                    }
                }),
            };
            puts.push((self.inner.keys.to_etcd(&kv.key), kv.value.to_vec(), lease));
        }
        self.put_all(puts.into_iter()).await
    }

    async fn put_all(
        &self,
        puts: impl Iterator<Item = (Vec<u8>, Vec<u8>, Option<i64>)>,
    ) -> Result<(), StoreError> {
        let mut running: JoinSet<Result<(), StoreError>> = JoinSet::new();
        let failed = |e: tokio::task::JoinError| StoreError::Unavailable(format!("writing to etcd: {e}"));
        for (key, value, lease) in puts {
            if running.len() >= PUTS
                && let Some(done) = running.join_next().await
            {
                done.map_err(failed)??;
            }
            let inner = Arc::clone(&self.inner);
            running.spawn(async move { inner.put(&key, &value, lease).await });
        }
        while let Some(done) = running.join_next().await {
            done.map_err(failed)??;
        }
        Ok(())
    }

    /// Forgets all history before now, so that who watched the store before is told to list anew.
    pub(crate) async fn forget_history(&self) -> Result<Revision, StoreError> {
        let revision = self.revision().await?;
        let compact = |client: etcd_client::Client| async move {
            client.kv_client().compact(to_i64(revision), None).await
        };
        self.inner.endpoints.call(Repeat::Once, compact).await.map_err(Failure::unavailable)?;
        Ok(revision)
    }

    /// How many keys there are.
    pub(crate) async fn count(&self) -> Result<u64, StoreError> {
        let (start, end) = (self.inner.keys.to_etcd("/registry/"), self.inner.keys.end_to_etcd("/registry0"));
        let (start, end) = (&start[..], &end[..]);
        let count = |client: etcd_client::Client| async move {
            let options = GetOptions::new().with_range(end).with_count_only();
            client.kv_client().get(start, Some(options)).await
        };
        let answer = self.inner.endpoints.call(Repeat::Safe, count).await.map_err(Failure::unavailable)?;
        Ok(u64::try_from(answer.count()).unwrap_or(0))
    }
}

impl Inner {
    /// Seconds that a lease has left, at least one.
    async fn left(&self, lease: i64) -> Result<u64, StoreError> {
        let ask = |client: etcd_client::Client| async move {
            client.lease_client().time_to_live(lease, None).await
        };
        let answer = self.endpoints.call(Repeat::Safe, ask).await.map_err(Failure::unavailable)?;
        Ok(u64::try_from(answer.ttl()).unwrap_or(0).max(1))
    }

    async fn grant(&self, seconds: u64) -> Result<i64, StoreError> {
        let grant = |client: etcd_client::Client| async move {
            client.lease_client().grant(to_i64(seconds), None).await
        };
        let granted = self.endpoints.call(Repeat::Safe, grant).await.map_err(Failure::unavailable)?;
        Ok(granted.id())
    }

    async fn put(&self, key: &[u8], value: &[u8], lease: Option<i64>) -> Result<(), StoreError> {
        let put = |client: etcd_client::Client| async move {
            let options = lease.map(|id| PutOptions::new().with_lease(id));
            client.kv_client().put(key, value, options).await
        };
        // The same bytes again are the same.
        self.endpoints.call(Repeat::Safe, put).await.map_err(Failure::unavailable)?;
        Ok(())
    }
}

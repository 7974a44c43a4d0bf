//! The engine for those who run etcd: the v3 API of an etcd cluster, with upstream's keys and bytes, so that
//! upstream's API server and this one can serve the same data side by side.
//!
//! | file | what |
//! | --- | --- |
//! | `connect.rs` | endpoints, TLS, which of them is used, what a failed call means |
//! | `convert.rs` | keys, values, events and errors, there and back |
//! | `lease.rs` | which lease a key with a time to live gets |
//! | `watch.rs` | watches that survive their connection |
//! | `transfer.rs` | everything from and to an etcd at once, for moving |
//! | `compaction.rs` | compaction of history, shared with all API servers of the cluster |
//!
//! A transaction is sent once. Where its connection breaks under it, whether it happened is not known, and that is
//! what the caller is told; only what surely never reached a server is sent again.

mod compaction;
mod connect;
mod convert;
mod lease;
mod transfer;
mod watch;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, GetOptions, PutOptions, TxnOp, TxnOpResponse, TxnResponse,
};
use parking_lot::Mutex;

use self::connect::{Endpoints, Failure, Repeat};
use self::convert::{Keys, to_i64};
use self::lease::Leases;
use crate::{KeyValue, Op, Range, RangeRequest, Revision, Store, StoreError, Txn, TxnResult, WatchStream};

/// Keys read at once; a larger range comes in pages, all at one revision.
const PAGE: i64 = 10_000;

/// Settings; [`Config::new`] has upstream's defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// URLs of the servers.
    pub servers: Vec<String>,
    /// PEM files; read for each new connection, so that they can be replaced.
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// What stands in etcd in place of `/registry`.
    pub prefix: String,
    /// Time between compactions, and so the history that is kept; zero leaves compaction to others.
    pub compaction_interval: Duration,
    /// For how long a lease is given to further keys.
    pub lease_reuse: Duration,
    /// The largest value that is accepted.
    pub max_value_bytes: usize,
}

impl Config {
    /// The defaults for these servers.
    pub fn new(servers: Vec<String>) -> Config {
        Config {
            servers,
            ca_file: None,
            cert_file: None,
            key_file: None,
            prefix: "/registry".to_owned(),
            compaction_interval: Duration::from_secs(300),
            lease_reuse: Duration::from_secs(60),
            max_value_bytes: 3 << 19,
        }
    }
}

/// What the engine and its tasks share.
struct Inner {
    endpoints: Endpoints,
    keys: Keys,
    leases: tokio::sync::Mutex<Leases>,
    /// The highest revision that an answer has shown.
    seen: AtomicU64,
    /// The fence of compaction, as far as known.
    oldest: AtomicU64,
    /// Watches should tell when they have come to this revision.
    wanted: tokio::sync::watch::Sender<Revision>,
    max_value_bytes: usize,
    /// Bytes of the database, as last asked.
    size: AtomicU64,
}

/// The engine. Dropping it ends its tasks and watches.
pub struct Etcd {
    inner: Arc<Inner>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Dropped with the engine, which ends the watches.
    closed: tokio::sync::watch::Sender<bool>,
}

impl Etcd {
    /// Connects to the first server that answers. Needs a tokio runtime.
    pub async fn connect(config: Config) -> Result<Arc<Etcd>, StoreError> {
        let endpoints = Endpoints::new(&config)?;
        let inner = Arc::new(Inner {
            endpoints,
            keys: Keys::new(&config.prefix),
            leases: tokio::sync::Mutex::new(Leases::new(config.lease_reuse)),
            seen: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            wanted: tokio::sync::watch::Sender::new(0),
            max_value_bytes: config.max_value_bytes,
            size: AtomicU64::new(0),
        });
        inner.current_revision().await?;
        compaction::learn(&inner).await?;
        let mut tasks = vec![tokio::spawn(measure(Arc::downgrade(&inner)))];
        if !config.compaction_interval.is_zero() {
            tasks.push(tokio::spawn(compaction::run(Arc::downgrade(&inner), config.compaction_interval)));
        }
        Ok(Arc::new(Etcd { inner, tasks: Mutex::new(tasks), closed: tokio::sync::watch::Sender::new(false) }))
    }

    fn stop(&self) {
        self.closed.send_replace(true);
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Asks now and then how large the database is, for the metric of that.
async fn measure(inner: std::sync::Weak<Inner>) {
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let status = inner
            .endpoints
            .call(Repeat::Once, |client| async move { client.maintenance_client().status().await });
        if let Ok(status) = status.await {
            inner.size.store(u64::try_from(status.db_size()).unwrap_or(0), Ordering::Relaxed);
        }
        drop(inner);
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}

impl Inner {
    /// Notes the revision of an answer.
    fn saw(&self, header: Option<&etcd_client::ResponseHeader>) -> Revision {
        let revision = header.map_or(0, |h| u64::try_from(h.revision()).unwrap_or(0));
        self.seen.fetch_max(revision, Ordering::AcqRel);
        revision
    }

    fn oldest(&self) -> Revision {
        self.oldest.load(Ordering::Acquire)
    }

    fn compacted(&self, revision: Revision) {
        self.oldest.fetch_max(revision, Ordering::AcqRel);
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        // A key that does not exist: the answer's header is what is asked for, linearizably.
        let answer = self
            .endpoints
            .call(Repeat::Safe, |client| async move {
                client.kv_client().get("\0", Some(GetOptions::new().with_count_only())).await
            })
            .await
            .map_err(Failure::unavailable)?;
        Ok(self.saw(answer.header()))
    }

    /// An error of a call that asked for `revision`, as this engine's.
    async fn refused(&self, failure: Failure, revision: Revision) -> StoreError {
        match failure.kind() {
            connect::Kind::Compacted => {
                if self.oldest() <= revision {
                    // The answer does not say where the fence is; a watch from there does.
                    watch::learn_fence(self, revision).await;
                }
                StoreError::Compacted { requested: revision, oldest: self.oldest().max(revision + 1) }
            }
            connect::Kind::Future => match self.current_revision().await {
                Ok(current) => StoreError::Future { requested: revision, current },
                Err(e) => e,
            },
            _ => failure.unavailable(),
        }
    }

    /// What is refused without asking.
    fn check_kept(&self, revision: Revision) -> Result<(), StoreError> {
        let oldest = self.oldest();
        if revision != 0 && revision < oldest {
            return Err(StoreError::Compacted { requested: revision, oldest });
        }
        Ok(())
    }

    /// One page of `[start, end)` in etcd's keys: items, revision, number of keys from `start` on.
    async fn page(
        &self,
        start: &[u8],
        end: &[u8],
        revision: Revision,
        limit: i64,
    ) -> Result<(Vec<etcd_client::KeyValue>, Revision, u64), StoreError> {
        let answer = self
            .endpoints
            .call(Repeat::Safe, |client| async move {
                let options =
                    GetOptions::new().with_range(end).with_limit(limit).with_revision(to_i64(revision));
                client
                    .kv_client()
                    .max_decoding_message_size(i32::MAX as usize)
                    .get(start, Some(options))
                    .await
            })
            .await;
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return Err(self.refused(failure, revision).await),
        };
        let at = if revision == 0 { self.saw(answer.header()) } else { revision };
        let count = u64::try_from(answer.count()).unwrap_or(0);
        Ok((answer.take_kvs(), at, count))
    }

    /// A transaction that puts, with the lease it needs.
    async fn put_op(&self, key: &[u8], value: &[u8], ttl_seconds: u64) -> Result<TxnOp, StoreError> {
        let options = match ttl_seconds {
            0 => None,
            ttl => Some(PutOptions::new().with_lease(self.lease(ttl).await?)),
        };
        Ok(TxnOp::put(key, value, options))
    }

    async fn lease(&self, ttl_seconds: u64) -> Result<i64, StoreError> {
        // Held while one is granted: who comes meanwhile uses the same.
        let mut leases = self.leases.lock().await;
        let now = std::time::Instant::now();
        if let Some(id) = leases.reuse(ttl_seconds, now) {
            return Ok(id);
        }
        let ttl = leases.ttl_to_grant(ttl_seconds);
        let granted = self
            .endpoints
            .call(Repeat::Safe, |client| async move { client.lease_client().grant(to_i64(ttl), None).await })
            .await
            .map_err(Failure::unavailable)?;
        leases.granted(granted.id(), ttl, now);
        Ok(granted.id())
    }

    async fn txn_once(&self, txn: &Txn) -> Result<TxnResponse, Failure> {
        let key = self.keys.to_etcd(&txn.key);
        let then = match &txn.op {
            Op::Put { value, ttl_seconds } => {
                self.put_op(&key, value, *ttl_seconds).await.map_err(Failure::from_store)?
            }
            Op::Delete => TxnOp::delete(key.as_slice(), None),
        };
        let compare = Compare::mod_revision(key.as_slice(), CompareOp::Equal, to_i64(txn.expected));
        let txn = etcd_client::Txn::new()
            .when([compare])
            .and_then([then])
            .or_else([TxnOp::get(key.as_slice(), None)]);
        let call = |client: Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        self.endpoints.call(Repeat::Unsent, call).await
    }
}

#[async_trait]
impl Store for Etcd {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.current_revision().await
    }

    async fn get(&self, key: &str, revision: Revision) -> Result<Option<KeyValue>, StoreError> {
        self.inner.check_kept(revision)?;
        let etcd_key = self.inner.keys.to_etcd(key);
        let (items, ..) = self.inner.page(&etcd_key, &[], revision, 0).await?;
        items.first().map(|kv| self.inner.keys.key_value(kv)).transpose()
    }

    async fn range(&self, request: RangeRequest) -> Result<Range, StoreError> {
        let inner = &self.inner;
        inner.check_kept(request.revision)?;
        let (mut start, end) = (inner.keys.to_etcd(&request.start), inner.keys.end_to_etcd(&request.end));
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let mut range = Range { items: Vec::new(), revision: request.revision, remaining: 0 };
        loop {
            let wanted = if limit == 0 { usize::MAX } else { limit - range.items.len() };
            let page = i64::try_from(wanted).unwrap_or(i64::MAX).min(PAGE);
            let (items, revision, count) = inner.page(&start, &end, range.revision, page).await?;
            range.revision = revision;
            range.remaining = count.saturating_sub(items.len() as u64);
            let whole = range.remaining == 0 || items.is_empty();
            if let Some(last) = items.last() {
                start = last.key().to_vec();
                start.push(0);
            }
            for kv in &items {
                range.items.push(inner.keys.key_value(kv)?);
            }
            if whole || (limit != 0 && range.items.len() >= limit) {
                return Ok(range);
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let inner = &self.inner;
        if let Op::Put { value, .. } = &txn.op {
            let (size, limit) = (txn.key.len() + value.len(), inner.max_value_bytes);
            if size > limit {
                return Err(StoreError::TooLarge { key: txn.key, size, limit });
            }
        }
        let mut answer = inner.txn_once(&txn).await;
        if answer.as_ref().is_err_and(|f| f.kind() == connect::Kind::NoLease) {
            // It ran out, or somebody revoked it, before the key came to it. Nothing was written.
            inner.leases.lock().await.forget();
            answer = inner.txn_once(&txn).await;
        }
        let answer = answer.map_err(|f| f.of_write(&txn))?;
        let revision = inner.saw(answer.header());
        if answer.succeeded() {
            return Ok(TxnResult::Done(revision));
        }
        let there = answer.op_responses().into_iter().find_map(|r| match r {
            TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next(),
            _ => None,
        });
        Ok(TxnResult::Conflict(there.map(|kv| inner.keys.key_value(&kv)).transpose()?))
    }

    async fn watch(&self, start: &str, end: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let after = if after == 0 { self.inner.current_revision().await? } else { after };
        self.inner.check_kept(after)?;
        Ok(watch::start(&self.inner, start, end, after, self.closed.subscribe()))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let inner = &self.inner;
        let oldest = inner.oldest();
        if revision <= oldest {
            return Err(StoreError::Compacted { requested: revision, oldest });
        }
        let done = inner
            .endpoints
            .call(Repeat::Safe, |client| async move {
                client.kv_client().compact(to_i64(revision), Some(CompactionOptions::new())).await
            })
            .await;
        if let Err(failure) = done {
            return Err(inner.refused(failure, revision).await);
        }
        inner.compacted(revision);
        Ok(())
    }

    fn oldest_revision(&self) -> Revision {
        self.inner.oldest()
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        // Whoever waits for a revision has it from an answer.
        let seen = self.inner.seen.load(Ordering::Acquire);
        self.inner.wanted.send_if_modified(|wanted| {
            let newer = seen > *wanted;
            *wanted = seen.max(*wanted);
            newer
        });
        Ok(())
    }

    fn health(&self) -> Result<(), StoreError> {
        self.inner.endpoints.health()
    }

    fn render_metrics(&self, out: &mut String) {
        let size = self.inner.size.load(Ordering::Relaxed);
        out.push_str("# HELP apiserver_storage_size_bytes Size of the storage database file physically allocated in bytes.\n# TYPE apiserver_storage_size_bytes gauge\n");
        out.push_str(&format!("apiserver_storage_size_bytes{{storage_cluster_id=\"etcd-0\"}} {size}\n"));
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.stop();
        Ok(())
    }
}

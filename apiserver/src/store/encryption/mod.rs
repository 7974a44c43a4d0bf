//! Encryption at rest: a [`Store`] around another one that encrypts what is written and decrypts what is read, by an
//! `EncryptionConfiguration`. Where none is given the store is not wrapped, and nothing costs anything.
//!
//! A stored value says by its prefix how it was encrypted (`k8s:enc:aesgcm:v1:KEY:…`), as upstream's values do, so
//! that both read each other's. The first provider of a resource encrypts, all decrypt; what another than the first
//! encrypted is stale, and rewritten by the next update even if that changes nothing.

pub mod ciphers;
pub mod config;
pub mod kms;
pub mod kms_service;
pub mod metrics;
mod transform;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;

use super::{
    KeyValue, Op, Operation, Range, RangeRequest, Revision, Store, StoreError, Txn, TxnResult, WatchBatch,
    WatchStream,
};
use config::{Configuration, GroupResource, group_resource};
use metrics::Metrics;
use transform::Transformers;

/// How long a KMS plugin may take to be there when a configuration is taken in.
const PLUGIN_PATIENCE: Duration = Duration::from_secs(10);
/// Batches of a watch on their way.
const WATCH_BUFFER: usize = 16;

/// See the module.
pub struct Encrypted {
    inner: Arc<dyn Store>,
    /// Resources with keys of their own making, by prefix.
    prefixes: BTreeMap<String, GroupResource>,
    current: Arc<ArcSwap<Transformers>>,
    metrics: Arc<Metrics>,
}

impl Encrypted {
    /// Wraps `inner`. Waits some seconds for KMS plugins; one that is not there by then is waited for by who needs it.
    pub async fn new(inner: Arc<dyn Store>, config: &Configuration) -> Result<Arc<Self>, String> {
        let metrics = Arc::new(Metrics::default());
        let transformers = Transformers::new(config, &metrics)?;
        if let Err(e) = transformers.ready(PLUGIN_PATIENCE).await {
            tracing::error!(error = %e, "a KMS plugin is not ready");
        }
        let prefixes = proto::resources()
            .iter()
            // Events are known by their first group.
            .filter(|r| r.group != "events.k8s.io")
            .map(|r| {
                let prefix = crate::registry::rules::key_prefix(r.group, r.resource);
                (prefix, (r.group.to_owned(), r.resource.to_owned()))
            })
            .collect();
        let current = Arc::new(ArcSwap::from_pointee(transformers));
        Ok(Arc::new(Self { inner, prefixes, current, metrics }))
    }

    /// Takes a new configuration; on an error, or where a KMS plugin of it is not healthy, the old one stays.
    pub async fn reconfigure(&self, config: &Configuration) -> Result<(), String> {
        let transformers = Transformers::new(config, &self.metrics)?;
        transformers.ready(PLUGIN_PATIENCE).await?;
        self.current.store(Arc::new(transformers));
        Ok(())
    }

    /// Whether all KMS plugins can be used.
    pub fn plugin_health(&self) -> Result<(), String> {
        self.current.load().health()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn resource(&self, key: &str) -> GroupResource {
        resource(&self.prefixes, key)
    }

    async fn open(&self, mut kv: KeyValue) -> Result<KeyValue, StoreError> {
        let resource = self.resource(&kv.key);
        let transformers = self.current.load_full();
        let opened = transformers.open(&resource, &kv.key, &kv.value).await;
        kv.value = opened.map_err(|e| unreadable(&kv.key, &e))?.0;
        Ok(kv)
    }
}

/// The resource that a key belongs to.
fn resource(prefixes: &BTreeMap<String, GroupResource>, key: &str) -> GroupResource {
    let bounds: (Bound<&str>, Bound<&str>) = (Bound::Unbounded, Bound::Included(key));
    let mut below = prefixes.range::<str, _>(bounds);
    if let Some((_, found)) = below.rfind(|(prefix, _)| key.starts_with(prefix.as_str())) {
        return found.clone();
    }
    // Custom resources: /registry/GROUP/RESOURCE/…
    let mut parts = key.trim_start_matches("/registry/").split('/');
    match (parts.next(), parts.next()) {
        (Some(group), Some(resource)) if group.contains('.') => (group.to_owned(), resource.to_owned()),
        (first, _) => group_resource(first.unwrap_or_default()),
    }
}

fn unreadable(key: &str, why: &str) -> StoreError {
    StoreError::Corrupt(format!("unable to transform key {key:?}: {why}"))
}

#[async_trait]
impl Store for Encrypted {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.current_revision().await
    }

    async fn get(&self, key: &str, revision: Revision) -> Result<Option<KeyValue>, StoreError> {
        match self.inner.get(key, revision).await? {
            Some(kv) => self.open(kv).await.map(Some),
            None => Ok(None),
        }
    }

    async fn range(&self, request: RangeRequest) -> Result<Range, StoreError> {
        let mut range = self.inner.range(request).await?;
        for kv in &mut range.items {
            let taken = std::mem::replace(kv, empty());
            *kv = self.open(taken).await?;
        }
        Ok(range)
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnResult, StoreError> {
        if let Op::Put { value, .. } = &mut txn.op {
            let resource = self.resource(&txn.key);
            let sealed = self.current.load_full().seal(&resource, &txn.key, value);
            *value = sealed.map_err(|e| unreadable(&txn.key, &e))?;
        }
        match self.inner.txn(txn).await? {
            TxnResult::Conflict(Some(kv)) => Ok(TxnResult::Conflict(Some(self.open(kv).await?))),
            other => Ok(other),
        }
    }

    async fn watch(&self, start: &str, end: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let mut stream = self.inner.watch(start, end, after).await?;
        let (tx, rx) = tokio::sync::mpsc::channel(WATCH_BUFFER);
        let (current, prefixes) = (self.current.clone(), self.prefixes.clone());
        tokio::spawn(async move {
            loop {
                let batch = tokio::select! {
                    batch = stream.recv() => batch,
                    () = tx.closed() => return,
                };
                let Some(mut batch) = batch else { return };
                if let Ok(WatchBatch::Events(events)) = &mut batch {
                    for e in events {
                        let resource = resource(&prefixes, &e.kv.key);
                        let transformers = current.load_full();
                        // What cannot be read must not stop everything else: it goes on as it is, and fails where it
                        // is decoded.
                        match transformers.open(&resource, &e.kv.key, &e.kv.value).await {
                            Ok((value, _)) => e.kv.value = value,
                            Err(why) => {
                                tracing::error!(key = %e.kv.key, error = %why, "a change cannot be decrypted");
                            }
                        }
                        if let Some(prev) = &e.prev {
                            e.prev = transformers.open(&resource, &e.kv.key, prev).await.ok().map(|(v, _)| v);
                        }
                    }
                }
                if tx.send(batch).await.is_err() {
                    return;
                }
            }
        });
        Ok(rx)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.inner.request_progress().await
    }

    fn health(&self) -> Result<(), StoreError> {
        self.inner.health()
    }

    fn operation(&self) -> Option<Arc<dyn Operation>> {
        self.inner.operation()
    }

    fn render_metrics(&self, out: &mut String) {
        self.inner.render_metrics(out);
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }

    async fn is_stale(&self, key: &str) -> Result<bool, StoreError> {
        let Some(kv) = self.inner.get(key, 0).await? else { return Ok(false) };
        let opened = self.current.load_full().open(&self.resource(key), key, &kv.value).await;
        opened.map(|(_, stale)| stale).map_err(|e| unreadable(key, &e))
    }
}

fn empty() -> KeyValue {
    KeyValue { key: String::new(), value: Bytes::new(), create_revision: 0, mod_revision: 0 }
}

/// Waits until `check` is well, for `patience` at most.
async fn well(patience: Duration, check: impl Fn() -> Result<(), String>) -> Result<(), String> {
    let end = Instant::now() + patience;
    loop {
        match check() {
            Err(e) if Instant::now() >= end => return Err(e),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(()) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

//! Where the objects of one resource live: keys, the encoding of what is stored, and reads and writes through
//! the store.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use proto::schema::TypeRef;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::form::Form;
use super::index::ObjectIndexer;
use super::object;
use super::write::Stored;
use crate::cache::{Cache, Feed, Object};
use crate::metrics::parts;
use crate::recency;
use crate::status::{ApiError, ApiResult, Details};
use crate::store::{KeyValue, Op, Revision, Store, StoreError, Txn, TxnResult};

/// Storage of one resource, shared by the versions in which it is served.
pub struct Storage {
    pub store: Arc<dyn Store>,
    /// `/registry/pods/`
    pub prefix: String,
    pub namespaced: bool,
    /// Group and version in which objects are encoded.
    pub group: &'static str,
    pub version: &'static str,
    pub resource: &'static str,
    pub kind: &'static str,
    pub api_version: String,
    pub schema: TypeRef,
    pub cache: Arc<Cache>,
    /// How objects are written down.
    pub form: Arc<dyn Form>,
    /// Cancelled when the resource is replaced or taken away: its watches end, so that clients list anew.
    pub ended: CancellationToken,
}

impl Storage {
    /// Storage of a built-in resource under `prefix`, encoded as `group`/`version`, whose type is `schema`.
    pub fn new(
        feed: &Arc<Feed>,
        prefix: String,
        group: &'static str,
        version: &'static str,
        def: &proto::Resource,
        schema: TypeRef,
    ) -> Self {
        let api_version = super::resource::api_version(group, version);
        let form = ObjectIndexer::new(schema.clone(), group, def.resource, api_version, def.kind);
        Self::with_form(feed, prefix, (group, version), def, schema, Arc::new(form))
    }

    /// Storage whose objects are written down by `form`.
    pub fn with_form<F: Form>(
        feed: &Arc<Feed>,
        prefix: String,
        (group, version): (&'static str, &'static str),
        def: &proto::Resource,
        schema: TypeRef,
        form: Arc<F>,
    ) -> Self {
        Self {
            store: Arc::clone(feed.store()),
            cache: Cache::new(feed, &prefix, form.clone()),
            form,
            prefix,
            namespaced: def.namespaced,
            group,
            version,
            resource: def.resource,
            kind: def.kind,
            api_version: super::resource::api_version(group, version),
            schema,
            ended: CancellationToken::new(),
        }
    }

    /// The key of one object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.prefix)
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// The prefix of all objects of a namespace (empty: of the cluster).
    pub fn range(&self, namespace: &str) -> String {
        if namespace.is_empty() || !self.namespaced {
            self.prefix.clone()
        } else {
            format!("{}{namespace}/", self.prefix)
        }
    }

    /// What clients get of stored bytes; revision zero (a dry run's) shows no resourceVersion.
    pub fn stored(&self, key: &str, bytes: &Bytes, revision: Revision) -> ApiResult<Stored> {
        let served = if revision == 0 {
            bytes.clone()
        } else {
            self.form.served(bytes, revision).map_err(|e| undecodable(key, &e))?
        };
        Ok(Stored { key: key.to_owned(), bytes: served, revision, shared: None })
    }

    /// Decodes a stored object: its value in the storage version with resourceVersion, apiVersion and kind.
    pub fn decode(&self, kv: &KeyValue) -> ApiResult<Value> {
        self.decode_bytes(&kv.key, &kv.value, kv.mod_revision)
    }

    pub fn decode_bytes(&self, key: &str, bytes: &[u8], revision: Revision) -> ApiResult<Value> {
        let mut v = self.form.decode(bytes).map_err(|e| undecodable(key, &e))?;
        object::set_revision(&mut v, revision);
        Ok(v)
    }

    /// A value with the fields on these dotted paths, maybe more: [`Form::pick`].
    pub fn pick(&self, key: &str, bytes: &[u8], paths: &[&str]) -> ApiResult<Value> {
        self.form.pick(bytes, paths).map_err(|e| undecodable(key, &e))
    }

    /// A stored object with the fields on these dotted paths as `o` has them: [`Form::replace`].
    pub fn replace(&self, key: &str, bytes: &[u8], o: &Value, paths: &[&str]) -> ApiResult<Bytes> {
        let failed = |e| ApiError::internal(format!("unable to change what is stored at {key}: {e}"));
        self.form.replace(bytes, o, paths).map_err(failed)
    }

    /// Encodes an object for the store; resourceVersion is never stored.
    pub fn encode(&self, o: &Value) -> ApiResult<Bytes> {
        self.form.encode(o).map_err(|e| ApiError::internal(format!("unable to encode a {}: {e}", self.kind)))
    }

    /// Reads one object as the request has to see it: with every write that was acknowledged before the request came.
    /// From the watch cache where that is filled, which for a member of a group saves asking the leader once more.
    pub async fn current(&self, key: &str) -> ApiResult<Option<KeyValue>> {
        if self.cache.is_filled() {
            let freshness = recency::freshness(&self.store).await.map_err(|e| store_error(&e))?;
            let found = self.cache.get(key, freshness).await.map_err(|e| store_error(&e))?;
            if let Some(kv) = found.and_then(|o| self.unserved(&o)) {
                return Ok(Some(kv));
            }
        }
        self.read(key).await
    }

    fn unserved(&self, o: &Object) -> Option<KeyValue> {
        Some(KeyValue {
            key: o.key.to_string(),
            value: self.form.unserved(&o.bytes)?,
            create_revision: o.create_revision,
            mod_revision: o.mod_revision,
        })
    }

    /// Reads one object as it is now.
    pub async fn read(&self, key: &str) -> ApiResult<Option<KeyValue>> {
        let started = Instant::now();
        let read = self.store.get(key, 0).await.map_err(|e| store_error(&e));
        parts::store("get", self.group, self.resource, started.elapsed());
        read
    }

    /// Whether the object should be written again though nothing of it changed.
    pub async fn is_stale(&self, key: &str) -> ApiResult<bool> {
        self.store.is_stale(key).await.map_err(|e| store_error(&e))
    }

    /// Writes if the object still is at `expected` (zero: absent). The error branch of the inner result carries
    /// what is there instead.
    pub async fn put(
        &self,
        key: &str,
        expected: Revision,
        value: Bytes,
        ttl_seconds: u64,
    ) -> ApiResult<Result<Revision, Option<KeyValue>>> {
        self.txn(Txn { key: key.to_owned(), expected, op: Op::Put { value, ttl_seconds } }).await
    }

    /// Deletes if the object still is at `expected`.
    pub async fn remove(
        &self,
        key: &str,
        expected: Revision,
    ) -> ApiResult<Result<Revision, Option<KeyValue>>> {
        self.txn(Txn { key: key.to_owned(), expected, op: Op::Delete }).await
    }

    async fn txn(&self, txn: Txn) -> ApiResult<Result<Revision, Option<KeyValue>>> {
        let operation = match &txn.op {
            Op::Delete => "delete",
            Op::Put { .. } if txn.expected == 0 => "create",
            Op::Put { .. } => "update",
        };
        let started = Instant::now();
        let done = self.store.txn(txn).await;
        recency::forget();
        parts::store(operation, self.group, self.resource, started.elapsed());
        match done.map_err(|e| store_error(&e))? {
            TxnResult::Done(r) => Ok(Ok(r)),
            TxnResult::Conflict(kv) => Ok(Err(kv)),
        }
    }
}

fn undecodable(key: &str, why: &str) -> ApiError {
    ApiError::internal(format!("unable to decode the value stored at {key}: {why}"))
}

/// What a client is told when the store cannot answer.
pub fn store_error(e: &StoreError) -> ApiError {
    match e {
        StoreError::Compacted { .. } => ApiError::expired(
            "The provided resource version is no longer available: the history it refers to has been compacted.",
        ),
        StoreError::Future { requested, current } => too_large_version(*requested, *current),
        StoreError::TooLarge { .. } => ApiError::too_large(e.to_string()),
        // Nothing was done, so that clients may be asked to send it again: the store soon has a leader.
        StoreError::Unavailable(_) => {
            let mut e = ApiError::new(503, "ServiceUnavailable", e.to_string());
            e.details = Some(Box::new(Details { retry_after_seconds: 1, ..Details::default() }));
            e
        }
        // As upstream answers where etcd's leader is lost. Many clients send again by themselves what ends with 503 or
        // 504, which would find itself done.
        StoreError::Unknown(_) => ApiError::new(500, "", e.to_string()),
        StoreError::Corrupt(m) => ApiError::internal(m),
        StoreError::Refused(m) => ApiError::bad_request(m),
    }
}

/// The answer to a resource version that lies ahead.
pub fn too_large_version(requested: Revision, current: Revision) -> ApiError {
    let mut e = ApiError::new(
        504,
        "Timeout",
        format!("Timeout: Too large resource version: {requested}, current: {current}"),
    );
    e.details = Some(Box::new(Details {
        retry_after_seconds: 1,
        causes: vec![crate::status::Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }],
        ..Default::default()
    }));
    e
}

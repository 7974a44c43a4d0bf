//! Following a resource inside the server: its objects, then every change, from the watch cache. For the parts that
//! keep something ready that is made from objects: webhooks, API services.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::cache::{EventKind, Freshness, From, Object, WatchItem};
use crate::registry::storage::Storage;
use crate::status::ApiResult;
use crate::store::{StoreError, prefix_end};

/// How long to wait before following anew what ended.
const PAUSE: Duration = Duration::from_millis(100);

/// What is told.
pub enum Change<'a> {
    /// The state is delivered (again): forget what was.
    Reset,
    Set(&'a Arc<Object>),
    Gone(&'a Arc<Object>),
    /// The state is complete; what comes now are changes.
    Synced,
}

/// Tells `on` the state and every change of a resource until `stop`.
pub async fn follow(storage: Arc<Storage>, stop: CancellationToken, mut on: impl FnMut(Change<'_>) + Send) {
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = watch(&storage, &mut on) => ended,
        };
        if let Err(e) = ended {
            tracing::debug!(prefix = %storage.prefix, error = %e, "following anew");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn watch(storage: &Storage, on: &mut (impl FnMut(Change<'_>) + Send)) -> Result<(), StoreError> {
    let end = prefix_end(&storage.prefix);
    let mut watch = storage.cache.watch(&storage.prefix, &end, From::State(Freshness::Newest), None).await?;
    on(Change::Reset);
    loop {
        match watch.next().await? {
            WatchItem::Synced(_) => on(Change::Synced),
            WatchItem::Event(e) => match e.kind {
                EventKind::Added | EventKind::Modified => on(Change::Set(&e.object)),
                EventKind::Deleted => on(Change::Gone(&e.object)),
            },
        }
    }
}

/// The key of an object within its storage: its name, or `NAMESPACE/NAME`.
pub fn name<'k>(storage: &Storage, key: &'k str) -> &'k str {
    key.strip_prefix(storage.prefix.as_str()).unwrap_or(key)
}

/// The value of an object that was told.
pub fn decode(storage: &Storage, o: &Object) -> ApiResult<Value> {
    storage.decode_bytes(&o.key, &o.bytes, o.mod_revision)
}

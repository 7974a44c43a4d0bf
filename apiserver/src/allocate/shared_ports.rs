//! The node ports of the cluster: one `RangeAllocation` in the store, which every server changes by
//! compare-and-swap. Key and bytes are upstream's, so that its API servers may run beside ours.
//!
//! This server remembers what it saw last and tries its change on that; a refusal is only ever given on what was
//! read after the request came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::ports::{PortRange, Ports};
use crate::lookup::text;
use crate::registry::storage::store_error;
use crate::status::{ApiError, ApiResult};
use crate::store::{Op, Revision, Store, Txn, TxnResult};

const KEY: &str = "/registry/ranges/servicenodeports";
/// Lost races after which a write gives up: each means that some other write was done.
const ATTEMPTS: usize = 256;

/// See the module.
pub struct SharedPorts {
    store: Arc<dyn Store>,
    range: PortRange,
    seen: Mutex<Seen>,
    /// Ports taken as of `seen`, for metrics.
    taken: AtomicU64,
}

/// The allocation as it was last seen.
#[derive(Clone)]
struct Seen {
    ports: Ports,
    /// Of its key; zero where there is none yet.
    revision: Revision,
    /// Whether the store was asked at all.
    known: bool,
}

impl SharedPorts {
    pub fn new(store: Arc<dyn Store>, range: PortRange) -> Self {
        let seen = Mutex::new(Seen { ports: Ports::new(range), revision: 0, known: false });
        Self { store, range, seen, taken: AtomicU64::new(0) }
    }

    /// Ports taken and free, as far as this server has seen.
    pub fn usage(&self) -> (u64, u64) {
        let taken = self.taken.load(Ordering::Relaxed);
        (taken, u64::from(self.range.size).saturating_sub(taken))
    }

    /// Makes a change that others may make at the same time. `change` may run several times; the inner error is its
    /// own.
    ///
    /// # Errors
    /// The store does not answer, or the range there is another than this server's.
    pub async fn change<T>(
        &self,
        mut change: impl FnMut(&mut Ports) -> Result<T, String>,
    ) -> ApiResult<Result<T, String>> {
        let mut seen = self.seen.lock().await;
        let mut fresh = false;
        if !seen.known {
            *seen = self.read().await?;
            fresh = true;
        }
        for _ in 0..ATTEMPTS {
            let mut ports = seen.ports.clone();
            let done = match change(&mut ports) {
                Ok(done) if ports != seen.ports => done,
                // Nothing to do, or nothing that can be done: certain only if it is still so.
                unchanged if fresh => return Ok(unchanged),
                _ => {
                    *seen = self.read().await?;
                    fresh = true;
                    continue;
                }
            };
            if self.write(&mut seen, ports).await? {
                return Ok(Ok(done));
            }
            fresh = true;
        }
        Err(ApiError::conflict(
            "",
            "servicenodeportallocations",
            "",
            "too many writes change the node ports at the same time; please try again",
        ))
    }

    /// What is taken, as it is in the store now. A range other than this server's counts as nothing.
    pub async fn current(&self) -> ApiResult<Ports> {
        let mut seen = self.seen.lock().await;
        let kv = self.store.get(KEY, 0).await.map_err(|e| store_error(&e))?;
        let revision = kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let ports = match kv.map(|kv| decode(&kv.value)).transpose()? {
            Some((range, data)) => self.move_range(&range, &data)?,
            None => Ports::new(self.range),
        };
        *seen = Seen { ports: ports.clone(), revision, known: true };
        Ok(ports)
    }

    /// Puts `ports` in the place of what [`Self::current`] gave. False if that has changed since.
    pub async fn replace(&self, ports: Ports) -> ApiResult<bool> {
        let mut seen = self.seen.lock().await;
        self.write(&mut seen, ports).await
    }

    /// The ports of a stored range that are also in this server's, whose flag may have been changed.
    fn move_range(&self, range: &str, data: &[u8]) -> ApiResult<Ports> {
        let stored = PortRange::parse(range).map_err(ApiError::internal)?;
        let mut old = Ports::new(stored);
        old.set_bytes(data);
        if stored == self.range {
            return Ok(old);
        }
        let mut ports = Ports::new(self.range);
        for port in old.iter() {
            // Those outside of the new range are no longer allocated.
            let _ = ports.take(port);
        }
        Ok(ports)
    }

    async fn read(&self) -> ApiResult<Seen> {
        let kv = self.store.get(KEY, 0).await.map_err(|e| store_error(&e))?;
        let Some(kv) = kv else {
            return Ok(Seen { ports: Ports::new(self.range), revision: 0, known: true });
        };
        let ports = self.restore(&kv.value)?;
        Ok(Seen { ports, revision: kv.mod_revision, known: true })
    }

    fn restore(&self, value: &[u8]) -> ApiResult<Ports> {
        let (range, data) = decode(value)?;
        if range != self.range.to_string() {
            return Err(ApiError::internal("the provided range does not match the current range"));
        }
        let mut ports = Ports::new(self.range);
        ports.set_bytes(&data);
        Ok(ports)
    }

    /// One compare-and-swap. Where it fails, `seen` is what is there instead.
    async fn write(&self, seen: &mut Seen, ports: Ports) -> ApiResult<bool> {
        let value = encode(&self.range.to_string(), &ports.to_bytes())?;
        let txn = Txn { key: KEY.to_owned(), expected: seen.revision, op: Op::Put { value, ttl_seconds: 0 } };
        // Should this end without an answer, the next change asks the store.
        seen.known = false;
        match self.store.txn(txn).await.map_err(|e| store_error(&e))? {
            TxnResult::Done(revision) => {
                self.taken.store(ports.usage().0, Ordering::Relaxed);
                *seen = Seen { ports, revision, known: true };
                Ok(true)
            }
            TxnResult::Conflict(Some(kv)) => {
                *seen = Seen { ports: self.restore(&kv.value)?, revision: kv.mod_revision, known: true };
                Ok(false)
            }
            TxnResult::Conflict(None) => {
                *seen = Seen { ports: Ports::new(self.range), revision: 0, known: true };
                Ok(false)
            }
        }
    }
}

fn encode(range: &str, data: &[u8]) -> ApiResult<Bytes> {
    let object = json!({
        "apiVersion": "v1", "kind": "RangeAllocation", "metadata": {}, "range": range, "data": STANDARD.encode(data),
    });
    proto::envelope::encode(&object).map(Bytes::from).map_err(|e| ApiError::internal(e.to_string()))
}

/// Range and bits. Upstream writes protobuf unless `--storage-media-type` says JSON.
fn decode(value: &[u8]) -> ApiResult<(String, Vec<u8>)> {
    let object: Value = if value.first() == Some(&b'{') {
        serde_json::from_slice(value).map_err(|e| ApiError::internal(format!("reading {KEY}: {e}")))?
    } else {
        proto::envelope::decode(value).map_err(|e| ApiError::internal(format!("reading {KEY}: {e}")))?
    };
    let data = STANDARD
        .decode(text(&object, "/data"))
        .map_err(|e| ApiError::internal(format!("reading {KEY}: {e}")))?;
    Ok((text(&object, "/range").to_owned(), data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::MemoryStore;

    fn range(text: &str) -> PortRange {
        PortRange::parse(text).unwrap()
    }

    async fn take_any(ports: &SharedPorts) -> Result<u16, String> {
        ports.change(|p| p.take_any(&mut rand::rng())).await.unwrap()
    }

    #[tokio::test]
    async fn two_servers_never_give_out_the_same_port() {
        let store: Arc<dyn Store> = MemoryStore::new();
        let servers: Vec<_> =
            (0..3).map(|_| Arc::new(SharedPorts::new(store.clone(), range("30000-30299")))).collect();
        let mut jobs = Vec::new();
        for i in 0..300 {
            let server = servers[i % 3].clone();
            jobs.push(tokio::spawn(async move { take_any(&server).await.unwrap() }));
        }
        let mut taken = std::collections::HashSet::new();
        for job in jobs {
            assert!(taken.insert(job.await.unwrap()), "given out twice");
        }
        assert_eq!(take_any(&servers[0]).await.unwrap_err(), "range is full");
        // What one gives free another may take, though it has seen it taken.
        let release = |p: &mut Ports| {
            p.release(30007);
            Ok(())
        };
        servers[1].change(release).await.unwrap().unwrap();
        assert_eq!(take_any(&servers[2]).await.unwrap(), 30007);
        assert_eq!(
            servers[0].change(|p| p.take(30007)).await.unwrap().unwrap_err(),
            "provided port is already allocated"
        );
    }

    #[tokio::test]
    async fn the_stored_form_is_upstreams() {
        let store: Arc<dyn Store> = MemoryStore::new();
        let ports = SharedPorts::new(store.clone(), range("30000-32767"));
        for port in [30000, 30009, 32767] {
            ports.change(|p| p.take(port)).await.unwrap().unwrap();
        }
        let kv = store.get(KEY, 0).await.unwrap().unwrap();
        assert!(kv.value.starts_with(b"k8s\0"));
        let (range, data) = decode(&kv.value).unwrap();
        assert_eq!(range, "30000-32767");
        // A big number, highest byte first, without leading zeros.
        assert_eq!((data.len(), data[0], data[345], data[344]), (346, 0x80, 1, 2));
        let json = br#"{"kind":"RangeAllocation","apiVersion":"v1","range":"1-9","data":"Ag=="}"#;
        assert_eq!(decode(json).unwrap(), ("1-9".to_owned(), vec![2]));
    }

    #[tokio::test]
    async fn a_changed_range_is_taken_over_by_a_repair_only() {
        let store: Arc<dyn Store> = MemoryStore::new();
        let old = SharedPorts::new(store.clone(), range("30000-30099"));
        for port in [30001, 30050] {
            old.change(|p| p.take(port)).await.unwrap().unwrap();
        }
        let new = SharedPorts::new(store, range("30040-30140"));
        let e = new.change(|p| p.take(30041)).await.unwrap_err();
        assert!(e.message.contains("does not match the current range"), "{e}");
        let moved = new.current().await.unwrap();
        assert_eq!(moved.iter().collect::<Vec<_>>(), [30050]);
        assert!(new.replace(moved).await.unwrap());
        new.change(|p| p.take(30041)).await.unwrap().unwrap();
    }
}

//! Which API servers are there: a key per server in the store, named after its address, that expires unless its
//! server renews it. Upstream's servers keep the same keys with the same bytes, so that both kinds know each other.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::lookup::text;
use crate::registry::storage::store_error;
use crate::status::{ApiError, ApiResult};
use crate::store::{KeyValue, Op, RangeRequest, Store, Txn, TxnResult, prefix_end};

const PREFIX: &str = "/registry/masterleases/";
/// How long a key outlives its server; upstream's `DefaultEndpointReconcilerTTL`.
const TTL_SECONDS: u64 = 15;
/// Nobody but its server writes a key: losing a race means that another process has the same address.
const ATTEMPTS: usize = 5;

/// See the module.
#[derive(Clone)]
pub struct MasterLeases(Arc<dyn Store>);

impl MasterLeases {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// The addresses of all servers, in order.
    ///
    /// # Errors
    /// The store does not answer, or a key cannot be read.
    pub async fn list(&self) -> ApiResult<Vec<String>> {
        let all =
            RangeRequest { start: PREFIX.to_owned(), end: prefix_end(PREFIX), ..RangeRequest::default() };
        let range = self.0.range(all).await.map_err(|e| store_error(&e))?;
        let mut out = Vec::new();
        for kv in &range.items {
            let lease = decode(kv)?;
            let address = text(&lease, "/subsets/0/addresses/0/ip");
            if !address.is_empty() {
                out.push(address.to_owned());
            }
        }
        out.sort();
        out.dedup();
        Ok(out)
    }

    /// This server is there, and stays so for some seconds.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn renew(&self, address: &str) -> ApiResult<()> {
        let key = format!("{PREFIX}{address}");
        let mut there = self.0.get(&key, 0).await.map_err(|e| store_error(&e))?;
        for _ in 0..ATTEMPTS {
            let (mut lease, expected) = match &there {
                Some(kv) => (decode(kv)?, kv.mod_revision),
                None => (json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {}}), 0),
            };
            lease["subsets"] = json!([{"addresses": [{"ip": address}]}]);
            // Something must differ for upstream to write it, so this does there.
            let generation = lease.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            lease["metadata"]["generation"] = generation.saturating_add(1).into();
            let value = proto::envelope::encode(&lease).map_err(|e| ApiError::internal(e.to_string()))?;
            let op = Op::Put { value: Bytes::from(value), ttl_seconds: TTL_SECONDS };
            match self.0.txn(Txn { key: key.clone(), expected, op }).await.map_err(|e| store_error(&e))? {
                TxnResult::Done(_) => return Ok(()),
                TxnResult::Conflict(now) => there = now,
            }
        }
        Err(ApiError::conflict("", "masterleases", address, "another server has the same address"))
    }

    /// This server ends, or begins: false if there was no key.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn remove(&self, address: &str) -> ApiResult<bool> {
        let key = format!("{PREFIX}{address}");
        let mut there = self.0.get(&key, 0).await.map_err(|e| store_error(&e))?;
        while let Some(kv) = there {
            let txn = Txn { key: key.clone(), expected: kv.mod_revision, op: Op::Delete };
            match self.0.txn(txn).await.map_err(|e| store_error(&e))? {
                TxnResult::Done(_) => return Ok(true),
                TxnResult::Conflict(now) => there = now,
            }
        }
        Ok(false)
    }
}

fn decode(kv: &KeyValue) -> ApiResult<Value> {
    if kv.value.first() == Some(&b'{') {
        return serde_json::from_slice(&kv.value)
            .map_err(|e| ApiError::internal(format!("reading {}: {e}", kv.key)));
    }
    proto::envelope::decode(&kv.value).map_err(|e| ApiError::internal(format!("reading {}: {e}", kv.key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::MemoryStore;

    #[tokio::test]
    async fn servers_come_and_go() {
        let store = MemoryStore::new();
        let leases = MasterLeases::new(store.clone());
        for address in ["192.0.2.2", "192.0.2.1", "192.0.2.2"] {
            leases.renew(address).await.unwrap();
        }
        assert_eq!(leases.list().await.unwrap(), ["192.0.2.1", "192.0.2.2"]);
        let kv = store.get("/registry/masterleases/192.0.2.2", 0).await.unwrap().unwrap();
        assert_eq!(decode(&kv).unwrap()["metadata"]["generation"], 2);
        assert!(leases.remove("192.0.2.2").await.unwrap());
        assert!(!leases.remove("192.0.2.2").await.unwrap());
        assert_eq!(leases.list().await.unwrap(), ["192.0.2.1"]);
    }
}

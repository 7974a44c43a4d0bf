//! One served resource: what it is called, where it is stored and by which rules it lives.

use std::sync::Arc;

use bytes::Bytes;
use proto::schema::TypeRef;
use serde_json::Value;

use super::rules::Rules;
use super::storage::Storage;
use super::strategy::{DynStrategy, StrategyRef};
use super::write::Stored;
use crate::crd::Served;
use crate::status::{ApiError, ApiResult};
use crate::store::{KeyValue, Revision};

/// One resource in one version.
pub struct Resource {
    /// Names, verbs and subresources.
    pub def: proto::Resource,
    pub rules: Rules,
    /// The type of its objects in this version.
    pub schema: TypeRef,
    /// None for kinds that are only asked, never stored.
    pub storage: Option<Arc<Storage>>,
    pub strategy: Option<StrategyRef>,
    /// What only custom resources have.
    pub custom: Option<Arc<Served>>,
}

impl std::ops::Deref for Resource {
    type Target = proto::Resource;
    fn deref(&self) -> &proto::Resource {
        &self.def
    }
}

impl Resource {
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// The rules of the kind, where it has any.
    pub fn strategy(&self) -> Option<&dyn DynStrategy> {
        self.strategy.as_deref()
    }

    /// Whether handlers work on objects in this version: for built-in kinds the version in which they are stored, for
    /// custom resources always that of the request.
    pub fn is_hub_version(&self) -> bool {
        self.custom.is_some()
            || self.storage.as_ref().is_none_or(|s| s.group == self.group && s.version == self.version)
    }

    /// The kind of its lists.
    pub fn list_kind(&self) -> String {
        match &self.custom {
            Some(c) => c.definition.names.list_kind.clone(),
            None => format!("{}List", self.kind),
        }
    }

    /// The storage, or the answer for kinds that have none.
    pub fn storage(&self) -> ApiResult<&Arc<Storage>> {
        self.storage.as_ref().ok_or_else(super::method_not_allowed)
    }
}

/// Between what is stored and what handlers work on. For built-in kinds this is [`Storage`]'s coding alone.
impl Resource {
    /// A stored object in the version that handlers work on, with resourceVersion, apiVersion and kind.
    pub async fn decode(&self, kv: &KeyValue) -> ApiResult<Value> {
        let o = self.storage()?.decode(kv)?;
        match &self.custom {
            Some(c) => c.definition.convert(o, c.version()).await,
            None => Ok(o),
        }
    }

    /// The bytes to store for an object.
    pub async fn encode(&self, o: &Value) -> ApiResult<Bytes> {
        let storage = self.storage()?;
        match &self.custom {
            Some(c) if c.version().name != storage.version => {
                let d = &c.definition;
                storage.encode(&d.convert(o.clone(), d.storage_version()).await?)
            }
            _ => storage.encode(o),
        }
    }

    /// What clients get of stored bytes; revision zero (a dry run's) shows no resourceVersion.
    pub async fn stored(&self, key: &str, bytes: &Bytes, revision: Revision) -> ApiResult<Stored> {
        self.present(self.storage()?.stored(key, bytes, revision)?).await
    }

    /// An object from the cache as it is shown in this version.
    pub async fn present(&self, s: Stored) -> ApiResult<Stored> {
        if self.custom.is_none() {
            return Ok(s);
        }
        let mut one = self.present_all(vec![s]).await?;
        one.pop().ok_or_else(|| ApiError::internal("an object was lost in conversion"))
    }

    /// Objects from the cache as they are shown in this version.
    pub async fn present_all(&self, mut all: Vec<Stored>) -> ApiResult<Vec<Stored>> {
        let Some(c) = &self.custom else { return Ok(all) };
        let texts = all.iter().map(|s| s.bytes.clone()).collect();
        for (s, text) in all.iter_mut().zip(c.definition.present(texts, c.version()).await?) {
            s.bytes = text;
        }
        Ok(all)
    }
}

pub use proto::resources::api_version;

//! The registry as the parts around it see it: [`ObjectLookup`] and [`ObjectWriter`].

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use serde_json::Value;

use super::options::DeleteOptions;
use super::storage::store_error;
use super::write::{Stored, WriteCx};
use super::{Registry, render, resource};
use crate::cache::{Freshness, Pairs};
use crate::lookup::{ObjectLookup, ObjectWriter, Resource};
use crate::recency;
use crate::request::UserInfo;
use crate::status::{ApiError, ApiResult};
use crate::store::prefix_end;

/// The identity of the server's own writes.
pub static LOOPBACK: LazyLock<UserInfo> = LazyLock::new(|| UserInfo {
    name: "system:apiserver".to_owned(),
    groups: vec!["system:authenticated".to_owned(), "system:masters".to_owned()],
    ..UserInfo::default()
});

impl Registry {
    fn resource(&self, r: Resource) -> ApiResult<Arc<resource::Resource>> {
        self.table().get(r.group, r.version, r.resource).cloned().ok_or_else(|| {
            ApiError::internal(format!("{}/{} {} is not served", r.group, r.version, r.resource))
        })
    }
}

/// One object, as new as a look-up of the server's own must be.
async fn found(
    registry: &Registry,
    r: &resource::Resource,
    namespace: &str,
    name: &str,
) -> ApiResult<Option<Stored>> {
    match registry.get_at(r, namespace, name, recent(r).await?).await {
        Ok(s) => Ok(Some(s)),
        Err(e) if e.code == 404 => Ok(None),
        Err(e) => Err(e),
    }
}

/// How new a look-up of the server's own must be.
async fn recent(r: &resource::Resource) -> ApiResult<Freshness> {
    recency::freshness(&r.storage()?.store).await.map_err(|e| store_error(&e))
}

#[async_trait]
impl ObjectLookup for Registry {
    async fn get(&self, r: Resource, namespace: &str, name: &str) -> ApiResult<Option<Arc<Value>>> {
        let r = &*self.resource(r)?;
        let stored = found(self, r, namespace, name).await?;
        stored.map(|s| self.decoded.value(r, &s)).transpose()
    }

    async fn labels(&self, r: Resource, namespace: &str, name: &str) -> ApiResult<Option<Pairs>> {
        let r = &*self.resource(r)?;
        let storage = r.storage()?;
        let found = storage.cache.get(&storage.key(namespace, name), recent(r).await?).await;
        Ok(found.map_err(|e| store_error(&e))?.map(|o| o.labels.clone()))
    }

    async fn list(&self, r: Resource, namespace: &str) -> ApiResult<Vec<Arc<Value>>> {
        let r = &*self.resource(r)?;
        // Straight from the cache: there are several of these for every pod that is made, mostly of nothing.
        let storage = r.storage()?;
        let start = storage.range(namespace);
        let list = storage.cache.list(&start, &prefix_end(&start), recent(r).await?).await;
        let list = list.map_err(|e| store_error(&e))?;
        list.iter().map(|o| self.decoded.value(r, &Stored::from(o))).collect()
    }
}

#[async_trait]
impl ObjectWriter for Registry {
    async fn create(&self, r: Resource, namespace: &str, mut object: Value) -> ApiResult<Value> {
        let r = &*self.resource(r)?;
        let mut cx = WriteCx::internal(&LOOPBACK);
        self.to_hub(r, &mut object)?;
        let done = Registry::create(self, r, &mut cx, namespace, object).await?;
        render::value(r, &done.stored)
    }

    async fn update(&self, r: Resource, namespace: &str, object: Value) -> ApiResult<Value> {
        self.replace(r, namespace, object, "").await
    }

    async fn update_status(&self, r: Resource, namespace: &str, object: Value) -> ApiResult<Value> {
        self.replace(r, namespace, object, "status").await
    }

    async fn delete(&self, r: Resource, namespace: &str, name: &str, uid: Option<&str>) -> ApiResult<()> {
        let r = &*self.resource(r)?;
        let cx = WriteCx::internal(&LOOPBACK);
        let options =
            DeleteOptions { grace_seconds: Some(0), uid: uid.map(str::to_owned), ..DeleteOptions::default() };
        Registry::delete(self, r, &cx, namespace, name, &options).await.map(|_| ())
    }
}

impl Registry {
    async fn replace(&self, r: Resource, namespace: &str, mut o: Value, sub: &str) -> ApiResult<Value> {
        let r = &*self.resource(r)?;
        let mut cx = WriteCx { subresource: sub, ..WriteCx::internal(&LOOPBACK) };
        self.to_hub(r, &mut o)?;
        let name = super::object::name(&o).to_owned();
        let mut change = |_: Option<&Value>| Ok(o.clone());
        let done = Registry::update(self, r, &mut cx, namespace, &name, false, &mut change).await?;
        render::value(r, &done.stored)
    }

    /// A decoded object to the form that is stored: storage version, defaults applied.
    pub fn to_hub(&self, r: &resource::Resource, o: &mut Value) -> ApiResult<()> {
        self.changed_to_hub(r, o, None)
    }

    /// [`Self::to_hub`] for what a patch made of `old`, which is in the form that is stored.
    pub fn changed_to_hub(
        &self,
        r: &resource::Resource,
        o: &mut Value,
        old: Option<&Value>,
    ) -> ApiResult<()> {
        super::codec::to_storage(r, o)?;
        let Some(s) = r.strategy() else { return Ok(()) };
        let done = match old {
            Some(old) => s.default_changed(o, old),
            None => s.default(o),
        };
        super::write::step(r, done)
    }
}

//! The end of a definition: all its objects are deleted, and when the last is gone the finalizer that held the
//! definition is removed.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::conditions::{self, Condition, FINALIZER};
use super::controller::{DEFINITIONS, is_outrun};
use crate::cache::Freshness;
use crate::lookup::{ObjectLookup, ObjectWriter, text};
use crate::registry::options::DeleteOptions;
use crate::registry::resource::Resource;
use crate::registry::storage::store_error;
use crate::registry::write::WriteCx;
use crate::registry::{Registry, object, objects, rules};
use crate::status::{ApiError, ApiResult};
use crate::store::prefix_end;

/// How long objects may take to go before that is told in the status.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pauses between attempts.
const RETRY: Duration = Duration::from_millis(200);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// The clean-up of one definition.
pub struct Task {
    pub registry: Arc<Registry>,
    /// The resource in its storage version; None if it is not served.
    pub resource: Option<Arc<Resource>>,
    pub name: String,
    pub uid: String,
}

impl Task {
    /// Tries until it is done, or there is nothing to do any more.
    pub async fn run(self) {
        let mut pause = RETRY;
        loop {
            match self.attempt().await {
                Ok(()) => return,
                Err(e) if is_outrun(&e) => pause = RETRY,
                Err(e) => {
                    tracing::warn!(definition = self.name, error = %e, "custom resources cannot be deleted")
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_RETRY);
        }
    }

    /// The definition, if it still is the one to clean up after.
    async fn definition(&self) -> ApiResult<Option<Value>> {
        let lookup: &dyn ObjectLookup = &*self.registry;
        let crd = lookup.get(DEFINITIONS, "", &self.name).await?;
        Ok(crd
            .filter(|c| object::uid(c) == self.uid && conditions::is_finalizing(c))
            .map(Arc::unwrap_or_clone))
    }

    async fn set(&self, crd: &mut Value, c: &Condition) -> ApiResult<()> {
        conditions::set(crd, c, &object::now());
        let writer: &dyn ObjectWriter = &*self.registry;
        *crd = writer.update_status(DEFINITIONS, "", crd.clone()).await?;
        Ok(())
    }

    async fn attempt(&self) -> ApiResult<()> {
        let Some(mut crd) = self.definition().await? else { return Ok(()) };
        let terminating =
            |status, reason, message: &str| Condition::new("Terminating", status, reason, message);
        let message = "CustomResource deletion is in progress";
        self.set(&mut crd, &terminating("True", "InstanceDeletionInProgress", message)).await?;
        let (group, plural) = (text(&crd, "/spec/group"), text(&crd, "/spec/names/plural"));
        let overlaps = proto::resources().iter().any(|r| r.group == group && r.resource == plural)
            && rules::key_prefix(group, plural) == super::serve::prefix(group, plural);
        let outcome = if overlaps {
            let message = "instances overlap with built-in resources in storage";
            terminating("False", "OverlappingBuiltInResource", message)
        } else if conditions::is_true(&crd, "Established") {
            match self.delete_instances().await {
                Ok(()) => terminating("False", "InstanceDeletionCompleted", "removed all instances"),
                Err((reason, message)) => {
                    // The definition may have changed while objects were being deleted.
                    let Some(mut crd) = self.definition().await? else { return Ok(()) };
                    self.set(&mut crd, &terminating("True", reason, &message)).await?;
                    return Err(ApiError::internal(message));
                }
            }
        } else {
            terminating("False", "NeverEstablished", "resource was never established")
        };
        let Some(mut crd) = self.definition().await? else { return Ok(()) };
        let kept: Vec<Value> =
            object::finalizers(&crd).filter(|f| *f != FINALIZER).map(Value::from).collect();
        let meta = object::meta_mut(&mut crd);
        match kept.is_empty() {
            true => meta.remove("finalizers"),
            false => meta.insert("finalizers".to_owned(), kept.into()),
        };
        self.set(&mut crd, &outcome).await
    }

    async fn delete_instances(&self) -> Result<(), (&'static str, String)> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |e: ApiError| ("InstanceDeletionFailed", format!("{what}: {e}"))
        };
        let r = self.resource.as_ref().ok_or_else(|| {
            ("InstanceDeletionFailed", "could not list instances: the resource is not served".to_owned())
        })?;
        let mut errors: Vec<String> = Vec::new();
        for (namespace, name) in self.instances(r).await.map_err(failed("could not list instances"))? {
            let cx = WriteCx::internal(&objects::LOOPBACK);
            match self.registry.delete(r, &cx, &namespace, &name, &DeleteOptions::default()).await {
                Err(e) if e.code != 404 => errors.push(e.message),
                _ => {}
            }
        }
        errors.dedup();
        match errors.as_slice() {
            [] => {}
            [one] => return Err(("InstanceDeletionFailed", format!("could not issue all deletes: {one}"))),
            all => {
                let all = all.join(", ");
                return Err(("InstanceDeletionFailed", format!("could not issue all deletes: [{all}]")));
            }
        }
        match tokio::time::timeout(PATIENCE, self.wait_until_gone(r)).await {
            Ok(done) => done.map_err(|e| ("InstanceDeletionCheck", remaining(&e.to_string()))),
            Err(_) => Err(("InstanceDeletionCheck", remaining("context deadline exceeded"))),
        }
    }

    /// Namespaces and names of all objects. Keys are enough: no object is read.
    async fn instances(&self, r: &Resource) -> ApiResult<Vec<(String, String)>> {
        let storage = r.storage()?;
        let end = prefix_end(&storage.prefix);
        let list = storage.cache.list(&storage.prefix, &end, Freshness::Newest).await;
        let list = list.map_err(|e| store_error(&e))?;
        let place = |key: &str| {
            let rel = key.strip_prefix(&storage.prefix).unwrap_or_default();
            match rel.split_once('/') {
                Some((namespace, name)) if r.namespaced => (namespace.to_owned(), name.to_owned()),
                _ => (String::new(), rel.to_owned()),
            }
        };
        Ok(list.iter().map(|o| place(&o.key)).collect())
    }

    async fn wait_until_gone(&self, r: &Resource) -> ApiResult<()> {
        let storage = r.storage()?;
        let end = prefix_end(&storage.prefix);
        let from = crate::cache::From::Now;
        let mut changes =
            storage.cache.watch(&storage.prefix, &end, from, None).await.map_err(|e| store_error(&e))?;
        while !self.instances(r).await?.is_empty() {
            changes.next().await.map_err(|e| store_error(&e))?;
        }
        Ok(())
    }
}

fn remaining(why: &str) -> String {
    format!("could not confirm zero CustomResources remaining: {why}")
}

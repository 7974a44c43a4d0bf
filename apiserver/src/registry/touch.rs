//! The server's own small changes: a pod gets its node, a budget one disruption less. Only the fields that these look
//! at are read, and only those that they change are written; admission, the kind's rules and managed fields are about
//! what clients ask for.

use serde_json::Value;

use super::resource::Resource;
use super::update::ATTEMPTS;
use super::{Registry, object};
use crate::status::{ApiError, ApiResult};
use crate::store::Revision;

/// Fields on dotted paths of JSON names.
pub struct Fields {
    /// What the change looks at, beside what it changes. The resourceVersion is always there.
    pub read: &'static [&'static str],
    pub changed: &'static [&'static str],
}

impl Registry {
    /// Changes an object. `change` gets the `fields` of it (maybe more), and is called again after each conflict. Returns
    /// the object's revision, with `dry_run` that of before.
    pub async fn touch(
        &self,
        r: &Resource,
        (namespace, name): (&str, &str),
        fields: &Fields,
        dry_run: bool,
        change: &mut (dyn FnMut(&mut Value) -> ApiResult<()> + Send),
    ) -> ApiResult<Revision> {
        let storage = r.storage()?;
        let key = storage.key(namespace, name);
        let paths = [fields.read, fields.changed].concat();
        let mut current = storage.current(&key).await?;
        for _ in 0..ATTEMPTS {
            let Some(kv) = current else { return Err(ApiError::not_found(r.group, r.resource, name)) };
            let mut o = storage.pick(&key, &kv.value, &paths)?;
            object::set_revision(&mut o, kv.mod_revision);
            change(&mut o)?;
            let bytes = storage.replace(&key, &kv.value, &o, fields.changed)?;
            if dry_run || bytes == kv.value {
                return Ok(kv.mod_revision);
            }
            match storage.put(&key, kv.mod_revision, bytes, self.ttl(r)).await? {
                Ok(revision) => return Ok(revision),
                Err(now) => current = now,
            }
        }
        Err(ApiError::modified(r.group, r.resource, name))
    }
}

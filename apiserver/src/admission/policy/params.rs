//! The objects that parametrize a binding: of any kind that is served, read from the watch cache of their resource.

use std::sync::Arc;

use serde_json::Value;

use super::compiled::{ParamKind, ParamRef};
use crate::cache::Freshness;
use crate::registry::labels::Selector;
use crate::registry::resource::Resource;
use crate::registry::storage::Storage;
use crate::registry::{Registry, codec};

/// The resource whose objects are of that kind.
fn resource(registry: &Registry, kind: &ParamKind) -> Result<Arc<Resource>, String> {
    let (group, version) = kind.api_version.split_once('/').unwrap_or(("", &kind.api_version));
    let table = registry.table();
    table.by_kind(group, version, &kind.kind).cloned().ok_or_else(|| {
        let gv = &kind.api_version;
        format!("failed to find resource referenced by paramKind: '{gv}, Kind={}'", kind.kind)
    })
}

/// Whether the kind of a policy's parameters is served.
pub fn known(registry: &Registry, kind: Option<&ParamKind>) -> Result<(), String> {
    kind.map_or(Ok(()), |k| resource(registry, k).map(|_| ()))
}

/// The parameters with which a policy is evaluated for a binding: once for each. A policy without parameters is
/// evaluated once, with none.
pub async fn collect(
    registry: &Registry,
    kind: Option<&ParamKind>,
    reference: Option<&ParamRef>,
    namespace: &str,
) -> Result<Vec<Option<Value>>, String> {
    let (Some(kind), Some(reference)) = (kind, reference) else { return Ok(vec![None]) };
    let resource = resource(registry, kind)?;
    let Some(storage) = resource.storage.clone() else {
        return Err(format!("paramKind kind `{}, Kind={}` not known", kind.api_version, kind.kind));
    };
    let namespace = match (resource.namespaced, reference.namespace.as_str()) {
        (true, "") if namespace.is_empty() => {
            let why =
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(why.to_owned());
        }
        (true, "") => namespace,
        (true, given) => given,
        (false, "") => "",
        (false, _) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
    };
    let found = match (&*reference.name, &reference.selector) {
        ("", Some(selector)) => list(&resource, &storage, namespace, selector).await?,
        ("", None) => return Err("one of name or selector must be provided".to_owned()),
        (_, Some(_)) => return Err("paramRef.name and paramRef.selector are mutually exclusive".to_owned()),
        (name, None) => one(&resource, &storage, namespace, name).await?.into_iter().collect(),
    };
    if found.is_empty() && reference.deny_when_missing {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found.into_iter().map(Some).collect())
}

fn shown(r: &Resource, storage: &Storage, o: &crate::cache::Object) -> Result<Value, String> {
    let mut v = storage.decode_bytes(&o.key, &o.bytes, o.mod_revision).map_err(|e| e.message)?;
    codec::from_storage(r, &mut v).map_err(|e| e.message)?;
    crate::registry::object::set_type(&mut v, &r.api_version(), r.kind);
    Ok(v)
}

async fn one(r: &Resource, storage: &Storage, namespace: &str, name: &str) -> Result<Option<Value>, String> {
    let key = storage.key(namespace, name);
    let found = storage.cache.get(&key, Freshness::Any).await.map_err(|e| e.to_string())?;
    found.map(|o| shown(r, storage, &o)).transpose()
}

async fn list(
    r: &Resource,
    storage: &Storage,
    namespace: &str,
    selector: &Value,
) -> Result<Vec<Value>, String> {
    let selector = Selector::from_value(selector).ok_or("paramRef.selector cannot be read")?;
    let start = storage.range(namespace);
    let end = crate::store::prefix_end(&start);
    let list = storage.cache.list(&start, &end, Freshness::Any).await.map_err(|e| e.to_string())?;
    let matching = list.iter().filter(|o| selector.matches(|k| o.labels.get(k)));
    matching.map(|o| shown(r, storage, o)).collect()
}

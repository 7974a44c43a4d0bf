//! Requests whose answers are not read as objects: the load takes its time from what is measured.

use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::core::Request;
use serde_json::Value;

/// Requests to the collection of a kind.
pub fn requests<K>(namespace: Option<&str>) -> Request
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Request::new(K::url_path(&(), namespace))
}

/// The resource version of an object.
pub fn version(object: &str) -> Option<String> {
    let object: Value = serde_json::from_str(object).ok()?;
    object.pointer("/metadata/resourceVersion")?.as_str().map(str::to_owned)
}

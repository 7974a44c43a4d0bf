//! Metadata: owners, references, times.

use std::collections::BTreeMap;
use std::sync::Arc;

use component_base::controller::informer::Store;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;

/// Labels or annotations.
pub type Map = BTreeMap<String, String>;

/// Name of the index by the uid of the controller (or by [`orphans_of`] the namespace where there is none).
pub const BY_CONTROLLER: &str = "controllerUID";

/// The owner that manages the object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))
}

/// The object in `store` that the reference means, if it is still that one.
pub fn find_owner<K: Resource + Send + Sync + 'static>(
    store: &Store<K>,
    namespace: &str,
    owner: &OwnerReference,
) -> Option<Arc<K>> {
    let found = store.find(namespace, &owner.name)?;
    (found.meta().uid.as_ref() == Some(&owner.uid)).then_some(found)
}

/// The object in `store` that controls an object of its namespace, if its controller is of that kind.
pub fn controller_in<K: Resource<DynamicType = ()> + Send + Sync + 'static>(
    store: &Store<K>,
    meta: &ObjectMeta,
) -> Option<Arc<K>> {
    let owner = controller_of(meta).filter(|o| o.kind == K::kind(&()))?;
    find_owner(store, namespace(meta), owner)
}

/// Whether the object of this uid is the controller.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|o| o.uid == uid)
}

/// Value of the [`BY_CONTROLLER`] index for objects of a namespace that have no controller.
pub fn orphans_of(namespace: &str) -> String {
    format!("orphans/{namespace}")
}

/// Index function of [`BY_CONTROLLER`].
pub fn index_by_controller<K: Resource>(obj: &K) -> Vec<String> {
    let meta = obj.meta();
    vec![match controller_of(meta) {
        Some(owner) => owner.uid.clone(),
        None => orphans_of(meta.namespace.as_deref().unwrap_or_default()),
    }]
}

/// An owner reference that makes `owner` the controller.
pub fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A reference for events.
pub fn reference<K: Resource<DynamicType = ()>>(obj: &K) -> ObjectReference {
    let meta = obj.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// The object's name, empty if it has none.
pub fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The object's namespace, empty if it has none.
pub fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// The object's uid, empty if it has none.
pub fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// One annotation.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// When the object was created; the beginning of time if unknown.
pub fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map_or(Timestamp::MIN, |t| t.0)
}

/// A time as the API keeps it: whole seconds.
pub fn api_time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Drops kubectl's copy of the applied manifest, which no controller reads.
pub fn drop_last_applied<K: Resource>(obj: &mut K) {
    if let Some(annotations) = obj.meta_mut().annotations.as_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

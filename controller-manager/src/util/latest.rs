//! An informer's store, corrected by this controller's own writes until the watch has brought them.
//!
//! A controller that acts again on what it has just written must not decide by the older state.

use std::collections::HashMap;
use std::sync::Arc;

use component_base::controller::informer::{Store, key_of};
use kube::Resource;
use parking_lot::Mutex;

/// A store with our own newer writes on top. Cheap to clone.
pub struct Latest<K> {
    store: Store<K>,
    written: Arc<Mutex<HashMap<String, Arc<K>>>>,
}

impl<K> Clone for Latest<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), written: self.written.clone() }
    }
}

fn version<K: Resource>(obj: &K) -> u64 {
    obj.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl<K: Resource + Send + Sync + 'static> Latest<K> {
    /// Nothing written yet.
    pub fn new(store: Store<K>) -> Self {
        Self { store, written: Arc::default() }
    }

    /// The newest state known; `None` if the watch says that there is no such object.
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        let cached = self.store.get(key);
        self.correct(key, cached)
    }

    /// Objects by index of the store, each in its newest state. An object may have left the index meanwhile.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let found = self.store.by_index(index, value);
        found.into_iter().filter_map(|o| self.correct(&key_of(o.as_ref()), Some(o))).collect()
    }

    fn correct(&self, key: &str, cached: Option<Arc<K>>) -> Option<Arc<K>> {
        let mut written = self.written.lock();
        let Some(ours) = written.get(key) else { return cached };
        match cached {
            Some(c) if version(c.as_ref()) < version(ours.as_ref()) => Some(ours.clone()),
            other => {
                written.remove(key);
                other
            }
        }
    }

    /// Notes what the server answered to an update.
    pub fn wrote(&self, obj: K) -> Arc<K> {
        let obj = Arc::new(obj);
        self.written.lock().insert(key_of(obj.as_ref()), obj.clone());
        obj
    }

    /// Forgets writes of an object that is gone.
    pub fn forget(&self, key: &str) {
        self.written.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn map(version: u64, value: &str) -> ConfigMap {
        let mut m = ConfigMap::default();
        m.metadata.name = Some("m".into());
        m.metadata.resource_version = Some(version.to_string());
        m.metadata.labels = Some([("v".to_owned(), value.to_owned())].into());
        m
    }

    #[test]
    fn the_newer_of_store_and_write_wins() {
        let store = Store::default();
        let latest = Latest::new(store.clone());
        store.insert(Arc::new(map(9, "a")));
        latest.wrote(map(10, "b"));
        assert_eq!(latest.get("m").as_deref(), Some(&map(10, "b")), "versions are numbers, not text");
        store.insert(Arc::new(map(11, "c")));
        assert_eq!(latest.get("m").as_deref(), Some(&map(11, "c")));
        latest.wrote(map(12, "d"));
        store.remove("m");
        assert_eq!(latest.get("m"), None, "the watch says it is gone");
    }
}

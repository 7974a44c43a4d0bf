//! The store of an informer: objects by key, and indexes over them.
//!
//! What keeps the maps ([`Inner`]) knows no kind, so that it is compiled once and not for every kind; [`Store`] is its
//! typed face.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{key, key_of};

/// Name of the index by namespace, which every store has.
pub const BY_NAMESPACE: &str = "namespace";

type Object = Arc<dyn Any + Send + Sync>;
type IndexFn = Box<dyn Fn(&Object) -> Vec<String> + Send + Sync>;

struct Index {
    of: IndexFn,
    keys: HashMap<String, HashSet<String>>,
}

#[derive(Default)]
struct Inner {
    objects: HashMap<String, Object>,
    indexes: HashMap<&'static str, Index>,
}

impl Inner {
    fn unindex(&mut self, key: &str, obj: &Object) {
        for index in self.indexes.values_mut() {
            for value in (index.of)(obj) {
                if let Some(keys) = index.keys.get_mut(&value) {
                    keys.remove(key);
                    if keys.is_empty() {
                        index.keys.remove(&value);
                    }
                }
            }
        }
    }

    fn index(&mut self, key: &str, obj: &Object) {
        for index in self.indexes.values_mut() {
            for value in (index.of)(obj) {
                index.keys.entry(value).or_default().insert(key.to_owned());
            }
        }
    }

    fn insert(&mut self, key: String, obj: Object) -> Option<Object> {
        let old = self.objects.insert(key.clone(), obj.clone());
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        self.index(&key, &obj);
        old
    }

    fn remove(&mut self, key: &str) -> Option<Object> {
        let old = self.objects.remove(key)?;
        self.unindex(key, &old);
        Some(old)
    }

    fn by_index(&self, name: &str, value: &str) -> Vec<Object> {
        let Some(keys) = self.indexes.get(name).and_then(|i| i.keys.get(value)) else {
            return Vec::new();
        };
        keys.iter().filter_map(|k| self.objects.get(k).cloned()).collect()
    }

    fn add_index(&mut self, name: &'static str, of: IndexFn) {
        if self.indexes.contains_key(name) {
            return;
        }
        let mut keys: HashMap<String, HashSet<String>> = HashMap::new();
        for (key, obj) in &self.objects {
            for value in of(obj) {
                keys.entry(value).or_default().insert(key.clone());
            }
        }
        self.indexes.insert(name, Index { of, keys });
    }
}

/// The objects an informer has seen. Cheap to clone; reads never wait for the network.
pub struct Store<K> {
    inner: Arc<RwLock<Inner>>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), kind: PhantomData }
    }
}

impl<K: kube::Resource + Send + Sync + 'static> Default for Store<K> {
    fn default() -> Self {
        let store = Self { inner: Arc::default(), kind: PhantomData };
        store.add_index(BY_NAMESPACE, |o: &K| o.meta().namespace.clone().into_iter().collect());
        store
    }
}

/// The object as what it is: only objects of the store's kind get in.
fn typed<K: Send + Sync + 'static>(object: Object) -> Option<Arc<K>> {
    object.downcast().ok()
}

impl<K: Send + Sync + 'static> Store<K> {
    /// The object under `key` (`namespace/name` or `name`).
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        self.inner.read().objects.get(key).cloned().and_then(typed)
    }

    /// The object of that namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&key(Some(namespace), name))
    }

    /// Every object.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.read().objects.values().cloned().filter_map(typed).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects whose index `name` holds `value`; empty when there is no such index.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let found = self.inner.read().by_index(name, value);
        found.into_iter().filter_map(typed).collect()
    }

    /// The objects of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.by_index(BY_NAMESPACE, namespace)
    }

    /// Adds an index; a second one of the same name is ignored.
    pub fn add_index(&self, name: &'static str, of: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        let of = move |o: &Object| o.downcast_ref().map(&of).unwrap_or_default();
        self.inner.write().add_index(name, Box::new(of));
    }

    /// The keys of objects that `seen` does not hold.
    pub(super) fn keys_outside(&self, seen: &HashSet<String>) -> Vec<String> {
        self.inner.read().objects.keys().filter(|k| !seen.contains(*k)).cloned().collect()
    }

    /// Takes an object out.
    pub fn remove(&self, key: &str) -> Option<Arc<K>> {
        let old = self.inner.write().remove(key);
        old.and_then(typed)
    }
}

impl<K: kube::Resource + Send + Sync + 'static> Store<K> {
    /// Puts an object in; returns the state before. Informers do this; tests may.
    pub fn insert(&self, obj: Arc<K>) -> Option<Arc<K>> {
        let key = key_of(obj.as_ref());
        let old = self.inner.write().insert(key, obj);
        old.and_then(typed)
    }
}

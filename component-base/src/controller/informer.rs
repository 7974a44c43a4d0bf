//! Shared informers: one watch per kind, one store with indexes, any number of handlers.
//!
//! The watch itself is kube-runtime's, by way of [`super::watching`]. This module keeps the store that kube-runtime does
//! not have (indexes, old and new value to handlers).
//!
//! Handlers run inside the informer's task, in order, and must only note keys: they never wait and never write.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::watching;

mod store;

pub use store::{BY_NAMESPACE, Store};

/// A change of one object, as handlers see it.
pub enum Delta<K> {
    /// Seen for the first time.
    Added(Arc<K>),
    /// Seen before (first) and now (second).
    Updated(Arc<K>, Arc<K>),
    /// Gone; the last state seen.
    Deleted(Arc<K>),
}

impl<K> Delta<K> {
    /// The newest state known of the object.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Delta::Added(o) | Delta::Updated(_, o) | Delta::Deleted(o) => o,
        }
    }

    /// The state before this change, if there was one.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Delta::Added(_) => None,
            Delta::Updated(old, _) | Delta::Deleted(old) => Some(old),
        }
    }

    /// Whether the object is gone.
    pub fn is_deleted(&self) -> bool {
        matches!(self, Delta::Deleted(_))
    }
}

type Handler<K> = Box<dyn Fn(&Delta<K>) + Send + Sync>;

/// `namespace/name`, or `name` for cluster-scoped objects.
pub fn key_of<K: kube::Resource>(obj: &K) -> String {
    let meta = obj.meta();
    key(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default())
}

/// Joins namespace and name as [`key_of`] does.
pub fn key(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(ns) if !ns.is_empty() => format!("{ns}/{name}"),
        _ => name.to_owned(),
    }
}

/// Takes a key apart again: namespace (if any) and name.
pub fn split_key(key: &str) -> (Option<&str>, &str) {
    match key.split_once('/') {
        Some((ns, name)) => (Some(ns), name),
        None => (None, key),
    }
}

/// One watch shared by everyone who is interested in a kind.
pub struct Informer<K> {
    api: Api<K>,
    config: watcher::Config,
    transform: Option<fn(&mut K)>,
    store: Store<K>,
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

impl<K> Informer<K>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Default,
{
    /// An informer over `api`; nothing is sent until [`Informer::run`].
    pub fn new(api: Api<K>) -> Arc<Self> {
        Self::with(api, watcher::Config::default(), None)
    }

    /// As [`Informer::new`], with selectors in `config` and a function that drops what nobody reads (managed fields
    /// are always dropped).
    pub fn with(api: Api<K>, config: watcher::Config, transform: Option<fn(&mut K)>) -> Arc<Self> {
        Arc::new(Self {
            api,
            config,
            transform,
            store: Store::default(),
            handlers: Mutex::new(Vec::new()),
            synced: watch::channel(false).0,
        })
    }

    /// The store this informer fills.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// Calls `handler` on every later change; what the store holds already comes first, as additions.
    pub fn on_change(&self, handler: impl Fn(&Delta<K>) + Send + Sync + 'static) {
        let mut handlers = self.handlers.lock();
        for obj in self.store.list() {
            handler(&Delta::Added(obj));
        }
        handlers.push(Box::new(handler));
    }

    /// Whether the first complete state has been seen.
    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits for the first complete state.
    pub async fn wait_synced(&self) {
        let mut rx = self.synced.subscribe();
        // The sender lives as long as self, so this can't fail.
        let _ = rx.wait_for(|s| *s).await;
    }

    /// Watches until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&self) {
        let mut events = watching::events(self.api.clone(), self.config.clone());
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(event) = events.next().await {
            self.handle(event, &mut seen);
        }
    }

    fn handle(&self, event: Event<K>, seen: &mut HashSet<String>) {
        match event {
            Event::Init => seen.clear(),
            Event::InitApply(obj) => {
                seen.insert(key_of(&obj));
                self.upsert(obj);
            }
            Event::InitDone => {
                for key in self.store.keys_outside(seen) {
                    self.remove(&key, None);
                }
                *seen = HashSet::new();
                self.synced.send_replace(true);
            }
            Event::Apply(obj) => self.upsert(obj),
            Event::Delete(obj) => self.remove(&key_of(&obj), Some(obj)),
        }
    }

    fn strip(&self, obj: &mut K) {
        if let Some(transform) = self.transform {
            transform(obj);
        }
    }

    fn upsert(&self, mut obj: K) {
        self.strip(&mut obj);
        let obj = Arc::new(obj);
        let old = self.store.insert(obj.clone());
        match old {
            // A different uid is another object of the same name: its predecessor's deletion was missed.
            Some(old) if old.meta().uid != obj.meta().uid => {
                self.emit(&Delta::Deleted(old));
                self.emit(&Delta::Added(obj));
            }
            Some(old) if old.meta().resource_version == obj.meta().resource_version => {}
            Some(old) => self.emit(&Delta::Updated(old, obj)),
            None => self.emit(&Delta::Added(obj)),
        }
    }

    fn remove(&self, key: &str, last: Option<K>) {
        let Some(old) = self.store.remove(key) else { return };
        let last = match last {
            Some(mut obj) => {
                self.strip(&mut obj);
                Arc::new(obj)
            }
            None => old,
        };
        self.emit(&Delta::Deleted(last));
    }

    fn emit(&self, delta: &Delta<K>) {
        for handler in self.handlers.lock().iter() {
            handler(delta);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn cm(ns: &str, name: &str, uid: &str, rv: &str) -> ConfigMap {
        let mut c = ConfigMap::default();
        c.metadata.namespace = Some(ns.to_owned());
        c.metadata.name = Some(name.to_owned());
        c.metadata.uid = Some(uid.to_owned());
        c.metadata.resource_version = Some(rv.to_owned());
        c
    }

    fn informer() -> (Arc<Informer<ConfigMap>>, Arc<Mutex<Vec<String>>>) {
        let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
        });
        let informer: Arc<Informer<ConfigMap>> =
            Informer::new(Api::all(kube::Client::new(service, "default")));
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        informer.on_change(move |d| {
            let what = match d {
                Delta::Added(_) => "+",
                Delta::Updated(..) => "~",
                Delta::Deleted(_) => "-",
            };
            sink.lock().push(format!("{what}{}", d.object().metadata.uid.clone().unwrap_or_default()));
        });
        (informer, log)
    }

    #[tokio::test]
    async fn a_restarted_watch_reports_only_differences() {
        let (informer, log) = informer();
        let mut seen = HashSet::new();
        for event in [
            Event::Init,
            Event::InitApply(cm("a", "x", "1", "1")),
            Event::InitApply(cm("a", "y", "2", "1")),
            Event::InitApply(cm("b", "z", "3", "1")),
            Event::InitDone,
            Event::Init,
            Event::InitApply(cm("a", "x", "1", "1")),
            Event::InitApply(cm("a", "y", "9", "5")),
            Event::InitDone,
        ] {
            informer.handle(event, &mut seen);
        }
        assert_eq!(*log.lock(), ["+1", "+2", "+3", "-2", "+9", "-3"]);
        assert!(informer.has_synced());
        assert_eq!(informer.store().len(), 2);
    }

    #[tokio::test]
    async fn indexes_follow_changes() {
        let (informer, _) = informer();
        let store = informer.store();
        store.add_index("uid", |c: &ConfigMap| c.metadata.uid.clone().into_iter().collect());
        let mut seen = HashSet::new();
        informer.handle(Event::Apply(cm("a", "x", "1", "1")), &mut seen);
        assert_eq!(store.by_index("uid", "1").len(), 1);
        assert_eq!(store.in_namespace("a").len(), 1);
        informer.handle(Event::Apply(cm("a", "x", "2", "2")), &mut seen);
        assert!(store.by_index("uid", "1").is_empty());
        assert_eq!(store.by_index("uid", "2").len(), 1);
        informer.handle(Event::Delete(cm("a", "x", "2", "3")), &mut seen);
        assert!(store.by_index("uid", "2").is_empty());
        assert!(store.in_namespace("a").is_empty());
        assert!(store.by_index("none", "x").is_empty());
    }

    #[test]
    fn keys_join_and_split() {
        assert_eq!(key(Some("a"), "x"), "a/x");
        assert_eq!(key(None, "x"), "x");
        assert_eq!(split_key("a/x"), (Some("a"), "x"));
        assert_eq!(split_key("x"), (None, "x"));
    }
}

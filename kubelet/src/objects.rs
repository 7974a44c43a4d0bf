//! ConfigMaps and Secrets that pods of this node refer to: one watch per referenced object, as the node
//! authorizer allows, begun at the first use and ended some time after the last. Users are woken on change.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use component_base::controller::watching;
use futures::StreamExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client, Resource, runtime::watcher};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// How long an object without users stays watched: the next pod of a deployment often comes soon.
const LINGER: Duration = Duration::from_secs(120);
/// How long the first answer may take.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

type Key = (String, String);
/// `None` until the first answer; then the object, or that there is none.
type State<K> = Option<Option<Arc<K>>>;

/// Called with the uid of each pod whose object changed.
pub type Notify = Arc<dyn Fn(&str) + Send + Sync>;

struct Entry<K> {
    state: watch::Receiver<State<K>>,
    users: Arc<Mutex<HashSet<String>>>,
    task: tokio::task::AbortHandle,
}

impl<K> Drop for Entry<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Cache of one kind.
pub struct Cache<K> {
    client: Option<Client>,
    entries: Arc<Mutex<HashMap<Key, Entry<K>>>>,
    notify: Notify,
}

impl<K> Cache<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    pub fn new(client: Option<Client>, notify: Notify) -> Self {
        Self { client, entries: Arc::default(), notify }
    }

    /// The object, or `None` if it does not exist; `user` is woken when that changes, until [`Cache::release`].
    pub async fn get(&self, namespace: &str, name: &str, user: &str) -> Result<Option<Arc<K>>, String> {
        let kind = K::kind(&());
        let Some(client) = &self.client else {
            return Err(format!("{kind} {namespace}/{name} needs an API server, and none is configured"));
        };
        let mut state = {
            let mut entries = self.entries.lock();
            let entry = entries
                .entry((namespace.to_owned(), name.to_owned()))
                .or_insert_with(|| self.begin(client.clone(), namespace, name));
            entry.users.lock().insert(user.to_owned());
            entry.state.clone()
        };
        let answer = tokio::time::timeout(FIRST_ANSWER, state.wait_for(Option::is_some)).await;
        match answer {
            Ok(Ok(value)) => Ok(value.clone().flatten()),
            Ok(Err(_)) => Err(format!("the watch of {kind} {namespace}/{name} ended")),
            Err(_) => Err(format!(
                "failed to sync {} cache: timed out waiting for the condition",
                kind.to_lowercase()
            )),
        }
    }

    fn begin(&self, client: Client, namespace: &str, name: &str) -> Entry<K> {
        let (tx, rx) = watch::channel(None);
        let users: Arc<Mutex<HashSet<String>>> = Arc::default();
        let api: Api<K> = Api::namespaced(client, namespace);
        let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let events = watching::events(api, one);
        let task = tokio::spawn(follow(events, tx, users.clone(), self.notify.clone()));
        Entry { state: rx, users, task: task.abort_handle() }
    }

    /// The pod no longer uses anything of this kind.
    pub fn release(&self, user: &str) {
        let mut idle = Vec::new();
        for (key, entry) in self.entries.lock().iter() {
            let mut users = entry.users.lock();
            if users.remove(user) && users.is_empty() {
                idle.push(key.clone());
            }
        }
        if idle.is_empty() {
            return;
        }
        let entries = Arc::downgrade(&self.entries);
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            let Some(entries) = entries.upgrade() else { return };
            let mut entries = entries.lock();
            for key in idle {
                if entries.get(&key).is_some_and(|e| e.users.lock().is_empty()) {
                    entries.remove(&key);
                }
            }
        });
    }
}

async fn follow<K>(
    mut events: watching::Events<K>,
    out: watch::Sender<State<K>>,
    users: Arc<Mutex<HashSet<String>>>,
    notify: Notify,
) where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let publish = |value: Option<Arc<K>>| {
        let first = out.borrow().is_none();
        out.send_replace(Some(value));
        if !first {
            let users: Vec<String> = users.lock().iter().cloned().collect();
            for user in users {
                notify(&user);
            }
        }
    };
    let mut initial: Option<Arc<K>> = None;
    while let Some(event) = events.next().await {
        match event {
            watcher::Event::Init => initial = None,
            watcher::Event::InitApply(o) => initial = Some(Arc::new(o)),
            watcher::Event::InitDone => publish(initial.take()),
            watcher::Event::Apply(o) => publish(Some(Arc::new(o))),
            watcher::Event::Delete(_) => publish(None),
        }
    }
}

/// Both kinds.
pub struct Objects {
    pub config_maps: Cache<ConfigMap>,
    pub secrets: Cache<Secret>,
}

impl Objects {
    pub fn new(client: Option<Client>, notify: Notify) -> Self {
        Self { config_maps: Cache::new(client.clone(), notify.clone()), secrets: Cache::new(client, notify) }
    }

    /// Everything of `namespace` that is named, as far as it exists.
    pub async fn collect(
        &self,
        namespace: &str,
        names: &(Vec<String>, Vec<String>),
        user: &str,
    ) -> Result<crate::pod::env::ObjectSet, String> {
        let maps = futures::future::try_join_all(names.0.iter().map(|name| async move {
            Ok::<_, String>((name.clone(), self.config_maps.get(namespace, name, user).await?))
        }));
        let secrets = futures::future::try_join_all(names.1.iter().map(|name| async move {
            Ok::<_, String>((name.clone(), self.secrets.get(namespace, name, user).await?))
        }));
        let (maps, secrets) = tokio::try_join!(maps, secrets)?;
        Ok(crate::pod::env::ObjectSet {
            config_maps: maps.into_iter().filter_map(|(n, o)| Some((n, o?))).collect(),
            secrets: secrets.into_iter().filter_map(|(n, o)| Some((n, o?))).collect(),
        })
    }

    pub fn release(&self, user: &str) {
        self.config_maps.release(user);
        self.secrets.release(user);
    }
}

//! Watches of the kinds that quotas are about: names only, one per kind, begun when a quota first names the kind.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use component_base::controller::watching;
use component_base::quota::Tracked;
use futures::StreamExt;
use kube::Client;
use kube::runtime::watcher::{Config, Event};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Kind;
use crate::clients::Clients;
use crate::util::discovery;

/// Watches that share a connection; servers allow a hundred streams on one.
const PER_CONNECTION: usize = 80;
/// How long a worker waits for the first complete state of a kind.
const PATIENCE: Duration = Duration::from_secs(30);

/// Called with the kind and the namespace where something may have been freed.
type Freed = Box<dyn Fn(&Kind, &str) + Send + Sync>;

pub struct Monitors {
    clients: Clients,
    freed: Freed,
    watches: Mutex<HashMap<Kind, Arc<Watch>>>,
    connection: Mutex<Option<(Client, usize)>>,
    discovery: discovery::Cached,
}

/// The names of a kind by namespace.
struct Watch {
    names: Mutex<HashMap<String, HashSet<String>>>,
    /// Whether more counts than the number of objects, so that a change of one may free something. The quotas
    /// themselves are counted, too: a recount at each change would take back what admission has just charged.
    content_counts: bool,
    synced: watch::Sender<bool>,
    task: Mutex<Option<AbortHandle>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

impl Monitors {
    pub fn new(clients: Clients, client: Client, freed: Freed) -> Arc<Self> {
        Arc::new(Self {
            clients,
            freed,
            watches: Mutex::default(),
            connection: Mutex::default(),
            discovery: discovery::Cached::new(client),
        })
    }

    /// Stops the watches of all other kinds.
    pub fn keep(&self, wanted: &BTreeSet<Kind>) {
        self.watches.lock().retain(|kind, _| wanted.contains(kind));
    }

    /// The number of objects of a kind in a namespace; `None`: the server has no such kind.
    pub async fn count(self: &Arc<Self>, kind: &Kind, namespace: &str) -> anyhow::Result<Option<usize>> {
        let watch = match self.watch(kind) {
            Some(watch) => watch,
            None => match self.find(kind).await? {
                Some(found) => self.begin(kind, &found)?,
                None => return Ok(None),
            },
        };
        let mut synced = watch.synced.subscribe();
        if tokio::time::timeout(PATIENCE, synced.wait_for(|s| *s)).await.is_err() {
            bail!("the {} are not known yet", kind.1);
        }
        Ok(Some(watch.names.lock().get(namespace).map_or(0, HashSet::len)))
    }

    fn watch(&self, kind: &Kind) -> Option<Arc<Watch>> {
        self.watches.lock().get(kind).cloned()
    }

    /// What discovery says of a kind that can be counted.
    pub async fn find(&self, kind: &Kind) -> anyhow::Result<Option<discovery::Kind>> {
        let wanted = |k: &discovery::Kind| {
            k.resource.group == kind.0
                && k.resource.plural == kind.1
                && k.namespaced
                && k.supports(&["create", "list", "watch", "delete"])
        };
        Ok(self.discovery.find(wanted).await?)
    }

    fn begin(self: &Arc<Self>, kind: &Kind, found: &discovery::Kind) -> anyhow::Result<Arc<Watch>> {
        let client = self.connection()?;
        let mut watches = self.watches.lock();
        if let Some(watch) = watches.get(kind) {
            return Ok(watch.clone());
        }
        let watch = Arc::new(Watch {
            names: Mutex::default(),
            content_counts: !Tracked::of(&kind.0, &kind.1).is_plain(),
            synced: watch::channel(false).0,
            task: Mutex::default(),
        });
        let (this, kind_, weak) = (self.clone(), kind.clone(), Arc::downgrade(&watch));
        let mut events = watching::events(found.metadata_api(client), Config::default());
        let task = tokio::spawn(async move {
            let mut seen = HashMap::new();
            while let Some(event) = events.next().await {
                let Some(watch) = weak.upgrade() else { return };
                for namespace in watch.handle(event, &mut seen) {
                    (this.freed)(&kind_, &namespace);
                }
            }
        });
        *watch.task.lock() = Some(task.abort_handle());
        watches.insert(kind.clone(), watch.clone());
        Ok(watch)
    }

    fn connection(&self) -> anyhow::Result<Client> {
        let mut connection = self.connection.lock();
        match connection.as_mut() {
            Some((client, used)) if *used < PER_CONNECTION => {
                *used += 1;
                Ok(client.clone())
            }
            _ => {
                let client = self.clients.connection()?;
                *connection = Some((client.clone(), 1));
                Ok(client)
            }
        }
    }
}

impl Watch {
    /// Takes in what the watch told. Returns the namespaces where objects went away or, as their content is not known
    /// here, may now use less.
    fn handle<K: kube::Resource>(
        &self,
        event: Event<K>,
        seen: &mut HashMap<String, HashSet<String>>,
    ) -> Vec<String> {
        let of = |object: &K| {
            let meta = object.meta();
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
        };
        match event {
            Event::Init => {
                seen.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let (namespace, name) = of(&object);
                seen.entry(namespace).or_default().insert(name);
                Vec::new()
            }
            Event::InitDone => {
                let new = std::mem::take(seen);
                let mut names = self.names.lock();
                let fewer =
                    |ns: &&String| names[*ns].iter().any(|n| !new.get(*ns).is_some_and(|s| s.contains(n)));
                let freed = names.keys().filter(fewer).cloned().collect();
                *names = new;
                self.synced.send_replace(true);
                freed
            }
            Event::Apply(object) => {
                let (namespace, name) = of(&object);
                let new = self.names.lock().entry(namespace.clone()).or_default().insert(name);
                if new || !self.content_counts { Vec::new() } else { vec![namespace] }
            }
            Event::Delete(object) => {
                let (namespace, name) = of(&object);
                let mut names = self.names.lock();
                if let Some(set) = names.get_mut(&namespace) {
                    set.remove(&name);
                    if set.is_empty() {
                        names.remove(&namespace);
                    }
                }
                vec![namespace]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(namespace: &str, name: &str) -> ConfigMap {
        let mut c = ConfigMap::default();
        c.metadata.namespace = Some(namespace.to_owned());
        c.metadata.name = Some(name.to_owned());
        c
    }

    #[test]
    fn deletions_are_told_even_if_the_watch_missed_them() {
        let watch = Watch {
            names: Mutex::default(),
            content_counts: false,
            synced: watch::channel(false).0,
            task: Mutex::default(),
        };
        let mut seen = HashMap::new();
        let mut freed = Vec::new();
        for event in [
            Event::Init,
            Event::InitApply(object("a", "x")),
            Event::InitApply(object("b", "y")),
            Event::InitDone,
            Event::Apply(object("a", "z")),
            Event::Apply(object("a", "z")),
        ] {
            freed.extend(watch.handle(event, &mut seen));
        }
        assert!(freed.is_empty(), "{freed:?}");
        assert!(*watch.synced.borrow());
        assert_eq!(watch.names.lock()["a"].len(), 2);
        assert_eq!(watch.handle(Event::Delete(object("a", "x")), &mut seen), ["a"]);
        for event in [Event::Init, Event::InitApply(object("a", "z")), Event::InitDone] {
            freed.extend(watch.handle(event, &mut seen));
        }
        assert_eq!(freed, ["b"], "it went while nobody watched");
        assert!(!watch.names.lock().contains_key("b"));
    }
}

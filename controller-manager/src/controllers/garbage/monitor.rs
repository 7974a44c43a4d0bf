//! The watches of the collector: metadata only, one per kind, started and stopped as discovery changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use kube::Client;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::graph::Uid;
use super::{Collector, DISCOVERY_SETTLES};
use crate::util::discovery::{self, Kind};

/// Watches that share a connection; servers allow a hundred streams on one.
const PER_CONNECTION: usize = 80;

struct Monitor {
    task: JoinHandle<()>,
    synced: Arc<Semaphore>,
}

impl Collector {
    /// Follows the kinds the server has; adds a permit to `ready` once the first ones are complete.
    pub(super) async fn watch_kinds(self: &Arc<Self>, ready: &Semaphore) {
        let mut monitors: HashMap<usize, Monitor> = HashMap::new();
        let mut connection: Option<(Client, usize)> = None;
        while let Err(error) = self.update_monitors(&mut monitors, &mut connection).await {
            tracing::warn!(%error, "can't discover the kinds to collect, trying again");
            tokio::time::sleep(DISCOVERY_SETTLES[1]).await;
        }
        for m in monitors.values() {
            // Never closed, so this can't fail.
            let _ = m.synced.acquire().await;
        }
        tracing::debug!(kinds = monitors.len(), objects = self.graph.lock().len(), "collector is ready");
        ready.add_permits(Semaphore::MAX_PERMITS >> 1);
        loop {
            self.rediscover.notified().await;
            for pause in DISCOVERY_SETTLES {
                tokio::time::sleep(pause).await;
                match self.update_monitors(&mut monitors, &mut connection).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "can't discover the kinds to collect"),
                }
            }
        }
    }

    /// Starts and stops watches as discovery says. Says whether there was a change.
    async fn update_monitors(
        self: &Arc<Self>,
        monitors: &mut HashMap<usize, Monitor>,
        connection: &mut Option<(Client, usize)>,
    ) -> kube::Result<bool> {
        let found = discovery::run(&self.client).await?;
        let changes = self.kinds.update(found.kinds, found.stale.is_empty());
        let changed = !changes.added.is_empty() || !changes.removed.is_empty();
        for id in changes.removed {
            if let Some(m) = monitors.remove(&id) {
                m.task.abort();
            }
            self.forget_kind(id);
        }
        for id in changes.added {
            let Some(client) = self.connection(connection) else { continue };
            if let Some(kind) = self.kinds.get(id) {
                monitors.insert(id, self.monitor(id, kind, client));
            }
        }
        Ok(changed)
    }

    fn connection(&self, current: &mut Option<(Client, usize)>) -> Option<Client> {
        match current {
            Some((client, used)) if *used < PER_CONNECTION => {
                *used += 1;
                Some(client.clone())
            }
            _ => match self.clients.connection() {
                Ok(client) => {
                    *current = Some((client.clone(), 1));
                    Some(client)
                }
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "can't make a connection for metadata watches"
                    );
                    None
                }
            },
        }
    }

    fn forget_kind(&self, id: usize) {
        let gone = self.graph.lock().missing(id, &HashSet::new());
        for uid in gone {
            let wake = self.graph.lock().remove(&uid);
            self.wake(wake);
        }
    }

    fn monitor(self: &Arc<Self>, id: usize, kind: Arc<Kind>, client: Client) -> Monitor {
        let synced = Arc::new(Semaphore::new(0));
        let (this, done, stop) = (self.clone(), synced.clone(), self.stop.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.follow(id, &kind, client, &done) => {}
            }
        });
        Monitor { task, synced }
    }

    async fn follow(&self, id: usize, kind: &Kind, client: Client, synced: &Semaphore) {
        let defines_kinds = matches!(
            kind.group_resource().as_str(),
            "customresourcedefinitions.apiextensions.k8s.io" | "apiservices.apiregistration.k8s.io"
        );
        let mut config = watcher::Config {
            initial_list_strategy: InitialListStrategy::StreamingList,
            ..watcher::Config::default()
        };
        let mut complete = false;
        loop {
            let api = kind.metadata_api(client.clone());
            let mut stream = watcher::watcher(api, config.clone()).default_backoff().boxed();
            let mut seen: HashSet<Uid> = HashSet::new();
            while let Some(event) = stream.next().await {
                match event {
                    Ok(Event::Init) => seen.clear(),
                    Ok(Event::InitApply(object)) => {
                        if let Some(uid) = object.metadata.uid.as_deref() {
                            seen.insert(uid.into());
                        }
                        let wake = self.graph.lock().observe(id, &object.metadata);
                        self.wake(wake);
                    }
                    Ok(Event::InitDone) => {
                        let gone = self.graph.lock().missing(id, &seen);
                        for uid in gone {
                            let wake = self.graph.lock().remove(&uid);
                            self.wake(wake);
                        }
                        seen = HashSet::new();
                        if !complete {
                            complete = true;
                            synced.add_permits(1);
                        }
                    }
                    Ok(Event::Apply(object)) => {
                        let wake = self.graph.lock().observe(id, &object.metadata);
                        self.wake(wake);
                        if defines_kinds {
                            self.rediscover();
                        }
                    }
                    Ok(Event::Delete(object)) => {
                        if let Some(uid) = object.metadata.uid.as_deref() {
                            let wake = self.graph.lock().remove(uid);
                            self.wake(wake);
                        }
                        if defines_kinds {
                            self.rediscover();
                        }
                    }
                    Err(error) => {
                        if !complete && config.initial_list_strategy == InitialListStrategy::StreamingList {
                            config.initial_list_strategy = InitialListStrategy::ListWatch;
                            break;
                        }
                        if gone(&error) {
                            // The kind may have been removed; discovery tells.
                            self.rediscover();
                            if !complete {
                                complete = true;
                                synced.add_permits(1);
                            }
                        }
                        tracing::debug!(kind = kind.group_resource(), %error, "metadata watch interrupted");
                    }
                }
            }
        }
    }
}

fn gone(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(s)) | watcher::Error::WatchStartFailed(kube::Error::Api(s))
            if matches!(s.code, 403..=405)
    )
}

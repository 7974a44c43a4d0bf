//! The services of the cluster, as far as containers' environments show them: one watch, kept small.

use std::{collections::HashMap, sync::Arc, time::Duration};

use component_base::controller::watching;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, runtime::watcher};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::pod::service_env::{ServiceFacts, ServicePort};

/// How long a container's start waits for the first list.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// Facts of all services.
#[derive(Clone)]
pub struct Services {
    all: Arc<RwLock<HashMap<(String, String), ServiceFacts>>>,
    synced: watch::Receiver<bool>,
}

impl Services {
    /// Starts the watch; without a client there are no services.
    pub fn start(client: Option<Client>) -> Self {
        let (tx, rx) = watch::channel(client.is_none());
        let services = Self { all: Arc::default(), synced: rx };
        if let Some(client) = client {
            tokio::spawn(follow(client, services.all.clone(), tx));
        }
        services
    }

    /// Hands over all services once they are known.
    pub async fn with<R>(
        &self,
        f: impl FnOnce(std::collections::hash_map::Values<'_, (String, String), ServiceFacts>) -> R,
    ) -> R {
        let mut synced = self.synced.clone();
        if !*synced.borrow() {
            let _ = tokio::time::timeout(FIRST_LIST, synced.wait_for(|s| *s)).await;
        }
        f(self.all.read().values())
    }
}

fn facts(s: Service) -> Option<ServiceFacts> {
    let spec = s.spec?;
    Some(ServiceFacts {
        namespace: s.metadata.namespace?,
        name: s.metadata.name?,
        cluster_ip: spec.cluster_ip.unwrap_or_default(),
        ports: spec
            .ports
            .into_iter()
            .flatten()
            .map(|p| ServicePort {
                name: p.name.unwrap_or_default(),
                port: p.port,
                protocol: p.protocol.unwrap_or_default(),
            })
            .collect(),
    })
}

async fn follow(
    client: Client,
    all: Arc<RwLock<HashMap<(String, String), ServiceFacts>>>,
    synced: watch::Sender<bool>,
) {
    let mut events = watching::events(Api::<Service>::all(client), watcher::Config::default());
    let mut initial = HashMap::new();
    let put = |map: &mut HashMap<_, _>, s| {
        if let Some(f) = facts(s) {
            map.insert((f.namespace.clone(), f.name.clone()), f);
        }
    };
    while let Some(event) = events.next().await {
        match event {
            watcher::Event::Init => initial.clear(),
            watcher::Event::InitApply(s) => put(&mut initial, s),
            watcher::Event::InitDone => {
                *all.write() = std::mem::take(&mut initial);
                synced.send_replace(true);
            }
            watcher::Event::Apply(s) => put(&mut all.write(), s),
            watcher::Event::Delete(s) => {
                let key = (s.metadata.namespace.unwrap_or_default(), s.metadata.name.unwrap_or_default());
                all.write().remove(&key);
            }
        }
    }
}

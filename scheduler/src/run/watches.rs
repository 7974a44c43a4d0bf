//! One watch per kind. Objects are converted as they arrive and the originals dropped: nothing but the compact
//! form is ever kept. ResourceClaims are kept as they are, because they are written back.

use std::collections::HashSet;
use std::fmt::Debug;

use component_base::controller::watching;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1 as resource;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, StorageClass};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::{Change, Key, Msg};
use crate::cache::Budget;
use crate::dra;
use crate::model::{Labels, Selector, convert};

/// How many kinds are watched.
pub const KINDS: usize = 17;

/// Starts all watches. They end with `stop` or when nobody listens.
pub fn start(client: &Client, tx: &mpsc::Sender<Change>, stop: &CancellationToken, tasks: &TaskTracker) {
    let w = Watches { client, tx, stop, tasks };
    // Finished pods use nothing; the API server leaves them out.
    let live = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    w.one(live, |p: &core::Pod| Box::new(convert::pod(p)), Change::Pod);
    w.all(|n: &core::Node| Box::new(convert::node(n)), Change::Node);
    w.all(|n: &core::Namespace| Labels::new(n.metadata.labels.as_ref()), Change::Namespace);
    w.all(
        |s: &core::Service| Selector::from_map(s.spec.as_ref().and_then(|x| x.selector.as_ref())),
        Change::Service,
    );
    w.all(|r: &ReplicaSet| Selector::new(r.spec.as_ref().map(|x| &x.selector)), Change::ReplicaSet);
    w.all(|r: &StatefulSet| Selector::new(r.spec.as_ref().map(|x| &x.selector)), Change::StatefulSet);
    w.all(
        |r: &core::ReplicationController| {
            Selector::from_map(r.spec.as_ref().and_then(|x| x.selector.as_ref()))
        },
        Change::ReplicationController,
    );
    w.all(|c: &core::PersistentVolumeClaim| Box::new(convert::claim(c)), Change::Claim);
    w.all(|v: &core::PersistentVolume| Box::new(convert::volume(v)), Change::Volume);
    w.all(|c: &StorageClass| Box::new(convert::class(c)), Change::Class);
    w.all(
        |n: &CSINode| {
            let drivers = n.spec.drivers.iter();
            drivers
                .map(|d| {
                    let limit = d.allocatable.as_ref().and_then(|a| a.count).map(i64::from);
                    (d.name.as_str().into(), limit)
                })
                .collect()
        },
        Change::CsiNode,
    );
    w.all(budget, Change::Budget);
    w.all(|d: &CSIDriver| d.spec.storage_capacity.unwrap_or(false), Change::CsiDriver);
    w.all(convert::capacity, Change::Capacity);
    w.all(|c: &resource::ResourceClaim| dra::claims::kept(c.clone()), Change::ResourceClaim);
    w.all(dra::model::slice, Change::ResourceSlice);
    w.all(dra::model::class, Change::DeviceClass);
}

fn budget(b: &PodDisruptionBudget) -> Budget {
    let status = b.status.as_ref();
    Budget {
        namespace: b.metadata.namespace.as_deref().unwrap_or("").into(),
        selector: Selector::new(b.spec.as_ref().and_then(|s| s.selector.as_ref())),
        allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
        disrupted: status
            .and_then(|s| s.disrupted_pods.as_ref())
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str().into())
            .collect(),
    }
}

struct Watches<'a> {
    client: &'a Client,
    tx: &'a mpsc::Sender<Change>,
    stop: &'a CancellationToken,
    tasks: &'a TaskTracker,
}

impl Watches<'_> {
    fn all<K, T>(&self, of: fn(&K) -> T, wrap: fn(Msg<T>) -> Change)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Send + 'static,
    {
        self.one(watcher::Config::default(), of, wrap);
    }

    fn one<K, T>(&self, config: watcher::Config, of: fn(&K) -> T, wrap: fn(Msg<T>) -> Change)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Send + 'static,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let (tx, stop) = (self.tx.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow(api, config, of, wrap, tx) => {}
            }
        });
    }
}

fn key_of<K: Resource<DynamicType = ()>>(o: &K) -> Key {
    let m = o.meta();
    if K::kind(&()) == "Pod" {
        return ("".into(), m.uid.as_deref().unwrap_or("").into());
    }
    (m.namespace.as_deref().unwrap_or("").into(), m.name.as_deref().unwrap_or("").into())
}

async fn follow<K, T>(
    api: Api<K>,
    config: watcher::Config,
    of: fn(&K) -> T,
    wrap: fn(Msg<T>) -> Change,
    tx: mpsc::Sender<Change>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = watching::events(api, config);
    let mut seen = HashSet::new();
    while let Some(event) = events.next().await {
        let msg = match event {
            Event::Init => {
                seen.clear();
                continue;
            }
            Event::InitApply(o) => {
                let key = key_of(&o);
                seen.insert(key.clone());
                Msg::Set(key, of(&o))
            }
            Event::InitDone => Msg::Synced(std::mem::take(&mut seen)),
            Event::Apply(o) => Msg::Set(key_of(&o), of(&o)),
            Event::Delete(o) => Msg::Gone(key_of(&o)),
        };
        if tx.send(wrap(msg)).await.is_err() {
            return;
        }
    }
}

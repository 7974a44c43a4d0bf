//! Watches of services, endpoint slices and the own node. Objects are converted as they arrive and dropped.

use std::collections::HashSet;
use std::fmt::Debug;
use std::net::IpAddr;

use component_base::controller::watching;
use component_base::process::Shutdown;
use futures::StreamExt;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::model::convert::{self, PortEndpoints};
use crate::model::{Cidr, Family, Service, ServiceName};

/// What is kept of the own node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub zone: Box<str>,
    pub pod_cidrs: Vec<Cidr>,
    pub ips: Vec<IpAddr>,
    /// Neither deleted nor about to be.
    pub stays: bool,
}

/// A slice with the service and family it is for.
pub type SliceFacts = (ServiceName, Family, Vec<PortEndpoints>);

/// One change of one kind; names are namespace and name.
#[derive(Debug)]
pub enum Msg<T> {
    Set(ServiceName, T),
    Gone(ServiceName),
    /// The watch began anew: only these exist.
    Synced(HashSet<ServiceName>),
}

/// A change.
#[derive(Debug)]
pub enum Change {
    Service(Msg<[Option<Service>; 2]>),
    Slice(Msg<Option<SliceFacts>>),
    Node(Msg<NodeFacts>),
}

/// How many kinds are watched.
pub const KINDS: usize = 3;

/// Starts the watches.
pub fn start(client: &Client, node: &str, stop: &Shutdown) -> mpsc::Receiver<Change> {
    let (tx, rx) = mpsc::channel(256);
    let ours = watcher::Config::default().labels(&convert::label_selector());
    spawn(
        client,
        ours.clone(),
        stop,
        tx.clone(),
        |s: &core::Service| [convert::service(s, Family::V4), convert::service(s, Family::V6)],
        Change::Service,
    );
    let name = node.to_owned();
    let slices = move |s: &EndpointSlice| convert::slice(s, &name);
    spawn(client, ours, stop, tx.clone(), slices, Change::Slice);
    let own = watcher::Config::default().fields(&format!("metadata.name={node}"));
    spawn(client, own, stop, tx, node_facts, Change::Node);
    rx
}

fn node_facts(n: &core::Node) -> NodeFacts {
    let spec = n.spec.as_ref();
    let leaving = spec
        .and_then(|s| s.taints.as_ref())
        .into_iter()
        .flatten()
        .any(|t| t.key == "ToBeDeletedByClusterAutoscaler");
    NodeFacts {
        zone: n
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get("topology.kubernetes.io/zone"))
            .map_or("", String::as_str)
            .into(),
        pod_cidrs: spec
            .and_then(|s| s.pod_cidrs.as_ref())
            .into_iter()
            .flatten()
            .filter_map(|c| c.parse().ok())
            .collect(),
        ips: n
            .status
            .as_ref()
            .and_then(|s| s.addresses.as_ref())
            .into_iter()
            .flatten()
            .filter(|a| a.type_ == "InternalIP")
            .filter_map(|a| a.address.parse().ok())
            .collect(),
        stays: n.metadata.deletion_timestamp.is_none() && !leaving,
    }
}

fn spawn<K, T>(
    client: &Client,
    config: watcher::Config,
    stop: &Shutdown,
    tx: mpsc::Sender<Change>,
    of: impl Fn(&K) -> T + Send + 'static,
    wrap: fn(Msg<T>) -> Change,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Send + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow(api, config, of, wrap, tx) => {}
        }
    });
}

async fn follow<K, T>(
    api: Api<K>,
    config: watcher::Config,
    of: impl Fn(&K) -> T,
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
                let name = convert::name_of(o.meta());
                seen.insert(name.clone());
                Msg::Set(name, of(&o))
            }
            Event::InitDone => Msg::Synced(std::mem::take(&mut seen)),
            Event::Apply(o) => Msg::Set(convert::name_of(o.meta()), of(&o)),
            Event::Delete(o) => Msg::Gone(convert::name_of(o.meta())),
        };
        if tx.send(wrap(msg)).await.is_err() {
            return;
        }
    }
}

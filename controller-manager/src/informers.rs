//! The watches that controllers share: at most one per kind, started only if somebody asked for it.
//!
//! [`Watched`] says per kind what is watched and what is dropped before it is kept: the stores are this daemon's
//! memory. Objects whose specs were cut must never be written back whole.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use component_base::controller::informer::{Informer, Store};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Affinity, ConfigMap, Endpoints, Namespace, Node, NodeAffinity, PersistentVolume, PersistentVolumeClaim,
    Pod, PodAffinityTerm, PodSpec, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass, VolumeAttachment, VolumeAttributesClass};
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::util::meta;

/// A kind that controllers watch.
pub trait Watched:
    kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// What to watch; all namespaces unless said otherwise.
    fn api(client: Client) -> Api<Self> {
        Api::all(client)
    }

    /// Selectors of the watch.
    fn config() -> watcher::Config {
        watcher::Config::default()
    }

    /// Drops what no controller reads.
    fn trim(&mut self) {}
}

/// Whether the pod's affinity is about pods of other namespaces: quotas of the scope `CrossNamespacePodAffinity` ask.
fn crosses_namespaces(spec: &PodSpec) -> bool {
    let Some(affinity) = spec.affinity.as_ref() else { return false };
    let crosses = |t: &PodAffinityTerm| {
        t.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || t.namespace_selector.is_some()
    };
    let weighted = |t: &WeightedPodAffinityTerm| crosses(&t.pod_affinity_term);
    affinity.pod_affinity.iter().any(|a| {
        a.required_during_scheduling_ignored_during_execution.iter().flatten().any(crosses)
            || a.preferred_during_scheduling_ignored_during_execution.iter().flatten().any(weighted)
    }) || affinity.pod_anti_affinity.iter().any(|a| {
        a.required_during_scheduling_ignored_during_execution.iter().flatten().any(crosses)
            || a.preferred_during_scheduling_ignored_during_execution.iter().flatten().any(weighted)
    })
}

impl Watched for Pod {
    fn trim(&mut self) {
        meta::drop_last_applied(self);
        let Some(spec) = self.spec.as_mut() else { return };
        trim_volumes(spec);
        if !crosses_namespaces(spec) {
            trim_affinity(spec);
        }
        spec.image_pull_secrets = None;
        spec.security_context = None;
        spec.topology_spread_constraints = None;
        for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            c.command = None;
            c.args = None;
            c.env = None;
            c.env_from = None;
            c.volume_mounts = None;
            c.liveness_probe = None;
            c.readiness_probe = None;
            c.startup_probe = None;
            c.lifecycle = None;
            c.security_context = None;
        }
    }
}

/// Keeps the node that a daemon pod waits for: it is chosen by name.
fn trim_affinity(spec: &mut PodSpec) {
    let waits = spec.node_name.as_deref().unwrap_or_default().is_empty();
    let affinity = spec.affinity.take().filter(|_| waits).and_then(|a| a.node_affinity);
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution);
    let by_name = required.filter(|r| r.node_selector_terms.iter().any(|t| t.match_fields.is_some()));
    spec.affinity = by_name.map(|required| {
        let required_during_scheduling_ignored_during_execution = Some(required);
        let node =
            NodeAffinity { required_during_scheduling_ignored_during_execution, ..NodeAffinity::default() };
        Affinity { node_affinity: Some(node), ..Affinity::default() }
    });
}

/// Keeps the volumes that use a claim.
fn trim_volumes(spec: &mut PodSpec) {
    if let Some(volumes) = spec.volumes.as_mut() {
        volumes.retain(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some());
        volumes.shrink_to_fit();
    }
    spec.volumes.take_if(|v| v.is_empty());
}

impl Watched for Node {
    fn trim(&mut self) {
        if let Some(status) = self.status.as_mut() {
            status.images = None;
        }
    }
}

impl Watched for ConfigMap {
    fn config() -> watcher::Config {
        watcher::Config::default().fields(&format!("metadata.name={}", crate::controllers::root_ca::NAME))
    }
}

impl Watched for Lease {
    fn api(client: Client) -> Api<Self> {
        Api::namespaced(client, "kube-node-lease")
    }
}

impl Watched for ServiceAccount {
    fn trim(&mut self) {
        self.secrets = None;
        self.image_pull_secrets = None;
    }
}

impl Watched for Service {
    fn trim(&mut self) {
        meta::drop_last_applied(self);
    }
}

impl Watched for Namespace {}
impl Watched for Deployment {}
impl Watched for ReplicaSet {}
impl Watched for ReplicationController {}
impl Watched for EndpointSlice {}
impl Watched for Endpoints {}
impl Watched for ClusterRole {}
impl Watched for DaemonSet {}
impl Watched for StatefulSet {}
impl Watched for ControllerRevision {}
impl Watched for Job {}
impl Watched for CronJob {}
impl Watched for PodDisruptionBudget {}
impl Watched for ResourceQuota {}
impl Watched for CertificateSigningRequest {}
impl Watched for ServiceCIDR {}
impl Watched for HorizontalPodAutoscaler {
    fn trim(&mut self) {
        meta::drop_last_applied(self);
    }
}

/// Only those that hold tokens of service accounts: other secrets are none of our business.
impl Watched for Secret {
    fn config() -> watcher::Config {
        watcher::Config::default().fields("type=kubernetes.io/service-account-token")
    }
}

impl Watched for IPAddress {
    fn trim(&mut self) {
        self.spec = IPAddressSpec::default();
    }
}
impl Watched for PersistentVolume {}
impl Watched for PersistentVolumeClaim {}
impl Watched for StorageClass {}
impl Watched for VolumeAttributesClass {}
impl Watched for VolumeAttachment {}
impl Watched for CSIDriver {}
impl Watched for ResourceClaim {}
impl Watched for ResourceClaimTemplate {}
impl Watched for ResourceSlice {}
impl Watched for ValidatingAdmissionPolicy {}

/// What an informer is found by.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Kind(TypeId),
    Name(&'static str),
}

struct Slot {
    informer: Arc<dyn Any + Send + Sync>,
    start: Option<Box<dyn FnOnce() + Send>>,
}

#[derive(Default)]
struct Slots {
    by_key: HashMap<Key, Slot>,
    started: bool,
}

/// All informers of the process.
pub struct Informers {
    client: Client,
    stop: CancellationToken,
    slots: Mutex<Slots>,
}

impl Informers {
    /// No informer yet.
    pub fn new(client: Client, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { client, stop, slots: Mutex::new(Slots::default()) })
    }

    /// The informer of a kind; made now if nobody asked before.
    pub fn of<K: Watched>(&self) -> Arc<Informer<K>>
    where
        K::DynamicType: Eq + Hash + Clone + Default,
    {
        self.slot(Key::Kind(TypeId::of::<K>()), || {
            Informer::with(K::api(self.client.clone()), K::config(), Some(K::trim))
        })
    }

    /// A watch of some objects of a kind, for which there is another name than the kind's; made now if nobody asked for
    /// it before.
    pub fn selected<K: Watched>(
        &self,
        name: &'static str,
        api: Api<K>,
        config: watcher::Config,
    ) -> Arc<Informer<K>>
    where
        K::DynamicType: Eq + Hash + Clone + Default,
    {
        self.slot(Key::Name(name), || Informer::with(api, config, Some(K::trim)))
    }

    fn slot<K: Watched>(&self, key: Key, make: impl FnOnce() -> Arc<Informer<K>>) -> Arc<Informer<K>>
    where
        K::DynamicType: Eq + Hash + Clone + Default,
    {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.by_key.get(&key)
            && let Ok(informer) = slot.informer.clone().downcast::<Informer<K>>()
        {
            return informer;
        }
        let informer = make();
        let (running, stop) = (informer.clone(), self.stop.clone());
        let start = move || {
            tokio::spawn(running.run(stop));
        };
        let start: Option<Box<dyn FnOnce() + Send>> = if slots.started {
            start();
            None
        } else {
            Some(Box::new(start))
        };
        slots.by_key.insert(key, Slot { informer: informer.clone(), start });
        informer
    }

    /// The store of a kind.
    pub fn store<K: Watched>(&self) -> Store<K>
    where
        K::DynamicType: Eq + Hash + Clone + Default,
    {
        self.of::<K>().store()
    }

    /// Opens all watches; those asked for later open at once.
    pub fn start(&self) {
        let mut slots = self.slots.lock();
        slots.started = true;
        for slot in slots.by_key.values_mut() {
            if let Some(start) = slot.start.take() {
                start();
            }
        }
    }
}

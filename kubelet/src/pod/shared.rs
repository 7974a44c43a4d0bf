//! What the rest of the kubelet may see and do of one pod while its worker runs: the latest spec, runtime view,
//! status and probe results; and a bell to wake the worker.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::machine::ProbeState;
use crate::cri::{ContainerState, PodRuntime};

/// Shared between a pod's worker, its probes, the server and the manager.
pub struct PodShared {
    pub uid: String,
    pod: RwLock<Arc<Pod>>,
    pub runtime: RwLock<Arc<PodRuntime>>,
    pub status: RwLock<Option<PodStatus>>,
    pub probes: Mutex<HashMap<String, ProbeState>>,
    /// Rung when a startup probe passes.
    pub started: Notify,
    bell: Notify,
    runtime_dirty: AtomicBool,
    volumes_dirty: AtomicBool,
    /// The pod is gone from its source: stop it.
    removed: AtomicBool,
    /// The kubelet ends the pod: reason and message of its failure.
    eviction: Mutex<Option<(String, String)>>,
}

impl PodShared {
    pub fn new(uid: &str, pod: Arc<Pod>) -> Self {
        Self {
            uid: uid.to_owned(),
            pod: RwLock::new(pod),
            runtime: RwLock::default(),
            status: RwLock::new(None),
            probes: Mutex::default(),
            started: Notify::new(),
            bell: Notify::new(),
            runtime_dirty: AtomicBool::new(true),
            volumes_dirty: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            eviction: Mutex::new(None),
        }
    }

    pub fn pod(&self) -> Arc<Pod> {
        self.pod.read().clone()
    }

    pub fn set_pod(&self, pod: Arc<Pod>) {
        *self.pod.write() = pod;
        self.wake();
    }

    /// Look again.
    pub fn wake(&self) {
        self.bell.notify_one();
    }

    /// The runtime's state changed: observe it again.
    pub fn wake_runtime(&self) {
        self.runtime_dirty.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Observe the runtime at the next look, without asking for one.
    pub(super) fn mark_runtime_dirty(&self) {
        self.runtime_dirty.store(true, Ordering::SeqCst);
    }

    /// A ConfigMap or Secret changed: bring volumes up to date.
    pub fn wake_volumes(&self) {
        self.volumes_dirty.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub fn remove(&self) {
        self.removed.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Ends the pod with a failure; false if that is under way already.
    pub fn evict(&self, reason: &str, message: &str) -> bool {
        let mut eviction = self.eviction.lock();
        if eviction.is_some() {
            return false;
        }
        *eviction = Some((reason.to_owned(), message.to_owned()));
        drop(eviction);
        self.wake();
        true
    }

    pub(super) fn eviction(&self) -> Option<(String, String)> {
        self.eviction.lock().clone()
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    pub(super) fn take_runtime_dirty(&self) -> bool {
        self.runtime_dirty.swap(false, Ordering::SeqCst)
    }

    pub(super) fn take_volumes_dirty(&self) -> bool {
        self.volumes_dirty.swap(false, Ordering::SeqCst)
    }

    /// CRI id of the newest instance of a container; `running_only` refuses a dead one.
    pub fn container_id(&self, name: &str, running_only: bool) -> Option<String> {
        let runtime = self.runtime.read().clone();
        let c = runtime.container(name)?;
        (!running_only || c.state == ContainerState::Running).then(|| c.id.clone())
    }

    /// CRI id of the sandbox in use.
    pub fn sandbox_id(&self) -> Option<String> {
        self.runtime.read().ready_sandbox().map(|s| s.id.clone())
    }
}

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
    /// With what the pod was allocated.
    pod: RwLock<Arc<Pod>>,
    /// As its source has it.
    desired: RwLock<Arc<Pod>>,
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
            desired: RwLock::new(pod.clone()),
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

    /// The pod that runs: its resources are those it was allocated.
    pub fn pod(&self) -> Arc<Pod> {
        self.pod.read().clone()
    }

    /// The pod as its source has it.
    pub fn desired(&self) -> Arc<Pod> {
        self.desired.read().clone()
    }

    /// The pod changed at its source; what it was there before. Nobody works with it until [`Self::set_pod`].
    pub(super) fn set_desired(&self, pod: Arc<Pod>) -> Arc<Pod> {
        std::mem::replace(&mut *self.desired.write(), pod)
    }

    /// The pod to run from now on.
    pub fn set_pod(&self, pod: Arc<Pod>) {
        let before = std::mem::replace(&mut *self.pod.write(), Arc::clone(&pod));
        if has_downward_api(&pod) && !tells_the_same(&before, &pod) {
            self.wake_volumes();
        } else {
            self.wake();
        }
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

    /// What volumes show (a ConfigMap, a Secret, the pod's own fields) changed: bring volumes up to date.
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

/// Whether a volume shows fields of the pod.
fn has_downward_api(pod: &Pod) -> bool {
    super::spec::spec(pod).volumes.iter().flatten().any(|v| {
        let sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
        v.downward_api.is_some() || sources.into_iter().any(|s| s.downward_api.is_some())
    })
}

/// Whether both tell their containers the same, of what can change while they run.
fn tells_the_same(a: &Pod, b: &Pod) -> bool {
    let resources =
        |p: &Pod| -> Vec<_> { super::spec::spec(p).containers.iter().map(|c| c.resources.clone()).collect() };
    a.metadata.labels == b.metadata.labels
        && a.metadata.annotations == b.metadata.annotations
        && resources(a) == resources(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(labels: serde_json::Value, volume: serde_json::Value) -> Arc<Pod> {
        let pod = serde_json::json!({"metadata": {"name": "p", "labels": labels},
            "spec": {"containers": [{"name": "c"}], "volumes": [volume]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn changed_labels_reach_the_volumes_that_show_them() {
        let item = serde_json::json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
        let plain = serde_json::json!({"name": "v", "downwardAPI": {"items": item}});
        let projected =
            serde_json::json!({"name": "v", "projected": {"sources": [{"downwardAPI": {"items": item}}]}});
        let other = serde_json::json!({"name": "v", "emptyDir": {}});
        for (volume, shown) in [(plain, true), (projected, true), (other, false)] {
            let old = serde_json::json!({"a": "1"});
            let shared = PodShared::new("u", pod(old.clone(), volume.clone()));
            shared.set_pod(pod(old, volume.clone()));
            assert!(!shared.take_volumes_dirty(), "nothing changed");
            shared.set_pod(pod(serde_json::json!({"a": "2"}), volume.clone()));
            assert_eq!(shared.take_volumes_dirty(), shown, "{volume}");
        }
    }
}

//! All pods of the node: gives each its worker, routes runtime and object events to them, answers lookups.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::{
    admission, allocation::Trigger, mirror::Mirrors, orphans, resources, shared::PodShared, spec,
    worker::Worker,
};
use crate::{
    context::Context,
    cri::{ContainerState, events::RuntimeEvent},
    events::WARNING,
};

#[path = "manager_resize.rs"]
mod resize;

/// The pods by uid.
pub struct PodManager {
    ctx: Arc<Context>,
    pods: RwLock<HashMap<String, Arc<PodShared>>>,
    pub mirrors: Mirrors,
    /// All sources have told their pods at least once.
    synced: AtomicBool,
    ended: mpsc::UnboundedSender<String>,
    /// Held while pods are admitted or resized: one is judged after the other.
    judging: parking_lot::Mutex<()>,
}

impl PodManager {
    pub fn new(ctx: Arc<Context>) -> Arc<Self> {
        let (tx, rx) = mpsc::unbounded_channel();
        let manager = Arc::new(Self {
            ctx: ctx.clone(),
            pods: RwLock::default(),
            mirrors: Mirrors::new(ctx.clone()),
            synced: AtomicBool::new(false),
            ended: tx,
            judging: parking_lot::Mutex::default(),
        });
        tokio::spawn(resize::keep_asking(Arc::downgrade(&manager), ctx));
        tokio::spawn(forget_ended(Arc::downgrade(&manager), rx));
        manager
    }

    /// A pod is new or changed at its source.
    pub fn apply(&self, pod: Pod) {
        if self.receive(Arc::new(pod)) {
            self.retry_resizes(Trigger::PodsAdded);
        }
    }

    /// True for a new pod whose spec wants other resources than it was allocated by an earlier kubelet.
    fn receive(&self, desired: Arc<Pod>) -> bool {
        let uid = spec::uid(&desired).to_owned();
        if let Some(known) = self.by_uid(&uid) {
            self.update(&known, desired);
            return false;
        }
        let judging = self.judging.lock();
        let allocations = &self.ctx.allocations;
        let pod = allocations.fill(&desired);
        let rejected = self.admission(&pod);
        let over = spec::is_terminal_phase(spec::phase(pod.status.as_ref()));
        if rejected.is_none() && !over {
            if let Err(e) = allocations.allocate(&pod) {
                tracing::error!(pod = spec::key(&pod), error = %e, "cannot keep what the pod is allocated");
            }
            allocations.restore(&pod);
        }
        if let Some((reason, message)) = &rejected {
            tracing::warn!(pod = spec::key(&pod), reason, message, "pod is not admitted to this node");
            self.ctx.recorder.pod(&pod, WARNING, reason, message.clone());
        }
        let waits = allocations.differs(&desired);
        if waits {
            allocations.push(&uid);
        } else {
            allocations.condition(&uid, |c, _| c.pending = None);
        }
        let shared = Arc::new(PodShared::new(&uid, pod));
        shared.set_desired(desired);
        self.pods.write().insert(uid.clone(), shared.clone());
        drop(judging);
        self.update_shares();
        let rejected = rejected.map(|(reason, message)| (reason, format!("Pod was rejected: {message}")));
        let worker = Worker::new(self.ctx.clone(), shared, rejected);
        let ended = self.ended.clone();
        tokio::spawn(async move {
            worker.run().await;
            let _ = ended.send(uid);
        });
        waits
    }

    /// A pod is gone from its source.
    pub fn remove(&self, uid: &str) {
        if let Some(known) = self.pods.read().get(uid) {
            known.remove();
            self.ctx.allocations.ring(Trigger::PodsRemoved);
        }
    }

    /// The complete list of one source: what is not in it is gone.
    pub fn replace(&self, mut list: Vec<Pod>, is_static: bool) {
        list.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        let uids: HashSet<&str> = list.iter().map(spec::uid).collect();
        let gone: Vec<String> = self
            .pods
            .read()
            .iter()
            .filter(|(uid, p)| spec::is_static(&p.pod()) == is_static && !uids.contains(uid.as_str()))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in gone {
            self.remove(&uid);
        }
        // Resizes are judged once all pods are here.
        let waiting = list.into_iter().map(|p| self.receive(Arc::new(p))).filter(|waits| *waits).count();
        if waiting > 0 {
            self.retry_resizes(Trigger::PodsAdded);
        }
    }

    /// All sources are complete: what else the runtime has is removed.
    pub async fn sources_ready(&self) {
        if self.synced.swap(true, Ordering::SeqCst) {
            return;
        }
        let known = self.pods.read().keys().cloned().collect();
        self.ctx.allocations.retain(&known);
        self.retry_resizes(Trigger::PodsAdded);
        self.reap_orphans().await;
    }

    async fn reap_orphans(&self) {
        let known: HashSet<String> = self.pods.read().keys().cloned().collect();
        match orphans::find(&self.ctx, &known).await {
            Ok(found) => {
                for uid in found {
                    tokio::spawn(orphans::reap(self.ctx.clone(), uid));
                }
            }
            Err(e) => tracing::warn!(error = %e, "cannot look for orphaned pods"),
        }
    }

    fn admission(&self, pod: &Pod) -> Option<admission::Refusal> {
        let begun = pod.status.as_ref().is_some_and(|s| {
            s.phase.as_deref().is_some_and(|p| p != "Pending")
                || s.container_statuses.iter().flatten().any(|c| c.container_id.is_some())
        });
        if begun || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        self.beside_others(spec::uid(pod), |others, node, capacity| {
            admission::admit(pod, others, node, capacity).err()
        })
    }

    /// Judges a pod by what the other pods hold, the node, and what it has.
    pub(super) fn beside_others<T>(
        &self,
        uid: &str,
        judge: impl FnOnce(&[&Pod], Option<&Node>, &admission::Capacity<'_>) -> T,
    ) -> T {
        let others = self.held_by_others(uid);
        let others: Vec<&Pod> = others.iter().map(|p| &**p).collect();
        let capacity = admission::Capacity {
            allocatable: &self.ctx.machine.allocatable_amounts(&self.ctx.config),
            max_pods: self.ctx.config.max_pods,
            allowed_sysctls: &self.ctx.config.allowed_unsafe_sysctls,
        };
        let node = self.ctx.node.read().clone();
        judge(&others, node.as_deref(), &capacity)
    }

    /// Pods that have not ended.
    pub fn running(&self) -> Vec<Arc<PodShared>> {
        let ended = |p: &PodShared| {
            let own = p.status.read().as_ref().and_then(|s| s.phase.clone());
            let phase = own.or_else(|| p.pod().status.as_ref().and_then(|s| s.phase.clone()));
            spec::is_terminal_phase(phase.as_deref().unwrap_or_default())
        };
        self.pods.read().values().filter(|p| !ended(p)).cloned().collect()
    }

    fn update_shares(&self) {
        let total: i64 = self
            .running()
            .iter()
            .map(|p| p.pod())
            .filter(|p| spec::qos_class(p) == "Burstable")
            .map(|p| resources::pod_request(spec::spec(&p), "cpu"))
            .sum();
        if let Err(e) = self.ctx.cgroups.set_burstable_shares(total) {
            tracing::warn!(error = %e, "cannot set the CPU share of burstable pods");
        }
    }

    /// Every pod.
    pub fn all(&self) -> Vec<Arc<PodShared>> {
        self.pods.read().values().cloned().collect()
    }

    pub fn by_uid(&self, uid: &str) -> Option<Arc<PodShared>> {
        self.pods.read().get(uid).cloned()
    }

    /// The pod of that name; with `uid`, only that one. Among namesakes the one that is not ending wins.
    pub fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<PodShared>> {
        let pods = self.pods.read();
        let mut found: Vec<&Arc<PodShared>> = pods
            .values()
            .filter(|p| {
                let pod = p.pod();
                spec::namespace(&pod) == namespace && spec::name(&pod) == name
            })
            .filter(|p| uid.is_none_or(|u| u.is_empty() || u == p.uid))
            .collect();
        found.sort_by_key(|p| p.is_removed() || p.pod().metadata.deletion_timestamp.is_some());
        found.first().map(|p| (*p).clone())
    }

    /// Wakes the pods that an event of the runtime concerns.
    pub async fn on_runtime_event(self: &Arc<Self>, event: RuntimeEvent) {
        match event {
            RuntimeEvent::Exited(id) => {
                tokio::spawn(see_exit(Arc::downgrade(self), id));
            }
            RuntimeEvent::Changed(id) => {
                for p in self.all() {
                    let runtime = p.runtime.read().clone();
                    if runtime.containers.iter().any(|c| c.id == id)
                        || runtime.sandboxes.iter().any(|s| s.id == id)
                    {
                        p.wake_runtime();
                        return;
                    }
                }
            }
            RuntimeEvent::Relist => self.relist().await,
        }
    }

    /// One look at the whole runtime; only pods whose objects changed are woken.
    async fn relist(&self) {
        let listed = tokio::try_join!(self.ctx.cri.list_sandboxes(None), self.ctx.cri.list_containers(None));
        let (sandboxes, containers) = match listed {
            Ok(x) => x,
            Err(e) => {
                tracing::debug!(error = %e, "cannot relist");
                return;
            }
        };
        let mut seen: HashMap<String, Vec<(String, bool)>> = HashMap::new();
        let uid =
            |l: &HashMap<String, String>| l.get(crate::cri::labels::POD_UID).cloned().unwrap_or_default();
        for s in sandboxes {
            seen.entry(uid(&s.labels)).or_default().push((s.id, s.state == 0));
        }
        for c in containers {
            seen.entry(uid(&c.labels)).or_default().push((c.id, c.state == 1));
        }
        for p in self.all() {
            let runtime = p.runtime.read().clone();
            let mut known: Vec<(String, bool)> = runtime
                .sandboxes
                .iter()
                .map(|s| (s.id.clone(), s.ready))
                .chain(runtime.containers.iter().map(|c| (c.id.clone(), c.state == ContainerState::Running)))
                .collect();
            let mut now = seen.remove(&p.uid).unwrap_or_default();
            known.sort();
            now.sort();
            if known != now {
                p.wake_runtime();
            }
        }
    }

    /// A ConfigMap or Secret of this pod changed.
    pub fn on_object_change(&self, uid: &str) {
        if let Some(p) = self.by_uid(uid) {
            p.wake_volumes();
        }
    }
}

/// The task's exit is told before the runtime shows the container as exited, and may even come before our own
/// worker has learnt the container's id: look until the exit shows.
async fn see_exit(manager: std::sync::Weak<PodManager>, id: String) {
    for pause in [2u64, 8, 15, 25, 50, 100, 200, 400, 800, 1600, 3200] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let Some(manager) = manager.upgrade() else { return };
        for p in manager.all() {
            let ended = p.runtime.read().has_ended(&id);
            match ended {
                // One that was seen as created only may be told of as running next.
                Some(false) => p.wake_runtime(),
                Some(true) => return,
                None => continue,
            }
            break;
        }
    }
}

async fn forget_ended(manager: std::sync::Weak<PodManager>, mut ended: mpsc::UnboundedReceiver<String>) {
    while let Some(uid) = ended.recv().await {
        let Some(manager) = manager.upgrade() else { return };
        let gone = manager.pods.write().remove(&uid);
        manager.ctx.allocations.forget(&uid);
        manager.ctx.allocations.ring(Trigger::PodsRemoved);
        manager.update_shares();
        if let Some(p) = gone {
            manager.mirrors.pod_ended(&p.pod());
        }
    }
}

//! What pods were allocated (KEP-1287): the CPU and memory that the kubelet granted, which a changed spec may want
//! otherwise for a while. Pods run, are counted, and are shown by their allocation.
//!
//! [`model`] is the resources of a pod and how they are put into its object; [`decide`] says whether a wanted change
//! fits, and in which order pods that wait are asked; [`conditions`] is what a pod's status says of it; [`messages`]
//! are the events' texts. All of these are pure. [`Allocations`] holds the state of all pods, and keeps what was
//! allocated and what was actuated (given to the runtime) in upstream's files, so that a kubelet that starts anew
//! knows both without touching a container.

mod checkpoint;
pub mod conditions;
pub mod decide;
pub mod messages;
pub mod metrics;
pub mod model;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::{conditions::Conditions, metrics::ResizeMetrics, model::PodResources};
use super::spec;

/// What made it worth asking pods again whose resize was deferred; the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    PodUpdated,
    PodsAdded,
    PodsRemoved,
    PodTerminated,
    PodResized,
    Periodic,
}

impl Trigger {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::PodUpdated => "pod_updated",
            Self::PodsAdded => "pods_added",
            Self::PodsRemoved => "pods_removed",
            Self::PodTerminated => "pod_terminated",
            Self::PodResized => "pod_resized",
            Self::Periodic => "periodic_retry",
        }
    }
}

/// Resources of pods by UID, in memory and in a file.
struct Store {
    path: PathBuf,
    /// The file must outlive a power cut.
    durable: bool,
    entries: Mutex<BTreeMap<String, PodResources>>,
}

impl Store {
    fn open(path: PathBuf, durable: bool) -> Result<Self, String> {
        let entries = checkpoint::read(&path).map_err(|e| {
            format!(
                "reading {}: {e}; delete the file if no container of the node runs with changed resources",
                path.display()
            )
        })?;
        Ok(Self { path, durable, entries: Mutex::new(entries) })
    }

    fn get(&self, uid: &str) -> Option<PodResources> {
        self.entries.lock().get(uid).cloned()
    }

    /// Changes the entries and writes them; they stay as they were if that fails.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, PodResources>)) -> io::Result<()> {
        let mut entries = self.entries.lock();
        let mut new = entries.clone();
        change(&mut new);
        if new == *entries {
            return Ok(());
        }
        checkpoint::write(&self.path, &new, self.durable)?;
        *entries = new;
        Ok(())
    }

    fn change_or_warn(&self, change: impl FnOnce(&mut BTreeMap<String, PodResources>)) {
        if let Err(e) = self.change(change) {
            tracing::warn!(path = %self.path.display(), error = %e, "cannot keep the resources of pods");
        }
    }
}

/// The allocations of all pods of the node, and what became of changes that were asked for.
pub struct Allocations {
    allocated: Store,
    actuated: Store,
    conditions: Mutex<HashMap<String, Conditions>>,
    /// Pods whose spec wants other resources than they were allocated, in the order they came.
    pending: Mutex<Vec<String>>,
    trigger: Mutex<Option<Trigger>>,
    bell: Notify,
    metrics: ResizeMetrics,
}

impl Allocations {
    /// Opens the files in the kubelet's folder.
    ///
    /// # Errors
    /// A file is damaged or cannot be read: what pods were allocated is not known.
    pub fn open(root: &Path, metrics: ResizeMetrics) -> Result<Self, String> {
        Self::with(root, metrics, true)
    }

    fn with(root: &Path, metrics: ResizeMetrics, durable: bool) -> Result<Self, String> {
        Ok(Self {
            allocated: Store::open(root.join(checkpoint::ALLOCATED), durable)?,
            // Containers do not outlive a power cut, so neither needs what they ran with.
            actuated: Store::open(root.join(checkpoint::ACTUATED), false)?,
            conditions: Mutex::default(),
            pending: Mutex::default(),
            trigger: Mutex::default(),
            bell: Notify::new(),
            metrics,
        })
    }

    pub fn metrics(&self) -> &ResizeMetrics {
        &self.metrics
    }

    /// The pod with the resources it was allocated; as it is if it was allocated none yet.
    pub fn fill(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        self.allocated.get(spec::uid(pod)).map_or_else(|| pod.clone(), |a| a.fill(pod))
    }

    pub fn allocated(&self, uid: &str) -> Option<PodResources> {
        self.allocated.get(uid)
    }

    /// Whether the pod's spec wants other resources than it was allocated.
    pub fn differs(&self, pod: &Pod) -> bool {
        self.allocated.get(spec::uid(pod)).is_some_and(|a| a.differs(pod))
    }

    /// Allocates what the pod's spec asks for.
    ///
    /// # Errors
    /// It cannot be kept; the allocation is as it was.
    pub fn allocate(&self, pod: &Pod) -> io::Result<()> {
        self.allocated.change(|all| {
            all.insert(spec::uid(pod).to_owned(), PodResources::of(pod));
        })
    }

    /// What the pod's containers, and the pod as a whole, run with.
    pub fn actuated(&self, uid: &str) -> Option<PodResources> {
        self.actuated.get(uid)
    }

    /// Takes note of what the runtime was given.
    pub fn actuate(&self, uid: &str, change: impl FnOnce(&mut PodResources)) {
        self.actuated.change_or_warn(|all| change(all.entry(uid.to_owned()).or_default()));
    }

    /// A container is about to be made with these resources.
    pub fn starting(&self, uid: &str, container: &str, resources: &ResourceRequirements) {
        self.actuate(uid, |p| {
            p.containers.insert(container.to_owned(), resources.clone());
        });
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.allocated.change_or_warn(|all| drop(all.remove(uid)));
        self.actuated.change_or_warn(|all| drop(all.remove(uid)));
        self.pending.lock().retain(|p| p != uid);
        if self.conditions.lock().remove(uid).is_some() {
            self.count();
        }
    }

    /// Only these pods are left.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.allocated.change_or_warn(|all| all.retain(|uid, _| uids.contains(uid)));
        self.actuated.change_or_warn(|all| all.retain(|uid, _| uids.contains(uid)));
    }

    pub fn conditions(&self, uid: &str) -> Conditions {
        self.conditions.lock().get(uid).cloned().unwrap_or_default()
    }

    /// Takes the conditions over that the API server has of a pod that is new to this kubelet.
    pub fn restore(&self, pod: &Pod) {
        let known = Conditions::of(pod.status.as_ref());
        if known != Conditions::default() {
            self.conditions.lock().insert(spec::uid(pod).to_owned(), known);
            self.count();
        }
    }

    /// Changes a pod's conditions; answers what `change` does.
    pub fn condition<T>(&self, uid: &str, change: impl FnOnce(&mut Conditions, Timestamp) -> T) -> T {
        let mut all = self.conditions.lock();
        let mut conditions = all.get(uid).cloned().unwrap_or_default();
        let before = conditions.clone();
        let out = change(&mut conditions, Timestamp::now());
        if conditions != before {
            if conditions == Conditions::default() {
                all.remove(uid);
            } else {
                all.insert(uid.to_owned(), conditions);
            }
            drop(all);
            self.count();
        }
        out
    }

    fn count(&self) {
        let all = self.conditions.lock();
        let mut pending: BTreeMap<String, i64> = BTreeMap::new();
        for c in all.values().filter_map(|c| c.pending.as_ref()) {
            *pending.entry(c.reason.to_lowercase()).or_default() += 1;
        }
        self.metrics.set(&pending, all.values().filter(|c| c.in_progress.is_some()).count() as i64);
    }

    /// The pod waits for its resize to be allocated.
    pub fn push(&self, uid: &str) {
        let mut pending = self.pending.lock();
        if !pending.iter().any(|p| p == uid) {
            pending.push(uid.to_owned());
        }
    }

    /// The pod waits no more.
    pub fn settle(&self, uid: &str) {
        self.pending.lock().retain(|p| p != uid);
    }

    pub fn pending(&self) -> Vec<String> {
        self.pending.lock().clone()
    }

    /// There may be room now for pods that wait.
    pub fn ring(&self, trigger: Trigger) {
        if !self.pending.lock().is_empty() {
            self.trigger.lock().get_or_insert(trigger);
            self.bell.notify_one();
        }
    }

    /// Waits until there may be room.
    pub async fn rung(&self) -> Trigger {
        loop {
            self.bell.notified().await;
            if let Some(trigger) = self.trigger.lock().take() {
                return trigger;
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

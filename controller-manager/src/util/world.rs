//! A world for simulations: pods as the API server has them, a cache that lags behind, a kubelet that acts when it
//! likes, and writes that fail or whose answers are lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use component_base::controller::informer::{Delta, Store, key_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodStatus,
};
use kube::core::Status;
use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{meta, pods};

/// An error of the server.
pub fn error(code: u16) -> kube::Error {
    kube::Error::Api(Status::failure("simulated", "Simulated").with_code(code).boxed())
}

/// What a running pod does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Stays ready.
    Run,
    /// Ends with this exit code.
    Exit(i32),
}

pub struct Inner {
    pub rng: StdRng,
    pub now: Timestamp,
    /// Pods by name.
    pub pods: BTreeMap<String, Pod>,
    /// Names of pods whose change the cache has not seen.
    unseen: VecDeque<String>,
    version: u64,
    /// Chance that a write fails; half of those happened all the same.
    pub failing: f64,
    /// Every pod ever made, by uid.
    pub made: BTreeMap<String, Pod>,
}

/// The world; shared by the simulated server and the controller under test.
pub struct World {
    inner: Mutex<Inner>,
    /// What the controller sees.
    pub cache: Store<Pod>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            now: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(100_000),
            pods: BTreeMap::new(),
            unseen: VecDeque::new(),
            version: 100,
            failing: 0.0,
            made: BTreeMap::new(),
        };
        let cache = Store::default();
        cache.add_index(meta::BY_CONTROLLER, meta::index_by_controller);
        Self { inner: Mutex::new(inner), cache }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    pub fn now(&self) -> Timestamp {
        self.lock().now
    }

    pub fn chance(&self, p: f64) -> bool {
        self.lock().rng.random_bool(p)
    }

    pub fn below(&self, n: usize) -> usize {
        self.lock().rng.random_range(0..n.max(1))
    }

    /// Runs a write; it may fail before or after it happened.
    pub fn write<T>(&self, f: impl FnOnce(&mut Inner) -> kube::Result<T>) -> kube::Result<T> {
        let mut inner = self.lock();
        let failing = inner.failing;
        let fails = failing > 0.0 && inner.rng.random_bool(failing);
        if fails && inner.rng.random_bool(0.5) {
            return Err(error(500));
        }
        let result = f(&mut inner);
        if fails { Err(error(500)) } else { result }
    }

    /// A creation either fails or is answered: of one whose answer is lost, a controller only knows once the cache shows
    /// the pod, and may have made another by then.
    pub fn create(&self, pod: Pod) -> kube::Result<Pod> {
        let mut w = self.lock();
        let failing = w.failing;
        if failing > 0.0 && w.rng.random_bool(failing) { Err(error(500)) } else { w.create(pod) }
    }

    pub fn delete(&self, name: &str, uid: &str) -> kube::Result<bool> {
        self.write(|w| w.delete(name, uid))
    }

    /// Changes a pod, if it is still the one of that uid.
    pub fn update(&self, name: &str, uid: &str, f: impl FnOnce(&mut Pod)) -> kube::Result<()> {
        self.write(|w| {
            let pod = w.pods.get_mut(name).ok_or_else(|| error(404))?;
            if meta::uid(&pod.metadata) != uid {
                return Err(error(409));
            }
            f(pod);
            w.touch(name);
            Ok(())
        })
    }

    /// Lets the cache see one more change.
    pub fn deliver(&self) -> Option<Delta<Pod>> {
        let mut w = self.lock();
        let name = w.unseen.pop_front()?;
        let key = format!("ns/{name}");
        let (old, new) = (self.cache.get(&key), w.pods.get(&name).cloned());
        drop(w);
        match (old, new) {
            (None, None) => None,
            (Some(_), None) => self.cache.remove(&key).map(Delta::Deleted),
            (Some(old), Some(new)) if old.metadata.uid != new.metadata.uid => {
                // The old one is seen to go first; the new one comes with the next delivery.
                self.lock().unseen.push_front(name);
                self.cache.remove(&key);
                Some(Delta::Deleted(old))
            }
            (old, Some(new)) => {
                let new = Arc::new(new);
                self.cache.insert(new.clone());
                Some(match old {
                    Some(old) => Delta::Updated(old, new),
                    None => Delta::Added(new),
                })
            }
        }
    }

    /// As after a restart: a new list.
    pub fn relist(&self) {
        for pod in self.cache.list() {
            self.cache.remove(&key_of(pod.as_ref()));
        }
        let mut w = self.lock();
        w.unseen.clear();
        for pod in w.pods.values() {
            self.cache.insert(Arc::new(pod.clone()));
        }
    }

    /// One pod moves on: it is scheduled, becomes ready, ends, or goes away.
    pub fn live(&self, fate: impl FnOnce(&Pod, &mut StdRng) -> Fate) {
        let mut w = self.lock();
        if w.pods.is_empty() {
            return;
        }
        let n = w.pods.len();
        let nth = w.rng.random_range(0..n);
        let Some(name) = w.pods.keys().nth(nth).cloned() else { return };
        w.step(&name, fate);
    }

    pub fn advance(&self, by: SignedDuration) {
        self.lock().now += by;
    }

    /// The pods there are.
    pub fn all(&self) -> Vec<Pod> {
        self.lock().pods.values().cloned().collect()
    }
}

impl Inner {
    pub fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// Notes that a pod was changed.
    fn touch(&mut self, name: &str) {
        let version = self.next_version();
        if let Some(pod) = self.pods.get_mut(name) {
            pod.metadata.resource_version = Some(version);
        }
        self.unseen.push_back(name.to_owned());
        self.reap(name);
    }

    /// A pod that is being deleted goes when nothing holds it.
    fn reap(&mut self, name: &str) {
        let gone = self.pods.get(name).is_some_and(|p| {
            let held = p.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty());
            p.metadata.deletion_timestamp.is_some()
                && !held
                && p.metadata.deletion_grace_period_seconds == Some(0)
        });
        if gone {
            self.pods.remove(name);
            self.unseen.push_back(name.to_owned());
        }
    }

    fn create(&mut self, mut pod: Pod) -> kube::Result<Pod> {
        let version = self.next_version();
        let m = &mut pod.metadata;
        let name = m
            .name
            .clone()
            .unwrap_or_else(|| format!("{}{version}", m.generate_name.as_deref().unwrap_or_default()));
        if self.pods.contains_key(&name) {
            return Err(error(409));
        }
        m.name = Some(name.clone());
        m.namespace = Some("ns".into());
        m.uid = Some(format!("uid-{version}"));
        m.creation_timestamp = Some(meta::api_time(self.now));
        pod.status = Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() });
        self.pods.insert(name.clone(), pod.clone());
        self.made.insert(format!("uid-{version}"), pod.clone());
        self.touch(&name);
        Ok(self.pods.get(&name).cloned().unwrap_or(pod))
    }

    fn delete(&mut self, name: &str, uid: &str) -> kube::Result<bool> {
        let now = self.now;
        let Some(pod) = self.pods.get_mut(name) else { return Ok(false) };
        if meta::uid(&pod.metadata) != uid {
            return Ok(false);
        }
        let idle = pods::node(pod).is_empty() || pods::is_terminal(pod);
        pod.metadata.deletion_timestamp.get_or_insert_with(|| meta::api_time(now));
        pod.metadata.deletion_grace_period_seconds = Some(if idle { 0 } else { 30 });
        self.touch(name);
        Ok(true)
    }

    fn step(&mut self, name: &str, fate: impl FnOnce(&Pod, &mut StdRng) -> Fate) {
        let now = self.now;
        let Some(pod) = self.pods.get_mut(name) else { return };
        let fate = fate(pod, &mut self.rng);
        let deleted = pod.metadata.deletion_timestamp.is_some();
        match pods::phase(pod) {
            "Succeeded" | "Failed" if deleted => pod.metadata.deletion_grace_period_seconds = Some(0),
            "Succeeded" | "Failed" => return,
            _ if deleted => end(pod, 137, now),
            _ if pods::node(pod).is_empty() => {
                let node = place(pod);
                pod.spec.get_or_insert_default().node_name = Some(node);
            }
            "Pending" => {
                pod.status.get_or_insert_default().phase = Some("Running".into());
                set_ready(pod, true, now);
            }
            _ => match fate {
                Fate::Run => return,
                Fate::Exit(code) => end(pod, code, now),
            },
        }
        self.touch(name);
    }

    /// Changes a pod as somebody outside would.
    pub fn edit(&mut self, name: &str, f: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.pods.get_mut(name) {
            f(pod);
            self.touch(name);
        }
    }
}

/// Where the pod is scheduled: the node that its affinity names, if any.
fn place(pod: &Pod) -> String {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fields =
        required.iter().flat_map(|r| &r.node_selector_terms).flat_map(|t| t.match_fields.iter().flatten());
    fields.filter_map(|f| f.values.as_ref()?.first().cloned()).next().unwrap_or_else(|| "node".into())
}

/// Says whether a pod is ready.
pub fn set_ready(pod: &mut Pod, ready: bool, now: Timestamp) {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != "Ready");
    conditions.push(PodCondition {
        type_: "Ready".into(),
        status: if ready { "True".into() } else { "False".into() },
        last_transition_time: Some(meta::api_time(now)),
        ..PodCondition::default()
    });
}

fn end(pod: &mut Pod, code: i32, now: Timestamp) {
    set_ready(pod, false, now);
    let terminated = ContainerStateTerminated {
        exit_code: code,
        finished_at: Some(meta::api_time(now)),
        ..ContainerStateTerminated::default()
    };
    let container = ContainerStatus {
        name: "main".into(),
        state: Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() }),
        ..ContainerStatus::default()
    };
    let status = pod.status.get_or_insert_default();
    status.phase = Some(if code == 0 { "Succeeded".into() } else { "Failed".into() });
    status.container_statuses = Some(vec![container]);
}

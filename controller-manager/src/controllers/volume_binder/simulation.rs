//! The binder under random interleavings: watches that lag, writes that conflict or whose answer is lost, restarts
//! between any two writes, and users who create and delete claims and volumes meanwhile.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use component_base::controller::informer::Store;
use futures::executor::block_on;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::core::Status;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::act::{BY_CLAIM, Binder, Key, Server, add_indexes, key_of_ref};
use super::claim::Note;
use super::matching::claim_ref;
use super::names::{BIND_COMPLETED, BOUND_BY_CONTROLLER};
use crate::util::latest::Latest;
use crate::util::{meta, volumes};

type Pv = PersistentVolume;
type Pvc = PersistentVolumeClaim;

enum Event {
    Volume(String, Option<Arc<Pv>>),
    Claim(String, Option<Arc<Pvc>>),
}

#[derive(Default)]
struct Data {
    version: u64,
    volumes: BTreeMap<String, Pv>,
    claims: BTreeMap<String, Pvc>,
    /// What the watch has not brought yet.
    events: VecDeque<Event>,
    faults: Option<StdRng>,
    /// Which claims a volume was ever completely bound to, by uid.
    history: HashMap<String, String>,
}

impl Data {
    fn next(&mut self) -> Option<String> {
        self.version += 1;
        Some(self.version.to_string())
    }

    fn fault(&mut self, odds: f64) -> bool {
        self.faults.as_mut().is_some_and(|r| r.random_bool(odds))
    }

    fn set_volume(&mut self, mut v: Pv) -> Pv {
        v.metadata.resource_version = self.next();
        let name = meta::name(&v.metadata).to_owned();
        self.volumes.insert(name.clone(), v.clone());
        self.events.push_back(Event::Volume(name, Some(Arc::new(v.clone()))));
        v
    }

    fn set_claim(&mut self, mut c: Pvc) -> Pvc {
        c.metadata.resource_version = self.next();
        let key = key(&c);
        self.claims.insert(key.clone(), c.clone());
        self.events.push_back(Event::Claim(key, Some(Arc::new(c.clone()))));
        c
    }
}

fn key(c: &Pvc) -> String {
    format!("{}/{}", meta::namespace(&c.metadata), meta::name(&c.metadata))
}

fn api_error(code: u16) -> kube::Error {
    kube::Error::Api(Status { code, ..Status::default() }.boxed())
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Data>>);

#[async_trait]
impl Server for Fake {
    async fn put_volume(&self, volume: &Pv, status: bool) -> kube::Result<Pv> {
        let mut data = self.0.lock();
        let Some(mut current) = data.volumes.get(meta::name(&volume.metadata)).cloned() else {
            return Err(api_error(404));
        };
        if current.metadata.resource_version != volume.metadata.resource_version || data.fault(0.05) {
            return Err(api_error(409));
        }
        if status {
            current.status = volume.status.clone();
        } else {
            current.spec = volume.spec.clone();
            current.metadata.annotations = volume.metadata.annotations.clone();
        }
        let written = data.set_volume(current);
        if data.fault(0.05) { Err(api_error(500)) } else { Ok(written) }
    }

    async fn put_claim(&self, claim: &Pvc, status: bool) -> kube::Result<Pvc> {
        let mut data = self.0.lock();
        let Some(mut current) = data.claims.get(&key(claim)).cloned() else { return Err(api_error(404)) };
        if current.metadata.resource_version != claim.metadata.resource_version || data.fault(0.05) {
            return Err(api_error(409));
        }
        if status {
            current.status = claim.status.clone();
        } else {
            let before = volumes::volume_name(&current).to_owned();
            assert!(before.is_empty() || before == volumes::volume_name(claim), "a claim changes its volume");
            current.spec = claim.spec.clone();
            current.metadata.annotations = claim.metadata.annotations.clone();
        }
        if volumes::claim_phase(&current) == "Bound" {
            let volume = volumes::volume_name(&current).to_owned();
            let uid = meta::uid(&current.metadata).to_owned();
            let owner = data.history.entry(volume.clone()).or_insert_with(|| uid.clone());
            assert_eq!(*owner, uid, "{volume} was given to two claims");
        }
        let written = data.set_claim(current);
        if data.fault(0.05) { Err(api_error(500)) } else { Ok(written) }
    }

    async fn fetch_claim(&self, key: &str) -> kube::Result<Option<Pvc>> {
        Ok(self.0.lock().claims.get(key).cloned())
    }

    async fn delete_volume(&self, volume: &Pv) -> kube::Result<()> {
        let mut data = self.0.lock();
        let name = meta::name(&volume.metadata).to_owned();
        if let Some(gone) = data.volumes.remove(&name) {
            let uid = claim_ref(&gone).and_then(|r| r.uid.clone());
            let owner = data.claims.values().find(|c| c.metadata.uid.is_some() && c.metadata.uid == uid);
            assert!(owner.is_none(), "{name} is deleted, and its claim lives");
            data.events.push_back(Event::Volume(name, None));
        }
        Ok(())
    }

    async fn remove_folder(&self, _: &Path) -> std::io::Result<()> {
        Ok(())
    }

    fn note(&self, _: &ObjectReference, _: &Note) {}
}

struct World {
    rng: StdRng,
    server: Fake,
    pvs: Store<Pv>,
    pvcs: Store<Pvc>,
    binder: Binder<Fake>,
    queue: VecDeque<Key>,
    made: u32,
}

fn binder(server: &Fake, pvs: &Store<Pv>, pvcs: &Store<Pvc>) -> Binder<Fake> {
    let pods: Store<Pod> = Store::default();
    add_indexes(pvs, pvcs, &pods);
    let classes: Store<StorageClass> = Store::default();
    Binder {
        server: server.clone(),
        volumes: Latest::new(pvs.clone()),
        claims: Latest::new(pvcs.clone()),
        unbound: pvcs.clone(),
        classes,
        pods,
        provisioning: true,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let server = Fake::default();
        server.0.lock().faults = Some(StdRng::seed_from_u64(rng.random()));
        let (pvs, pvcs) = (Store::default(), Store::default());
        let binder = binder(&server, &pvs, &pvcs);
        Self { rng, server, pvs, pvcs, binder, queue: VecDeque::new(), made: 0 }
    }

    fn add(&mut self, key: Key) {
        if !self.queue.contains(&key) {
            self.queue.push_back(key);
        }
    }

    /// One event of the watch arrives; the same keys are woken as by the handlers of the controller.
    fn watch(&mut self) -> bool {
        let Some(event) = self.server.0.lock().events.pop_front() else { return false };
        use component_base::controller::informer::Delta;
        let keys = match event {
            Event::Volume(_, Some(v)) => {
                let delta = match self.pvs.insert(v.clone()) {
                    Some(old) => Delta::Updated(old, v),
                    None => Delta::Added(v),
                };
                super::volume_changed(&self.binder, &delta)
            }
            Event::Volume(name, None) => match self.pvs.remove(&name) {
                Some(old) => super::volume_changed(&self.binder, &Delta::Deleted(old)),
                None => Vec::new(),
            },
            Event::Claim(_, Some(c)) => {
                let delta = match self.pvcs.insert(c.clone()) {
                    Some(old) => Delta::Updated(old, c),
                    None => Delta::Added(c),
                };
                super::claim_changed(&self.binder, &delta)
            }
            Event::Claim(key, None) => match self.pvcs.remove(&key) {
                Some(old) => super::claim_changed(&self.binder, &Delta::Deleted(old)),
                None => Vec::new(),
            },
        };
        keys.into_iter().for_each(|k| self.add(k));
        true
    }

    fn work(&mut self) -> bool {
        let Some(key) = self.queue.pop_front() else { return false };
        match block_on(self.binder.sync(&key)) {
            Ok(next) => next.into_iter().for_each(|k| self.add(k)),
            Err(_) => self.add(key),
        }
        true
    }

    /// A new leader: nothing remembered, everything listed again.
    fn restart(&mut self) {
        let data = self.server.0.lock();
        self.pvs = Store::default();
        self.pvcs = Store::default();
        self.binder = binder(&self.server, &self.pvs, &self.pvcs);
        self.queue = VecDeque::new();
        for v in data.volumes.values() {
            self.pvs.insert(Arc::new(v.clone()));
            self.queue.push_back(Key::Volume(meta::name(&v.metadata).to_owned()));
        }
        for c in data.claims.values() {
            self.pvcs.insert(Arc::new(c.clone()));
            self.queue.push_back(Key::Claim(key(c)));
        }
        drop(data);
        self.server.0.lock().events.clear();
    }

    fn user(&mut self) {
        self.made += 1;
        let n = self.rng.random_range(0..6);
        let uid = format!("u{}", self.made);
        let size = format!("{}Gi", self.rng.random_range(1..4));
        match self.rng.random_range(0..10) {
            0..4 => {
                let mut claim = json!({"metadata": {"name": format!("c{n}"), "namespace": "n", "uid": uid},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
                    "status": {"phase": "Pending"}});
                if self.rng.random_bool(0.2) {
                    claim["spec"]["volumeName"] = json!(format!("v{}", self.rng.random_range(0..self.made)));
                }
                let claim: Pvc = serde_json::from_value(claim).unwrap_or_else(|e| panic!("{e}"));
                let mut data = self.server.0.lock();
                if !data.claims.contains_key(&key(&claim)) {
                    data.set_claim(claim);
                }
            }
            4..8 => {
                let policy = if self.rng.random_bool(0.5) { "Delete" } else { "Retain" };
                let mut volume = json!({"metadata": {"name": format!("v{}", self.made), "uid": uid},
                    "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
                        "persistentVolumeReclaimPolicy": policy, "hostPath": {"path": "/tmp/x"}},
                    "status": {"phase": "Pending"}});
                if self.rng.random_bool(0.2) {
                    volume["spec"]["claimRef"] = json!({"namespace": "n", "name": format!("c{n}")});
                }
                let volume = serde_json::from_value(volume).unwrap_or_else(|e| panic!("{e}"));
                self.server.0.lock().set_volume(volume);
            }
            _ => {
                let mut data = self.server.0.lock();
                let key = format!("n/c{n}");
                if data.claims.remove(&key).is_some() {
                    data.events.push_back(Event::Claim(key, None));
                }
            }
        }
    }

    /// Lets everything come to rest, without faults.
    fn settle(&mut self) {
        self.server.0.lock().faults = None;
        for _ in 0..10_000 {
            let moved = self.watch();
            if !self.work() && !moved {
                return;
            }
        }
        panic!("does not come to rest: {:?}", self.queue);
    }

    fn check(&self) {
        let data = self.server.0.lock();
        for c in data.claims.values() {
            if meta::annotation(&c.metadata, BIND_COMPLETED).is_none() {
                // Whatever would fit is taken.
                assert_eq!(volumes::claim_phase(c), "Pending", "{}", key(c));
                if volumes::volume_name(c).is_empty() {
                    let all: Vec<&Pv> = data.volumes.values().collect();
                    let found = super::matching::best(&all, c, false).unwrap_or_else(|e| panic!("{e}"));
                    assert!(found.is_none(), "{} waits, and {found:?} is there", key(c));
                }
                continue;
            }
            let volume = &data.volumes[volumes::volume_name(c)];
            assert_eq!(claim_ref(volume).and_then(|r| r.uid.clone()), c.metadata.uid);
            assert_eq!((volumes::claim_phase(c), volumes::volume_phase(volume)), ("Bound", "Bound"));
            // Users who choose each side for the other get what they chose.
            let chosen = meta::annotation(&c.metadata, BOUND_BY_CONTROLLER).is_none();
            assert!(chosen || volumes::capacity(volume) >= volumes::requested(c));
        }
        for v in data.volumes.values() {
            let name = meta::name(&v.metadata);
            let uid = claim_ref(v).and_then(|r| r.uid.clone());
            let claim = claim_ref(v).and_then(|r| data.claims.get(&key_of_ref(r)));
            let want = match (uid, claim) {
                (None, _) => "Available",
                (uid, Some(c)) if c.metadata.uid == uid => {
                    assert_eq!(
                        volumes::volume_name(c),
                        name,
                        "a volume is held for a claim that has another"
                    );
                    "Bound"
                }
                _ => "Released",
            };
            assert_eq!(volumes::volume_phase(v), want, "{name}");
            let deleted = v.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
            assert!(want != "Released" || deleted == Some("Retain"), "{name} should be deleted");
        }
        assert_eq!(self.pvs.len(), data.volumes.len());
        assert!(self.pvs.by_index(BY_CLAIM, "n/none").is_empty());
    }
}

#[test]
fn every_volume_to_one_claim_and_no_claim_forgotten() {
    for seed in 0..400 {
        let mut w = World::new(seed);
        for _ in 0..150 {
            match w.rng.random_range(0..20) {
                0..4 => w.user(),
                4..11 => drop(w.watch()),
                11..19 => drop(w.work()),
                _ => {
                    if w.rng.random_bool(0.3) {
                        w.restart();
                    }
                }
            }
        }
        w.settle();
        w.check();
    }
}

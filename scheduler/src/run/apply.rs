//! Changes from the watches applied to cache and queue.

use std::collections::HashSet;
use std::sync::Arc;

use super::changes::{Change, Key, Msg};
use super::core::Worker;
use crate::dra::claims::{Shared, allocation};
use crate::framework::event::ClaimChange;
use crate::framework::{Action, ClusterEvent, Resource};
use crate::model::{NodeFacts, PodInfo, Selector, Str};

impl Worker {
    pub(super) fn apply(&mut self, c: Change) {
        match c {
            Change::Pod(Msg::Set(_, p)) => self.pod_set(Arc::new(*p)),
            Change::Pod(Msg::Gone((_, uid))) => self.pod_gone(&uid),
            Change::Pod(Msg::Synced(seen)) => self.pods_synced(&seen),
            Change::Node(Msg::Set(_, n)) => self.node_set(*n),
            Change::Node(Msg::Gone((_, name))) => self.node_gone(&name),
            Change::Node(Msg::Synced(seen)) => {
                let gone: Vec<Str> = self.cache.nodes().map(|n| n.name.clone()).collect();
                for name in gone.into_iter().filter(|n| !seen.contains(&("".into(), n.clone()))) {
                    self.node_gone(&name);
                }
            }
            Change::Namespace(Msg::Set((_, name), labels)) => {
                if self.cache.namespaces.get(&name) != Some(&labels) {
                    self.cache.namespaces.insert(name, labels);
                    self.event(&ClusterEvent::of(Resource::Namespace, Action::LABELS));
                }
            }
            Change::Namespace(Msg::Gone((_, name))) => {
                self.cache.namespaces.remove(&name);
            }
            Change::Namespace(Msg::Synced(seen)) => {
                self.cache.namespaces.retain(|n, _| seen.contains(&("".into(), n.clone())));
            }
            Change::Service(m) => self.service(m),
            Change::ReplicaSet(m) => self.owner("ReplicaSet", m),
            Change::StatefulSet(m) => self.owner("StatefulSet", m),
            Change::ReplicationController(m) => self.owner("ReplicationController", m),
            Change::Claim(m) => {
                let known = &mut self.cache.storage.claims;
                if let Some(a) = keyed(m, known, |k| k, |b| *b) {
                    self.event(&ClusterEvent::of(Resource::Claim, a));
                }
            }
            Change::Volume(m) => {
                let known = &mut self.cache.storage.volumes;
                let action = match m {
                    Msg::Set((_, name), v) => changed(known.insert(name, (*v).clone()).as_ref(), &*v),
                    Msg::Gone((_, name)) => {
                        known.remove(&name);
                        None
                    }
                    Msg::Synced(seen) => {
                        known.retain(|n, _| seen.contains(&("".into(), n.clone())));
                        None
                    }
                };
                if let Some(a) = action {
                    self.event(&ClusterEvent::of(Resource::Volume, a));
                }
            }
            Change::Class(m) => {
                let known = &mut self.cache.storage.classes;
                if let Some(a) = keyed(m, known, |k| k.1, |b| *b) {
                    self.event(&ClusterEvent::of(Resource::StorageClass, a));
                }
            }
            Change::CsiNode(m) => {
                let known = &mut self.cache.storage.csi_limits;
                if let Some(a) = keyed(m, known, |k| k.1, |v| v) {
                    self.event(&ClusterEvent::of(Resource::CsiNode, a));
                }
            }
            Change::CsiDriver(m) => {
                let known = &mut self.cache.storage.capacity_drivers;
                if let Some(a) = keyed(m, known, |k| k.1, |b| b) {
                    self.event(&ClusterEvent::of(Resource::CsiDriver, a));
                }
            }
            Change::Capacity(m) => {
                let known = &mut self.cache.storage.capacities;
                if let Some(a) = keyed(m, known, |k| k, |c| c) {
                    self.event(&ClusterEvent::of(Resource::CsiStorageCapacity, a));
                }
            }
            Change::ResourceClaim(Msg::Set(_, c)) => self.claim_set(c),
            Change::ResourceClaim(Msg::Gone((ns, name))) => {
                self.claim_gone(&ns, &name);
            }
            Change::ResourceClaim(Msg::Synced(seen)) => {
                let known = self.cache.dra.claims.keys();
                let gone: Vec<Key> = known.filter(|k| !seen.contains(*k)).cloned().collect();
                for (ns, name) in gone {
                    self.claim_gone(&ns, &name);
                }
            }
            Change::ResourceSlice(Msg::Set(_, s)) => {
                let replaced = self.cache.dra.slices.set(s);
                let action = if replaced { Action::UPDATE } else { Action::ADD };
                self.event(&ClusterEvent::of(Resource::ResourceSlice, action));
            }
            Change::ResourceSlice(Msg::Gone((_, name))) => {
                self.cache.dra.slices.remove(&name);
            }
            Change::ResourceSlice(Msg::Synced(seen)) => {
                let known = self.cache.dra.slices.names().cloned();
                let gone: Vec<Str> = known.filter(|n| !seen.contains(&("".into(), n.clone()))).collect();
                for name in gone {
                    self.cache.dra.slices.remove(&name);
                }
            }
            Change::DeviceClass(m) => {
                if let Some(a) = keyed(m, &mut self.cache.dra.classes, |k| k.1, |c| c) {
                    self.event(&ClusterEvent::of(Resource::DeviceClass, a));
                }
            }
            Change::Budget(m) => {
                keyed(m, &mut self.cache.budgets, |k| k, |b| b);
                self.cache.budget_changes += 1;
            }
        }
    }

    fn claim_gone(&mut self, namespace: &Str, name: &Str) {
        let gone = self.cache.dra.claims.remove(namespace, name);
        if let Some(c) = gone.filter(|c| allocation(c).is_some()) {
            self.freed(&c);
        }
    }

    /// A claim, from a watch or from the answer to a write of our own.
    pub(super) fn claim_set(&mut self, c: Shared) {
        let Ok(old) = self.cache.dra.claims.set(c.clone()) else { return };
        let old = old.filter(|o| o.metadata.uid == c.metadata.uid);
        if old.as_ref().is_none_or(|o| **o != *c) {
            self.event(&ClusterEvent::claim(ClaimChange { old: old.as_deref(), new: &c }));
        }
    }

    fn service(&mut self, m: Msg<Selector>) {
        let services = &mut self.cache.selectors.services;
        match m {
            Msg::Set((ns, name), sel) => {
                services.entry(ns).or_default().insert(name, sel);
            }
            Msg::Gone((ns, name)) => {
                if let Some(s) = services.get_mut(&ns) {
                    s.remove(&name);
                    if s.is_empty() {
                        services.remove(&ns);
                    }
                }
            }
            Msg::Synced(seen) => services.retain(|ns, s| {
                s.retain(|n, _| seen.contains(&(ns.clone(), n.clone())));
                !s.is_empty()
            }),
        }
    }

    fn owner(&mut self, kind: &str, m: Msg<Selector>) {
        let owners = &mut self.cache.selectors.owners;
        match m {
            Msg::Set((ns, name), sel) => {
                owners.insert((kind.into(), ns, name), sel);
            }
            Msg::Gone((ns, name)) => {
                owners.remove(&(kind.into(), ns, name));
            }
            Msg::Synced(seen) => {
                owners.retain(|(k, ns, n), _| k.as_ref() != kind || seen.contains(&(ns.clone(), n.clone())))
            }
        }
    }

    fn pod_set(&mut self, pod: Arc<PodInfo>) {
        if pod.finished {
            return self.pod_gone(&pod.uid);
        }
        if pod.node.is_some() {
            self.queue.delete(&pod.uid);
            self.asking.remove(&pod.uid);
            self.cache.nominate(&pod, None);
            let assumed = self.cache.is_assumed(&pod.uid);
            if self.cache.pod(&pod.uid).is_some_and(|old| !assumed && **old == *pod) {
                return;
            }
            let old = self.cache.set_pod(pod.clone());
            let action = match &old {
                None => Action::ADD,
                // What was assumed came true; the queue has seen it as an addition already.
                Some(_) if assumed => Action::ADD,
                Some(o) => {
                    let (a, b) = (&o.requests.asked, &pod.requests.asked);
                    let smaller = a != b && b.cpu <= a.cpu && b.memory <= a.memory;
                    let shrunk = if smaller { Action::SCALE_DOWN } else { Action::NONE };
                    let relabelled = if o.labels != pod.labels { Action::LABELS } else { Action::NONE };
                    shrunk | relabelled
                }
            };
            return self.event(&ClusterEvent::pod(Resource::AssignedPod, action, &pod));
        }
        if let Some(known) = self.asking.get_mut(&pod.uid) {
            if pod.deleting {
                self.asking.remove(&pod.uid);
            } else {
                *known = pod;
            }
            return;
        }
        if self.cache.is_assumed(&pod.uid) {
            // An echo from before the binding.
            return;
        }
        let now = self.now();
        if !self.profiles.contains_key(&pod.want().scheduler) {
            return;
        }
        if pod.deleting {
            self.cache.nominate(&pod, None);
            self.queue.delete(&pod.uid);
            return;
        }
        self.nominate(&pod);
        let Some(profile) = self.profiles.get(&pod.want().scheduler) else { return };
        if !self.queue.update(&pod, profile, &self.cache, now) {
            self.queue.add(pod, profile, &self.cache, now);
        }
    }

    /// Follows what the pod's status says, but for a nomination of our own that it does not show yet.
    fn nominate(&mut self, pod: &Arc<PodInfo>) {
        let said = pod.want().nominated.clone();
        let before = self.queue.get(&pod.uid).and_then(|p| p.want().nominated.clone());
        let node = match (said, before) {
            (None, None) => self.cache.nomination(&pod.uid).cloned(),
            (said, _) => said,
        };
        self.cache.nominate(pod, node);
    }

    fn pod_gone(&mut self, uid: &str) {
        self.asking.remove(uid);
        let waiting = self.queue.get(uid).cloned();
        if let Some(p) = waiting {
            self.queue.delete(uid);
            self.cache.nominate(&p, None);
        }
        if let Some(p) = self.cache.remove_pod(uid) {
            self.event(&ClusterEvent::pod(Resource::AssignedPod, Action::DELETE, &p));
        }
    }

    fn pods_synced(&mut self, seen: &HashSet<Key>) {
        let gone: Vec<Str> = self
            .cache
            .confirmed_uids()
            .chain(self.queue.uids())
            .filter(|uid| !seen.contains(&("".into(), (*uid).clone())))
            .cloned()
            .collect();
        for uid in gone {
            self.pod_gone(&uid);
        }
    }

    fn node_set(&mut self, facts: NodeFacts) {
        let old = self.cache.set_node(facts.clone());
        self.event(&ClusterEvent::node(old.as_ref(), &facts));
    }

    fn node_gone(&mut self, name: &str) {
        self.cache.remove_node(name);
        self.event(&ClusterEvent::of(Resource::Node, Action::DELETE));
    }
}

fn changed<T: PartialEq>(old: Option<&T>, new: &T) -> Option<Action> {
    match old {
        None => Some(Action::ADD),
        Some(o) if o != new => Some(Action::UPDATE),
        Some(_) => None,
    }
}

/// Applies a message to a map. Returns what kind of news it was.
fn keyed<M, K, T>(
    m: Msg<M>,
    map: &mut std::collections::HashMap<K, T>,
    key: impl Fn(Key) -> K,
    open: impl Fn(M) -> T,
) -> Option<Action>
where
    K: std::hash::Hash + Eq,
    T: PartialEq + Clone,
{
    match m {
        Msg::Set(k, v) => {
            let v = open(v);
            changed(map.insert(key(k), v.clone()).as_ref(), &v)
        }
        Msg::Gone(k) => {
            map.remove(&key(k));
            None
        }
        Msg::Synced(seen) => {
            let seen: HashSet<K> = seen.into_iter().map(key).collect();
            map.retain(|k, _| seen.contains(k));
            None
        }
    }
}

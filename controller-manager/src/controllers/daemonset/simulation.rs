//! Daemon sets under random interleavings: nodes that come, go and change, pods that fail, a lagging cache, writes that
//! fail, restarts, new templates in between. What a daemon set promises is checked after every step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use component_base::controller::expectations::Expectations;
use component_base::controller::informer::{Delta, key_of};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::{Node, NodeSpec, Pod, Taint};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::failed::FailedPods;
use super::model;
use super::plan::{Plan, Seen, plan, status};
use crate::util::world::{Fate, World};
use crate::util::{meta, pods};

struct Sim {
    world: World,
    ds: DaemonSet,
    hash: String,
    nodes: BTreeMap<String, Arc<Node>>,
    failed: FailedPods,
    expectations: Expectations,
    failing_pods: f64,
    last: DaemonSetStatus,
}

fn node(name: &str, taints: &[&str]) -> Arc<Node> {
    let mut node = Node::default();
    node.metadata.name = Some(name.into());
    let taint = |effect: &&str| Taint { key: "t".into(), effect: (*effect).into(), ..Taint::default() };
    node.spec = Some(NodeSpec { taints: Some(taints.iter().map(taint).collect()), ..NodeSpec::default() });
    Arc::new(node)
}

impl Sim {
    fn new(seed: u64, nodes: usize, surge: i32, unavailable: i32) -> Self {
        let rolling = RollingUpdateDaemonSet {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        };
        let spec = DaemonSetSpec {
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(rolling),
            }),
            ..DaemonSetSpec::default()
        };
        let mut ds = DaemonSet { spec: Some(spec), ..DaemonSet::default() };
        ds.metadata.name = Some("agent".into());
        ds.metadata.namespace = Some("ns".into());
        ds.metadata.uid = Some("ds".into());
        ds.metadata.generation = Some(1);
        Self {
            world: World::new(seed),
            ds,
            hash: "one".into(),
            nodes: (0..nodes).map(|n| (format!("n{n}"), node(&format!("n{n}"), &[]))).collect(),
            failed: FailedPods::default(),
            expectations: Expectations::new(),
            failing_pods: 0.0,
            last: DaemonSetStatus::default(),
        }
    }

    fn look(&mut self) -> usize {
        let caught_up = self.expectations.satisfied("ns/agent", Instant::now());
        let mine = self.world.cache.by_index(meta::BY_CONTROLLER, "ds");
        let nodes: Vec<Arc<Node>> = self.nodes.values().cloned().collect();
        let now = self.world.now();
        let seen =
            Seen { ds: &self.ds, nodes: &nodes, pods: &mine, hash: &self.hash, failed: &self.failed, now };
        let next = if caught_up { plan(&seen) } else { Plan::default() };
        self.last = status(&seen, 0, caught_up);
        for n in &next.failed_on {
            self.failed.note("ds", n, now);
        }
        let going = next.delete.iter().map(|p| key_of(p.as_ref()));
        if caught_up {
            self.expectations.expect("ns/agent", next.create.len(), going, Instant::now());
        }
        let template = model::pod_template(&self.ds, &self.hash);
        for n in &next.create {
            if self.world.create(model::pod(&self.ds, &template, n)).is_err() {
                self.expectations.creation_observed("ns/agent");
            }
        }
        for p in &next.delete {
            if !matches!(self.world.delete(meta::name(&p.metadata), meta::uid(&p.metadata)), Ok(true)) {
                self.expectations.deletion_observed("ns/agent", &key_of(p.as_ref()));
            }
        }
        next.create.len() + next.delete.len()
    }

    fn deliver(&self) {
        if let Some(d) = self.world.deliver() {
            let pod = d.object();
            if d.is_deleted() || pod.metadata.deletion_timestamp.is_some() {
                self.expectations.deletion_observed("ns/agent", &key_of(pod.as_ref()));
            } else if matches!(d, Delta::Added(_)) {
                self.expectations.creation_observed("ns/agent");
            }
        }
    }

    fn step(&mut self) {
        self.world.advance(SignedDuration::from_secs(1));
        match self.world.below(40) {
            0..16 => self.deliver(),
            16..29 => {
                let failing = self.failing_pods;
                self.world.live(|_, rng| {
                    use rand::Rng;
                    if rng.random_bool(failing) { Fate::Exit(1) } else { Fate::Run }
                });
            }
            29..39 => {
                self.look();
            }
            _ => {
                self.expectations = Expectations::new();
                self.world.relist();
            }
        }
        self.check();
    }

    fn living(&self) -> BTreeMap<String, Vec<Pod>> {
        let mut by_node: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
        for pod in self.world.all().into_iter().filter(pods::is_active) {
            by_node.entry(model::node_of(&pod).unwrap_or_default().to_owned()).or_default().push(pod);
        }
        by_node
    }

    fn check(&self) {
        let most = if model::surges(&self.ds) { 2 } else { 1 };
        for (node, pods) in self.living() {
            assert!(pods.len() <= most, "{} pods on {node}", pods.len());
        }
    }

    fn done(&self) -> bool {
        let living = self.living();
        let wanted: Vec<&String> = self
            .nodes
            .iter()
            .filter(|(_, n)| super::fit::Conditions::of(&self.ds).judge(n).run)
            .map(|(name, _)| name)
            .collect();
        living.keys().collect::<Vec<_>>() == wanted
            && living.values().all(|pods| {
                pods.len() == 1 && pods::is_ready(&pods[0]) && model::is_new(&self.ds, &pods[0], &self.hash)
            })
    }

    fn settle(&mut self) {
        for _ in 0..30_000 {
            self.step();
            if self.done() {
                return;
            }
        }
        panic!("no end: {:?} {:#?}", self.last, self.living());
    }

    fn renew(&mut self, hash: &str) {
        self.hash = hash.into();
        self.ds.metadata.generation = self.ds.metadata.generation.map(|g| g + 1);
    }
}

#[test]
fn every_node_gets_one_pod_and_its_updates() {
    for (seed, (surge, unavailable)) in (0..16).zip([(0, 1), (2, 0), (0, 3), (1, 0)].into_iter().cycle()) {
        let mut s = Sim::new(seed, 6, surge, unavailable);
        s.world.lock().failing = 0.05;
        s.failing_pods = 0.002;
        s.settle();
        for hash in ["two", "three"] {
            s.renew(hash);
            s.settle();
        }
        s.nodes.remove("n0");
        s.nodes.insert("n9".into(), node("n9", &[]));
        s.nodes.insert("n1".into(), node("n1", &["NoExecute"]));
        // Somebody else removes the pods of a node that is gone.
        let lost: Vec<Pod> = s.living().remove("n0").unwrap_or_default();
        for pod in lost {
            s.world.lock().pods.remove(meta::name(&pod.metadata));
        }
        s.world.relist();
        s.settle();
        for _ in 0..300 {
            s.deliver();
        }
        s.look();
        assert_eq!(s.last.desired_number_scheduled, 5);
        assert_eq!(s.last.number_available, Some(5));
        assert_eq!(s.last.updated_number_scheduled, Some(5));
    }
}

#[test]
fn updates_take_down_no_more_than_allowed() {
    let mut s = Sim::new(1, 10, 0, 3);
    s.settle();
    s.world.relist();
    s.renew("two");
    s.look();
    let serving = |s: &Sim| s.world.all().iter().filter(|p| pods::is_active(p) && pods::is_ready(p)).count();
    assert_eq!(serving(&s), 7);
    for _ in 0..5000 {
        s.step();
        assert!(serving(&s) >= 7, "{} serve", serving(&s));
    }
    assert!(s.done());
}

#[test]
fn a_surge_keeps_all_pods_serving() {
    let mut s = Sim::new(2, 10, 3, 0);
    s.settle();
    // A cache that shows a pod as not ready is a reason to replace it at once.
    s.world.relist();
    s.renew("two");
    for _ in 0..8000 {
        s.step();
        let living = s.living();
        let serving = living.values().filter(|p| p.iter().any(pods::is_ready)).count();
        assert_eq!(serving, 10);
        let extra: usize = living.values().map(|p| p.len() - 1).sum();
        assert!(extra <= 3, "{extra} extra pods");
    }
    assert!(s.done());
}

#[test]
fn pods_stay_on_nodes_that_only_refuse_new_ones() {
    let mut s = Sim::new(3, 3, 0, 1);
    s.settle();
    s.world.relist();
    s.nodes.insert("n0".into(), node("n0", &["NoSchedule"]));
    assert_eq!(s.look(), 0);
    assert_eq!((s.last.desired_number_scheduled, s.last.number_misscheduled), (2, 1));
    s.nodes.insert("n0".into(), node("n0", &["NoExecute"]));
    assert_eq!(s.look(), 1);
}

#[test]
fn pods_that_keep_failing_are_deleted_ever_more_slowly() {
    let mut s = Sim::new(4, 1, 0, 1);
    s.failing_pods = 1.0;
    for _ in 0..4000 {
        s.step();
    }
    let made = s.world.lock().made.len();
    assert!((8..16).contains(&made), "{made} pods in 4000 s");
}

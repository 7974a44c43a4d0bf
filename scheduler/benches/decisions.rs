//! How many decisions a second the core takes, without any API: a line each, name, value, unit.
//!
//! 5,000 nodes in ten zones. Every placed pod is assumed before the next is decided, as in the running scheduler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use scheduler::cache::Cache;
use scheduler::config::{Configuration, ProfileConfig};
use scheduler::decide::{Decision, Turn, decide};
use scheduler::framework::{Action, ClusterEvent, Profile, Resource};
use scheduler::model::{Labels, PodInfo, convert};
use scheduler::preempt::{Outcome, best, preempt};
use scheduler::queue::Queue;
use serde_json::{Value, json};

const NODES: usize = 5000;

fn main() {
    for (name, pods, spec) in cases() {
        let mut c = cluster();
        let rate = place(&mut c, pods, |_| spec.clone());
        line(name, rate);
    }
    // Every pod asks for something else: nothing can be remembered.
    let mut c = cluster();
    let rate = place(&mut c, 2000, |i| requests(&format!("{}m", 100 + i), "500Mi"));
    line("core.distinct", rate);
    line("core.preemption", preemption());
    line("core.unschedulable_present", unschedulable_present());
}

fn line(name: &str, rate: f64) {
    println!("{name} {rate:.0} decisions/s");
}

fn requests(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "registry.example/pause",
        "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn with(mut spec: Value, key: &str, value: Value) -> Value {
    spec[key] = value;
    spec
}

fn cases() -> Vec<(&'static str, usize, Value)> {
    let basic = || requests("100m", "500Mi");
    let selector = json!({"matchLabels": {"app": "bench"}});
    let spread = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]);
    let soft = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector}]);
    let term = |key: &str| {
        json!({"requiredDuringSchedulingIgnoredDuringExecution":
            [{"labelSelector": selector, "topologyKey": key}]})
    };
    vec![
        ("core.basic", 20_000, basic()),
        ("core.spreading", 5000, with(basic(), "topologySpreadConstraints", spread)),
        ("core.spreading_preferred", 5000, with(basic(), "topologySpreadConstraints", soft)),
        (
            "core.anti_affinity",
            4000,
            with(basic(), "affinity", json!({"podAntiAffinity": term("kubernetes.io/hostname")})),
        ),
        (
            "core.affinity",
            4000,
            with(basic(), "affinity", json!({"podAffinity": term("topology.kubernetes.io/zone")})),
        ),
    ]
}

fn profile() -> Profile {
    let mut c = Configuration { profiles: vec![ProfileConfig::default()], ..Configuration::default() };
    c.set_defaults();
    Profile::new(&c.profiles[0], 0).expect("the default profile")
}

fn cluster() -> Cache {
    let mut c = Cache::default();
    for i in 0..NODES {
        let name = format!("node-{i:05}");
        let node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": format!("zone-{}", i % 10),
                "topology.kubernetes.io/region": "region"}},
            "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
        }))
        .expect("a node");
        c.set_node(convert::node(&node));
    }
    c.namespaces.insert("default".into(), Labels::from([("kubernetes.io/metadata.name", "default")]));
    c
}

fn pod(i: usize, spec: Value) -> Arc<PodInfo> {
    let name = format!("pod-{i:06}");
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "bench"}},
        "spec": spec, "status": {"startTime": "2026-01-01T00:00:00Z"}}));
    Arc::new(convert::pod(&pod.expect("a pod")))
}

fn put(c: &mut Cache, pod: &PodInfo, slot: usize) {
    let node = c.node_at(slot).map(|n| n.name.clone());
    c.assume(Arc::new(PodInfo { node, want: None, ..pod.clone() }));
}

/// Places pods one after the other and returns how many a second.
fn place(c: &mut Cache, count: usize, spec: impl Fn(usize) -> Value) -> f64 {
    let p = profile();
    let mut turn = Turn::new(SmallRng::seed_from_u64(1));
    let pods: Vec<_> = (0..count).map(|i| pod(i, spec(i))).collect();
    let begun = Instant::now();
    for x in &pods {
        match decide(c, &p, x, &mut turn) {
            Decision::Node { slot, .. } => put(c, x, slot),
            Decision::Unschedulable(d) => panic!("{} does not fit: {}", x.name, d.message()),
            Decision::NoNodes => panic!("there are no nodes"),
        }
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// A full cluster of unimportant pods, and important ones that each need two of them out.
fn preemption() -> f64 {
    const PREEMPTORS: usize = 2000;
    let mut c = cluster();
    for i in 0..NODES * 4 {
        let x = pod(i, with(requests("900m", "500Mi"), "priority", json!(1)));
        put(&mut c, &x, i % NODES);
    }
    let p = profile();
    let mut turn = Turn::new(SmallRng::seed_from_u64(1));
    let important: Vec<_> = (0..PREEMPTORS)
        .map(|i| pod(1_000_000 + i, with(requests("2", "500Mi"), "priority", json!(1000))))
        .collect();
    let begun = Instant::now();
    for x in &important {
        let Decision::Unschedulable(d) = decide(&c, &p, x, &mut turn) else { panic!("it fits") };
        let Outcome::Evict(found) = preempt(&mut c, &p, x, &d, &mut turn) else { panic!("no victims") };
        let candidate = best(&found).expect("one is the best");
        c.nominate(x, Some(candidate.node.clone()));
        candidate.victims.iter().for_each(|v| drop(c.remove_pod(&v.uid)));
        let Decision::Node { slot, .. } = decide(&c, &p, x, &mut turn) else { panic!("no room was made") };
        c.nominate(x, None);
        put(&mut c, x, slot);
    }
    PREEMPTORS as f64 / begun.elapsed().as_secs_f64()
}

/// Basic pods while 20,000 others wait that fit nowhere, with the events of every placement told to the queue.
fn unschedulable_present() -> f64 {
    const PLACED: usize = 10_000;
    let p = profile();
    let mut queue = Queue::new(Duration::from_secs(1), Duration::from_secs(10));
    let mut c = cluster();
    for i in 0..20_000 {
        queue.add(pod(1_000_000 + i, requests("9", "500Mi")), &p, &c, Duration::ZERO);
    }
    while let Some(q) = queue.pop(Duration::ZERO) {
        queue.put_unschedulable(q, ["NodeResourcesFit"].into(), Duration::ZERO);
    }
    let mut turn = Turn::new(SmallRng::seed_from_u64(1));
    let pods: Vec<_> = (0..PLACED).map(|i| pod(i, requests("100m", "500Mi"))).collect();
    let begun = Instant::now();
    for x in &pods {
        queue.add(x.clone(), &p, &c, begun.elapsed());
        let q = queue.pop(begun.elapsed()).expect("the pod just added");
        let Decision::Node { slot, .. } = decide(&c, &p, &q.pod, &mut turn) else {
            panic!("it does not fit")
        };
        put(&mut c, &q.pod, slot);
        let event = ClusterEvent::pod(Resource::AssignedPod, Action::ADD, &q.pod);
        queue.on_event(&event, |_| Some(&p), &c, begun.elapsed());
        assert_eq!(queue.sizes().unschedulable, 20_000);
    }
    PLACED as f64 / begun.elapsed().as_secs_f64()
}

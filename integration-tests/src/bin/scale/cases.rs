//! What is measured: pods that ask for nothing special, and the kinds that cost a scheduler most.
//!
//! Where upstream's `scheduler_perf` has a workload with a threshold at 5,000 nodes, the case of the same meaning is
//! made like it: `preemption` is its `PreemptionAsync`. `preemptors` has no counterpart there (upstream leaves
//! `PreemptionBasic` out at this size): each of its pods has to preempt.

use std::time::Duration;

use serde_json::{Value, json};

/// One measurement.
pub struct Case {
    pub name: &'static str,
    /// Pods that are there, running or waiting, before the clock starts.
    pub before: Option<Batch>,
    /// Pods that keep coming while the others are measured.
    pub meanwhile: Option<Trickle>,
    /// The pods whose binding is counted.
    pub measured: Batch,
}

/// Pods of one kind.
pub struct Batch {
    pub prefix: &'static str,
    pub count: usize,
    pub spec: Value,
    /// Whether they find room.
    pub fits: bool,
}

/// Pods of one kind, made one by one.
pub struct Trickle {
    pub prefix: &'static str,
    pub every: Duration,
    pub spec: Value,
}

fn requests(cpu: &str) -> Value {
    json!({"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "registry.example/pause",
            "resources": {"requests": {"cpu": cpu, "memory": "100Mi"}}}]})
}

fn with(mut spec: Value, key: &str, value: Value) -> Value {
    spec[key] = value;
    spec
}

fn batch(prefix: &'static str, count: usize, spec: Value) -> Batch {
    Batch { prefix, count, spec, fits: true }
}

/// The cases for a cluster of this size.
pub fn all(nodes: usize, pods: usize) -> Vec<Case> {
    // Forty of these fit a node.
    let small = || requests("100m");
    let pods = pods.min(nodes * 40);
    let selector = |app: &str| json!({"matchLabels": {"app": app}});
    let spread = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector("spread")}]);
    let anti = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"labelSelector": selector("anti"), "topologyKey": "kubernetes.io/hostname"}]}});
    let waiting = Batch { fits: false, ..batch("waiting", 20_000.min(4 * pods), requests("9")) };
    // Four fill a node, and each preemptor needs three of them gone.
    let victims = || Some(batch("victim", nodes * 4, requests("900m")));
    let preemptor = || with(requests("3"), "priorityClassName", json!("important"));
    let case = |name, measured| Case { name, before: None, meanwhile: None, measured };
    vec![
        case("basic", batch("basic", pods, small())),
        case("spreading", batch("spread", pods, with(small(), "topologySpreadConstraints", spread))),
        case("anti_affinity", batch("anti", pods.min(nodes), with(small(), "affinity", anti))),
        Case {
            before: victims(),
            meanwhile: Some(Trickle {
                prefix: "preemptor",
                every: Duration::from_millis(200),
                spec: preemptor(),
            }),
            // The victims leave room for four of them on each node.
            ..case("preemption", batch("ordinary", pods.min(nodes * 4), small()))
        },
        Case { before: victims(), ..case("preemptors", batch("preemptor", pods.min(nodes), preemptor())) },
        Case { before: Some(waiting), ..case("unschedulable_present", batch("beside", pods, small())) },
    ]
}

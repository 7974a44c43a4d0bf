//! What is measured: pods that ask for nothing special, and the kinds that cost a scheduler most.

use serde_json::{Value, json};

/// One measurement.
pub struct Case {
    pub name: &'static str,
    /// Pods that are there, running or waiting, before the clock starts.
    pub before: Option<Batch>,
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
    vec![
        Case { name: "basic", before: None, measured: batch("basic", pods, small()) },
        Case {
            name: "spreading",
            before: None,
            measured: batch("spread", pods, with(small(), "topologySpreadConstraints", spread)),
        },
        Case {
            name: "anti_affinity",
            before: None,
            measured: batch("anti", pods.min(nodes), with(small(), "affinity", anti)),
        },
        Case {
            name: "preemption",
            // Four fill a node, and each of the others needs three of them gone.
            before: Some(batch("victim", nodes * 4, requests("900m"))),
            measured: batch(
                "preemptor",
                pods.min(nodes),
                with(requests("3"), "priorityClassName", json!("important")),
            ),
        },
        Case {
            name: "unschedulable_present",
            before: Some(waiting),
            measured: batch("beside", pods, small()),
        },
    ]
}

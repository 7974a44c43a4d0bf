//! Random nodes and pods that touch the plugins which need no other objects.

use serde_json::{Value, json};

/// A small generator: the same seed gives the same cluster on every machine.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    /// True once in `n` times.
    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const APPS: &[&str] = &["web", "db", "queue"];
const ZONES: &[&str] = &["a", "b", "c"];
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn node(d: &mut Dice, i: usize) -> Value {
    let name = format!("n{i:02}");
    let mut labels = json!({"kubernetes.io/hostname": name});
    if !d.once_in(6) {
        labels["topology.kubernetes.io/zone"] = json!(d.pick(ZONES));
    }
    if d.once_in(2) {
        labels["disk"] = json!(d.pick(&["ssd", "hdd"]));
    }
    labels["size"] = json!(d.below(5).to_string());
    let mut taints = Vec::new();
    if d.once_in(4) {
        taints.push(json!({"key": d.pick(&["dedicated", "flaky"]), "value": d.pick(&["x", "y"]),
            "effect": d.pick(EFFECTS)}));
    }
    let sizes = json!({"cpu": (2 + d.below(7)).to_string(), "memory": format!("{}Gi", 4 + d.below(28)),
        "pods": (3 + d.below(20)).to_string(), "example.com/gpu": d.below(3).to_string()});
    let spec = json!({"unschedulable": d.once_in(10), "taints": taints});
    json!({"metadata": {"name": name, "labels": labels}, "spec": spec,
        "status": {"capacity": sizes, "allocatable": sizes, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn container(d: &mut Dice) -> Value {
    let mut requests = json!({});
    if !d.once_in(4) {
        requests["cpu"] = json!(format!("{}m", 50 * (1 + d.below(20))));
    }
    if !d.once_in(3) {
        requests["memory"] = json!(format!("{}Mi", 64 * (1 + d.below(30))));
    }
    let mut limits = json!({});
    if d.once_in(8) {
        limits["example.com/gpu"] = json!("1");
    }
    json!({"name": "c", "image": "registry.example/app", "resources": {"requests": requests, "limits": limits}})
}

pub fn pod(d: &mut Dice, i: usize) -> Value {
    let app = d.pick(APPS);
    let mut spec = json!({"automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 0, "containers": [container(d)]});
    if d.once_in(8) {
        spec["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8000 + d.below(3), "protocol": d.pick(&["TCP", "UDP"])}]);
    }
    if d.once_in(6) {
        spec["nodeSelector"] = json!({"disk": d.pick(&["ssd", "hdd", "none"])});
    }
    if d.once_in(3) {
        spec["tolerations"] = json!([{"key": d.pick(&["dedicated", "flaky"]), "operator": "Exists"}]);
    }
    if d.once_in(4) {
        let key = d.pick(&["topology.kubernetes.io/zone", "kubernetes.io/hostname"]);
        spec["topologySpreadConstraints"] = json!([{"maxSkew": 1 + d.below(2), "topologyKey": key,
            "whenUnsatisfiable": d.pick(&["DoNotSchedule", "ScheduleAnyway"]),
            "labelSelector": {"matchLabels": {"app": app}}}]);
    }
    let affinity = affinity(d);
    if !affinity.is_null() {
        spec["affinity"] = affinity;
    }
    json!({"metadata": {"name": format!("p{i:04}"), "labels": {"app": app}}, "spec": spec})
}

fn affinity(d: &mut Dice) -> Value {
    let key = d.pick(&["topology.kubernetes.io/zone", "kubernetes.io/hostname"]);
    let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": d.pick(APPS)}}});
    let weighted = json!([{"weight": 1 + d.below(100), "podAffinityTerm": term}]);
    let size = json!({"matchExpressions": [
        {"key": "size", "operator": d.pick(&["Gt", "Lt"]), "values": [d.below(5).to_string()]}]});
    match d.below(16) {
        0 => json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}),
        1 => json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}),
        2 => json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": weighted}}),
        3 => json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": weighted}}),
        4 => json!({"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [size]}}}),
        5 | 6 => json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 1 + d.below(100), "preference": size}]}}),
        _ => Value::Null,
    }
}

//! Objects and clusters for tests, written as the API writes them.

use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::config::{Configuration, ProfileConfig};
use crate::decide::{Decision, Turn, decide};
use crate::framework::Profile;
use crate::model::{NodeFacts, PodInfo, convert};

/// A pod with this spec; `extra` may hold metadata and status.
pub fn pod_with(name: &str, spec: Value, extra: Value) -> Arc<PodInfo> {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    let mut v = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec});
    for (k, x) in extra.as_object().into_iter().flatten() {
        for (kk, xx) in x.as_object().into_iter().flatten() {
            v[k][kk] = xx.clone();
        }
    }
    Arc::new(convert::pod(&serde_json::from_value(v).expect("pod")))
}

/// A pod with this spec.
pub fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
    pod_with(name, spec, json!({}))
}

/// A pod that asks for CPU and memory.
pub fn sized(name: &str, cpu: &str, memory: &str) -> Arc<PodInfo> {
    let requests = json!({"requests": {"cpu": cpu, "memory": memory}});
    pod(name, json!({"containers": [{"name": "c", "resources": requests}]}))
}

/// A node with 4 CPUs, 8 GiB and room for 110 pods.
pub fn node(name: &str, labels: Value) -> NodeFacts {
    node_with(name, labels, json!({}))
}

/// The same with more of a spec.
pub fn node_with(name: &str, labels: Value, spec: Value) -> NodeFacts {
    let mut labels = labels;
    labels["kubernetes.io/hostname"] = json!(name);
    convert::node(
        &serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels}, "spec": spec,
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
        }))
        .expect("node"),
    )
}

/// A cache of nodes.
pub fn cluster(nodes: impl IntoIterator<Item = NodeFacts>) -> Cache {
    let mut c = Cache::default();
    for n in nodes {
        c.set_node(n);
    }
    c.namespaces
        .insert("default".into(), crate::model::Labels::from([("kubernetes.io/metadata.name", "default")]));
    c
}

/// The default profile, with changes.
pub fn profile(v: Value) -> Profile {
    let p: ProfileConfig = serde_json::from_value(v).expect("profile");
    let mut c = Configuration { profiles: vec![p], ..Configuration::default() };
    c.set_defaults();
    Profile::new(&c.profiles[0], 0).expect("profile")
}

/// A pod put on a node.
pub fn on(p: &PodInfo, node: &str) -> Arc<PodInfo> {
    Arc::new(PodInfo { node: Some(node.into()), ..p.clone() })
}

/// The node chosen, or the message why there is none.
pub fn choose(cache: &Cache, profile: &Profile, pod: &PodInfo) -> Result<String, String> {
    let mut turn = Turn::new(SmallRng::seed_from_u64(7));
    match decide(cache, profile, pod, &mut turn) {
        Decision::Node { slot, .. } => Ok(cache.node_at(slot).expect("node").name.to_string()),
        Decision::Unschedulable(d) => Err(d.message()),
        Decision::NoNodes => Err("no nodes".into()),
    }
}

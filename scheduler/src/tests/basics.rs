//! Resources, names, selectors, taints, ports, images.

use serde_json::json;

use crate::testing::{choose, cluster, node, node_with, on, pod, profile, sized};

#[test]
fn reasons_add_up_over_nodes() {
    let mut c = cluster([
        node("a", json!({})),
        node_with("b", json!({}), json!({"unschedulable": true})),
        node_with("c", json!({}), json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]})),
    ]);
    c.set_pod(on(&sized("x", "3500m", "1Gi"), "a"));
    let p = profile(json!({}));
    assert_eq!(
        choose(&c, &p, &sized("y", "1", "9Gi")).expect_err("does not fit"),
        "0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable."
    );
    assert_eq!(choose(&c, &p, &sized("z", "500m", "1Gi")), Ok("a".into()));
    let tolerant = pod(
        "t",
        json!({"tolerations": [{"key": "k", "operator": "Exists"}],
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}),
    );
    assert_eq!(choose(&c, &p, &tolerant), Ok("c".into()));
    let cordoned = pod(
        "u",
        json!({"nodeSelector": {"kubernetes.io/hostname": "b"},
        "tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}),
    );
    assert_eq!(choose(&c, &p, &cordoned), Ok("b".into()));
}

#[test]
fn extended_resources_and_pod_count_are_limits() {
    let mut n = node("a", json!({}));
    n.max_pods = 1;
    let mut c = cluster([n]);
    let p = profile(json!({}));
    let gpu =
        pod("g", json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}));
    assert_eq!(
        choose(&c, &p, &gpu).expect_err("no gpu"),
        "0/1 nodes are available: 1 Insufficient example.com/gpu."
    );
    c.set_pod(on(&pod("one", json!({})), "a"));
    assert_eq!(
        choose(&c, &p, &pod("two", json!({}))).expect_err("full"),
        "0/1 nodes are available: 1 Too many pods."
    );
    let ignoring = profile(json!({"pluginConfig": [{"name": "NodeResourcesFit",
        "args": {"ignoredResourceGroups": ["example.com"]}}]}));
    c.remove_pod("one");
    assert_eq!(choose(&c, &ignoring, &gpu), Ok("a".into()));
}

#[test]
fn least_allocated_spreads_and_most_allocated_packs() {
    let mut c = cluster([node("a", json!({})), node("b", json!({}))]);
    c.set_pod(on(&sized("x", "1", "2Gi"), "a"));
    let p = sized("p", "1", "2Gi");
    assert_eq!(choose(&c, &profile(json!({})), &p), Ok("b".into()));
    let packing = json!({"pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy":
        {"type": "MostAllocated", "resources": [{"name": "cpu", "weight": 1}, {"name": "memory", "weight": 1}]}}}]});
    assert_eq!(choose(&c, &profile(packing), &p), Ok("a".into()));
    let ratio = json!({"pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy":
        {"type": "RequestedToCapacityRatio", "resources": [{"name": "cpu", "weight": 1}],
         "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}}}]});
    assert_eq!(choose(&c, &profile(ratio), &p), Ok("a".into()));
}

#[test]
fn balance_prefers_nodes_the_pod_evens_out() {
    // Memory is short on a, CPU on b: a pod that needs CPU belongs on a.
    let mut c = cluster([node("a", json!({})), node("b", json!({}))]);
    c.set_pod(on(&sized("x", "100m", "4Gi"), "a"));
    c.set_pod(on(&sized("y", "2", "200Mi"), "b"));
    let only = profile(json!({"plugins": {"score": {"disabled": [{"name": "*"}],
        "enabled": [{"name": "NodeResourcesBalancedAllocation"}]}}}));
    assert_eq!(choose(&c, &only, &sized("p", "1500m", "100Mi")), Ok("a".into()));
}

#[test]
fn node_affinity_filters_prefers_and_narrows() {
    let c =
        cluster([node("a", json!({"disk": "ssd"})), node("b", json!({"disk": "hdd"})), node("c", json!({}))]);
    let p = profile(json!({}));
    let required = |exprs: serde_json::Value, fields: serde_json::Value| {
        pod(
            "p",
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": exprs, "matchFields": fields}]}}}}),
        )
    };
    let ssd = required(json!([{"key": "disk", "operator": "In", "values": ["ssd"]}]), json!([]));
    assert_eq!(choose(&c, &p, &ssd), Ok("a".into()));
    let by_name = required(json!([]), json!([{"key": "metadata.name", "operator": "In", "values": ["c"]}]));
    assert_eq!(choose(&c, &p, &by_name), Ok("c".into()));
    let absent = required(json!([]), json!([{"key": "metadata.name", "operator": "In", "values": ["x"]}]));
    assert_eq!(
        choose(&c, &p, &absent).expect_err("no such node"),
        "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    );
    let preferred = pod(
        "p",
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 100, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]}}]}}}),
    );
    assert_eq!(choose(&c, &p, &preferred), Ok("b".into()));
    let enforced = profile(json!({"pluginConfig": [{"name": "NodeAffinity", "args": {"addedAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}}}]}));
    assert_eq!(
        choose(&c, &enforced, &pod("q", json!({"nodeSelector": {"disk": "none"}}))).expect_err("nowhere"),
        "0/3 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity, 2 node(s) didn't match Pod's node affinity/selector."
    );
}

#[test]
fn host_ports_conflict_by_address_and_protocol() {
    let mut c = cluster([node("a", json!({}))]);
    let p = profile(json!({}));
    let with = |name: &str, ip: &str, proto: &str| {
        pod(
            name,
            json!({"containers": [{"name": "c", "ports":
            [{"containerPort": 80, "hostPort": 8080, "hostIP": ip, "protocol": proto}]}]}),
        )
    };
    c.set_pod(on(&with("x", "127.0.0.1", "TCP"), "a"));
    assert_eq!(choose(&c, &p, &with("y", "127.0.0.2", "TCP")), Ok("a".into()));
    assert_eq!(choose(&c, &p, &with("y", "", "UDP")), Ok("a".into()));
    assert_eq!(
        choose(&c, &p, &with("y", "", "TCP")).expect_err("taken"),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
}

#[test]
fn images_attract_and_soft_taints_repel() {
    let mut a = node("a", json!({}));
    a.images = Box::new([("big:latest".into(), 800 << 20)]);
    let c = cluster([a, node("b", json!({}))]);
    let only = |name: &str| {
        profile(json!({"plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": name}]}}}))
    };
    let p = pod("p", json!({"containers": [{"name": "c", "image": "big"}]}));
    assert_eq!(choose(&c, &only("ImageLocality"), &p), Ok("a".into()));
    let soft = json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]});
    let c = cluster([node_with("a", json!({}), soft), node("b", json!({}))]);
    assert_eq!(choose(&c, &only("TaintToleration"), &p), Ok("b".into()));
}

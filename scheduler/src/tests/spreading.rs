//! PodTopologySpread.

use serde_json::{Value, json};

use crate::cache::Cache;
use crate::model::{Labels, Selector};
use crate::testing::{choose, cluster, node, node_with, on, pod_with, profile};

fn zones() -> Cache {
    cluster([
        node("a1", json!({"zone": "a"})),
        node("a2", json!({"zone": "a"})),
        node("b1", json!({"zone": "b"})),
        node("x", json!({})),
    ])
}

fn web(name: &str, constraint: Value) -> std::sync::Arc<crate::model::PodInfo> {
    let spec =
        if constraint.is_null() { json!({}) } else { json!({"topologySpreadConstraints": [constraint]}) };
    pod_with(name, spec, json!({"metadata": {"labels": {"app": "web", "rev": "1"}}}))
}

fn by_zone(extra: Value) -> Value {
    let mut c = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    for (k, v) in extra.as_object().into_iter().flatten() {
        c[k] = v.clone();
    }
    c
}

#[test]
fn hard_constraints_bound_the_skew() {
    let mut c = zones();
    let p = profile(json!({}));
    let new = web("n", by_zone(json!({})));
    c.set_pod(on(&web("1", Value::Null), "a1"));
    assert_eq!(choose(&c, &p, &new), Ok("b1".into()));
    c.set_pod(on(&web("2", Value::Null), "b1"));
    c.set_pod(on(&web("3", Value::Null), "b1"));
    assert!(choose(&c, &p, &new).expect("zone a").starts_with('a'));
    // Without zone a the rest does not do.
    c.remove_node("a1");
    c.remove_node("a2");
    let mut full = node_with("a3", json!({"zone": "a"}), json!({"unschedulable": true}));
    full.max_pods = 0;
    c.set_node(full);
    assert_eq!(
        choose(&c, &p, &new).expect_err("skew"),
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match pod topology spread constraints (missing required label), 1 node(s) were unschedulable."
    );
}

#[test]
fn counts_follow_pods_that_come_change_and_go() {
    let mut c = zones();
    let p = profile(json!({}));
    let new = web("n", by_zone(json!({})));
    // The first decision fills the memo; what comes later is maintained.
    choose(&c, &p, &new).expect("fits");
    c.assume(on(&web("1", Value::Null), "b1"));
    assert!(choose(&c, &p, &new).expect("zone a").starts_with('a'));
    c.forget("1");
    c.set_pod(on(&web("2", Value::Null), "a2"));
    assert_eq!(choose(&c, &p, &new), Ok("b1".into()));
    // A pod on its way out no longer counts.
    let mut leaving = (*on(&web("2", Value::Null), "a2")).clone();
    leaving.deleting = true;
    c.set_pod(std::sync::Arc::new(leaving));
    c.set_pod(on(&web("3", Value::Null), "b1"));
    assert!(choose(&c, &p, &new).expect("zone a").starts_with('a'));
}

#[test]
fn min_domains_match_label_keys_and_node_policies() {
    let p = profile(json!({}));
    let mut c = zones();
    c.set_pod(on(&web("1", Value::Null), "a1"));
    c.set_pod(on(&web("2", Value::Null), "b1"));
    // With three domains wanted and two there, the least count is taken as zero.
    assert!(choose(&c, &p, &web("n", by_zone(json!({"minDomains": 3})))).is_err());
    assert!(choose(&c, &p, &web("n", by_zone(json!({"minDomains": 2})))).is_ok());
    // Pods of another revision don't count.
    c.set_pod(on(&web("3", Value::Null), "a1"));
    let other = pod_with(
        "n",
        json!({"topologySpreadConstraints": [by_zone(json!({"matchLabelKeys": ["rev"]}))]}),
        json!({"metadata": {"labels": {"app": "web", "rev": "2"}}}),
    );
    c.remove_node("b1");
    c.remove_pod("2");
    assert!(choose(&c, &p, &other).expect("fits").starts_with('a'));
    // A tainted zone counts unless the constraint honours taints.
    let mut c = cluster([
        node("a", json!({"zone": "a"})),
        node_with("b", json!({"zone": "b"}), json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})),
    ]);
    c.set_pod(on(&web("1", Value::Null), "a"));
    assert!(choose(&c, &p, &web("n", by_zone(json!({})))).is_err());
    assert_eq!(choose(&c, &p, &web("n", by_zone(json!({"nodeTaintsPolicy": "Honor"})))), Ok("a".into()));
}

#[test]
fn soft_constraints_and_defaults_spread() {
    let mut c = zones();
    let only = profile(
        json!({"plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "PodTopologySpread"}]}}}),
    );
    c.set_pod(on(&web("1", Value::Null), "a1"));
    let soft = web("n", by_zone(json!({"whenUnsatisfiable": "ScheduleAnyway"})));
    assert_eq!(choose(&c, &only, &soft), Ok("b1".into()));
    // A service over the pods gives them the default constraints: another node first.
    let plain = web("n", Value::Null);
    c.selectors.services.entry("default".into()).or_default().insert(
        "web".into(),
        Selector::All(Box::new([crate::model::Requirement {
            key: "app".into(),
            op: crate::model::Op::In,
            values: Box::new(["web".into()]),
        }])),
    );
    for n in ["a2", "b1"] {
        c.set_pod(on(&web(n, Value::Null), n));
    }
    assert_eq!(choose(&c, &only, &plain), Ok("x".into()));
    assert!(plain.labels == Labels::from([("app", "web"), ("rev", "1")]));
}

//! InterPodAffinity.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::model::{Labels, PodInfo};
use crate::testing::{choose, cluster, node, on, pod_with, profile};

fn labelled(name: &str, app: &str, spec: Value) -> Arc<PodInfo> {
    pod_with(name, spec, json!({"metadata": {"labels": {"app": app}}}))
}

fn term(app: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
}

fn near(app: &str) -> Value {
    json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(app, "zone")]}}})
}

fn away(app: &str, key: &str) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(app, key)]}}})
}

fn zones() -> crate::cache::Cache {
    cluster([
        node("a1", json!({"zone": "a"})),
        node("a2", json!({"zone": "a"})),
        node("b1", json!({"zone": "b"})),
    ])
}

#[test]
fn affinity_follows_and_the_first_of_its_kind_may_start() {
    let mut c = zones();
    let p = profile(json!({}));
    let first = labelled("1", "web", near("web"));
    assert!(choose(&c, &p, &first).is_ok());
    assert_eq!(
        choose(&c, &p, &labelled("1", "web", near("db"))).expect_err("no db"),
        "0/3 nodes are available: 3 node(s) didn't match pod affinity rules."
    );
    c.set_pod(on(&labelled("db", "db", json!({})), "b1"));
    assert_eq!(choose(&c, &p, &labelled("1", "web", near("db"))), Ok("b1".into()));
    c.set_pod(on(&first, "a1"));
    assert!(choose(&c, &p, &labelled("2", "web", near("web"))).expect("fits").starts_with('a'));
}

#[test]
fn anti_affinity_works_both_ways() {
    let mut c = zones();
    let p = profile(json!({}));
    c.set_pod(on(&labelled("x", "web", json!({})), "a1"));
    assert_eq!(choose(&c, &p, &labelled("1", "web", away("web", "zone"))), Ok("b1".into()));
    // A running pod keeps others away, too, as long as it runs.
    c.set_pod(on(&labelled("lonely", "db", away("web", "zone")), "b1"));
    assert_eq!(
        choose(&c, &p, &labelled("1", "web", away("web", "zone"))).expect_err("nowhere"),
        "0/3 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules, 2 node(s) didn't match pod anti-affinity rules."
    );
    c.remove_pod("lonely");
    assert_eq!(choose(&c, &p, &labelled("1", "web", away("web", "zone"))), Ok("b1".into()));
}

#[test]
fn namespaces_are_chosen_by_name_or_by_label() {
    let mut c = zones();
    let p = profile(json!({}));
    c.namespaces.insert("other".into(), Labels::from([("team", "x")]));
    let mut there = (*on(&labelled("db", "db", json!({})), "b1")).clone();
    there.namespace = "other".into();
    c.set_pod(Arc::new(there));
    let with = |extra: Value| {
        let mut t = term("db", "zone");
        for (k, v) in extra.as_object().into_iter().flatten() {
            t[k] = v.clone();
        }
        labelled(
            "1",
            "web",
            json!({"affinity": {"podAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": [t]}}}),
        )
    };
    assert!(choose(&c, &p, &with(json!({}))).is_err());
    assert_eq!(choose(&c, &p, &with(json!({"namespaces": ["other"]}))), Ok("b1".into()));
    let team = |t: &str| with(json!({"namespaceSelector": {"matchLabels": {"team": t}}}));
    assert_eq!(choose(&c, &p, &team("x")), Ok("b1".into()));
    assert!(choose(&c, &p, &team("y")).is_err());
    assert_eq!(choose(&c, &p, &with(json!({"namespaceSelector": {}}))), Ok("b1".into()));
}

#[test]
fn preferences_of_both_sides_score() {
    let mut c = zones();
    let only = profile(
        json!({"plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "InterPodAffinity"}]}}}),
    );
    c.set_pod(on(&labelled("db", "db", json!({})), "b1"));
    let prefers = |kind: &str| {
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 10, "podAffinityTerm": term("db", "zone")}]}}})
    };
    assert_eq!(choose(&c, &only, &labelled("1", "web", prefers("podAffinity"))), Ok("b1".into()));
    assert!(
        choose(&c, &only, &labelled("1", "web", prefers("podAntiAffinity"))).expect("fits").starts_with('a')
    );
    // The running pod's wish counts for a newcomer without any.
    let mut c = zones();
    c.set_pod(on(&labelled("w", "web", prefers("podAffinity")), "b1"));
    assert_eq!(choose(&c, &only, &labelled("db", "db", json!({}))), Ok("b1".into()));
}

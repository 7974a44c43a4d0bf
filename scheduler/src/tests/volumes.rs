//! Volume plugins.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::cache::Cache;
use crate::model::{PodInfo, convert};
use crate::plugins::volumes::{Delayed, Plan, plan, stands};
use crate::testing::{choose, cluster, node, on, pod, profile};

fn user(name: &str, claim: &str) -> Arc<PodInfo> {
    pod(name, json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}))
}

fn add_claim(c: &mut Cache, name: &str, spec: Value, annotations: Value) {
    let claim = convert::claim(
        &serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default", "uid": name,
            "annotations": annotations}, "spec": spec}))
        .expect("claim"),
    );
    c.storage.claims.insert(("default".into(), name.into()), claim);
}

fn add_volume(c: &mut Cache, name: &str, size: &str, zone: Option<&str>, extra: Value) {
    let mut spec =
        json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local"});
    if let Some(z) = zone {
        spec["nodeAffinity"] = json!({"required": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [z]}]}]}});
    }
    for (k, v) in extra.as_object().into_iter().flatten() {
        spec[k] = v.clone();
    }
    let v = json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}});
    c.storage.volumes.insert(name.into(), convert::volume(&serde_json::from_value(v).expect("volume")));
}

fn add_class(c: &mut Cache, name: &str, provisioner: &str, mode: &str) {
    let v = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
    c.storage.classes.insert(name.into(), convert::class(&serde_json::from_value(v).expect("class")));
}

fn wants(class: &str) -> Value {
    json!({"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}})
}

fn zones() -> Cache {
    cluster([node("a", json!({"zone": "a"})), node("b", json!({"zone": "b"}))])
}

#[test]
fn pods_wait_for_their_claims() {
    let mut c = zones();
    let p = profile(json!({}));
    let why = |c: &Cache, name: &str| choose(c, &p, &user("p", name)).expect_err("waits");
    assert_eq!(why(&c, "data"), "0/2 nodes are available: persistentvolumeclaim \"data\" not found.");
    add_class(&mut c, "now", "x.example.com", "Immediate");
    add_claim(&mut c, "data", wants("now"), json!({}));
    assert_eq!(why(&c, "data"), "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.");
    let mut bound = wants("now");
    bound["volumeName"] = json!("pv1");
    add_claim(&mut c, "data", bound, json!({"pv.kubernetes.io/bind-completed": "yes"}));
    assert_eq!(
        why(&c, "data"),
        "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."
    );
    add_volume(&mut c, "pv1", "5Gi", Some("b"), json!({}));
    assert_eq!(choose(&c, &p, &user("p", "data")), Ok("b".into()));
    let only_a = pod(
        "p",
        json!({"nodeSelector": {"zone": "a"},
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}),
    );
    assert_eq!(
        choose(&c, &p, &only_a).expect_err("conflict"),
        "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) didn't match Pod's node affinity/selector."
    );
}

#[test]
fn delayed_claims_choose_the_smallest_reachable_volume_or_provision() {
    let mut c = zones();
    let p = profile(json!({}));
    add_class(&mut c, "local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer");
    add_claim(&mut c, "data", wants("local"), json!({}));
    let user = user("p", "data");
    assert_eq!(
        choose(&c, &p, &user).expect_err("no volume"),
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
    );
    add_volume(&mut c, "big", "50Gi", Some("b"), json!({}));
    add_volume(&mut c, "fits", "6Gi", Some("b"), json!({}));
    add_volume(&mut c, "small", "1Gi", Some("a"), json!({}));
    assert_eq!(choose(&c, &p, &user), Ok("b".into()));
    let planned = |c: &Cache, on: &str| {
        let found = stands(&c.storage, &user).expect("claims");
        let delayed = Delayed::all(&c.storage, &found);
        plan(&c.storage, &delayed, c.node(on).expect("node"))
    };
    let found = planned(&c, "b").expect("a plan");
    let [Plan::Bind { volume, .. }] = found.as_slice() else { panic!("not one volume to bind: {found:?}") };
    assert_eq!(volume.as_ref(), "fits");
    // What is promised to another claim is no longer free.
    c.storage.promised.insert("fits".into(), ("default".into(), "other".into()));
    c.storage.promised.insert("big".into(), ("default".into(), "other".into()));
    assert_eq!(planned(&c, "b"), Err("node(s) didn't find available persistent volumes to bind"));
    add_class(&mut c, "local", "x.example.com", "WaitForFirstConsumer");
    assert_eq!(planned(&c, "a"), Ok(vec![Plan::Provision { claim: ("default".into(), "data".into()) }]));
}

#[test]
fn one_pod_claims_zones_and_limits() {
    let mut c = zones();
    let p = profile(json!({}));
    let mut spec = wants("local");
    spec["volumeName"] = json!("pv1");
    spec["accessModes"] = json!(["ReadWriteOncePod"]);
    let bound = json!({"pv.kubernetes.io/bind-completed": "yes"});
    add_claim(&mut c, "data", spec.clone(), bound.clone());
    add_volume(&mut c, "pv1", "5Gi", None, json!({"csi": {"driver": "d", "volumeHandle": "1"}}));
    assert!(choose(&c, &p, &user("p", "data")).is_ok());
    c.set_pod(on(&user("other", "data"), "a"));
    assert_eq!(
        choose(&c, &p, &user("p", "data")).expect_err("in use"),
        "0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod."
    );
    spec["volumeName"] = json!("pv2");
    spec["accessModes"] = json!(["ReadWriteOnce"]);
    add_claim(&mut c, "more", spec, bound);
    add_volume(&mut c, "pv2", "5Gi", None, json!({"csi": {"driver": "d", "volumeHandle": "2"}}));
    for n in ["a", "b"] {
        c.storage.csi_limits.insert(n.into(), vec![("d".into(), Some(1))]);
    }
    assert_eq!(choose(&c, &p, &user("p", "more")), Ok("b".into()), "node a has one attached already");
}

#[test]
fn a_driver_that_tells_its_capacity_is_taken_at_its_word() {
    let mut c = cluster([node("big", json!({"rack": "1"})), node("small", json!({"rack": "2"}))]);
    let class = json!({"metadata": {"name": "csi"}, "provisioner": "csi.example.com",
        "volumeBindingMode": "WaitForFirstConsumer"});
    let claim = json!({"metadata": {"name": "data", "namespace": "default", "uid": "u"},
        "spec": {"storageClassName": "csi", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "10Gi"}}}});
    let claim = convert::claim(&serde_json::from_value(claim).expect("claim"));
    let s = &mut c.storage;
    s.classes.insert("csi".into(), convert::class(&serde_json::from_value(class).expect("class")));
    s.claims.insert(("default".into(), "data".into()), claim);
    s.capacity_drivers.insert("csi.example.com".into(), true);
    for (name, rack, free) in [("a", "1", "50Gi"), ("b", "2", "5Gi")] {
        let v = json!({"metadata": {"name": name, "namespace": "x"}, "storageClassName": "csi",
            "capacity": free, "nodeTopology": {"matchLabels": {"rack": rack}}});
        let v = convert::capacity(&serde_json::from_value(v).expect("capacity"));
        s.capacities.insert(("x".into(), name.into()), v);
    }
    let p = pod("p", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}));
    assert_eq!(choose(&c, &profile(json!({})), &p), Ok("big".into()));
    c.storage.capacities.retain(|k, _| k.1.as_ref() == "b");
    assert_eq!(
        choose(&c, &profile(json!({})), &p),
        Err("0/2 nodes are available: 2 node(s) did not have enough free storage.".into())
    );
}

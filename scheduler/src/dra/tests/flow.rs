//! The plugin within whole decisions, and pods that wait for their claims.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1 as api;
use serde_json::{Value, json};

use super::{add_class, claim, give, object, one, plain, slice};
use crate::cache::Cache;
use crate::framework::event::ClaimChange;
use crate::framework::{Action, ClusterEvent, Resource};
use crate::model::PodInfo;
use crate::plugins::dynamic_resources::{plan, to_deallocate};
use crate::queue::Queue;
use crate::testing::{choose, cluster, node, pod, pod_with, profile};

/// Two nodes, `a` without devices and `b` with one.
fn two_nodes() -> Cache {
    let mut c = cluster([node("a", json!({})), node("b", json!({}))]);
    add_class(&mut c.dra, "gpu", json!({}));
    c.dra.slices.set(slice("s", "p", json!({"nodeName": "b", "devices": plain(&["gpu0"])})));
    c
}

fn user(claim: &str) -> Arc<PodInfo> {
    pod("p", json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": claim}]}))
}

fn add(c: &mut Cache, x: api::ResourceClaim) {
    c.dra.claims.set(Arc::new(x)).expect("new");
}

fn decide(c: &Cache, p: &PodInfo) -> Result<String, String> {
    choose(c, &profile(json!({})), p)
}

fn nowhere(why: &str) -> Result<String, String> {
    Err(format!("0/2 nodes are available: {why}."))
}

#[test]
fn a_pod_goes_where_its_devices_are() {
    let mut c = two_nodes();
    let p = user("x");
    assert_eq!(decide(&c, &p), nowhere("could not find ResourceClaim \"default/x\""));
    add(&mut c, one("x"));
    assert_eq!(decide(&c, &p), Ok("b".into()));
    let plans = plan(&c, &p, c.node("b").expect("node")).expect("a plan");
    let given = plans[0].allocation.clone().expect("an allocation");
    assert_eq!(super::given(&given), ["r=p/gpu0"]);
    c.dra.claims.reserve(&"uid-x".into(), given.clone());
    assert_eq!(decide(&c, &p), nowhere("resource claim default/x is in the process of being allocated"));
    give(&mut c.dra, &one("x"), given);
    c.dra.claims.release("uid-x");
    // Allocated: the pod goes where that is, and nothing is allocated again.
    assert_eq!(decide(&c, &p), Ok("b".into()));
    assert!(plan(&c, &p, c.node("b").expect("node")).expect("a plan")[0].allocation.is_none());
    add(&mut c, one("y"));
    assert_eq!(decide(&c, &user("y")), nowhere("2 cannot allocate all claims"));
    c.dra.classes.clear();
    assert_eq!(decide(&c, &user("y")), nowhere("request r: device class gpu does not exist"));
}

#[test]
fn failures_are_told_apart_from_full_nodes() {
    let mut c = two_nodes();
    let selectors = json!([{"cel": {"expression": "device.attributes['x'].y"}}]);
    add(
        &mut c,
        claim(
            "x",
            json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu", "selectors": selectors}}]}),
        ),
    );
    let mut turn = crate::decide::Turn::new(<rand::rngs::SmallRng as rand::SeedableRng>::seed_from_u64(1));
    match crate::decide::decide(&c, &profile(json!({})), &user("x"), &mut turn) {
        crate::decide::Decision::Unschedulable(d) => assert_eq!(
            d.failure.as_deref(),
            Some(
                "running \"DynamicResources\" filter plugin: claim default/x: selector #0: CEL runtime error: no such key: y"
            )
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn earlier_alternatives_make_a_node_more_attractive() {
    let mut c = cluster([node("a", json!({})), node("b", json!({}))]);
    for class in ["small", "large"] {
        let selector = json!([{"cel": {"expression": format!("device.attributes['gpu.example.com'].size == '{class}'")}}]);
        add_class(&mut c.dra, class, json!({"selectors": selector}));
    }
    let of = |size: &str| json!([{"name": "d", "attributes": {"size": {"string": size}}}]);
    c.dra.slices.set(slice("s1", "pa", json!({"nodeName": "a", "devices": of("small")})));
    c.dra.slices.set(slice("s2", "pb", json!({"nodeName": "b", "devices": of("large")})));
    let prefer = |first: &str, second: &str| {
        let list = json!([{"name": "1", "deviceClassName": first}, {"name": "2", "deviceClassName": second}]);
        claim("x", json!({"requests": [{"name": "r", "firstAvailable": list}]}))
    };
    add(&mut c, prefer("small", "large"));
    assert_eq!(decide(&c, &user("x")), Ok("a".into()));
    c.dra.claims.remove(&"default".into(), &"x".into());
    add(&mut c, prefer("large", "small"));
    assert_eq!(decide(&c, &user("x")), Ok("b".into()));
}

#[test]
fn allocations_out_of_reach_are_given_up_unless_others_use_them() {
    let mut c = two_nodes();
    let elsewhere = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]});
    let with = |reserved: Value| -> api::ResourceClaim {
        let mut x = one("x");
        x.status = Some(object(json!({
            "allocation": {"nodeSelector": elsewhere, "devices": {"results": []}}, "reservedFor": reserved,
        })));
        x
    };
    let by = |uid: &str| json!([{"resource": "pods", "name": uid, "uid": uid}]);
    let p = user("x");
    let timeout = Duration::from_secs(600);
    for (reserved, given_up) in [(json!([]), true), (by("p"), true), (by("other"), false)] {
        add(&mut c, with(reserved.clone()));
        assert_eq!(decide(&c, &p), nowhere("2 resourceclaim not available on the node"));
        assert_eq!(to_deallocate(&c, &p, timeout).is_some(), given_up, "{reserved}");
    }
}

fn templated(made: Option<&str>) -> Arc<PodInfo> {
    let spec = json!({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]});
    let status = made.map(|m| json!({"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": m}]}));
    pod_with("p", spec, json!({"status": status.unwrap_or(json!({}))}))
}

#[test]
fn a_pod_waits_outside_until_its_claims_are_there() {
    let (mut c, prof) = (two_nodes(), profile(json!({})));
    let mut q = Queue::new(Duration::from_secs(1), Duration::from_secs(10));
    let at = Duration::from_secs;
    q.add(templated(None), &prof, &c, at(0));
    assert_eq!(q.sizes().gated, 1);
    // Named, but not seen yet.
    assert!(q.update(&templated(Some("p-gpu")), &prof, &c, at(1)));
    assert_eq!(q.sizes().gated, 1);
    let mut x = one("p-gpu");
    add(&mut c, x.clone());
    let new = ClaimChange { old: None, new: &x };
    q.on_event(&ClusterEvent::claim(new), |_| Some(&prof), &c, at(2));
    assert_eq!(q.sizes().gated, 1, "the claim is somebody else's");
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
    x.metadata.owner_references = Some(object(owner));
    x.status = Some(object(json!({})));
    add(&mut c, x.clone());
    let changed = ClaimChange { old: None, new: &x };
    q.on_event(&ClusterEvent::claim(changed), |_| Some(&prof), &c, at(3));
    assert_eq!((q.sizes().gated, q.sizes().active), (0, 1));
    assert_eq!(q.pop(at(4)).map(|q| q.pod.uid.to_string()), Some("p".into()));
}

#[test]
fn unschedulable_pods_come_back_when_devices_change() {
    let (c, prof) = (two_nodes(), profile(json!({})));
    let wakes = |e: &ClusterEvent<'_>| {
        let mut q = Queue::new(Duration::from_secs(1), Duration::from_secs(10));
        let mut held = two_nodes();
        add(&mut held, one("x"));
        q.add(user("x"), &prof, &held, Duration::ZERO);
        let p = q.pop(Duration::ZERO).expect("active");
        q.put_unschedulable(p, ["DynamicResources"].into(), Duration::from_secs(1));
        q.on_event(e, |_| Some(&prof), &c, Duration::from_secs(2)) == 1
    };
    let of = |r: Resource, a: Action| wakes(&ClusterEvent::of(r, a));
    assert!(of(Resource::ResourceSlice, Action::ADD) && of(Resource::ResourceSlice, Action::UPDATE));
    assert!(of(Resource::DeviceClass, Action::ADD) && of(Resource::Node, Action::LABELS));
    assert!(!of(Resource::Volume, Action::ADD) && !of(Resource::Node, Action::TAINTS));
    let with = |name: &str, status: Value| {
        let mut x = one(name);
        x.status = Some(object(status));
        x
    };
    let change = |old: &api::ResourceClaim, new: &api::ResourceClaim| {
        wakes(&ClusterEvent::claim(ClaimChange { old: Some(old), new }))
    };
    let (free, taken) = (json!({}), json!({"allocation": {"devices": {"results": []}}}));
    assert!(change(&with("other", taken.clone()), &with("other", free.clone())), "devices became free");
    assert!(!change(&with("other", free.clone()), &with("other", taken.clone())), "it got some");
    assert!(change(&with("x", free.clone()), &with("x", taken)), "its own claim");
    assert!(!change(&with("x", free.clone()), &with("x", free)), "nothing that matters");
}

//! Extended resources that device classes stand for.

use std::sync::Arc;

use k8s_openapi::api::resource::v1 as api;
use serde_json::{Value, json};

use super::{add_class, give, given, object, plain, slice};
use crate::cache::Cache;
use crate::dra::extended::{asks, claim, class_of};
use crate::dra::{Class, Dra};
use crate::framework::{Action, ClusterEvent, Resource};
use crate::model::{PodInfo, Str};
use crate::plugins::dynamic_resources::plan;
use crate::testing::{choose, cluster, node, pod, profile};

const GPU: &str = "example.com/gpu";

/// Node `a` has one GPU by a device plugin, `b` two by a driver, `c` nothing.
fn three_nodes() -> Cache {
    let mut by_plugin = node("a", json!({}));
    by_plugin.allocatable.set(GPU, 1);
    let mut c = cluster([by_plugin, node("b", json!({})), node("c", json!({}))]);
    add_class(&mut c.dra, "gpus", json!({"extendedResourceName": GPU}));
    c.dra.slices.set(slice("s", "p", json!({"nodeName": "b", "devices": plain(&["gpu0", "gpu1"])})));
    c
}

fn asking(name: &str, resource: &str, n: i64) -> Arc<PodInfo> {
    pod(name, json!({"containers": [container("c", &json!({resource: n.to_string()}))]}))
}

fn container(name: &str, requests: &Value) -> Value {
    json!({"name": name, "image": "i", "resources": {"requests": requests}})
}

fn decide(c: &Cache, p: &PodInfo) -> Result<String, String> {
    choose(c, &profile(json!({})), p)
}

/// What was planned for the claim of a pod on `b`, as it is when it has been written.
fn written(c: &Cache, p: &PodInfo) -> api::ResourceClaim {
    let plans = plan(c, p, c.node("b").expect("node")).expect("a plan");
    assert!(plans[0].create.is_some());
    let mut x = (*plans[0].claim).clone();
    x.metadata.name = Some(format!("{}-extended-resources-x", p.name));
    x.metadata.uid = Some(format!("claim-of-{}", p.uid));
    x.status =
        Some(api::ResourceClaimStatus { allocation: plans[0].allocation.clone(), ..Default::default() });
    x
}

#[test]
fn devices_stand_in_where_no_device_plugin_reports_the_resource() {
    let mut c = three_nodes();
    // Two are only on `b`.
    let p = asking("p", GPU, 2);
    assert_eq!(decide(&c, &p), Ok("b".into()));
    let plans = plan(&c, &p, c.node("b").expect("node")).expect("a plan");
    assert_eq!(
        given(plans[0].allocation.as_ref().expect("one")),
        ["container-0-request-0=p/gpu0", "container-0-request-0=p/gpu1"]
    );
    // By a device plugin there is no claim.
    let one = asking("one", GPU, 1);
    assert!(plan(&c, &one, c.node("a").expect("node")).expect("a plan").is_empty());
    let x = written(&c, &p);
    let a = x.status.clone().and_then(|s| s.allocation).expect("one");
    give(&mut c.dra, &x, a);
    assert_eq!(
        decide(&c, &asking("q", GPU, 2)),
        Err("0/3 nodes are available: 1 Insufficient example.com/gpu, 2 cannot allocate all claims.".into())
    );
    // What no class stands for is as ever.
    let other = decide(&c, &asking("q", "example.com/other", 1));
    assert_eq!(other, Err("0/3 nodes are available: 3 Insufficient example.com/other.".into()));
}

#[test]
fn the_name_of_a_class_stands_for_it_too() {
    let c = three_nodes();
    assert_eq!(decide(&c, &asking("p", "deviceclass.resource.kubernetes.io/gpus", 1)), Ok("b".into()));
    assert!(decide(&c, &asking("p", "deviceclass.resource.kubernetes.io/none", 1)).is_err());
}

#[test]
fn a_claim_that_is_left_over_has_to_go_first() {
    let mut c = three_nodes();
    let p = asking("p", GPU, 2);
    let x = written(&c, &p);
    c.dra.claims.set(Arc::new(x.clone())).expect("new");
    assert_eq!(c.dra.claims.extended("p").and_then(|x| x.metadata.uid.clone()), Some("claim-of-p".into()));
    let why = "1 Insufficient example.com/gpu, 2 cannot schedule extended resource claim";
    assert_eq!(decide(&c, &p), Err(format!("0/3 nodes are available: {why}.")));
    c.dra.claims.remove(&"default".into(), &"p-extended-resources-x".into());
    assert!(c.dra.claims.extended("p").is_none());
    assert_eq!(decide(&c, &p), Ok("b".into()));
}

#[test]
fn a_new_class_wakes_pods_that_may_need_it_only() {
    let fit = profile(json!({}));
    let fit = fit.plugin("NodeResourcesFit").expect("a default plugin");
    let e = ClusterEvent::of(Resource::DeviceClass, Action::ADD);
    assert!(fit.hint(&asking("p", GPU, 1), &e));
    assert!(!fit.hint(&pod("p", json!({})), &e));
}

/// Decisions for pods of one shape are remembered; a class that comes changes them.
#[test]
fn what_is_remembered_of_a_shape_ends_with_the_classes() {
    let mut c = three_nodes();
    c.dra.classes.clear();
    let prof = profile(json!({}));
    let mut turn = crate::decide::Turn::new(<rand::rngs::SmallRng as rand::SeedableRng>::seed_from_u64(1));
    let mut fits = |c: &Cache, name: &str| {
        let d = crate::decide::decide(c, &prof, &asking(name, GPU, 2), &mut turn);
        matches!(d, crate::decide::Decision::Node { .. })
    };
    assert!((0..3).all(|i| !fits(&c, &format!("p{i}"))));
    add_class(&mut c.dra, "gpus", json!({"extendedResourceName": GPU}));
    assert!((0..3).all(|i| fits(&c, &format!("q{i}"))));
}

#[test]
fn the_newest_class_of_a_resource_counts() {
    let mut dra = Dra::default();
    let mut add = |name: &str, created: i64| {
        let class = Class {
            name: name.into(),
            extended: Some(GPU.into()),
            created,
            selectors: vec![],
            config: vec![],
        };
        dra.classes.insert(name.into(), class);
    };
    add("z", 2);
    add("b", 3);
    add("a", 3);
    assert_eq!(class_of(&dra, GPU).map(|c| c.name.as_ref()), Some("a"));
    assert!(class_of(&dra, "example.com/other").is_none());
}

/// Requests of the claim as `name=count`, and mappings as `container=request`.
fn asked(containers: Value, init: Value) -> (Vec<String>, Vec<String>) {
    let spec = json!({"containers": containers, "initContainers": init});
    let p = pod("p", spec.clone());
    assert_eq!(*p.want().extended, *asks(&object(spec)));
    let mut dra = Dra::default();
    add_class(&mut dra, "gpus", json!({"extendedResourceName": GPU}));
    let class: &Class = &dra.classes[&Str::from("gpus")];
    let (c, mappings) = claim(&p, &[(GPU.into(), class)]);
    let requests = c.spec.devices.and_then(|d| d.requests).expect("requests");
    let count = |r: &api::DeviceRequest| r.exactly.as_ref().and_then(|e| e.count).unwrap_or(0);
    (
        requests.iter().map(|r| format!("{}={}", r.name, count(r))).collect(),
        mappings.iter().map(|m| format!("{}={}", m.container_name, m.request_name)).collect(),
    )
}

#[test]
fn every_container_that_stays_has_its_own_request() {
    let with_cpu = json!({"cpu": "1", GPU: "1", "memory": "1Gi"});
    let list = json!([
        container("a", &with_cpu),
        container("b", &json!({"cpu": "1"})),
        container("c", &json!({GPU: "2"}))
    ]);
    let (requests, mappings) = asked(list, json!([]));
    assert_eq!(requests, ["container-0-request-1=1", "container-2-request-0=2"]);
    assert_eq!(mappings, ["a=container-0-request-1", "c=container-2-request-0"]);
}

#[test]
fn containers_that_pass_use_what_later_ones_keep_and_share_the_rest() {
    let gpus = |name: &str, n: &str| container(name, &json!({GPU: n}));
    let mut sidecar = gpus("side", "1");
    sidecar["restartPolicy"] = json!("Always");
    let init = json!([gpus("i0", "4"), sidecar, gpus("i2", "5"), gpus("i3", "1")]);
    let (requests, mappings) = asked(json!([gpus("main", "2")]), init);
    // i0 has the sidecar's and main's and lacks one; i2 starts after the sidecar, has main's and lacks three.
    assert_eq!(requests, ["container-1-request-0=1", "container-2-request-0=3", "container-4-request-0=2"]);
    assert_eq!(
        mappings,
        [
            "side=container-1-request-0",
            "main=container-4-request-0",
            "i0=container-1-request-0",
            "i0=container-4-request-0",
            "i0=container-2-request-0",
            "i2=container-4-request-0",
            "i2=container-2-request-0",
            "i3=container-4-request-0",
        ]
    );
}

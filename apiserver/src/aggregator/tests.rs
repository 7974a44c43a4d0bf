use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::discovery::{self, Known};
use super::service::{Factory, Service};
use super::table::Table;
use crate::webhook::services::Resolve;

struct Nowhere;

#[async_trait]
impl Resolve for Nowhere {
    async fn resolve(&self, _: &str, name: &str, _: u16) -> Result<String, String> {
        Err(format!("service \"{name}\" not found"))
    }
}

fn factory() -> Factory {
    Factory { resolver: Arc::new(Nowhere), identity: None }
}

fn service(group: &str, version: &str, priorities: (i64, i64), remote: bool) -> Arc<Service> {
    let mut v = json!({
        "metadata": {"name": format!("{version}.{group}")},
        "spec": {"group": group, "version": version, "insecureSkipTLSVerify": true,
            "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1},
    });
    if remote {
        v["spec"]["service"] = json!({"namespace": "ns", "name": "api"});
    }
    Arc::new(Service::new(&v, None, &factory()))
}

#[test]
fn paths_find_their_server() {
    let t = Table::new([
        service("apps", "v1", (17800, 15), false),
        service("wardle.example.com", "v1", (2000, 200), true),
    ]);
    let of = |p: &str| t.target(p).map(|s| s.name.clone());
    let wardle = Some("v1.wardle.example.com".to_owned());
    assert_eq!(of("/apis/wardle.example.com/v1"), wardle);
    assert_eq!(of("/apis/wardle.example.com/v1/"), wardle);
    assert_eq!(of("/apis/wardle.example.com/v1/namespaces/a/flunders/b/x"), wardle);
    for own in [
        "/apis/wardle.example.com",
        "/apis/wardle.example.com/v2",
        "/apis/apps/v1",
        "/api/v1",
        "/apis",
        "/healthz",
        "/openapi/v3/apis/wardle.example.com/v1",
        "//apis/wardle.example.com/v1",
        "",
    ] {
        assert_eq!(of(own), None, "{own}");
    }
    assert!(Table::new([service("apps", "v1", (17800, 15), false)]).has_no_remote());
}

#[test]
fn links_outlive_changes_of_the_status() {
    let mut v = json!({"metadata": {"name": "v1.g"}, "spec": {"group": "g", "version": "v1",
        "insecureSkipTLSVerify": true, "service": {"namespace": "ns", "name": "api"}}});
    let first = Service::new(&v, None, &factory());
    assert!(!first.available);
    v["status"]["conditions"] = json!([{"type": "Available", "status": "True"}]);
    let second = Service::new(&v, Some(&first), &factory());
    assert!(second.available && second.generation == first.generation);
    assert!(Arc::ptr_eq(first.link.as_ref().ok().unwrap(), second.link.as_ref().ok().unwrap()));
    v["spec"]["service"]["port"] = json!(8443);
    let third = Service::new(&v, Some(&second), &factory());
    assert!(!Arc::ptr_eq(first.link.as_ref().ok().unwrap(), third.link.as_ref().ok().unwrap()));
}

fn names(list: &Value, pointer: &str) -> Vec<String> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|g| g.pointer(pointer).unwrap().as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn groups_are_merged_by_priority() {
    let t = Table::new([
        service("apiregistration.k8s.io", "v1", (18000, 18), false),
        service("apps", "v1", (17800, 15), false),
        service("crd.example.com", "v1", (1000, 100), false),
        service("crd.example.com", "v2", (1000, 200), true),
        service("wardle.example.com", "v1alpha1", (2000, 200), true),
        service("wardle.example.com", "v1", (2000, 200), true),
    ]);
    let mut groups = json!({"groups": [
        {"name": "apiregistration.k8s.io", "versions": []},
        {"name": "apps", "versions": [{"version": "v1"}]},
        {"name": "crd.example.com", "versions": [{"version": "v1"}]},
    ]});
    discovery::merge_groups(&mut groups, &t);
    assert_eq!(
        names(&groups["groups"], "/name"),
        ["apiregistration.k8s.io", "apps", "wardle.example.com", "crd.example.com"]
    );
    assert_eq!(
        names(&groups["groups"][2]["versions"], "/groupVersion"),
        ["wardle.example.com/v1", "wardle.example.com/v1alpha1"]
    );
    assert_eq!(groups["groups"][2]["preferredVersion"]["version"], "v1");
    assert_eq!(names(&groups["groups"][3]["versions"], "/version"), ["v2", "v1"]);
    assert!(discovery::group(None, "apps", &t).is_none());
    assert_eq!(discovery::group(None, "wardle.example.com", &t).unwrap()["kind"], "APIGroup");

    let mut list = json!({"items": [
        {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "freshness": "Current"}]},
        {"metadata": {"name": "crd.example.com"}, "versions": [{"version": "v1", "freshness": "Current"}]},
    ]});
    let known: BTreeMap<_, _> = [(
        ("wardle.example.com".to_owned(), "v1".to_owned()),
        Known { resources: vec![json!({"resource": "flunders"})], stale: false },
    )]
    .into();
    discovery::merge_aggregated(&mut list, &t, &known);
    assert_eq!(names(&list["items"], "/metadata/name"), ["apps", "wardle.example.com", "crd.example.com"]);
    let wardle = &list["items"][1]["versions"];
    assert_eq!(names(wardle, "/freshness"), ["Current", "Stale"]);
    assert_eq!(wardle[0]["resources"][0]["resource"], "flunders");
    assert!(wardle[1].get("resources").is_none());
}

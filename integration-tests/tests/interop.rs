//! Upstream's API server and ours side by side on one etcd, with TLS and encryption at rest: each serves what the
//! other has written, and ours takes over what upstream has left.
//!
//! `COXSWAIN_UPSTREAM` names a folder with upstream's `kube-apiserver` of this release; without it this says that it
//! was left out.
// Its helpers are test code as well.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt as _;
use integration_tests::group::Config;
use integration_tests::{Group, binaries};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The servers' numbers.
const OURS: u32 = 1;
const UPSTREAM: u32 = 2;

const ENCRYPTION: &str = r"
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: k1, secret: c2VjcmV0IGlzIHNlY3VyZSwgSSBhbSAzMiBieXRlczE=}]}
  - identity: {}
- resources: ['*.apps', '*.']
  providers:
  - secretbox: {keys: [{name: k2, secret: c2VjcmV0IGlzIHNlY3VyZSwgSSBhbSAzMiBieXRlczI=}]}
  - identity: {}
";

/// Objects of many kinds: where, and what.
fn objects(ns: &str) -> Vec<(String, Value)> {
    let container = json!({
        "name": "c", "image": "x:1", "ports": [{"containerPort": 80}],
        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
        "livenessProbe": {"httpGet": {"path": "/", "port": 80}},
    });
    let labels = json!({"a": "b"});
    let of = |path: &str, kind: &str, name: &str, rest: Value| {
        let version = path.trim_start_matches("/apis/").trim_start_matches("/api/");
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let plural = format!("{}{}", kind.to_lowercase(), if kind.ends_with('s') { "es" } else { "s" });
        (format!("{path}/namespaces/{ns}/{}", plural.replace("policys", "policies")), object)
    };
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
    let job = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}});
    let rule = json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}});
    vec![
        of("/api/v1", "ServiceAccount", "default", json!({})),
        of("/api/v1", "ConfigMap", "cm", json!({"data": {"k": "v"}, "binaryData": {"b": "AAEC"}})),
        of("/api/v1", "Secret", "s", json!({"stringData": {"p": "x"}})),
        of("/api/v1", "Pod", "p", json!({"spec": {"containers": [container]}})),
        of("/api/v1", "Service", "s", json!({"spec": {"selector": labels, "ports": [{"port": 80}]}})),
        of(
            "/apis/apps/v1",
            "Deployment",
            "d",
            json!({"spec": {"selector": {"matchLabels": labels}, "template": template}}),
        ),
        of(
            "/apis/batch/v1",
            "CronJob",
            "cj",
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job}}}),
        ),
        of(
            "/apis/networking.k8s.io/v1",
            "Ingress",
            "i",
            json!({"spec": {"rules": [{"http": {"paths": [rule]}}]}}),
        ),
        of(
            "/apis/rbac.authorization.k8s.io/v1",
            "Role",
            "r",
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
        ),
        of(
            "/apis/coordination.k8s.io/v1",
            "Lease",
            "l",
            json!({"spec": {"holderIdentity": "x", "renewTime": "2026-01-01T00:00:00.000000Z"}}),
        ),
        of(
            "/apis/autoscaling/v2",
            "HorizontalPodAutoscaler",
            "h",
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}}),
        ),
    ]
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
    let request =
        http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    client.request(request.body(body.to_string().into_bytes()).unwrap()).await
}

async fn get(client: &Client, path: &str) -> Value {
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    client.request(request).await.unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every list that a server has, by path and then by object.
async fn everything(client: &Client) -> BTreeMap<String, BTreeMap<String, Value>> {
    let groups = get(client, "/apis").await;
    let mut roots = vec!["/api/v1".to_owned()];
    for g in groups["groups"].as_array().unwrap() {
        let versions = g["versions"].as_array().unwrap().iter();
        roots.extend(versions.map(|v| format!("/apis/{}", v["groupVersion"].as_str().unwrap())));
    }
    let mut out = BTreeMap::new();
    for root in roots {
        let resources = get(client, &root).await;
        for r in resources["resources"].as_array().unwrap() {
            let name = r["name"].as_str().unwrap();
            let lists = r["verbs"].as_array().unwrap().contains(&json!("list"));
            // These go on changing by themselves.
            let moving = matches!(name, "leases" | "events" | "componentstatuses");
            if name.contains('/') || !lists || moving {
                continue;
            }
            let path = format!("{root}/{name}");
            let list = get(client, &path).await;
            let items = list["items"].as_array().unwrap().iter();
            let key = |o: &Value| format!("{}/{}", o["metadata"]["namespace"], o["metadata"]["name"]);
            out.insert(path, items.map(|o| (key(o), o.clone())).collect());
        }
    }
    out
}

/// That both show the same, of every kind.
fn assert_same(a: &BTreeMap<String, BTreeMap<String, Value>>, b: &BTreeMap<String, BTreeMap<String, Value>>) {
    let paths = |m: &BTreeMap<_, _>| m.keys().cloned().collect::<BTreeSet<String>>();
    assert_eq!(paths(a), paths(b));
    for (path, objects) in a {
        for key in objects.keys().chain(b[path].keys()) {
            // Each server writes there which certificates it trusts itself.
            if key.contains("extension-apiserver-authentication") {
                continue;
            }
            assert_eq!(objects.get(key), b[path].get(key), "{path}: {key}");
        }
    }
}

async fn prepare(program: PathBuf) -> Group {
    let programs = [(UPSTREAM, program)].into();
    let mut group =
        Group::prepare(Config { servers: 2, etcd: true, programs, ..Config::default() }).await.unwrap();
    let file = group.layout().config("encryption.yaml");
    std::fs::write(&file, ENCRYPTION).unwrap();
    group.add_flag(format!("--encryption-provider-config={}", file.display()));
    group
}

async fn start(group: &Group, n: u32) {
    group.spawn(n).unwrap();
    group.wait_ready(n, Duration::from_secs(90)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_serve_one_etcd() {
    let Some(program) = binaries::upstream("kube-apiserver") else { return };
    let group = prepare(program).await;
    group.start_etcd().await.unwrap();
    start(&group, UPSTREAM).await;
    start(&group, OURS).await;
    for (ns, by, other) in [("by-ours", OURS, UPSTREAM), ("by-upstream", UPSTREAM, OURS)] {
        let (writer, reader) = (group.client(by), group.client(other));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns}});
        send(&writer, "POST", "/api/v1/namespaces", &namespace).await.unwrap();
        for (path, object) in objects(ns) {
            let made = send(&writer, "POST", &path, &object).await.unwrap_or_else(|e| panic!("{path}: {e}"));
            let one = format!("{path}/{}", made["metadata"]["name"].as_str().unwrap());
            let (here, there) = (get(&writer, &one).await, get(&reader, &one).await);
            assert_eq!(here, there, "{one}");
            // Nothing to change, nothing written.
            let same = send(&reader, "PUT", &one, &there).await.unwrap_or_else(|e| panic!("{one}: {e}"));
            assert_eq!(same["metadata"]["resourceVersion"], there["metadata"]["resourceVersion"], "{one}");
            let mut touched = there.clone();
            touched["metadata"]["annotations"] = json!({"touched": "yes"});
            let touched = send(&reader, "PUT", &one, &touched).await.unwrap_or_else(|e| panic!("{one}: {e}"));
            assert_eq!(get(&writer, &one).await, touched, "{one}");
            let stale = send(&writer, "PUT", &one, &here).await.unwrap_err();
            assert!(matches!(&stale, kube::Error::Api(s) if s.code == 409), "{one}: {stale}");
        }
        watched_by_the_other(&writer, &reader, ns).await;
    }
    ports_are_shared(&group).await;
    // A definition of ours, and of upstream's, which is stored as JSON.
    for (by, plural) in [(OURS, "widgets"), (UPSTREAM, "gadgets")] {
        define(&group, by, plural).await;
    }
    pages_go_on(&group).await;
    assert_same(&everything(&group.client(UPSTREAM)).await, &everything(&group.client(OURS)).await);
    group.signal(UPSTREAM, Signal::SIGKILL).await;
    group.down().await.unwrap();
}

async fn watched_by_the_other(writer: &Client, reader: &Client, ns: &str) {
    let (there, here): (Api<ConfigMap>, Api<ConfigMap>) =
        (Api::namespaced(reader.clone(), ns), Api::namespaced(writer.clone(), ns));
    let from = there.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut stream = std::pin::pin!(there.watch(&WatchParams::default().timeout(30), &from).await.unwrap());
    let mut made = Vec::new();
    for i in 0..20 {
        let map = serde_json::from_value(json!({"metadata": {"name": format!("w{i}")}})).unwrap();
        made.push(here.create(&PostParams::default(), &map).await.unwrap().resource_version().unwrap());
    }
    for expected in made {
        loop {
            match stream.next().await.unwrap().unwrap() {
                WatchEvent::Added(m) => break assert_eq!(m.resource_version().unwrap(), expected),
                WatchEvent::Bookmark(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn ports_are_shared(group: &Group) {
    let path = "/api/v1/namespaces/by-ours/services";
    let service = |name: String, port: Option<u64>| {
        let mut s = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        if let Some(port) = port {
            s["spec"]["ports"][0]["nodePort"] = port.into();
        }
        s
    };
    let jobs = (0..60u32).map(|i| {
        let client = group.client(1 + i % 2);
        let service = service(format!("np{i}"), None);
        async move { send(&client, "POST", path, &service).await.unwrap() }
    });
    let made = futures::future::join_all(jobs).await;
    let port = |s: &Value| s["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert_eq!(made.iter().map(port).collect::<HashSet<_>>().len(), 60);
    assert_eq!(made.iter().map(|s| s["spec"]["clusterIP"].to_string()).collect::<HashSet<_>>().len(), 60);
    let taken = port(&made[0]);
    for (free, take) in [(OURS, UPSTREAM), (UPSTREAM, OURS)] {
        for n in [OURS, UPSTREAM] {
            let e =
                send(&group.client(n), "POST", path, &service("dup".into(), Some(taken))).await.unwrap_err();
            assert!(e.to_string().contains("provided port is already allocated"), "{e}");
        }
        let name = if free == OURS { "np0" } else { "dup" };
        send(&group.client(free), "DELETE", &format!("{path}/{name}"), &json!({})).await.unwrap();
        send(&group.client(take), "POST", path, &service("dup".into(), Some(taken))).await.unwrap();
    }
}

async fn define(group: &Group, by: u32, plural: &str) {
    let kind = format!("{}{}", plural[..1].to_uppercase(), &plural[1..plural.len() - 1]);
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}}}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.ex.io")},
        "spec": {
            "group": "ex.io", "scope": "Namespaced",
            "names": {"plural": plural, "singular": &plural[..plural.len() - 1], "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    send(&group.client(by), "POST", definitions, &definition).await.unwrap();
    let path = format!("/apis/ex.io/v1/namespaces/by-ours/{plural}");
    for n in [OURS, UPSTREAM] {
        let object = json!({"apiVersion": "ex.io/v1", "kind": kind, "metadata": {"name": format!("of{n}")}, "spec": {}});
        let mut last = String::new();
        for attempt in 0.. {
            match send(&group.client(n), "POST", &path, &object).await {
                Ok(_) => break,
                // Each server learns of the definition in its own time.
                Err(e) if attempt < 100 => last = e.to_string(),
                Err(_) => panic!("server {n} does not serve {plural}: {last}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    for n in [OURS, UPSTREAM] {
        let one = format!("{path}/of{n}");
        assert_eq!(get(&group.client(OURS), &one).await, get(&group.client(UPSTREAM), &one).await);
    }
}

/// Pages of a list, by the servers in turn.
async fn pages_go_on(group: &Group) {
    let path = "/api/v1/namespaces/by-ours/services";
    let mut names = Vec::new();
    let mut token = String::new();
    for i in 0..100u32 {
        let page = get(&group.client(1 + i % 2), &format!("{path}?limit=7&continue={token}")).await;
        let items = page["items"].as_array().unwrap().iter();
        names.extend(items.map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()));
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    let all = get(&group.client(OURS), path).await;
    let all: Vec<_> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ours_takes_over_what_upstream_has_left() {
    let Some(program) = binaries::upstream("kube-apiserver") else { return };
    let group = prepare(program).await;
    group.start_etcd().await.unwrap();
    start(&group, UPSTREAM).await;
    let theirs = group.client(UPSTREAM);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "old"}});
    send(&theirs, "POST", "/api/v1/namespaces", &namespace).await.unwrap();
    for (path, object) in objects("old") {
        send(&theirs, "POST", &path, &object).await.unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    let before = everything(&theirs).await;
    group.signal(UPSTREAM, Signal::SIGKILL).await;
    start(&group, OURS).await;
    let mut after = everything(&group.client(OURS)).await;
    let mut before = before;
    for lists in [&mut before, &mut after] {
        // Another server is the endpoint now.
        for path in ["/api/v1/endpoints", "/apis/discovery.k8s.io/v1/endpointslices"] {
            lists.remove(path);
        }
    }
    assert_same(&before, &after);
    group.down().await.unwrap();
}

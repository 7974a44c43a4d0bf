//! The published vulnerabilities of kube-apiserver that a server of this kind can have, each as what an attacker does
//! and what must come of it. `docs/security.md` has the table; what is not here is covered where the table says.

mod common;

use std::time::{Duration, Instant};

use common::TestServer;
use common::backend::{self, Backend, Seen, eventually};
use http::Method;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn message(v: &Value) -> &str {
    v["message"].as_str().unwrap_or_default()
}

fn definition(plural: &str, kind: &str, scope: &str) -> Value {
    json!({"metadata": {"name": format!("{plural}.g.example.com")}, "spec": {"group": "g.example.com", "scope": scope,
        "names": {"plural": plural, "kind": kind, "listKind": format!("{kind}List"), "singular": kind.to_lowercase()},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
}

/// CVE-2019-11247: cluster-scoped custom resources could be had through the rights on a namespace.
/// CVE-2022-3162: a path with `..` led from one kind of custom resource to others of the group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_reached_by_their_own_path_alone() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    for d in [
        definition("wides", "Wide", "Cluster"),
        definition("foos", "Foo", "Namespaced"),
        definition("bars", "Bar", "Namespaced"),
    ] {
        c.post(CRDS, &d).await.expect(201);
    }
    let base = "/apis/g.example.com/v1";
    let foos = format!("{base}/namespaces/default/foos");
    for (path, kind) in [
        (format!("{base}/wides"), "Wide"),
        (foos.clone(), "Foo"),
        (format!("{base}/namespaces/default/bars"), "Bar"),
    ] {
        eventually("it is served", || async { (c.get(&path).await.code == 200).then_some(()) }).await;
        let o = json!({"apiVersion": "g.example.com/v1", "kind": kind, "metadata": {"name": "x"}});
        c.post(&path, &o).await.expect(201);
    }
    for path in ["namespaces/default/wides", "namespaces/default/wides/x", "foos/x"] {
        let a = c.get(&format!("{base}/{path}")).await;
        assert!(a.code == 404 || a.code == 405, "{path}: {}", a.code);
    }
    for name in ["..%2F..%2Fbars%2Fdefault%2Fx", "..%2f..%2fbars", "%2e%2e", "..", ".", "a%2Fb"] {
        let a = c.get(&format!("{foos}/{name}")).await;
        assert!(!(200..300).contains(&a.code), "{name}: {}", a.code);
    }
    for namespace in ["..%2Fbars%2Fdefault", "..", "%2e%2e", "."] {
        let a = c.get(&format!("{base}/namespaces/{namespace}/foos")).await;
        let items = if a.code == 200 { a.json()["items"].as_array().map_or(0, Vec::len) } else { 0 };
        assert_eq!(items, 0, "{namespace}: {}", String::from_utf8_lossy(&a.body));
    }
}

/// CVE-2019-11253: aliases in YAML grow without bound. CVE-2019-1002100: so do copies in JSON patches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_bodies_stay_small() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let mut bomb =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\ndata:\n  a: &a [x,x,x,x,x,x,x,x,x]\n"
            .to_owned();
    for (from, to) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        bomb += &format!(
            "  {to}: &{to} [*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from}]\n"
        );
    }
    let started = Instant::now();
    for kind in ["application/yaml", "application/apply-patch+yaml"] {
        let method = if kind.contains("apply") { Method::PATCH } else { Method::POST };
        let path =
            if kind.contains("apply") { format!("{MAPS}/bomb?fieldManager=m") } else { MAPS.to_owned() };
        let a = c.send(method, &path, &[("content-type", kind)], bomb.clone()).await;
        assert_eq!(a.code, 400, "{}", String::from_utf8_lossy(&a.body));
    }
    c.post(MAPS, &json!({"metadata": {"name": "m", "annotations": {"a": "x".repeat(1000)}}}))
        .await
        .expect(201);
    let copies = json!(vec![json!({"op": "copy", "from": "/metadata", "path": "/metadata/annotations"}); 64])
        .to_string();
    let a = c
        .send(Method::PATCH, &format!("{MAPS}/m"), &[("content-type", "application/json-patch+json")], copies)
        .await;
    assert_eq!(a.code, 422);
    let deep = "[".repeat(100_000);
    let a = c.send(Method::POST, MAPS, &[("content-type", "application/json")], deep).await;
    assert_eq!(a.code, 400);
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// CVE-2019-11254: YAML that takes a parser time beyond all proportion: long runs of openings, indents, keys and line
/// breaks in scalars.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_take_no_time_beyond_their_size() {
    let s = TestServer::start(&[]).await;
    let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: slow}\ndata:\n";
    let size = 1_500_000;
    for (what, body) in [
        ("breaks in a scalar", format!("{head}  a: \"{}\"\n", "x\n ".repeat(size / 3))),
        ("openings", format!("{head}  a: {}", "[".repeat(size))),
        ("questions", format!("{head}  {}", "? ".repeat(size / 2))),
        ("dashes", format!("{head}  a:\n    {}", "- ".repeat(size / 2))),
        ("keys", format!("{head}{}", (0..size / 12).map(|i| format!("  k{i:07}: \n")).collect::<String>())),
        ("comments", format!("{head}{}", "  # c\n".repeat(size / 6))),
        ("colons", format!("{head}  a: {}", "a: ".repeat(size / 3))),
        ("tags", format!("{head}  a: {}", "!a ".repeat(size / 3))),
    ] {
        let started = Instant::now();
        let a = s.admin.send(Method::POST, MAPS, &[("content-type", "application/yaml")], body).await;
        assert!((200..500).contains(&a.code), "{what}: {}", String::from_utf8_lossy(&a.body));
        assert!(started.elapsed() < Duration::from_secs(10), "{what} took {:?}", started.elapsed());
    }
}

/// CVE-2020-8552: every path and agent that somebody made up became a metric of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_do_not_grow_with_what_clients_make_up() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    for i in 0..50 {
        let tag = format!("zq{i}");
        let agent = [("user-agent", tag.as_str())];
        for path in [
            format!("/made/up/{tag}"),
            format!("/api/v1/namespaces/{tag}/pods/{tag}"),
            format!("/apis/{tag}.example.com/v1/{tag}"),
            format!("/api/v1/{tag}?{tag}=1"),
        ] {
            c.send(Method::GET, &path, &agent, "").await;
        }
        let method = Method::from_bytes(format!("M{tag}").as_bytes()).expect("a method");
        c.send(method, "/api", &agent, "").await;
    }
    let metrics = c.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let found: Vec<&str> =
        text.lines().filter(|l| l.to_lowercase().contains("zq") || l.contains("/made")).collect();
    assert!(text.contains("apiserver_request_total") && found.is_empty(), "{found:?}");
}

/// CVE-2020-8561: an answer of a webhook could send the server's request elsewhere.
/// CVE-2021-25735: a validating webhook saw another old node than the one that was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_asked_about_the_truth_and_lead_nowhere() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let elsewhere = Backend::start(&[], |_: Seen| async move { backend::json(200, &json!({})) }).await;
    let to = elsewhere.url("/stolen");
    let b = Backend::start(&[], move |s: Seen| {
        let to = to.clone();
        async move {
            if s.path.starts_with("/redirect") {
                let mut r = backend::answer(307, "text/plain", "");
                r.headers_mut().insert("location", to.parse().expect("a header"));
                return r;
            }
            let sent = s.json();
            let response = json!({"uid": sent["request"]["uid"], "allowed": true});
            backend::json(200, &json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
        }
    })
    .await;
    let hook = |name: &str, resource: &str| {
        json!({"name": format!("{name}.example.com"), "clientConfig": {"url": b.url(&format!("/{name}")), "caBundle": b.bundle},
            "rules": [{"operations": ["UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": [resource]}],
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail"})
    };
    let node = json!({"metadata": {"name": "n", "labels": {"tier": "stored"}}});
    c.post("/api/v1/nodes", &node).await.expect(201);
    c.post(MAPS, &json!({"metadata": {"name": "m"}})).await.expect(201);
    let hooks = json!({"metadata": {"name": "v"}, "webhooks": [hook("nodes", "nodes"), hook("redirect", "configmaps")]});
    c.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &hooks).await.expect(201);
    let refused = eventually("the webhook is in force", || async {
        let a = c.merge(&format!("{MAPS}/m"), &json!({"data": {"a": "b"}})).await;
        (a.code == 500).then(|| a.json())
    })
    .await;
    assert!(message(&refused).contains("failed calling webhook"), "{refused}");
    assert!(elsewhere.seen().is_empty(), "the redirect was followed");

    // Who sends an old object of his own does not change what the webhook is told.
    let mut forged = c.get("/api/v1/nodes/n").await.expect(200);
    forged["metadata"]["labels"] = json!({"tier": "forged"});
    forged["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    c.put("/api/v1/nodes/n", &forged).await.expect(200);
    let asked =
        b.seen().into_iter().rev().find(|s| s.path.starts_with("/nodes")).expect("the webhook is asked");
    let q = asked.json()["request"].clone();
    assert_eq!(
        (&q["oldObject"]["metadata"]["labels"]["tier"], &q["object"]["metadata"]["labels"]["tier"]),
        (&json!("stored"), &json!("forged"))
    );
}

/// CVE-2020-8562, CVE-2022-3294: the address of a node led the server to itself or to the metadata of its cloud.
/// CVE-2021-25737: so did endpoints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxied_addresses_lead_outside() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    c.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.expect(201);
    for address in
        ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "0.0.0.0", "localhost"]
    {
        let kind = if address == "localhost" { "Hostname" } else { "InternalIP" };
        let status = json!({"status": {"addresses": [{"type": kind, "address": address}]}});
        c.merge("/api/v1/nodes/n/status", &status).await.expect(200);
        for name in ["n", "n:443", "https:n:6443"] {
            let a = c.get(&format!("/api/v1/nodes/{name}/proxy/")).await.expect(400);
            assert_eq!(message(&a), "address not allowed", "{address}");
        }
    }
    for address in ["127.0.0.1", "169.254.169.254", "224.0.0.1"] {
        let slice = json!({"metadata": {"generateName": "e-"}, "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": []});
        let a =
            c.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await.expect(422);
        assert!(message(&a).contains("endpoints[0].addresses[0]"), "{a}");
    }
}

/// CVE-2021-25740: who may edit a namespace could point services at endpoints of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn editors_do_not_write_endpoints() {
    let s = TestServer::start(&[]).await;
    for role in ["system:aggregate-to-edit", "system:aggregate-to-admin"] {
        let role =
            s.admin.get(&format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{role}")).await.expect(200);
        for rule in role["rules"].as_array().expect("rules") {
            let has = |field: &str, of: &[&str]| {
                rule[field].as_array().is_some_and(|l| l.iter().any(|v| of.iter().any(|o| v == o)))
            };
            let writes = has("verbs", &["create", "update", "patch", "*"]);
            assert!(!(writes && has("resources", &["endpoints", "endpointslices"])), "{rule}");
        }
    }
}

/// CVE-2020-8554: whoever may make services could take the traffic to any address. The plugin against it is off by
/// default, as upstream's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_addresses_can_be_forbidden() {
    let s = TestServer::start(&["--enable-admission-plugins=DenyServiceExternalIPs"]).await;
    let service =
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "externalIPs": ["203.0.113.1"]}});
    s.admin.post("/api/v1/namespaces/default/services", &service).await.expect(403);
}

/// CVE-2023-2728, CVE-2024-3177: containers of some kinds, and variables from whole secrets, got around the secrets that
/// an account may mount.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_accounts_secrets_reach_its_pods() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let account = json!({"metadata": {"name": "tight", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "ok"}]});
    c.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    let from = |secret: &str| json!([{"secretRef": {"name": secret}}]);
    let one =
        |secret: &str| json!([{"name": "V", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]);
    let pod = |name: &str, field: &str, list: &str, value: Value| {
        let mut o = json!({"metadata": {"name": name}, "spec": {"serviceAccountName": "tight", "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "i"}]}});
        let mut container = json!({"name": "x", "image": "i"});
        container[field] = value;
        match o["spec"][list].as_array_mut() {
            Some(l) => l.push(container),
            None => o["spec"][list] = json!([container]),
        }
        o
    };
    for list in ["containers", "initContainers"] {
        for (field, other, ok) in [("envFrom", from("other"), from("ok")), ("env", one("other"), one("ok"))] {
            let a = c.post(pods, &pod("p", field, list, other)).await.expect(403);
            assert!(message(&a).contains("does not reference that secret"), "{a}");
            c.post(&format!("{pods}?dryRun=All"), &pod("p", field, list, ok)).await.expect(201);
        }
    }
    c.post(pods, &pod("live", "env", "containers", one("ok"))).await.expect(201);
    let debug = |field: &str, value: Value| {
        let mut container = json!({"name": "d", "image": "i"});
        container[field] = value;
        json!({"spec": {"ephemeralContainers": [container]}}).to_string()
    };
    let kind = [("content-type", "application/strategic-merge-patch+json")];
    for (field, value) in [("envFrom", from("other")), ("env", one("other"))] {
        let path = format!("{pods}/live/ephemeralcontainers");
        let a = c.send(Method::PATCH, &path, &kind, debug(field, value)).await.expect(403);
        assert!(message(&a).contains("ephemeral container d"), "{a}");
    }
}

/// CVE-2025-5187: a node could have itself deleted through an owner. CVE-2025-4563: through a mirror pod it could use
/// devices that it had no claim to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_keep_to_themselves() {
    let s = TestServer::start(&["--enable-admission-plugins=NodeRestriction"]).await;
    s.admin.post("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await.expect(201);
    let node = s.user("system:node:n1", &["system:nodes"]);
    let owner = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "1"}]}});
    let a = node.merge("/api/v1/nodes/n1", &owner).await.expect(403);
    assert!(message(&a).contains("is not allowed to modify ownerReferences"), "{a}");
    let uid = s.admin.get("/api/v1/nodes/n1").await.expect(200)["metadata"]["uid"].clone();
    let mut pod = json!({"metadata": {"name": "static-n1", "annotations": {"kubernetes.io/config.mirror": "x"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    node.post("/api/v1/namespaces/default/pods?dryRun=All", &pod).await.expect(201);
    pod["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimName": "somebodys"}]);
    let a = node.post("/api/v1/namespaces/default/pods", &pod).await.expect(403);
    assert!(message(&a).contains("can not create pods that reference resourceclaims"), "{a}");
}

/// CVE-2019-11248 (of the kubelet, for what this server has of it): profiles and debug pages are for who may see them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debug_pages_need_rights() {
    let s = TestServer::start(&["--anonymous-auth=true"]).await;
    let jane = s.user("jane", &[]);
    for path in [
        "/debug/pprof/",
        "/debug/pprof/cmdline",
        "/debug/api_priority_and_fairness/dump_requests",
        "/metrics",
        "/flagz",
        "/statusz",
    ] {
        assert_eq!(jane.get(path).await.code, 403, "{path}");
        assert_eq!(s.anonymous().get(path).await.code, 403, "{path}");
    }
}

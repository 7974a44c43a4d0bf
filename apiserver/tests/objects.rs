//! The verbs on objects, over HTTP.

mod common;

use common::TestServer;
use http::Method;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"n": name}}, "data": {"k": "v"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn life_of_an_object() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let made = c.post(MAPS, &map("a")).await.expect(201);
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());
    let again = c.post(MAPS, &map("a")).await.expect(409);
    assert_eq!(
        (again["reason"].as_str(), again["message"].as_str()),
        (Some("AlreadyExists"), Some("configmaps \"a\" already exists"))
    );

    let path = format!("{MAPS}/a");
    let mut o = c.get(&path).await.expect(200);
    assert_eq!(o["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let unchanged = c.put(&path, &o).await.expect(200);
    assert_eq!(
        unchanged["metadata"]["resourceVersion"], o["metadata"]["resourceVersion"],
        "a no-op writes nothing"
    );
    o["data"]["k"] = json!("w");
    let changed = c.put(&path, &o).await.expect(200);
    assert_ne!(changed["metadata"]["resourceVersion"], o["metadata"]["resourceVersion"]);
    let stale = c.put(&path, &o).await.expect(409);
    assert_eq!(stale["reason"], "Conflict");
    o["metadata"]["resourceVersion"] = json!("");
    o["metadata"]["uid"] = json!("other");
    assert_eq!(c.put(&path, &o).await.expect(409)["reason"], "Conflict");

    let patched = c.merge(&path, &json!({"data": {"k": null, "n": "1"}})).await.expect(200);
    assert_eq!(patched["data"], json!({"n": "1"}));
    let kind = [("content-type", "application/json-patch+json")];
    let body = r#"[{"op": "add", "path": "/data/x", "value": "y"}]"#;
    let patched = c.send(Method::PATCH, &path, &kind, body).await.expect(200);
    assert_eq!(patched["data"], json!({"n": "1", "x": "y"}));

    let wrong = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "nope"}});
    let refused =
        c.send(Method::DELETE, &path, &[("content-type", "application/json")], wrong.to_string()).await;
    assert_eq!(refused.expect(409)["reason"], "Conflict");
    let gone = c.delete(&path).await.expect(200);
    assert_eq!((gone["status"].as_str(), gone["details"]["name"].as_str()), (Some("Success"), Some("a")));
    assert_eq!(c.get(&path).await.expect(404)["message"], "configmaps \"a\" not found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_select_and_page() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    for n in ["a", "b", "c", "d"] {
        c.post(MAPS, &map(n)).await.expect(201);
    }
    let names = |l: &Value| -> Vec<String> {
        l["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let some = c.get(&format!("{MAPS}?labelSelector=n%20in%20(a,c)")).await.expect(200);
    assert_eq!(names(&some), ["a", "c"]);
    assert!(some["items"][0].get("kind").is_none(), "items of lists do not repeat their kind");
    let one = c.get(&format!("{MAPS}?fieldSelector=metadata.name%3Db")).await.expect(200);
    assert_eq!(names(&one), ["b"]);

    let first = c.get(&format!("{MAPS}?limit=3")).await.expect(200);
    assert_eq!(names(&first), ["a", "b", "c"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();
    c.post(MAPS, &map("e")).await.expect(201);
    c.delete(&format!("{MAPS}/d")).await.expect(200);
    let rest = c.get(&format!("{MAPS}?limit=3&continue={token}")).await.expect(200);
    assert_eq!(names(&rest), ["d"], "pages show one moment");
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);

    let exact = format!(
        "{MAPS}?resourceVersion={}&resourceVersionMatch=Exact",
        first["metadata"]["resourceVersion"].as_str().expect("version")
    );
    assert_eq!(names(&c.get(&exact).await.expect(200)), ["a", "b", "c", "d"]);
    let ahead =
        c.get(&format!("{MAPS}?resourceVersion=999999999&resourceVersionMatch=Exact")).await.expect(504);
    assert_eq!(ahead["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    c.delete(&format!("{MAPS}?labelSelector=n%3Da")).await.expect(200);
    assert_eq!(names(&c.get(MAPS).await.expect(200)), ["b", "c", "e"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let made = c.post(MAPS, &map("a")).await.expect(201);
    let from = made["metadata"]["resourceVersion"].as_str().expect("version").to_owned();
    let mut all = c.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    let mut labelled = c.watch(&format!("{MAPS}?watch=true&resourceVersion={from}&labelSelector=x")).await;
    let list = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut streamed = c.watch(&format!("{MAPS}?{list}")).await;
    assert_eq!(streamed.step().await, ("ADDED".into(), "a".into()));
    let end = streamed.next().await.expect("the end of the initial events");
    assert_eq!((end["type"].as_str(), end["object"]["kind"].as_str()), (Some("BOOKMARK"), Some("ConfigMap")));
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");

    c.post(MAPS, &map("b")).await.expect(201);
    c.merge(&format!("{MAPS}/b"), &json!({"metadata": {"labels": {"x": "1"}}})).await.expect(200);
    c.merge(&format!("{MAPS}/b"), &json!({"metadata": {"labels": {"x": null}}})).await.expect(200);
    c.delete(&format!("{MAPS}/b")).await.expect(200);
    for kind in ["ADDED", "MODIFIED", "MODIFIED", "DELETED"] {
        assert_eq!(all.step().await, (kind.into(), "b".into()));
    }
    assert_eq!(labelled.step().await, ("ADDED".into(), "b".into()));
    assert_eq!(labelled.step().await, ("DELETED".into(), "b".into()));
    assert_eq!(streamed.step().await, ("ADDED".into(), "b".into()));

    let mut short = c.watch(&format!("{MAPS}?watch=true&timeoutSeconds=1")).await;
    assert_eq!(short.step().await, ("ADDED".into(), "a".into()));
    assert!(short.next().await.is_none(), "the server ends a watch after timeoutSeconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_deleted_gracefully() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    c.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await
        .expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for n in ["idle", "busy"] {
        c.post(pods, &pod(n)).await.expect(201);
    }
    c.post("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "busy"}, "target": {"kind": "Node", "name": "n1"}});
    c.post(&format!("{pods}/busy/binding"), &binding).await.expect(201);
    let bound = c.get(&format!("{pods}/busy")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let twice = c.post(&format!("{pods}/busy/binding"), &binding).await.expect(409);
    assert!(
        twice["message"].as_str().is_some_and(|m| m.contains("is already assigned to node \"n1\"")),
        "{twice}"
    );

    c.delete(&format!("{pods}/idle")).await.expect(200);
    c.get(&format!("{pods}/idle")).await.expect(404);
    let dying = c.delete(&format!("{pods}/busy")).await.expect(200);
    assert_eq!(dying["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(dying["metadata"]["generation"], 2);
    assert_eq!(
        c.get(&format!("{pods}/busy")).await.expect(200)["metadata"]["deletionTimestamp"],
        dying["metadata"]["deletionTimestamp"]
    );
    c.delete(&format!("{pods}/busy?gracePeriodSeconds=0")).await.expect(200);
    c.get(&format!("{pods}/busy")).await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_once_with_the_topology_of_its_node() {
    let s = TestServer::start(&["--disable-admission-plugins=ServiceAccount"]).await;
    let c = &s.admin;
    let zone = "topology.kubernetes.io/zone";
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {zone: "z1"}}});
    c.post("/api/v1/nodes", &node).await.expect(201);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "N", "value": "v"}]}]}});
    c.post(pods, &pod).await.expect(201);
    let path = format!("{pods}/p");
    let hint = json!({"status": {"nominatedNodeName": "n0"}});
    let before = c.merge(&format!("{path}/status"), &hint).await.expect(200);
    assert_eq!(before["status"]["nominatedNodeName"], "n0");

    let to = |metadata: Value| {
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata,
            "target": {"kind": "Node", "name": "n1"}})
    };
    let binding = format!("{path}/binding");
    for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let refused = c.post(&binding, &to(json!({"name": "p", field: "1"}))).await.expect(409);
        let there = before["metadata"][field].as_str().expect("there");
        assert_eq!(
            refused["message"],
            format!(
                "Operation cannot be fulfilled on pods/binding \"p\": Precondition failed: \
                 {what} in precondition: 1, {what} in object meta: {there}"
            )
        );
    }
    let tried = c.post(&format!("{binding}?dryRun=All"), &to(json!({"name": "p"}))).await;
    assert_eq!(tried.expect(201)["status"], "Success");
    assert_eq!(c.get(&path).await.expect(200), before, "a dry run changes nothing");

    c.post(&binding, &to(json!({"name": "p", "annotations": {"by": "test"}}))).await.expect(201);
    let mut bound = c.get(&path).await.expect(200);
    assert_eq!(bound["metadata"]["labels"], json!({"app": "a", zone: "z1"}));
    assert_eq!(bound["metadata"]["annotations"], json!({"by": "test"}));
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"].get("nominatedNodeName"), None);
    let conditions = bound["status"]["conditions"].take();
    assert_eq!((&conditions[0]["type"], &conditions[0]["status"]), (&json!("PodScheduled"), &json!("True")));
    // All else is as it was.
    let mut wanted = before.clone();
    wanted["metadata"]["labels"][zone] = json!("z1");
    wanted["metadata"]["annotations"] = json!({"by": "test"});
    wanted["metadata"]["resourceVersion"] = bound["metadata"]["resourceVersion"].clone();
    wanted["spec"]["nodeName"] = json!("n1");
    wanted["status"]["conditions"] = Value::Null;
    wanted["status"].as_object_mut().expect("an object").remove("nominatedNodeName");
    assert_eq!(bound, wanted);

    let again = c.post(&binding, &to(json!({"name": "p"}))).await.expect(409);
    let message = again["message"].as_str().expect("a message");
    assert!(message.ends_with("pod p is already assigned to node \"n1\""), "{message}");
    let none = c.post(&format!("{pods}/q/binding"), &to(json!({"name": "q"}))).await.expect(404);
    assert_eq!(none["message"], "pods \"q\" not found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finalizers_and_namespaces() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let mut o = map("f");
    o["metadata"]["finalizers"] = json!(["example.com/hold"]);
    c.post(MAPS, &o).await.expect(201);
    let path = format!("{MAPS}/f");
    let held = c.delete(&path).await.expect(200);
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let more = c
        .merge(&path, &json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}))
        .await
        .expect(422);
    assert!(more["message"].as_str().is_some_and(|m| m.contains("no new finalizers can be added")), "{more}");
    c.merge(&path, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    c.get(&path).await.expect(404);

    o["metadata"]["name"] = json!("g");
    o["metadata"]["finalizers"] = json!([]);
    c.post(MAPS, &o).await.expect(201);
    let fore = c.delete(&format!("{MAPS}/g?propagationPolicy=Foreground")).await.expect(200);
    assert_eq!(fore["metadata"]["finalizers"], json!(["foregroundDeletion"]));

    c.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.expect(201);
    let ns = c.delete("/api/v1/namespaces/team").await.expect(200);
    assert_eq!(ns["status"]["phase"], "Terminating");
    let refused = c.post("/api/v1/namespaces/team/configmaps", &map("late")).await.expect(403);
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut ns = c.get("/api/v1/namespaces/team").await.expect(200);
    ns["spec"]["finalizers"] = json!([]);
    c.put("/api/v1/namespaces/team/finalize", &ns).await.expect(200);
    c.get("/api/v1/namespaces/team").await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_runs_and_services() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let services = "/api/v1/namespaces/default/services";
    let svc = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    c.post(&format!("{services}?dryRun=All"), &svc("d")).await.expect(201);
    c.get(&format!("{services}/d")).await.expect(404);
    let made = c.post(services, &svc("s")).await.expect(201);
    let ip = made["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    assert!(ip.starts_with("10.96."), "{ip}");
    assert!(made["spec"]["ports"][0]["nodePort"].as_u64().is_some_and(|p| (30000..32768).contains(&p)));
    let mut taken = svc("t");
    taken["spec"]["clusterIP"] = json!(ip);
    assert_eq!(c.post(services, &taken).await.code, 422);
    c.delete(&format!("{services}/s")).await.expect(200);
    c.post(services, &taken).await.expect(201);
}

//! Custom resources in two versions between which a webhook converts: reads, writes, field selectors, metrics.

mod common;

use common::backend::{self, Backend, Seen, eventually};
use common::{Client, TestServer};
use serde_json::{Value, json};

const V1: &str = "/apis/stable.example.com/v1/namespaces/default/endpoints";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/endpoints";

/// `hostPort` of v1 is `host` and `port` of v2.
fn converted(mut o: Value, to: &str) -> Value {
    o["apiVersion"] = to.into();
    let m = o.as_object_mut().expect("an object");
    if to.ends_with("/v2") {
        let joined = m.remove("hostPort").unwrap_or_default();
        let (host, port) = joined.as_str().unwrap_or_default().split_once(':').unwrap_or_default();
        m.insert("host".into(), host.into());
        m.insert("port".into(), port.into());
    } else {
        let part = |m: &mut serde_json::Map<String, Value>, f: &str| {
            m.remove(f).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
        };
        let (host, port) = (part(m, "host"), part(m, "port"));
        m.insert("hostPort".into(), format!("{host}:{port}").into());
    }
    o
}

/// What the webhook answers. A host named `broken` makes it fail.
fn convert(s: &Seen) -> http::Response<component_base::serving::listener::Body> {
    let sent = s.json();
    let request = &sent["request"];
    let to = request["desiredAPIVersion"].as_str().expect("a version");
    let objects: Vec<Value> = request["objects"].as_array().expect("objects").clone();
    let broken = objects.iter().any(|o| o["host"] == "broken");
    let result = if broken {
        json!({"status": "Failure", "message": "cannot do this"})
    } else {
        json!({"status": "Success"})
    };
    let done: Vec<Value> = objects.into_iter().map(|o| converted(o, to)).collect();
    backend::json(
        200,
        &json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": request["uid"], "result": result, "convertedObjects": done}}),
    )
}

fn version(name: &str, storage: bool, fields: &[&str]) -> Value {
    let properties: serde_json::Map<String, Value> =
        fields.iter().map(|f| ((*f).to_owned(), json!({"type": "string"}))).collect();
    let selectable: Vec<Value> = fields.iter().map(|f| json!({"jsonPath": format!(".{f}")})).collect();
    json!({"name": name, "served": true, "storage": storage, "selectableFields": selectable,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
}

async fn establish(c: &Client, b: &Backend) {
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "endpoints.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "endpoints", "singular": "endpoint", "kind": "Endpoint", "listKind": "EndpointList"},
            "versions": [version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"])],
            "conversion": {"strategy": "Webhook", "webhook": {
                "clientConfig": {"url": b.url("/convert"), "caBundle": b.bundle},
                "conversionReviewVersions": ["v1"]}},
        },
    });
    c.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await.expect(201);
    eventually("both versions are served", || async { (c.get(V2).await.code == 200).then_some(()) }).await;
}

fn endpoint(name: &str, host: &str, port: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v2", "kind": "Endpoint", "metadata": {"name": name},
        "host": host, "port": port})
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("items");
    items.iter().filter_map(|o| o["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selectors_look_at_the_version_of_the_client() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::start(&[], |s: Seen| async move { convert(&s) }).await;
    establish(c, &b).await;
    let mut hosts = c.watch(&format!("{V2}?watch=true&fieldSelector=host%3Dhost1")).await;
    let mut both = c.watch(&format!("{V1}?watch=true&fieldSelector=hostPort%3Dhost1:80")).await;
    for (name, host, port) in [("a", "host1", "80"), ("b", "host1", "8080"), ("c", "host2", "")] {
        let made = c.post(V2, &endpoint(name, host, port)).await.expect(201);
        assert_eq!((&made["host"], &made["apiVersion"]), (&json!(host), &json!("stable.example.com/v2")));
    }
    assert_eq!(c.get(&format!("{V1}/b")).await.expect(200)["hostPort"], "host1:8080");
    let selected = async |path: &str, selector: &str| {
        names(&c.get(&format!("{path}?fieldSelector={selector}")).await.expect(200))
    };
    assert_eq!(selected(V2, "host%3Dhost1").await, ["a", "b"]);
    assert_eq!(selected(V2, "host%3Dhost1,port%3D80").await, ["a"]);
    assert_eq!(selected(V2, "host!%3Dhost1").await, ["c"]);
    assert_eq!(selected(V1, "hostPort%3Dhost1:8080").await, ["b"]);
    assert_eq!(selected(V2, "host%3Dhost1,metadata.name%3Db").await, ["b"]);
    let unknown = c.get(&format!("{V2}?fieldSelector=hostPort%3Dx")).await;
    assert_eq!(
        (unknown.code, &unknown.json()["message"]),
        (400, &json!("field label not supported: hostPort"))
    );

    // Page by page.
    let first = c.get(&format!("{V2}?fieldSelector=host%3Dhost1&limit=1")).await.expect(200);
    assert_eq!(names(&first), ["a"]);
    let token = first["metadata"]["continue"].as_str().expect("there is more");
    let second =
        c.get(&format!("{V2}?fieldSelector=host%3Dhost1&limit=1&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["b"]);

    let kind = |e: &Value| {
        (e["type"].as_str().unwrap_or_default().to_owned(), e["object"]["metadata"]["name"].clone())
    };
    for (name, w) in [("a", &mut hosts), ("a", &mut both)] {
        assert_eq!(kind(&w.next().await.expect("an event")), ("ADDED".into(), json!(name)));
    }
    assert_eq!(kind(&hosts.next().await.expect("an event")), ("ADDED".into(), json!("b")));
    // Out of sight by a change, then by deletion.
    let mut moved = c.get(&format!("{V2}/b")).await.expect(200);
    moved["host"] = json!("host2");
    let moved = c.put(&format!("{V2}/b"), &moved).await.expect(200);
    let event = hosts.next().await.expect("an event");
    assert_eq!(kind(&event), ("DELETED".into(), json!("b")));
    assert_eq!(event["object"]["host"], "host1", "as it was last seen");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], moved["metadata"]["resourceVersion"]);
    c.delete(&format!("{V2}?fieldSelector=host%3Dhost1,port%3D80")).await.expect(200);
    for w in [&mut hosts, &mut both] {
        assert_eq!(kind(&w.next().await.expect("an event")), ("DELETED".into(), json!("a")));
    }
    assert!(selected(V2, "host%3Dhost1").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told_and_counted() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::start(&[], |s: Seen| async move { convert(&s) }).await;
    establish(c, &b).await;
    c.post(V2, &endpoint("a", "host1", "80")).await.expect(201);
    let refused = c.post(V2, &endpoint("b", "broken", "80")).await;
    assert_eq!(refused.code, 500);
    let why = "conversion webhook for stable.example.com/v2, Kind=Endpoint failed: cannot do this";
    assert!(refused.json()["message"].as_str().is_some_and(|m| m.contains(why)), "{refused:?}");
    let text = c.get("/metrics").await;
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let counted = |line: &str| {
        let found = text.lines().find(|l| l.starts_with(line)).unwrap_or_else(|| panic!("no {line}"));
        found.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number")
    };
    let failed = "apiserver_conversion_webhook_request_total{result=\"failure\",failure_type=\"conversion_webhook_malformed_response_failure\"}";
    assert_eq!(counted(failed), 1.0);
    assert!(
        counted("apiserver_conversion_webhook_request_total{result=\"success\",failure_type=\"\"}") >= 1.0
    );
    let timed = "apiserver_crd_conversion_webhook_duration_seconds_count{crd_name=\"endpoints.stable.example.com\",from_version=\"v2\",to_version=\"v1\",succeeded=\"true\"}";
    assert!(counted(timed) >= 1.0);

    let v3 = c.get("/openapi/v3/apis/stable.example.com/v2").await.expect(200);
    let kind = &v3["components"]["schemas"]["com.example.stable.v2.Endpoint"];
    let fields = json!([{"fieldPath": "host"}, {"fieldPath": "port"}]);
    assert_eq!(kind["x-kubernetes-selectable-fields"], fields);
}

//! Patches, managed fields and the description of the API, over HTTP.

mod common;

use common::TestServer;
use http::Method;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_and_strategic_merge() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let path = "/apis/apps/v1/namespaces/default/deployments/d";
    let apply = [("content-type", "application/apply-patch+yaml")];
    let wanted = |image: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}}})
        .to_string()
    };
    let made =
        c.send(Method::PATCH, &format!("{path}?fieldManager=one"), &apply, wanted("x")).await.expect(201);
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
    let same =
        c.send(Method::PATCH, &format!("{path}?fieldManager=one"), &apply, wanted("x")).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let other =
        c.send(Method::PATCH, &format!("{path}?fieldManager=two"), &apply, wanted("y")).await.expect(409);
    assert_eq!(other["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = format!("{path}?fieldManager=two&force=true");
    let taken = c.send(Method::PATCH, &forced, &apply, wanted("y")).await.expect(200);
    assert_eq!(taken["spec"]["template"]["spec"]["containers"][0]["image"], "y");
    assert_eq!(taken["metadata"]["generation"], 2);
    let nobody = c.send(Method::PATCH, path, &apply, wanted("y")).await.expect(422);
    assert!(
        nobody["message"].as_str().is_some_and(|m| m.contains("is required for apply patch")),
        "{nobody}"
    );

    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let more = r#"{"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "z"}]}}}}"#;
    let both = c.send(Method::PATCH, path, &strategic, more).await.expect(200);
    assert_eq!(both["spec"]["template"]["spec"]["containers"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_describes_itself() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let index = c.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("an address").to_owned();
    let doc = c.get(&url).await;
    assert!(doc.headers["cache-control"].to_str().is_ok_and(|v| v.contains("immutable")));
    let doc = doc.expect(200);
    let patch = &doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<&str> = patch["parameters"]
        .as_array()
        .expect("parameters")
        .iter()
        .filter_map(|p| p["name"].as_str())
        .collect();
    assert!(names.contains(&"fieldValidation"), "{names:?}");
    let pod = &doc["components"]["schemas"]["io.k8s.api.core.v1.Container"];
    assert_eq!(pod["properties"]["ports"]["x-kubernetes-patch-merge-key"], "containerPort");
}

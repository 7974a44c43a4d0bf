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
    assert!(doc.headers.contains_key("expires"));
    let doc = doc.expect(200);
    let patch = &doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<&str> = patch["parameters"]
        .as_array()
        .expect("parameters")
        .iter()
        .filter_map(|p| p["name"].as_str())
        .collect();
    assert!(names.contains(&"fieldValidation"), "{names:?}");
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(patch["x-kubernetes-action"], "patch");
    let pod = &doc["components"]["schemas"]["io.k8s.api.core.v1.Container"];
    assert_eq!(pod["properties"]["ports"]["x-kubernetes-patch-merge-key"], "containerPort");
    let about = pod["properties"]["image"]["description"].as_str().expect("a description");
    assert!(about.starts_with("Container image name."), "{about}");

    // Another content of the same document is elsewhere.
    let moved = c.get("/openapi/v3/apis/apps/v1?hash=ABC").await;
    assert_eq!((moved.code, moved.headers["location"].to_str().expect("text")), (301, url.as_str()));
    assert_eq!(c.get_as("/openapi/v3/apis/apps/v1", "text/html").await.code, 406);

    let v2 = c.get("/openapi/v2").await;
    let tag = v2.headers["etag"].to_str().expect("a tag").to_owned();
    let again = c.send(Method::GET, "/openapi/v2", &[("if-none-match", &tag)], "").await;
    assert_eq!((again.code, again.body.len()), (304, 0));
    let v2 = v2.expect(200);
    let list = &v2["paths"]["/api/v1/namespaces/{namespace}/pods"]["get"];
    assert_eq!(list["operationId"], "listCoreV1NamespacedPod");
    assert_eq!(list["consumes"], json!(["*/*"]));
    assert_eq!(list["responses"]["200"]["schema"]["$ref"], "#/definitions/io.k8s.api.core.v1.PodList");
    assert!(v2["paths"]["/api/v1/watch/pods"]["get"].is_object());
    let media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let old = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let wire = c.get_as("/openapi/v2", &format!("{media},{old};q=0.5")).await;
    assert_eq!((wire.code, wire.headers["content-type"].to_str().expect("text")), (200, media));
    assert!(wire.body.starts_with(b"\n\x032.0"), "the first field is the version of the form");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_keys_of_yaml_are_named() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let path = "/api/v1/namespaces/default/configmaps";
    let yaml = [("content-type", "application/yaml")];
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: twice}\ndata:\n  a: x\n  a: y\nmore: z\n";
    let strict =
        c.send(Method::POST, &format!("{path}?fieldValidation=Strict"), &yaml, body).await.expect(400);
    let message = strict["message"].as_str().unwrap_or_default();
    let wanted = "strict decoding error: yaml: unmarshal errors:\n  line 6: key \"a\" already set in map, unknown field \"more\"";
    assert!(message.ends_with(wanted), "{message}");
    let warned = c.send(Method::POST, path, &yaml, body).await;
    let warnings: Vec<_> =
        warned.headers.get_all("warning").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("line 6: key") && warnings[1].contains("unknown field"), "{warnings:?}");
    assert_eq!(warned.expect(201)["data"]["a"], "y");

    let apply = [("content-type", "application/apply-patch+yaml")];
    let query = format!("{path}/other?fieldManager=m&fieldValidation=Strict");
    let body = body.replace("more: z\n", "").replace("twice", "other");
    let refused = c.send(Method::PATCH, &query, &apply, body).await.expect(400);
    let message = refused["message"].as_str().unwrap_or_default();
    assert_eq!(
        message,
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 6: key \"a\" already set in map"
    );
    c.get(&format!("{path}/other")).await.expect(404);
}

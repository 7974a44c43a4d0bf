//! What is around objects: negotiation, discovery, refusals, tables, subresources.

mod common;

use common::TestServer;
use http::Method;
use serde_json::json;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn formats() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let ns = "/api/v1/namespaces/default";
    let wire = c.get_as(ns, PROTOBUF).await;
    assert_eq!((wire.code, wire.headers["content-type"].to_str().expect("text")), (200, PROTOBUF));
    let decoded = proto::envelope::decode(&wire.body).expect("protobuf");
    assert_eq!(decoded["metadata"], c.get(ns).await.expect(200)["metadata"], "both forms say the same");
    let list = c.get_as("/api/v1/namespaces", PROTOBUF).await;
    assert!(list.body.starts_with(b"k8s\0"));

    let yaml = c.get_as(ns, "application/yaml").await;
    assert!(String::from_utf8_lossy(&yaml.body).starts_with("apiVersion: v1\nkind: Namespace\n"));
    assert_eq!(c.get_as(ns, "text/html").await.expect(406)["reason"], "NotAcceptable");

    let table =
        c.get_as("/api/v1/namespaces", "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][1]["name"], "Status");
    assert_eq!(table["rows"][0]["cells"][1], "Active");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let meta = c
        .get_as("/api/v1/namespaces", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
        .await
        .expect(200);
    assert!(meta["items"][0].get("spec").is_none() && meta["items"][0]["metadata"]["name"].is_string());

    // A body in protobuf and one in YAML.
    let o = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p"}, "data": {"a": "b"}});
    let body = proto::envelope::encode(&o).expect("protobuf");
    let maps = "/api/v1/namespaces/default/configmaps";
    let made = c.send(Method::POST, maps, &[("content-type", PROTOBUF)], body).await.expect(201);
    assert_eq!(made["data"]["a"], "b");
    let y = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\n";
    c.send(Method::POST, maps, &[("content-type", "application/yaml")], y).await.expect(201);
    let big: String = "x".repeat(900_000);
    let o = json!({"metadata": {"name": "big"}, "data": {"a": big}});
    c.post(maps, &o).await.expect(201);
    let zipped = c.send(Method::GET, &format!("{maps}/big"), &[("accept-encoding", "gzip")], "").await;
    assert_eq!(zipped.headers["content-encoding"], "gzip");
    assert!(zipped.body.len() < 100_000);
    let too_big = "x".repeat(3 * 1024 * 1024 + 1);
    let refused = c.send(Method::POST, maps, &[("content-type", "application/json")], too_big).await;
    assert_eq!(refused.expect(413)["reason"], "RequestEntityTooLarge");
}

/// Longer lists come in pieces; they say the same as short ones, in every form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let maps = "/api/v1/namespaces/default/configmaps";
    let padding = "x".repeat(4000);
    for i in 0..100 {
        let o = json!({"metadata": {"name": format!("m{i:03}")}, "data": {"i": i.to_string(), "x": padding}});
        c.post(maps, &o).await.expect(201);
    }
    let list = c.get(maps).await;
    assert!(!list.headers.contains_key("content-length"), "it is written while it is read");
    let list = list.expect(200);
    let items = list["items"].as_array().expect("items");
    assert_eq!((items.len(), items[99]["data"]["i"].as_str()), (100, Some("99")));
    assert!(items[0].get("kind").is_none());
    let wire = c.get_as(maps, PROTOBUF).await;
    let raw = proto::envelope::unwrap(&wire.body).expect("an envelope").raw;
    assert!(raw.len() > 400_000);
    let decoded = proto::envelope::decode(&wire.body).expect("a list");
    assert_eq!(decoded["items"].as_array().map(Vec::len), Some(100));
    assert_eq!(decoded["items"][42]["data"], items[42]["data"]);
    let table = c.get_as(maps, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(
        (table["rows"].as_array().map(Vec::len), &table["rows"][7]["cells"][1]),
        (Some(100), &json!(2))
    );
    let meta = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let meta = c.get_as(maps, meta).await.expect(200);
    assert_eq!(meta["items"][99]["metadata"]["name"], "m099");
    let zipped = c.send(Method::GET, maps, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(zipped.headers["content-encoding"], "gzip");
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&zipped.body[..]), &mut text).expect("gzip");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).expect("JSON"), list);
    let pretty = c.get(&format!("{maps}?pretty=1")).await;
    assert!(pretty.body.starts_with(b"{\n  \"kind\": \"ConfigMapList\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_and_health() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let groups = c.get("/apis").await.expect(200);
    let names: Vec<&str> =
        groups["groups"].as_array().expect("groups").iter().filter_map(|g| g["name"].as_str()).collect();
    assert!(names.contains(&"apps") && !names.contains(&"internal.apiserver.k8s.io"), "{names:?}");
    let apps = c.get("/apis/apps/v1").await.expect(200);
    let scale = apps["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .find(|r| r["name"] == "deployments/scale")
        .expect("scale");
    assert_eq!((scale["group"].as_str(), scale["kind"].as_str()), (Some("autoscaling"), Some("Scale")));
    let deployments = apps["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .find(|r| r["name"] == "deployments")
        .expect("deployments");
    assert_eq!(deployments["storageVersionHash"], "8aSe+NMegvE=");

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = c.get_as("/apis", accept).await;
    assert_eq!(all.headers["content-type"], accept);
    let tag = all.headers["etag"].to_str().expect("a tag").to_owned();
    let again = c.send(Method::GET, "/apis", &[("accept", accept), ("if-none-match", &tag)], "").await;
    assert_eq!((again.code, again.body.len()), (304, 0));

    let version = c.get("/version").await.expect(200);
    assert_eq!((version["major"].as_str(), version["minor"].as_str()), (Some("1"), Some("36")));
    let verbose = c.get("/readyz?verbose").await;
    let text = String::from_utf8_lossy(&verbose.body).into_owned();
    assert!(text.contains("[+]etcd ok\n") && text.ends_with("readyz check passed\n"), "{text}");
    assert_eq!(s.anonymous().get("/livez").await.code, 200);
    assert_eq!(s.anonymous().get("/api/v1/namespaces").await.expect(401)["reason"], "Unauthorized");
    let metrics = c.get("/metrics").await;
    assert!(String::from_utf8_lossy(&metrics.body).contains("apiserver_request_total{"));
    let on = TestServer::start(&["--runtime-config=resource.k8s.io/v1beta2=true"]).await;
    on.admin.get("/apis/resource.k8s.io/v1beta2").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(
        c.get("/api/v1/widgets").await.expect(404)["message"],
        "the server could not find the requested resource"
    );
    let unknown = c.get("/apis/nope.io/v1/x").await;
    assert_eq!((unknown.code, &unknown.body[..]), (404, &b"404 page not found\n"[..]));
    assert_eq!(c.put(pods, &json!({})).await.expect(405)["reason"], "MethodNotAllowed");
    let text = c.send(Method::POST, pods, &[("content-type", "text/plain")], "x").await;
    assert_eq!(text.expect(415)["reason"], "UnsupportedMediaType");
    let bad = c.get(&format!("{pods}?labelSelector=a%20in%20(")).await.expect(400);
    assert_eq!(bad["message"], "unable to parse requirement: found '', expected: ',', ')' or identifier");
    let bad = c.get(&format!("{pods}?fieldSelector=spec.nope%3Dx")).await.expect(400);
    assert_eq!(bad["message"], "field label not supported: spec.nope");
    let other = c
        .post("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"name": "x", "namespace": "y"}}))
        .await;
    assert_eq!(
        other.expect(400)["message"],
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    let unknown = json!({"metadata": {"name": "x"}, "dta": {}});
    let warned = c.post("/api/v1/namespaces/default/configmaps?dryRun=All", &unknown).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"dta\\\"\"");
    let strict =
        c.post("/api/v1/namespaces/default/configmaps?fieldValidation=Strict", &unknown).await.expect(400);
    assert!(
        strict["message"]
            .as_str()
            .is_some_and(|m| m.contains("strict decoding error: unknown field \"dta\""))
    );

    let nobody = s.user("jane", &[]);
    let forbidden = nobody.get(pods).await.expect(403);
    assert_eq!(
        forbidden["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let binding = json!({
        "metadata": {"name": "jane"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    c.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", &binding).await.expect(201);
    let mut code = 0;
    for _ in 0..100 {
        code = nobody.get(pods).await.code;
        if code == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(code, 200, "a binding takes effect");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_tokens_and_versions() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let d = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    c.post(path, &d).await.expect(201);
    let mut scale = c.get(&format!("{path}/d/scale")).await.expect(200);
    assert_eq!(
        (scale["kind"].as_str(), &scale["spec"]["replicas"], scale["status"]["selector"].as_str()),
        (Some("Scale"), &json!(1), Some("a=b"))
    );
    scale["spec"]["replicas"] = json!(3);
    c.put(&format!("{path}/d/scale"), &scale).await.expect(200);
    let d = c.get(&format!("{path}/d")).await.expect(200);
    assert_eq!((&d["spec"]["replicas"], &d["metadata"]["generation"]), (&json!(3), &json!(2)));
    let status = c
        .merge(&format!("{path}/d/status"), &json!({"spec": {"replicas": 9}, "status": {"replicas": 2}}))
        .await
        .expect(200);
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(3), &json!(2)));

    c.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "bot"}}))
        .await
        .expect(201);
    let token = c
        .post(
            "/api/v1/namespaces/default/serviceaccounts/bot/token",
            &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}),
        )
        .await
        .expect(201);
    let bearer = format!("Bearer {}", token["status"]["token"].as_str().expect("a token"));
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let me = s
        .anonymous()
        .send(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &headers, who.to_string())
        .await
        .expect(201);
    assert_eq!(me["status"]["userInfo"]["username"], "system:serviceaccount:default:bot");

    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "note": "hello",
        "eventTime": "2026-01-01T00:00:00.000000Z", "action": "a", "reason": "r", "type": "Normal", "reportingController": "x.io/y", "reportingInstance": "z"});
    c.post("/apis/events.k8s.io/v1/namespaces/default/events", &event).await.expect(201);
    let core = c.get("/api/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!(
        (core["message"].as_str(), core["involvedObject"]["name"].as_str()),
        (Some("hello"), Some("p"))
    );
    let hpa = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3, "targetCPUUtilizationPercentage": 70}});
    c.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", &hpa).await.expect(201);
    let v2 = c.get("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h").await.expect(200);
    assert_eq!(v2["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
    let v1 = c.get("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/h").await.expect(200);
    assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 70);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shapes_and_selectors_that_do_not_fit() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let shape = |kind: &str| format!("application/json;as={kind};v=v1;g=meta.k8s.io,application/json");
    for (path, kind, why) in [
        (
            "/api/v1/namespaces/default",
            "PartialObjectMetadataList",
            "you requested PartialObjectMetadataList, but the requested object is not a list (*core.Namespace)",
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "PartialObjectMetadata",
            "you requested PartialObjectMetadata, but the requested object is a list (*rbac.ClusterRoleList)",
        ),
    ] {
        let refused = c.get_as(path, &shape(kind)).await.expect(406);
        assert_eq!((&refused["message"], &refused["reason"]), (&json!(why), &json!("NotAcceptable")));
    }
    for (path, field, why) in [
        ("/api/v1/pods", "spec.nope", "field label not supported: spec.nope"),
        ("/api/v1/nodes", "metadata.namespace", "field label not supported: metadata.namespace"),
        (
            "/api/v1/configmaps",
            "data.x",
            "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (
            "/apis/apps/v1/replicasets",
            "status.replicas",
            "\"status.replicas\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        ("/apis/batch/v1/jobs", "x", "field label \"x\" not supported for Job"),
        (
            "/apis/resource.k8s.io/v1/resourceslices",
            "x",
            "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: x",
        ),
    ] {
        let refused = c.get(&format!("{path}?fieldSelector={field}%3D1")).await.expect(400);
        assert_eq!(refused["message"], why);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openapi_v3_in_protobuf() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let wire = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
    let document = c.get_as("/openapi/v3/apis/apps/v1", wire).await;
    let media = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
    assert_eq!((document.code, document.headers["content-type"].to_str().ok()), (200, Some(media)));
    assert!(document.body.starts_with(b"\x0a\x053.0.0"));
    let name = b"io.k8s.api.apps.v1.Deployment";
    assert!(document.body.windows(name.len()).any(|w| w == name));
    let json = c.get("/openapi/v3/apis/apps/v1").await;
    assert_eq!(json.headers["etag"], document.headers["etag"]);
    assert_eq!(c.get_as("/openapi/v3", wire).await.code, 406, "the index is JSON");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_shows_that_it_is_alive() {
    let s = TestServer::start(&[]).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases?labelSelector=apiserver.kubernetes.io/identity%3Dkube-apiserver";
    for _ in 0..100 {
        let list = s.admin.get(leases).await.expect(200);
        let Some(lease) = list["items"].get(0) else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let name = lease["metadata"]["name"].as_str().expect("a name");
        let holder = lease["spec"]["holderIdentity"].as_str().expect("a holder");
        assert!(name.starts_with("apiserver-") && holder.starts_with(&format!("{name}_")), "{lease}");
        assert_eq!(lease["spec"]["leaseDurationSeconds"], 3600);
        let since = s.admin.get("/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking").await.expect(200);
        assert_eq!(since["data"]["since"].as_str().map(str::len), Some(10));
        return;
    }
    panic!("there is no lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_kinds_without_a_namespace_select() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    c.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.expect(201);
    let count = async |selector: &str| {
        let list = c.get(&format!("/api/v1/nodes?fieldSelector={selector}")).await.expect(200);
        list["items"].as_array().map(Vec::len)
    };
    assert_eq!(count("spec.unschedulable%3Dfalse").await, Some(1));
    assert_eq!(count("spec.unschedulable%3Dtrue").await, Some(0));
    let active = c.get("/api/v1/namespaces?fieldSelector=status.phase%3DActive").await.expect(200);
    assert!(active["items"].as_array().is_some_and(|i| !i.is_empty()), "{active}");
}

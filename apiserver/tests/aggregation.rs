//! Aggregated API servers: availability, discovery, what they are told about the user, upgrades, failures.

mod common;

use std::time::Duration;

use common::backend::{self, Backend, Seen, eventually};
use common::{Client, TestServer};
use component_base::serving::listener::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "api.default.svc";
const GV: &str = "/apis/wardle.example.com/v1alpha1";

/// A service that leads to the backend, and an API service on it.
async fn register(c: &Client, b: &Backend) {
    c.post(
        "/api/v1/namespaces/default/services",
        &json!({"metadata": {"name": "api"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}}),
    )
    .await
    .expect(201);
    c.post(SERVICES, &api_service(b)).await.expect(201);
}

fn api_service(b: &Backend) -> Value {
    json!({"metadata": {"name": "v1alpha1.wardle.example.com"}, "spec": {
        "group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
        "caBundle": b.bundle, "service": {"namespace": "default", "name": "api", "port": b.port}}})
}

/// The condition `Available`, once its reason is this one.
async fn condition(c: &Client, reason: &str) -> Value {
    eventually(reason, || async {
        let o = c.get(&format!("{SERVICES}/v1alpha1.wardle.example.com")).await.json();
        let list = o["status"]["conditions"].as_array().cloned().unwrap_or_default();
        list.into_iter().find(|c| c["type"] == "Available" && c["reason"] == reason)
    })
    .await
}

fn wardle(s: &Seen) -> Response<Body> {
    let resources = json!([{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
        "verbs": ["create", "get", "list"]}]);
    match s.path.split('?').next().unwrap_or_default() {
        "/openapi/v3" => backend::json(
            200,
            &json!({"paths": {"apis/wardle.example.com/v1alpha1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=W"},
                "api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=STOLEN"}}}),
        ),
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => {
            backend::json(200, &json!({"openapi": "3.0.0", "whose": "wardle"}))
        }
        "/openapi/v2" => backend::json(
            200,
            &json!({"swagger": "2.0", "paths": {"/apis/wardle.example.com/v1alpha1/flunders": {"get": {}}, "/api/v1/pods": {"stolen": {}},
                "/version/": {}}, "definitions": {"com.example.Flunder": {"type": "object"}}}),
        ),
        "/apis" => backend::json(200, &json!({"kind": "APIGroupList", "groups": []})),
        GV => backend::json(
            200,
            &json!({"kind": "APIResourceList", "groupVersion": "wardle.example.com/v1alpha1", "resources": resources}),
        ),
        p if p.ends_with("/moved") => {
            let mut r = backend::answer(302, "text/plain", "");
            r.headers_mut()
                .insert("location", http::HeaderValue::from_static("https://elsewhere.example.com/"));
            r
        }
        p if p.ends_with("/refused") => backend::json(403, &json!({"kind": "Status", "code": 403})),
        _ => backend::json(
            200,
            &json!({"path": s.path, "method": s.method.as_str(), "body": String::from_utf8_lossy(&s.body)}),
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_passed_on() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::start(&[NAME], |s: Seen| async move { wardle(&s) }).await;
    assert_eq!(c.get(GV).await.code, 404);
    register(c, &b).await;
    let passed = condition(c, "Passed").await;
    assert_eq!((&passed["status"], &passed["message"]), (&json!("True"), &json!("all checks passed")));
    let asked = b.seen().into_iter().find(|s| s.path == GV).expect("the check");
    assert_eq!(
        (asked.header("x-remote-user"), asked.header("x-remote-group")),
        (vec!["system:kube-aggregator".to_owned()], vec!["system:masters".to_owned()])
    );

    let path = format!("{GV}/namespaces/default/flunders?limit=5&labelSelector=a%3Db");
    let got = eventually("requests go through", || async {
        let a = c.get(&path).await;
        (a.code == 200).then(|| a.json())
    })
    .await;
    assert_eq!(got["path"], path, "path and query arrive as they were sent");
    let posted = c.post(&format!("{GV}/namespaces/default/flunders"), &json!({"a": 1})).await.expect(200);
    assert_eq!((&posted["method"], &posted["body"]), (&json!("POST"), &json!("{\"a\":1}")));

    // Who asks is this server's word alone.
    b.forget();
    let claims = [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-scopes", "all"),
        ("x-remote-uid", "0"),
        ("x_remote_group", "system:masters"),
        ("connection", "x-remote-user"),
    ];
    let jane = s.user("jane", &["ops"]);
    assert_eq!(
        jane.send(Method::GET, &path, &claims[..4], "").await.code,
        403,
        "authorized before it goes on"
    );
    assert!(b.seen().is_empty());
    c.post(
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        &json!({"metadata": {"name": "f"}, "rules": [
        {"verbs": ["*"], "apiGroups": ["wardle.example.com"], "resources": ["*"]}]}),
    )
    .await
    .expect(201);
    c.post(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        &json!({"metadata": {"name": "f"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "f"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]}),
    )
    .await
    .expect(201);
    eventually("jane may", || async {
        (jane.send(Method::GET, &path, &claims[..5], "").await.code == 200).then_some(())
    })
    .await;
    let seen = b.seen().pop().expect("a request");
    assert_eq!(seen.header("x-remote-user"), ["jane"]);
    assert_eq!(seen.header("x-remote-group"), ["ops", "system:authenticated"]);
    for gone in ["x-remote-uid", "x-remote-extra-scopes", "x_remote_group", "authorization"] {
        assert!(seen.header(gone).is_empty(), "{gone}");
    }
    assert_eq!(seen.header("x-forwarded-for"), ["127.0.0.1"]);

    // Redirects are not passed on, nor followed.
    let moved = c.get(&format!("{GV}/namespaces/default/flunders/moved")).await;
    assert_eq!(moved.code, 502);
    assert_eq!(moved.body, "the backend attempted to redirect this request, which is not permitted");
    assert!(moved.headers.get("location").is_none());

    // Nobody there any more.
    drop(b);
    let gone = eventually("the server is gone", || async {
        let a = c.get(&path).await;
        (a.code == 503).then_some(a)
    })
    .await;
    let text = String::from_utf8_lossy(&gone.body).into_owned();
    assert!(text.starts_with("error trying to reach service: ") || text == "service unavailable\n", "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_is_merged() {
    const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let names = |list: &Value, p: &str| -> Vec<String> {
        list.as_array()
            .expect("a list")
            .iter()
            .map(|g| g.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned())
            .collect()
    };
    let before = c.get_as("/apis", ACCEPT).await;
    let b = Backend::start(&[NAME], |s: Seen| async move { wardle(&s) }).await;
    register(c, &b).await;
    condition(c, "Passed").await;
    let groups = c.get("/apis").await.expect(200);
    let all = names(&groups["groups"], "/name");
    assert_eq!(all.last().map(String::as_str), Some("wardle.example.com"), "after those with more priority");
    let group = c.get("/apis/wardle.example.com").await.expect(200);
    assert_eq!(
        (&group["kind"], &group["preferredVersion"]["groupVersion"]),
        (&json!("APIGroup"), &json!("wardle.example.com/v1alpha1"))
    );
    let wardle = eventually("its discovery is known", || async {
        let a = c.get_as("/apis", ACCEPT).await;
        assert_ne!(a.headers["etag"], before.headers["etag"]);
        let list = a.json();
        let found =
            list["items"].as_array()?.iter().find(|g| g["metadata"]["name"] == "wardle.example.com")?.clone();
        (found["versions"][0]["freshness"] == "Current").then_some(found)
    })
    .await;
    assert_eq!(wardle["versions"][0]["resources"][0]["resource"], "flunders");
    assert_eq!(c.get(GV).await.expect(200)["resources"][0]["name"], "flunders");

    // Its documents are found, and nothing else is believed.
    let index = eventually("its OpenAPI is known", || async {
        let index = c.get("/openapi/v3").await.json();
        index["paths"]["apis/wardle.example.com/v1alpha1"].is_object().then_some(index)
    })
    .await;
    let url =
        index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"].as_str().expect("a URL");
    assert_eq!(c.get(url).await.expect(200)["whose"], "wardle");
    assert!(!index["paths"]["api/v1"]["serverRelativeURL"].as_str().expect("a URL").contains("STOLEN"));
    let spec = c.get("/openapi/v2").await;
    let tag = spec.headers["etag"].to_str().expect("text").to_owned();
    let spec = spec.expect(200);
    assert!(spec["paths"]["/apis/wardle.example.com/v1alpha1/flunders"].is_object());
    assert!(
        spec["paths"]["/api/v1/pods"].get("stolen").is_none()
            && spec["definitions"]["com.example.Flunder"].is_object()
    );
    assert_eq!(c.send(Method::GET, "/openapi/v2", &[("if-none-match", &tag)], "").await.code, 304);
    let paths = c.get("/").await.expect(200);
    assert!(paths["paths"].as_array().expect("paths").contains(&json!(GV)));

    // It breaks: the group stays, and says that it is not known.
    c.merge(
        &format!("{SERVICES}/v1alpha1.wardle.example.com"),
        &json!({"spec": {"service": {"name": "nobody"}}}),
    )
    .await
    .expect(200);
    let failed = condition(c, "ServiceNotFound").await;
    assert_eq!(failed["message"], "service/nobody in \"default\" is not present");
    let stale = eventually("it is stale", || async {
        let list = c.get_as("/apis", ACCEPT).await.json();
        let found =
            list["items"].as_array()?.iter().find(|g| g["metadata"]["name"] == "wardle.example.com")?.clone();
        (found["versions"][0]["freshness"] == "Stale").then_some(found)
    })
    .await;
    assert!(stale["versions"][0].get("resources").is_none());
    let unavailable = c.get(GV).await;
    assert_eq!((unavailable.code, unavailable.body.as_ref()), (503, &b"service unavailable\n"[..]));
    let metrics = String::from_utf8(c.get("/metrics").await.body.to_vec()).expect("text");
    assert!(metrics.contains("aggregator_unavailable_apiservice{name=\"v1alpha1.wardle.example.com\"} 1"));

    c.delete(&format!("{SERVICES}/v1alpha1.wardle.example.com")).await.expect(200);
    eventually("it is gone", || async { (c.get(GV).await.code == 404).then_some(()) }).await;
    let after = c.get_as("/apis", ACCEPT).await;
    assert_eq!(after.headers["etag"], before.headers["etag"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_servers_are_unavailable() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::start(&[NAME], |s: Seen| async move {
        if s.path == GV { backend::answer(500, "text/plain", "broken") } else { wardle(&s) }
    })
    .await;
    let other = Backend::start(&["api.other.svc"], |s: Seen| async move { wardle(&s) }).await;
    register(c, &b).await;
    let failed = condition(c, "FailedDiscoveryCheck").await;
    let url = format!("https://localhost:{}{GV}", b.port);
    assert_eq!(
        failed["message"],
        format!("failing or missing response from {url}: bad status from {url}: 500")
    );
    assert_eq!(c.get(&format!("{GV}/flunders")).await.code, 503);
    // Another server's certificate is none for this one.
    let spec = json!({"spec": {"caBundle": other.bundle, "service": {"port": other.port}}});
    c.merge(&format!("{SERVICES}/v1alpha1.wardle.example.com"), &spec).await.expect(200);
    let refused = eventually("the certificate is refused", || async {
        let f = condition(c, "FailedDiscoveryCheck").await;
        f["message"].as_str().is_some_and(|m| m.contains("x509")).then_some(f)
    })
    .await;
    assert!(
        refused["message"]
            .as_str()
            .expect("text")
            .contains("x509: certificate is not valid for api.default.svc")
    );
    c.merge(
        &format!("{SERVICES}/v1alpha1.wardle.example.com"),
        &json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}}),
    )
    .await
    .expect(200);
    condition(c, "Passed").await;
}

/// Echoes over upgraded connections; refuses to upgrade where the path says so.
async fn echo(mut request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path == "/apis" || path == GV {
        let s =
            Seen { method: Method::GET, path, headers: request.headers().clone(), body: Default::default() };
        return wardle(&s);
    }
    if path.ends_with("/refused") || path.ends_with("/ignored") {
        let code = if path.ends_with("/refused") { 403 } else { 200 };
        return backend::json(
            code,
            &json!({"user": request.headers()["x-remote-user"].to_str().expect("text")}),
        );
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.expect("an upgrade"));
        let mut buffer = [0u8; 64];
        while let Ok(n) = io.read(&mut buffer).await {
            if n == 0 || io.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "echo")
        .body(Empty::new().map_err(|e| match e {}).boxed_unsync())
        .expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_join_connections_and_nothing_else_does() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::raw(&[NAME], echo).await;
    register(c, &b).await;
    condition(c, "Passed").await;
    let upgrade = [("connection", "Upgrade"), ("upgrade", "echo")];
    let mut io = eventually("an upgraded connection", || async {
        let mut r =
            c.open_http1(Method::GET, &format!("{GV}/namespaces/default/flunders/x/exec"), &upgrade).await;
        if r.status() == StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        assert_eq!(r.status(), StatusCode::SWITCHING_PROTOCOLS);
        Some(TokioIo::new(hyper::upgrade::on(&mut r).await.expect("an upgrade")))
    })
    .await;
    io.write_all(b"hello").await.expect("written");
    let mut back = [0u8; 5];
    tokio::time::timeout(Duration::from_secs(10), io.read_exact(&mut back))
        .await
        .expect("in time")
        .expect("read");
    assert_eq!(&back, b"hello");

    // Without a 101 the answer comes back as an answer, and what follows on the client's connection is a request of
    // its own, authenticated and authorized as such: it never reaches the backend raw.
    let refused =
        c.open_http1(Method::GET, &format!("{GV}/namespaces/default/flunders/x/refused"), &upgrade).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let ignored =
        c.open_http1(Method::GET, &format!("{GV}/namespaces/default/flunders/x/ignored"), &upgrade).await;
    assert_eq!(ignored.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = ignored.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(body, "invalid upgrade response: status code 200\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_get_api_services() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let local = c.get(&format!("{SERVICES}/v1.apps")).await.expect(200);
    assert_eq!(local["status"]["conditions"][0]["reason"], "Local");
    let crd = json!({"metadata": {"name": "cows.farm.example.com"}, "spec": {"group": "farm.example.com", "scope": "Namespaced",
        "names": {"plural": "cows", "singular": "cow", "kind": "Cow", "listKind": "CowList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
            {"name": "v2", "served": false, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    c.post(crds, &crd).await.expect(201);
    let made = eventually("the API service exists", || async {
        let a = c.get(&format!("{SERVICES}/v1.farm.example.com")).await;
        (a.code == 200).then(|| a.json())
    })
    .await;
    assert_eq!(made["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!(
        (&made["spec"]["groupPriorityMinimum"], &made["spec"]["versionPriority"]),
        (&json!(1000), &json!(100))
    );
    assert_eq!(c.get(&format!("{SERVICES}/v2.farm.example.com")).await.code, 404);
    c.delete(&format!("{SERVICES}/v1.farm.example.com")).await.expect(200);
    eventually("it is made anew", || async {
        (c.get(&format!("{SERVICES}/v1.farm.example.com")).await.code == 200).then_some(())
    })
    .await;
    c.delete(&format!("{crds}/cows.farm.example.com")).await;
    eventually("it goes with its definition", || async {
        (c.get(&format!("{SERVICES}/v1.farm.example.com")).await.code == 404).then_some(())
    })
    .await;
}

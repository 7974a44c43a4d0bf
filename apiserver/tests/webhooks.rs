//! Admission webhooks over real TLS: what they are asked, what their answers do, what their failures do.

mod common;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::backend::{self, Backend, Seen, eventually};
use common::{Client, TestServer};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// An answer to the review that was seen.
fn review(s: &Seen, mut response: Value) -> http::Response<component_base::serving::listener::Body> {
    let sent = s.json();
    response["uid"] = sent["request"]["uid"].clone();
    backend::json(
        200,
        &json!({"apiVersion": sent["apiVersion"], "kind": "AdmissionReview", "response": response}),
    )
}

/// A patch for an answer.
fn patch(operations: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

fn hook(b: &Backend, path: &str, resource: &str, more: Value) -> Value {
    let mut h = json!({
        "name": "hook.example.com", "clientConfig": {"url": b.url(path), "caBundle": b.bundle},
        "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": [resource]}],
        "sideEffects": "None", "admissionReviewVersions": ["v1"],
        // The server's own objects stay out of it.
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
    });
    for (k, v) in more.as_object().into_iter().flatten() {
        h[k] = v.clone();
    }
    h
}

/// Creates a configuration, and waits until it is in force: `probe` says so.
async fn configure(c: &Client, path: &str, name: &str, hooks: Value) {
    let kind = if path == MUTATING { "Mutating" } else { "Validating" };
    let o = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
        "metadata": {"name": name}, "webhooks": hooks});
    c.post(path, &o).await.expect(201);
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "b"}})
}

/// The account that pods run as; nobody else makes it here.
async fn account(c: &Client) {
    let o = json!({"metadata": {"name": "default"}});
    c.post("/api/v1/namespaces/default/serviceaccounts", &o).await.expect(201);
}

/// Creates config maps, dry, until the backend has seen one.
async fn in_force(c: &Client, b: &Backend) {
    eventually("the webhook is called", || async {
        c.post(&format!("{MAPS}?dryRun=All"), &map("probe")).await;
        (!b.seen().is_empty()).then_some(())
    })
    .await;
    b.forget();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutating_webhooks_change_objects() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::start(&[], |s: Seen| async move {
        let step = |k: &str| patch(json!([{"op": "add", "path": format!("/data/{k}"), "value": "x"}]));
        match s.path.split('?').next().unwrap_or_default() {
            "/one" => review(&s, step("one")),
            "/two" => review(&s, step("two")),
            "/pods" => review(
                &s,
                patch(json!([{"op": "add", "path": "/spec/initContainers", "value": [
                {"name": "i", "image": "webhook-added", "resources": {}}]}])),
            ),
            _ => backend::answer(404, "text/plain", "?"),
        }
    })
    .await;
    account(c).await;
    configure(c, MUTATING, "b-second", json!([hook(&b, "/two", "configmaps", json!({}))])).await;
    configure(
        c,
        MUTATING,
        "a-first",
        json!([hook(
            &b,
            "/one",
            "configmaps",
            json!({"reinvocationPolicy": "IfNeeded", "timeoutSeconds": 7})
        )]),
    )
    .await;
    configure(c, MUTATING, "pods", json!([hook(&b, "/pods", "pods", json!({}))])).await;
    eventually("all three are in force", || async {
        let m = c.post(&format!("{MAPS}?dryRun=All"), &map("probe")).await.json();
        let p = json!({"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let p = c.post("/api/v1/namespaces/default/pods?dryRun=All", &p).await.json();
        (m["data"]["one"] == "x" && m["data"]["two"] == "x" && p["spec"]["initContainers"].is_array())
            .then_some(())
    })
    .await;
    b.forget();

    let made = c
        .send(
            http::Method::POST,
            &format!("{MAPS}?fieldManager=me"),
            &[("content-type", "application/json")],
            json!({"metadata": {"generateName": "m-"}}).to_string(),
        )
        .await
        .expect(500);
    // Without `data` there is no place for what the patch adds.
    assert_eq!(made["reason"], "InternalError");
    b.forget();
    let made = c.post(&format!("{MAPS}?fieldManager=me"), &map("m")).await.expect(201);
    assert_eq!(made["data"], json!({"a": "b", "one": "x", "two": "x"}));
    let seen = b.seen();
    let paths: Vec<&str> = seen.iter().map(|s| s.path.as_str()).collect();
    assert_eq!(
        paths,
        ["/one?timeout=7s", "/two?timeout=10s", "/one?timeout=7s"],
        "by name, then the one that asked"
    );
    let q = &seen[0].json();
    assert_eq!(
        (q["apiVersion"].as_str(), q["kind"].as_str()),
        (Some("admission.k8s.io/v1"), Some("AdmissionReview"))
    );
    let q = &q["request"];
    assert_eq!(q["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(q["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&q["requestKind"], &q["requestResource"]), (&q["kind"], &q["resource"]));
    assert_eq!(
        (q["name"].as_str(), q["namespace"].as_str(), q["operation"].as_str()),
        (Some("m"), Some("default"), Some("CREATE"))
    );
    assert_eq!(q["userInfo"]["username"], "admin");
    assert_eq!(q["object"]["data"], json!({"a": "b"}));
    assert_eq!((&q["object"]["kind"], &q["object"]["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    assert_eq!((&q["oldObject"], &q["dryRun"]), (&Value::Null, &json!(false)));
    assert_eq!(
        q["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"})
    );
    assert_eq!(seen[1].json()["request"]["object"]["data"]["one"], "x", "the second sees what the first did");
    assert_eq!(seen[0].header("user-agent"), ["kube-apiserver-admission"]);

    // What a webhook adds gets its defaults.
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = c.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let init = &pod["spec"]["initContainers"][0];
    assert_eq!(
        (init["image"].as_str(), init["terminationMessagePolicy"].as_str()),
        (Some("webhook-added"), Some("File"))
    );

    // No webhook is asked about webhooks, whatever its rules say.
    configure(c, MUTATING, "all", json!([hook(&b, "/none", "*", json!({"namespaceSelector": {}, "rules": [
        {"operations": ["*"], "apiGroups": ["admissionregistration.k8s.io"], "apiVersions": ["*"], "resources": ["*"]}]}))]))
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    c.delete(&format!("{MUTATING}/all")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validating_webhooks_refuse() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::start(&[], |s: Seen| async move {
        let q = s.json()["request"].clone();
        let name = q["name"].as_str().unwrap_or_default().to_owned();
        match name.as_str() {
            "denied" => review(&s, json!({"allowed": false, "warnings": ["mind this", "mind this"],
                "status": {"message": "not this one", "code": 418, "reason": "Teapot", "details": {"name": "d"}}})),
            "silent" => review(&s, json!({"allowed": false})),
            "stays" if q["operation"] == "DELETE" => review(&s, json!({"allowed": false})),
            "attached" if q["operation"] == "CONNECT" => review(&s, json!({"allowed": false, "status": {"message": "no attaching"}})),
            _ => review(&s, json!({"allowed": true, "warnings": ["all well"]})),
        }
    })
    .await;
    configure(
        c,
        VALIDATING,
        "v",
        json!([
            hook(&b, "/v", "configmaps", json!({})),
            hook(&b, "/w", "deployments/scale", json!({"name": "scale.example.com"})),
            hook(
                &b,
                "/x",
                "pods/*",
                json!({"name": "pods.example.com", "rules": [
            {"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/*"]}]})
            ),
        ]),
    )
    .await;
    in_force(c, &b).await;

    let denied = c.post(MAPS, &map("denied")).await;
    let warnings: Vec<_> =
        denied.headers.get_all("warning").iter().map(|w| w.to_str().expect("text")).collect();
    assert_eq!(warnings, ["299 - \"mind this\""], "refusals warn, too");
    let denied = denied.expect(418);
    assert_eq!(denied["message"], "admission webhook \"hook.example.com\" denied the request: not this one");
    assert_eq!((&denied["reason"], &denied["details"]["name"]), (&json!("Teapot"), &json!("d")));
    assert_eq!((&denied["kind"], &denied["status"]), (&json!("Status"), &json!("Failure")));
    let silent = c.post(MAPS, &map("silent")).await.expect(400);
    assert_eq!(
        silent["message"],
        "admission webhook \"hook.example.com\" denied the request without explanation"
    );
    c.get(&format!("{MAPS}/denied")).await.expect(404);

    let made = c.post(MAPS, &map("stays")).await;
    assert_eq!(made.headers["warning"], "299 - \"all well\"");
    let made = made.expect(201);
    b.forget();
    // A generated name is known by now, and the object is complete.
    c.post(MAPS, &json!({"metadata": {"generateName": "g-"}})).await.expect(201);
    let q = b.seen()[0].json();
    assert!(q["request"]["name"].as_str().expect("name").starts_with("g-"));
    assert!(q["request"]["object"]["metadata"]["uid"].is_string());
    b.forget();
    let mut o = made.clone();
    o["data"]["c"] = json!("d");
    c.put(&format!("{MAPS}/stays"), &o).await.expect(200);
    let q = b.seen()[0].json()["request"].clone();
    assert_eq!((&q["operation"], &q["oldObject"]["data"]), (&json!("UPDATE"), &json!({"a": "b"})));
    assert_eq!(q["options"]["kind"], "UpdateOptions");
    b.forget();
    c.delete(&format!("{MAPS}/stays?propagationPolicy=Orphan")).await.expect(400);
    let q = b.seen()[0].json()["request"].clone();
    assert_eq!(
        (&q["operation"], &q["object"], &q["oldObject"]["data"]["c"]),
        (&json!("DELETE"), &Value::Null, &json!("d"))
    );
    assert_eq!(q["options"]["propagationPolicy"], "Orphan");
    c.get(&format!("{MAPS}/stays")).await.expect(200);
    c.delete(MAPS).await.expect(400);
    c.get(&format!("{MAPS}/stays")).await.expect(200);

    // Connections: the options are the object.
    account(c).await;
    let pod =
        json!({"metadata": {"name": "attached"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    c.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    b.forget();
    let e = c.get("/api/v1/namespaces/default/pods/attached/attach?stdin=true&container=c").await.expect(400);
    assert_eq!(e["message"], "admission webhook \"pods.example.com\" denied the request: no attaching");
    let q = b.seen()[0].json()["request"].clone();
    assert_eq!(
        q["object"],
        json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true, "container": "c"})
    );
    assert_eq!((&q["subResource"], &q["kind"]["kind"]), (&json!("attach"), &json!("PodAttachOptions")));

    // A subresource with a kind of its own.
    let d = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    c.post("/apis/apps/v1/namespaces/default/deployments", &d).await.expect(201);
    b.forget();
    c.merge("/apis/apps/v1/namespaces/default/deployments/d/scale", &json!({"spec": {"replicas": 4}}))
        .await
        .expect(200);
    let q = b.seen()[0].json()["request"].clone();
    assert_eq!(q["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(
        (&q["object"]["spec"], &q["oldObject"]["spec"]),
        (&json!({"replicas": 4}), &json!({"replicas": 1}))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_follow_their_policy() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::start(&[], |s: Seen| async move {
        match s.path.split('?').next().unwrap_or_default() {
            "/slow" => {
                tokio::time::sleep(Duration::from_secs(20)).await;
                review(&s, json!({"allowed": true}))
            }
            "/redirect" => {
                let mut r = backend::answer(307, "text/plain", "");
                r.headers_mut().insert("location", http::HeaderValue::from_static("/ok"));
                r
            }
            "/broken" => backend::answer(200, "application/json", "{"),
            "/missing" => backend::answer(404, "text/plain", "nothing here"),
            _ => review(&s, json!({"allowed": true})),
        }
    })
    .await;
    let other = Backend::start(&[], |s: Seen| async move { review(&s, json!({"allowed": true})) }).await;
    let deny = |name: &str, message: &str| {
        let (name, message) = (name.to_owned(), message.to_owned());
        async move {
            let e = eventually("the webhook fails", || async {
                let a = c.post(MAPS, &map(&format!("{name}-x"))).await;
                if a.code == 201 {
                    c.delete(&format!("{MAPS}/{name}-x")).await;
                }
                (a.code == 500).then(|| a.json())
            })
            .await;
            let text = e["message"].as_str().expect("a message").to_owned();
            let prefix = "Internal error occurred: failed calling webhook \"hook.example.com\": failed to call webhook: ";
            assert!(text.starts_with(prefix) && text.contains(&message), "{text}");
            assert_eq!(e["reason"], "InternalError");
            c.delete(&format!("{VALIDATING}/{name}")).await.expect(200);
            eventually("the webhook is gone", || async {
                (c.post(&format!("{MAPS}?dryRun=All"), &map("y")).await.code == 201).then_some(())
            })
            .await;
        }
    };
    let of = |path: &str, more: Value| json!([hook(&b, path, "configmaps", more)]);
    configure(c, VALIDATING, "slow", of("/slow", json!({"timeoutSeconds": 1}))).await;
    deny("slow", "/slow?timeout=1s\": context deadline exceeded").await;
    configure(c, VALIDATING, "redirect", of("/redirect", json!({}))).await;
    deny("redirect", "the server responded with the status code 307").await;
    assert!(!b.seen().iter().any(|s| s.path.starts_with("/ok")), "redirects are not followed");
    configure(c, VALIDATING, "broken", of("/broken", json!({}))).await;
    deny("broken", "json parse error").await;
    configure(c, VALIDATING, "missing", of("/missing", json!({}))).await;
    deny("missing", "the server could not find the requested resource").await;
    let untrusted = json!({"clientConfig": {"url": b.url("/ok"), "caBundle": other.bundle}});
    configure(c, VALIDATING, "untrusted", of("/ok", untrusted)).await;
    deny("untrusted", "x509: certificate signed by unknown authority").await;
    let service = json!({"clientConfig": {"service": {"namespace": "default", "name": "nobody"}, "caBundle": b.bundle}});
    configure(c, VALIDATING, "service", of("/ok", service)).await;
    deny("service", "Post \"https://nobody.default.svc:443/?timeout=10s\": service \"nobody\" not found")
        .await;

    // Open: the request goes on as if there were no webhook; a refusal still counts.
    configure(c, VALIDATING, "open", of("/slow", json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"})))
        .await;
    b.forget();
    in_force(c, &b).await;
    let begun = std::time::Instant::now();
    c.post(MAPS, &map("open")).await.expect(201);
    assert!(begun.elapsed() >= Duration::from_millis(900));
    let metrics = String::from_utf8(c.get("/metrics").await.body.to_vec()).expect("text");
    for m in [
        "apiserver_admission_webhook_fail_open_count{name=\"hook.example.com\",type=\"validating\"}",
        "apiserver_admission_webhook_rejection_count{name=\"hook.example.com\",type=\"validating\",operation=\"CREATE\",error_type=\"calling_webhook_error\",rejection_code=\"404\"}",
        "apiserver_admission_webhook_admission_duration_seconds_bucket",
        "apiserver_admission_webhook_request_total{",
    ] {
        assert!(metrics.contains(m), "{m}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_selectors_and_dry_runs() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::start(&[], |s: Seen| async move { review(&s, json!({"allowed": true})) }).await;
    let scalers = |version: &str, policy: &str| {
        json!({"matchPolicy": policy, "name": format!("{}.example.com", policy.to_lowercase()), "rules": [
            {"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": [version], "resources": ["*"]}]})
    };
    configure(c, VALIDATING, "v", json!([
        hook(&b, "/equivalent", "-", scalers("v1", "Equivalent")),
        hook(&b, "/exact", "-", scalers("v1", "Exact")),
        hook(&b, "/labelled", "configmaps", json!({"objectSelector": {"matchLabels": {"ask": "yes"}}, "name": "l.example.com"})),
        hook(&b, "/elsewhere", "configmaps", json!({"namespaceSelector": {"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["default"]}]}, "name": "e.example.com"})),
        hook(&b, "/old", "secrets", json!({"admissionReviewVersions": ["v1beta1"], "name": "o.example.com"})),
    ]))
    .await;
    let hpa = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"maxReplicas": 3, "minReplicas": 1,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]}})
    };
    eventually("the webhooks are in force", || async {
        c.post("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers?dryRun=All", &hpa("p"))
            .await
            .expect(201);
        (!b.seen().is_empty()).then_some(())
    })
    .await;
    b.forget();
    c.post("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", &hpa("h")).await.expect(201);
    let seen = b.seen();
    assert_eq!(seen.len(), 1, "an exact rule for v1 does not see v2");
    let q = seen[0].json()["request"].clone();
    assert_eq!((&q["resource"]["version"], &q["requestResource"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!((&q["kind"]["version"], &q["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(q["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(q["object"]["spec"]["targetCPUUtilizationPercentage"], 70);
    b.forget();

    let mut m = map("m");
    c.post(MAPS, &m).await.expect(201);
    assert!(b.seen().is_empty());
    m["metadata"] = json!({"name": "n", "labels": {"ask": "yes"}});
    let made = c.post(MAPS, &m).await.expect(201);
    let paths =
        || b.seen().iter().map(|s| s.path.split('?').next().expect("path").to_owned()).collect::<Vec<_>>();
    assert_eq!(paths(), ["/labelled"]);
    b.forget();
    let mut unlabelled = made.clone();
    unlabelled["metadata"]["labels"] = json!({});
    c.put(&format!("{MAPS}/n"), &unlabelled).await.expect(200);
    assert_eq!(paths(), ["/labelled"], "the old object is looked at, too");
    b.forget();
    c.post("/api/v1/namespaces/kube-system/configmaps", &map("k")).await.expect(201);
    assert_eq!(paths(), ["/elsewhere"]);
    b.forget();
    c.post("/api/v1/namespaces/default/secrets?dryRun=All", &json!({"metadata": {"name": "s"}}))
        .await
        .expect(201);
    let q = b.seen()[0].json();
    assert_eq!(
        (&q["apiVersion"], &q["request"]["dryRun"]),
        (&json!("admission.k8s.io/v1beta1"), &json!(true))
    );
    assert_eq!(q["request"]["options"]["dryRun"], json!(["All"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_keep_requests_out() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::start(&[], |s: Seen| async move { review(&s, json!({"allowed": true})) }).await;
    let hook_with = |name: &str, policy: &str, expression: &str| {
        hook(
            &b,
            &format!("/{name}"),
            "configmaps",
            json!({"name": format!("{name}.example.com"), "failurePolicy": policy, "matchConditions": [{"name": "c", "expression": expression}]}),
        )
    };
    configure(
        c,
        VALIDATING,
        "v",
        json!([
            hook_with("named", "Fail", "object.metadata.name != 'skip-me'"),
            hook_with("user", "Fail", "request.userInfo.username == 'nobody'"),
            hook_with("open", "Ignore", "object.data.missing == 'x'"),
        ]),
    )
    .await;
    in_force(c, &b).await;
    c.post(MAPS, &map("skip-me")).await.expect(201);
    assert!(b.seen().is_empty());
    c.post(MAPS, &map("ask")).await.expect(201);
    let paths: Vec<String> = b.seen().iter().map(|s| s.path.clone()).collect();
    assert_eq!(paths, ["/named?timeout=10s"]);
    configure(c, VALIDATING, "w", json!([hook_with("closed", "Fail", "object.data.missing == 'x'")])).await;
    let e = eventually("the failing condition counts", || async {
        let a = c.post(&format!("{MAPS}?dryRun=All"), &map("closed")).await;
        (a.code == 403).then(|| a.json())
    })
    .await;
    let message = e["message"].as_str().expect("text");
    assert!(message.starts_with("configmaps \"closed\" is forbidden: "), "{message}");
    assert!(message.contains("no such key: missing"), "{message}");
    let bad = json!({"metadata": {"name": "bad"}, "webhooks": [hook_with("bad", "Fail", "object.metadata.name ==")]});
    let e = c.post(VALIDATING, &bad).await.expect(422);
    assert_eq!(e["details"]["causes"][0]["field"], "webhooks[0].matchConditions[0].expression");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_shown_in_the_versions_of_rules() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let b = Backend::start(&[], |s: Seen| async move {
        review(
            &s,
            patch(json!([
                {"op": "add", "path": "/spec/added", "value": "x"},
                {"op": "add", "path": "/spec/unknown", "value": "x"},
            ])),
        )
    })
    .await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {"type": "string"}, "added": {"type": "string"}, "d": {"type": "string", "default": "by default"}}}}}});
    let crd = json!({"metadata": {"name": "cows.farm.example.com"}, "spec": {"group": "farm.example.com", "scope": "Namespaced",
        "names": {"plural": "cows", "singular": "cow", "kind": "Cow", "listKind": "CowList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema},
            {"name": "v2", "served": true, "storage": false, "schema": schema}]}});
    c.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await.expect(201);
    configure(
        c,
        MUTATING,
        "cows",
        json!([hook(
            &b,
            "/cows",
            "cows",
            json!({"matchPolicy": "Equivalent", "rules": [
                {"operations": ["CREATE"], "apiGroups": ["farm.example.com"], "apiVersions": ["v1"], "resources": ["cows"]}]})
        )]),
    )
    .await;
    let cow = |version: &str, name: &str| json!({"apiVersion": format!("farm.example.com/{version}"), "kind": "Cow", "metadata": {"name": name}, "spec": {"a": "b"}});
    for version in ["v1", "v2"] {
        let path = format!("/apis/farm.example.com/{version}/namespaces/default/cows");
        let made = eventually("the webhook changes cows", || async {
            let a = c.post(&format!("{path}?dryRun=All"), &cow(version, version)).await;
            (a.code == 201 && a.json()["spec"]["added"] == "x").then(|| a.json())
        })
        .await;
        assert_eq!(
            made["spec"],
            json!({"a": "b", "added": "x", "d": "by default"}),
            "pruned and with defaults"
        );
        assert_eq!(made["apiVersion"], format!("farm.example.com/{version}"));
        let q = b.seen().pop().expect("a review").json()["request"].clone();
        assert_eq!((&q["kind"]["version"], &q["requestKind"]["version"]), (&json!("v1"), &json!(version)));
        assert_eq!(q["object"]["apiVersion"], "farm.example.com/v1");
        b.forget();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_audited_and_made_with_the_configured_credentials() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let kubeconfig = write(
        "hooks.kubeconfig",
        "apiVersion: v1\nkind: Config\nusers: [{name: 127.0.0.1:*, user: {token: other}}, {name: '*', user: {token: t0}}]\n",
    );
    let plugins = write(
        "plugins.yaml",
        &format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: MutatingAdmissionWebhook\n  configuration: {{apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: {kubeconfig}}}\n"
        ),
    );
    let policy = write(
        "policy.yaml",
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- {level: Metadata, users: [quiet]}\n- {level: Request, resources: [{group: \"\", resources: [configmaps]}]}\n- {level: None}\n",
    );
    let log = dir.path().join("audit.log");
    let s = TestServer::start(&[
        &format!("--admission-control-config-file={plugins}"),
        &format!("--audit-policy-file={policy}"),
        &format!("--audit-log-path={}", log.display()),
    ])
    .await;
    let c = &s.admin;
    let b = Backend::start(&[], |s: Seen| async move {
        match s.path.split('?').next().unwrap_or_default() {
            "/change" => review(&s, patch(json!([{"op": "add", "path": "/data/x", "value": "y"}]))),
            "/owners" => review(
                &s,
                patch(json!([{"op": "replace", "path": "/metadata/managedFields/0/fieldsType", "value": "nonsense"}])),
            ),
            "/look" => review(&s, json!({"allowed": true})),
            _ => backend::answer(500, "text/plain", "out of order"),
        }
    })
    .await;
    let named = |name: &str, more: Value| {
        let mut h = hook(&b, &format!("/{name}"), "configmaps", more);
        h["name"] = json!(format!("{name}.example.com"));
        h
    };
    let open = json!({"failurePolicy": "Ignore"});
    let hooks = json!([
        named("look", json!({})),
        named("change", json!({})),
        named("owners", json!({})),
        named("broken", open.clone())
    ]);
    configure(c, VALIDATING, "v", json!([named("failing", open)])).await;
    configure(c, MUTATING, "m", hooks).await;
    eventually("all are in force", || async {
        c.post(&format!("{MAPS}?dryRun=All"), &map("probe")).await;
        let seen: Vec<String> = b.seen().iter().map(|s| s.path.clone()).collect();
        ["/broken", "/failing"].iter().all(|w| seen.iter().any(|p| p.starts_with(w))).then_some(())
    })
    .await;
    b.forget();
    let made = c.post(MAPS, &map("told")).await;
    let warnings: Vec<_> = made.headers.get_all("warning").iter().filter_map(|w| w.to_str().ok()).collect();
    assert!(
        warnings
            .iter()
            .any(|w| w.contains(".metadata.managedFields was in an invalid state after admission")),
        "{warnings:?}"
    );
    let made = made.expect(201);
    assert_eq!(
        (&made["data"]["x"], &made["metadata"]["managedFields"][0]["fieldsType"]),
        (&json!("y"), &json!("FieldsV1"))
    );
    for s in b.seen() {
        let expected: &[&str] = if s.path.starts_with("/failing") { &[] } else { &["Bearer t0"] };
        assert_eq!(s.header("authorization"), expected, "{}", s.path);
    }
    let annotations = async |name: &str| {
        eventually("the request is in the log", || async {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let mut events = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
            events.find(|e| e["objectRef"]["name"] == name).map(|e| e["annotations"].clone())
        })
        .await
    };
    let told = annotations("told").await;
    let of = |kind: &str, index: usize| {
        told[format!("{kind}webhook.admission.k8s.io/round_0_index_{index}")].clone()
    };
    assert_eq!(of("mutation.", 0), r#"{"configuration":"m","webhook":"look.example.com","mutated":false}"#);
    assert_eq!(of("mutation.", 1), r#"{"configuration":"m","webhook":"change.example.com","mutated":true}"#);
    assert_eq!(
        of("patch.", 1),
        r#"{"configuration":"m","webhook":"change.example.com","patch":[{"op":"add","path":"/data/x","value":"y"}],"patchType":"JSONPatch"}"#
    );
    assert_eq!((of("patch.", 0), of("failed-open.mutation.", 0)), (Value::Null, Value::Null));
    assert_eq!(of("failed-open.mutation.", 3), "broken.example.com");
    assert_eq!(of("failed-open.validating.", 0), "failing.example.com");
    let quiet = s.user("quiet", &["system:masters"]);
    quiet.post(MAPS, &map("quiet")).await.expect(201);
    let told = annotations("quiet").await;
    assert!(told["mutation.webhook.admission.k8s.io/round_0_index_1"].is_string());
    assert!(told["patch.webhook.admission.k8s.io/round_0_index_1"].is_null(), "patches hold data");
}

/// CVE-2023-2727: ephemeral containers got around the policy on images.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_reviewed() {
    let b = Backend::start(&[], |s: Seen| async move {
        let mut review = s.json();
        let images = review["spec"]["containers"].as_array().cloned().unwrap_or_default();
        if images.iter().any(|i| i["image"] == "broken") {
            return backend::answer(500, "text/plain", "out of order");
        }
        let bad = images.iter().any(|i| i["image"] == "bad");
        review["status"] =
            if bad { json!({"allowed": false, "reason": "not this one"}) } else { json!({"allowed": true}) };
        backend::json(200, &review)
    })
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \"{}\", certificate-authority-data: {}}}}}]\nusers: [{{name: u, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
        b.url("/images"),
        b.bundle
    );
    std::fs::write(dir.path().join("images.kubeconfig"), kubeconfig).expect("a file");
    let plugins = dir.path().join("plugins.yaml");
    std::fs::write(&plugins, "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: ImagePolicyWebhook\n  configuration: {imagePolicy: {kubeConfigFile: images.kubeconfig, retryBackoff: 1}}\n").expect("a file");
    let s = TestServer::start(&[
        "--enable-admission-plugins=ImagePolicyWebhook",
        &format!("--admission-control-config-file={}", plugins.display()),
    ])
    .await;
    let c = &s.admin;
    account(c).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, image: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": image}]}});
    let refused = c.post(pods, &pod("p", "bad")).await.expect(403);
    let why = "pods \"p\" is forbidden: image policy webhook backend denied one or more images: not this one";
    assert_eq!(refused["message"], why);
    c.post(pods, &pod("p", "good")).await.expect(201);
    let asked = b.seen().len();
    c.post(pods, &pod("q", "good")).await.expect(201);
    assert_eq!(b.seen().len(), asked, "the answer is remembered");
    let q = b.seen()[0].json();
    assert_eq!(
        (&q["apiVersion"], &q["kind"]),
        (&json!("imagepolicy.k8s.io/v1alpha1"), &json!("ImageReview"))
    );
    assert_eq!(q["spec"], json!({"containers": [{"image": "bad"}], "namespace": "default"}));
    let kind = [("content-type", "application/strategic-merge-patch+json")];
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "bad"}]}}).to_string();
    let refused =
        c.send(http::Method::PATCH, &format!("{pods}/p/ephemeralcontainers"), &kind, debug).await.expect(403);
    assert!(refused["message"].as_str().is_some_and(|m| m.contains("not this one")), "{refused}");
    // Nobody to ask: nothing is let in.
    c.post(pods, &pod("r", "broken")).await.expect(403);
}

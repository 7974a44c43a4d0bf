//! How requests flow: priority and fairness, audit, timeouts, shutdown, health, debug pages.

mod common;

use std::time::Duration;

use common::TestServer;
use http::Method;
use serde_json::{Value, json};

const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn uid(s: &TestServer, resource: &str, name: &str) -> String {
    let o = s.admin.get(&format!("{FLOW}/{resource}/{name}")).await.expect(200);
    o["metadata"]["uid"].as_str().expect("a uid").to_owned()
}

/// Asks until the answer is as wanted.
async fn until<F: AsyncFnMut() -> bool>(what: &str, mut check: F) {
    for _ in 0..100 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_classified() {
    let s = TestServer::start(&[]).await;
    let told = |a: &common::Answer, h: &str| {
        a.headers.get(h).map(|v| v.to_str().expect("text").to_owned()).unwrap_or_default()
    };
    let (schema, level) = ("x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid");
    let exempt =
        (uid(&s, "flowschemas", "exempt").await, uid(&s, "prioritylevelconfigurations", "exempt").await);
    until("the bootstrap objects are in use", async || {
        let a = s.admin.get("/api/v1/namespaces").await;
        (told(&a, schema), told(&a, level)) == exempt
    })
    .await;
    // Refusals are classified as well.
    let user = s.user("eve", &["ops"]);
    let a = user.get("/api/v1/namespaces").await;
    assert_eq!((a.code, told(&a, schema)), (403, uid(&s, "flowschemas", "global-default").await));

    // A schema of one's own, and the condition it gets.
    let custom = json!({"metadata": {"name": "eves"}, "spec": {
        "matchingPrecedence": 500, "priorityLevelConfiguration": {"name": "workload-low"},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "eve"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}});
    let made = s.admin.post(&format!("{FLOW}/flowschemas"), &custom).await.expect(201);
    let wanted = made["metadata"]["uid"].as_str().expect("a uid");
    until("the new schema is in use", async || told(&user.get("/api/v1/namespaces").await, schema) == wanted)
        .await;
    let mut lost = custom;
    lost["metadata"]["name"] = "lost".into();
    lost["spec"]["priorityLevelConfiguration"]["name"] = "nowhere".into();
    s.admin.post(&format!("{FLOW}/flowschemas"), &lost).await.expect(201);
    for (name, status, reason) in [("eves", "False", "Found"), ("lost", "True", "NotFound")] {
        until(name, async || {
            let o = s.admin.get(&format!("{FLOW}/flowschemas/{name}")).await.expect(200);
            let c = &o["status"]["conditions"][0];
            c["type"] == "Dangling" && c["status"] == status && c["reason"] == reason
        })
        .await;
    }

    let table = s.admin.get("/debug/api_priority_and_fairness/dump_priority_levels").await;
    let text = String::from_utf8_lossy(&table.body).into_owned();
    assert!(text.lines().any(|l| l.starts_with("workload-low,")), "{text}");
    let table = s.admin.get("/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1").await;
    let text = String::from_utf8_lossy(&table.body).into_owned();
    assert!(
        text.contains("FlowDistingsher") && text.contains("/debug/api_priority_and_fairness/dump_requests"),
        "{text}"
    );
    assert_eq!(s.admin.get("/debug/api_priority_and_fairness/nonsense").await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_level_refuses() {
    let s = TestServer::start(&["--max-requests-inflight=5", "--max-mutating-requests-inflight=5"]).await;
    // One seat, nothing borrowed, no queue.
    let level = json!({"metadata": {"name": "tiny"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    s.admin.post(&format!("{FLOW}/prioritylevelconfigurations"), &level).await.expect(201);
    let schema = json!({"metadata": {"name": "tiny"}, "spec": {
        "matchingPrecedence": 2, "priorityLevelConfiguration": {"name": "tiny"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "eve"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/version"]}]}]}});
    s.admin.post(&format!("{FLOW}/flowschemas"), &schema).await.expect(201);
    let eve = s.user("eve", &[]);
    // A level without seats still runs one request at a time.
    until("requests get through one by one", async || {
        eve.get("/version").await.headers.contains_key("x-kubernetes-pf-flowschema-uid")
    })
    .await;
    until("some of many at once are refused", async || {
        let all = (0..40).map(|_| {
            let eve = eve.clone();
            tokio::spawn(async move { eve.get("/version").await })
        });
        let all: Vec<common::Answer> =
            futures::future::join_all(all).await.into_iter().map(|a| a.expect("no panic")).collect();
        let Some(refused) = all.iter().find(|a| a.code == 429) else { return false };
        assert_eq!(refused.headers["retry-after"], "1");
        assert_eq!(&refused.body[..], b"Too many requests, please try again later.\n");
        assert!(all.iter().any(|a| a.code == 200), "not all are refused");
        true
    })
    .await;
    let metrics = s.admin.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        text.lines().any(|l| l.starts_with("apiserver_flowcontrol_rejected_requests_total{")
            && l.contains("priority_level=\"tiny\"")
            && l.contains("reason=\"concurrency-limit\"")),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_log() {
    let dir = tempfile::tempdir().expect("a folder");
    let policy = dir.path().join("policy.yaml");
    std::fs::write(
        &policy,
        r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, resources: [{group: "", resources: [configmaps, pods, namespaces]}]}
- {level: None}
"#,
    )
    .expect("a policy");
    let log = dir.path().join("audit.log");
    let flags =
        [format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", log.display())];
    let s = TestServer::start(&[&flags[0], &flags[1]]).await;
    let events = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
    };
    let of = |name: &str| -> Vec<Value> {
        events()
            .into_iter()
            .filter(|e| e["objectRef"]["name"] == name && e["user"]["username"] != "system:apiserver")
            .collect()
    };

    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "told"}, "data": {"a": "b"}});
    let sent = s
        .admin
        .send(
            Method::POST,
            MAPS,
            &[
                ("content-type", "application/json"),
                ("audit-id", "my-id"),
                ("user-agent", "tester"),
                ("x-forwarded-for", "192.0.2.7"),
            ],
            map.to_string(),
        )
        .await;
    assert_eq!((sent.code, &sent.headers["audit-id"]), (201, &"my-id".parse().expect("a header")));
    let told = of("told");
    assert_eq!(told.len(), 1, "{told:?}");
    let e = &told[0];
    assert_eq!(
        (&e["auditID"], &e["stage"], &e["verb"]),
        (&json!("my-id"), &json!("ResponseComplete"), &json!("create"))
    );
    assert_eq!(e["sourceIPs"], json!(["192.0.2.7", "127.0.0.1"]));
    assert_eq!(
        (&e["requestObject"]["data"]["a"], &e["responseObject"]["data"]["a"]),
        (&json!("b"), &json!("b"))
    );
    assert_eq!(e["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(e["user"]["username"], "admin");

    // Protobuf is told as JSON.
    let wire = proto::envelope::encode(
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "wire"}}),
    )
    .expect("protobuf");
    let kind = "application/vnd.kubernetes.protobuf";
    assert_eq!(
        s.admin.send(Method::POST, MAPS, &[("content-type", kind), ("accept", kind)], wire).await.code,
        201
    );
    assert_eq!(of("wire")[0]["responseObject"]["kind"], "ConfigMap");

    // What a secret holds is in no event.
    let secret = json!({"metadata": {"name": "hidden"}, "stringData": {"p": "dont-tell"}});
    s.admin.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    s.admin.get("/api/v1/namespaces/default/secrets/hidden").await.expect(200);
    assert_eq!(of("hidden").len(), 2);
    assert!(!std::fs::read_to_string(&log).expect("a log").contains("dont-tell"));

    // Refusals, impersonation, nobody.
    assert_eq!(s.user("eve", &[]).get(&format!("{MAPS}/refused")).await.code, 403);
    let refused = &of("refused")[0];
    assert_eq!(
        (&refused["responseStatus"]["code"], &refused["annotations"]["authorization.k8s.io/decision"]),
        (&json!(403), &json!("forbid"))
    );
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");
    let a = s.admin.send(Method::GET, &format!("{MAPS}/as"), &[("impersonate-user", "bob")], "").await;
    assert_eq!(a.code, 403);
    assert_eq!(of("as")[0]["impersonatedUser"]["username"], "bob");
    assert_eq!(s.anonymous().get(&format!("{MAPS}/nobody")).await.code, 401);
    let nobody = &of("nobody")[0];
    assert_eq!(nobody["responseStatus"]["message"], "Authentication failed, no credentials provided");
    let bad = s
        .anonymous()
        .send(Method::GET, &format!("{MAPS}/badtoken"), &[("authorization", "Bearer very-secret")], "")
        .await;
    assert_eq!(bad.code, 401);
    assert_eq!(of("badtoken")[0]["responseStatus"]["message"], "Authentication failed, attempted: bearer");
    assert!(!std::fs::read_to_string(&log).expect("a log").contains("very-secret"));

    // A watch is told when it starts and when it ends.
    let watch = s.admin.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=0")).await;
    let watches = || {
        events().into_iter().filter(|e| e["verb"] == "watch").map(|e| e["stage"].clone()).collect::<Vec<_>>()
    };
    until("the start is told", async || watches() == [json!("ResponseStarted")]).await;
    drop(watch);
    until("the end is told", async || watches() == [json!("ResponseStarted"), json!("ResponseComplete")])
        .await;

    // Admission's findings are annotations.
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    s.admin.merge("/api/v1/namespaces/default", &label).await.expect(200);
    let account = json!({"metadata": {"name": "default"}});
    s.admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
    let pod = json!({"metadata": {"name": "loose"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    s.admin.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let annotations = &of("loose")[0]["annotations"];
    assert_eq!(annotations["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
    let found = annotations["pod-security.kubernetes.io/audit-violations"].as_str().expect("a finding");
    assert!(found.starts_with("would violate PodSecurity \"restricted:latest\": "), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_are_audited_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let policy = dir.path().join("policy.yaml");
    let rules = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- {level: RequestResponse, verbs: [list], resources: [{group: \"\", resources: [configmaps]}]}\n- {level: None}\n";
    std::fs::write(&policy, rules).expect("a policy");
    let log = dir.path().join("audit.log");
    let s = TestServer::start(&[
        &format!("--audit-policy-file={}", policy.display()),
        &format!("--audit-log-path={}", log.display()),
    ])
    .await;
    for i in 0..40 {
        let o = json!({"metadata": {"name": format!("m{i:02}")}, "data": {"x": "x".repeat(4000)}});
        s.admin.post(MAPS, &o).await.expect(201);
    }
    let list = s.admin.get(MAPS).await.expect(200);
    let text = std::fs::read_to_string(&log).expect("a log");
    let mut events = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let event = events.find(|e| e["user"]["username"] == "admin").expect("the list");
    assert_eq!(event["responseObject"], list);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_and_warnings() {
    let s = TestServer::start(&[
        "--strict-transport-security-directives=max-age=1,includeSubDomains",
        "--cors-allowed-origins=^https://ok.test$",
    ])
    .await;
    let bad = s.admin.get(&format!("{MAPS}?timeout=soon")).await;
    let status = bad.expect(400);
    assert_eq!(
        status["message"],
        "invalid timeout specified in the request URL - time: invalid duration \"soon\""
    );
    // The version of the future is waited for, for a while.
    let late = s.admin.get(&format!("{MAPS}?timeout=50ms&resourceVersion=987654321")).await.expect(504);
    assert_eq!(late["message"], "Timeout: request did not complete within the allotted timeout");
    assert_eq!(late["reason"], "Timeout");
    let fine = s.admin.get(&format!("{MAPS}?timeout=5s")).await;
    assert_eq!(fine.code, 200);
    assert_eq!(fine.headers["strict-transport-security"], "max-age=1; includeSubDomains");
    assert_eq!(fine.headers["cache-control"], "no-cache, private");
    assert!(!fine.headers.contains_key("warning"));
    let old = s.admin.get("/api/v1/namespaces/default/endpoints").await;
    assert_eq!(
        old.headers["warning"],
        "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""
    );
    let ask = s.anonymous().send(Method::OPTIONS, MAPS, &[("origin", "https://ok.test")], "").await;
    assert_eq!(
        (ask.code, &ask.headers["access-control-allow-origin"]),
        (204, &"https://ok.test".parse().expect("a header"))
    );
    let other = s.anonymous().send(Method::OPTIONS, MAPS, &[("origin", "https://evil.test")], "").await;
    assert!(other.code != 204 && !other.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_goes_in_order() {
    let s = TestServer::start(&[
        "--shutdown-delay-duration=1s",
        "--shutdown-send-retry-after",
        "--shutdown-watch-termination-grace-period=1s",
    ])
    .await;
    let mut watch = s.admin.watch(&format!("{MAPS}?watch=1&resourceVersion=0")).await;
    assert_eq!(s.admin.get("/readyz").await.code, 200);
    s.stop();
    until("readiness goes first", async || s.admin.get("/readyz").await.code == 500).await;
    let report = s.admin.get("/readyz?verbose").await;
    assert!(String::from_utf8_lossy(&report.body).contains("[-]shutdown failed: reason withheld"));
    assert_eq!(s.admin.get(MAPS).await.code, 200, "served during the delay");
    assert_eq!(s.admin.get("/livez").await.code, 200);
    let after = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            let a = s.admin.get(MAPS).await;
            if a.code != 200 {
                return a;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("new requests are turned away");
    assert_eq!((after.code, &after.headers["retry-after"]), (429, &"5".parse().expect("a header")));
    // The kubernetes service's endpoints and the like may come first.
    let ended = tokio::time::timeout(Duration::from_secs(5), async { while watch.next().await.is_some() {} });
    ended.await.expect("the watch is ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_about_the_server() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let verbose = c.get("/readyz?verbose&exclude=etcd").await;
    let text = String::from_utf8_lossy(&verbose.body).into_owned();
    for line in [
        "[+]etcd excluded: ok",
        "[+]etcd-readiness ok",
        "[+]informer-sync ok",
        "[+]poststarthook/start-apiextensions-controllers ok",
        "[+]poststarthook/priority-and-fairness-filter ok",
        "[+]autoregister-completion ok",
        "[+]shutdown ok",
        "readyz check passed",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert_eq!(c.get("/livez/poststarthook/crd-informer-synced").await.code, 200);
    assert_eq!(c.get("/livez/informer-sync").await.code, 404);
    let slis = String::from_utf8_lossy(&c.get("/metrics/slis").await.body).into_owned();
    assert!(slis.contains("kubernetes_healthcheck{name=\"shutdown\",type=\"readyz\"} 1"), "{slis}");

    let status = c.get("/statusz").await;
    assert!(
        String::from_utf8_lossy(&status.body).starts_with("\nkube-apiserver statusz\nWarning: This endpoint")
    );
    let typed =
        c.get_as("/statusz", "application/json;v=v1beta1;g=config.k8s.io;as=Statusz").await.expect(200);
    assert_eq!((&typed["kind"], &typed["binaryVersion"]), (&json!("Statusz"), &json!("1.36")));
    assert!(typed["paths"].as_array().expect("paths").contains(&json!("/livez")));
    assert_eq!(c.get_as("/statusz", "application/json").await.code, 406);
    let flags = c.get_as("/flagz", "application/json;v=v1alpha1;g=config.k8s.io;as=Flagz").await;
    assert!(flags.headers["warning"].to_str().expect("text").contains("deprecated"));
    assert_eq!(flags.json()["flags"]["max-requests-inflight"], "400");

    assert_eq!(c.get("/debug/pprof/heap").await.code, 200);
    assert_eq!(c.get("/debug/pprof/profile").await.code, 501);
    assert_eq!(c.get("/debug/flags/v").await.code, 406);
    assert_eq!(c.send(Method::PUT, "/debug/flags/v", &[], "loud").await.code, 400);
    assert_eq!(s.user("eve", &[]).get("/debug/pprof/heap").await.code, 403);
    let off = TestServer::start(&["--profiling=false"]).await;
    assert_eq!(off.admin.get("/debug/pprof/heap").await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_without_fairness() {
    let s = TestServer::start(&["--enable-priority-and-fairness=false"]).await;
    let a = s.admin.get(MAPS).await;
    assert_eq!(a.code, 200);
    assert!(!a.headers.contains_key("x-kubernetes-pf-flowschema-uid"));
    assert_eq!(s.admin.get("/debug/api_priority_and_fairness/dump_queues").await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audit_webhook() {
    use http_body_util::{BodyExt as _, Empty};
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("an address");
    let (tx, mut events) = tokio::sync::mpsc::unbounded_channel::<(String, Value)>();
    let handler = move |r: http::Request<hyper::body::Incoming>| {
        let tx = tx.clone();
        async move {
            let path = r.uri().path().to_owned();
            let body = r.into_body().collect().await.expect("a body").to_bytes();
            let _ = tx.send((path, serde_json::from_slice(&body).expect("JSON")));
            http::Response::new(Empty::new().map_err(|n: std::convert::Infallible| match n {}).boxed_unsync())
        }
    };
    let stop = component_base::process::Shutdown::new();
    tokio::spawn(component_base::serving::listener::serve(socket, None, handler, stop.clone()));
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let policy = write(
        "policy.yaml",
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- {level: Metadata, resources: [{group: \"\", resources: [configmaps]}]}\n".to_owned(),
    );
    let config = write(
        "hook.yaml",
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \"http://{address}/audit/in\"}}}}]\nusers: [{{name: u, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        ),
    );
    let s = TestServer::start(&[
        &format!("--audit-policy-file={policy}"),
        &format!("--audit-webhook-config-file={config}"),
        "--audit-webhook-batch-max-wait=100ms",
    ])
    .await;
    s.admin.get(&format!("{MAPS}/nothing")).await.expect(404);
    let mut stages = Vec::new();
    while !stages.contains(&json!("ResponseComplete")) {
        let next = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.expect("in time");
        let (path, list) = next.expect("an event list");
        assert_eq!((path.as_str(), &list["kind"]), ("/audit/in", &json!("EventList")));
        let items = list["items"].as_array().expect("items");
        stages
            .extend(items.iter().filter(|e| e["objectRef"]["name"] == "nothing").map(|e| e["stage"].clone()));
    }
    assert_eq!(stages, [json!("RequestReceived"), json!("ResponseComplete")]);
    stop.cancel();
}

//! Policies, events and backends without a server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::backend::{Batching, Mode, Target, Truncation};
use super::context::{Received, attempted, source_ips};
use super::log::{Format, Log};
use super::rotate::Limits;
use super::*;
use crate::http::{Response, respond};
use crate::request::RequestInfo;
use crate::status::ApiError;

fn info(verb: &str, resource: &str, name: &str) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: verb.into(),
        api_version: "v1".into(),
        namespace: "default".into(),
        resource: resource.into(),
        name: name.into(),
        path: format!("/api/v1/namespaces/default/{resource}"),
        ..RequestInfo::default()
    }
}

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo {
        name: name.into(),
        groups: groups.iter().map(|g| (*g).into()).collect(),
        ..UserInfo::default()
    }
}

fn policy(rules: &str) -> anyhow::Result<Policy> {
    Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}"))
}

#[test]
fn rules_match_in_order() {
    let p = policy(
        r#"
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch]}
- {level: Metadata, resources: [{group: "", resources: [secrets, configmaps, "*/status", "pods/*"]}]}
- {level: Request, resources: [{group: apps}], omitStages: [Panic], omitManagedFields: false}
- {level: RequestResponse, resources: [{group: "*", resources: ["*"], resourceNames: [special]}]}
- {level: Metadata, nonResourceURLs: ["/healthz*", "/version"]}
- {level: Request, userGroups: [ops], namespaces: [default]}
"#,
    )
    .expect("a policy");
    let u = user("eve", &["ops"]);
    let level = |u: &UserInfo, i: &RequestInfo| p.evaluate(Some(u), i).level;
    assert_eq!(level(&user("system:kube-proxy", &[]), &info("watch", "services", "")), Level::None);
    assert_eq!(level(&u, &info("get", "secrets", "a")), Level::Metadata);
    let sub = |r: &str, s: &str| RequestInfo { subresource: s.into(), ..info("get", r, "a") };
    assert_eq!(level(&u, &sub("secrets", "other")), Level::Request, "a subresource is not its resource");
    assert_eq!(level(&u, &sub("nodes", "status")), Level::Metadata);
    assert_eq!(level(&u, &sub("pods", "log")), Level::Metadata);
    assert_eq!(level(&u, &info("get", "pods", "special")), Level::Metadata, "pods/* is pods as well");
    assert_eq!(level(&u, &info("get", "services", "special")), Level::RequestResponse);
    assert_eq!(level(&user("eve", &[]), &info("get", "services", "a")), Level::None);
    let url = |p: &str| RequestInfo { path: p.into(), verb: "get".into(), ..RequestInfo::default() };
    assert_eq!(level(&u, &url("/healthz/ping")), Level::Metadata);
    assert_eq!(level(&u, &url("/versions")), Level::None, "namespaces are about resources");
    assert_eq!(p.evaluate(None, &info("get", "services", "a")).level, Level::None);
    let apps = RequestInfo { api_group: "apps".into(), ..info("get", "deployments", "a") };
    let rule = p.evaluate(Some(&u), &apps);
    assert!(rule.omit.has(event::Stage::RequestReceived) && rule.omit.has(event::Stage::Panic));
    assert!(
        !rule.omit_managed_fields && p.evaluate(Some(&u), &info("get", "secrets", "a")).omit_managed_fields
    );
}

#[test]
fn bad_policies() {
    let error = |rules: &str| format!("{:#}", policy(rules).expect_err(rules));
    assert_eq!(error("rules: []"), "loaded illegal policy with 0 rules");
    assert_eq!(error("rules: [{}]"), "rules[0].level: Required value");
    assert!(error("rules: [{level: Full}]").contains("Unsupported value: \"Full\""));
    assert!(error("rules: [{level: None, nonResourceURLs: [a]}]").contains("must begin with a '/'"));
    assert!(error("rules: [{level: None, nonResourceURLs: [/a*b]}]").contains("final character"));
    assert!(error("rules: [{level: None, nonResourceURLs: [/a], namespaces: [b]}]").contains("both regular"));
    assert!(error("rules: [{level: None, resources: [{group: a/v1}]}]").contains("RFC 1123"));
    assert!(
        error("rules: [{level: None, resources: [{resourceNames: [b]}]}]").contains("at least one resource")
    );
    assert!(error("rules: [{level: None}]\nomitStages: [Never]").contains("allowed stages are"));
    assert!(Policy::parse("apiVersion: v1\nkind: Policy\nrules: [{level: None}]").is_err());
}

struct Fixture {
    auditor: Arc<Auditor>,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new(level: &str, format: Format, mode: Mode, truncation: Option<Truncation>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("audit.log");
        let log = Log::open(path.to_str().expect("text"), format, Limits::default()).expect("a log");
        let batching = Batching { buffer: 100, size: 10, wait: Duration::from_millis(20), throttle: None };
        let metrics = Metrics::default();
        let backend = Backend::new(Target::Log(log), mode, batching, truncation, metrics.clone());
        let policy =
            policy(&format!("rules: [{{level: {level}}}]\nomitManagedFields: true")).expect("a policy");
        Self { auditor: Auditor::new(policy, vec![backend], metrics), path, _dir: dir }
    }

    fn begin(&self, user: Option<&UserInfo>, info: &RequestInfo) -> Arc<Context> {
        let (parts, ()) = Request::builder()
            .uri("https://server:6443/api/v1/namespaces/default/configmaps?x=y")
            .header("user-agent", "test")
            .header("x-forwarded-for", "192.0.2.7, nonsense")
            .body(())
            .expect("a request")
            .into_parts();
        let at = jiff::Timestamp::now();
        let peer = Some([192, 0, 2, 1].into());
        let r = Received { parts: &parts, info, user, audit_id: "the-id", at, peer };
        self.auditor.begin(&r).expect("audited")
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.path).expect("the log");
        text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
    }
}

fn created() -> Response {
    respond::bytes(
        201,
        "application/json",
        json!({"kind": "ConfigMap", "metadata": {"name": "a", "managedFields": [{"manager": "m"}]}})
            .to_string(),
    )
}

#[test]
fn a_whole_request() {
    let f = Fixture::new("RequestResponse", Format::Json, Mode::Blocking, None);
    let c = f.begin(Some(&user("eve", &["g"])), &info("create", "configmaps", ""));
    assert!(c.received());
    c.annotate("k", "v".into());
    c.annotate("k", "other".into());
    c.impersonated(&user("bob", &["h"]), "impersonate-on:user-info");
    let body = json!({"metadata": {"name": "a", "managedFields": []}, "data": {"x": "y"}}).to_string();
    c.request_body(&Bytes::from(body), "application/json");
    c.responded(created(), None, false);
    let lines = f.lines();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["stage"], &lines[0]["responseStatus"]), (&json!("RequestReceived"), &Value::Null));
    assert_eq!(lines[0]["requestReceivedTimestamp"], lines[0]["stageTimestamp"]);
    let e = &lines[1];
    for (pointer, value) in [
        ("/kind", json!("Event")),
        ("/apiVersion", json!("audit.k8s.io/v1")),
        ("/level", json!("RequestResponse")),
        ("/auditID", json!("the-id")),
        ("/stage", json!("ResponseComplete")),
        ("/requestURI", json!("/api/v1/namespaces/default/configmaps?x=y")),
        ("/verb", json!("create")),
        ("/user", json!({"username": "eve", "groups": ["g"]})),
        ("/impersonatedUser", json!({"username": "bob", "groups": ["h"]})),
        ("/authenticationMetadata", json!({"impersonationConstraint": "impersonate-on:user-info"})),
        ("/sourceIPs", json!(["192.0.2.7", "192.0.2.1"])),
        ("/userAgent", json!("test")),
        (
            "/objectRef",
            json!({"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"}),
        ),
        ("/responseStatus", json!({"metadata": {}, "code": 201})),
        ("/requestObject", json!({"metadata": {"name": "a"}, "data": {"x": "y"}})),
        ("/responseObject", json!({"kind": "ConfigMap", "metadata": {"name": "a"}})),
        ("/annotations", json!({"k": "v"})),
    ] {
        assert_eq!(e.pointer(pointer), Some(&value), "{pointer}");
    }
    let time = e["stageTimestamp"].as_str().expect("a time");
    assert!(time.len() == 27 && time.ends_with('Z'), "microseconds: {time}");
}

#[test]
fn bodies_only_where_the_policy_says_so() {
    let f = Fixture::new("Metadata", Format::Json, Mode::Blocking, None);
    let c = f.begin(Some(&user("eve", &[])), &info("create", "secrets", ""));
    c.request_body(
        &Bytes::from_static(b"{\"metadata\":{\"name\":\"a\"},\"data\":{\"p\":\"hidden\"}}"),
        "application/json",
    );
    c.responded(respond::bytes(201, "application/json", "{\"data\":{\"p\":\"hidden\"}}"), None, false);
    let text = std::fs::read_to_string(&f.path).expect("the log");
    assert!(!text.contains("hidden") && text.contains("\"name\":\"a\""), "{text}");
}

#[test]
fn failures_long_requests_and_panics() {
    let f = Fixture::new("Metadata", Format::Json, Mode::Blocking, None);
    let i = info("get", "pods", "p");
    let e = ApiError::not_found("", "pods", "p");
    let answer = respond::error(crate::http::negotiate::Wanted::JSON, &e);
    f.begin(Some(&user("eve", &[])), &i).responded(answer, Some(&e), false);
    let watch = info("watch", "pods", "");
    let answer = f.begin(Some(&user("eve", &[])), &watch).responded(respond::text(200, "x"), None, true);
    assert_eq!(f.lines().len(), 2);
    drop(answer);
    f.begin(Some(&user("eve", &[])), &i).panicked();
    f.begin(None, &i).unauthenticated(&ApiError::unauthorized(), "bearer");
    let lines = f.lines();
    let told: Vec<(&str, u64)> = lines
        .iter()
        .map(|l| (l["stage"].as_str().expect("text"), l["responseStatus"]["code"].as_u64().expect("a code")))
        .collect();
    assert_eq!(
        told,
        [
            ("ResponseComplete", 404),
            ("ResponseStarted", 200),
            ("ResponseComplete", 200),
            ("Panic", 500),
            ("ResponseStarted", 401)
        ]
    );
    assert_eq!(
        lines[0]["responseStatus"],
        json!({"metadata": {}, "status": "Failure", "message": "pods \"p\" not found", "reason": "NotFound",
            "details": {"name": "p", "kind": "pods"}, "code": 404})
    );
    assert_eq!(lines[4]["responseStatus"]["message"], "Authentication failed, attempted: bearer");
    assert_eq!(lines[4]["user"], json!({}));
}

#[tokio::test]
async fn batches_are_delivered_before_the_end() {
    let f = Fixture::new("Metadata", Format::Json, Mode::Batch, None);
    for _ in 0..25 {
        f.begin(Some(&user("eve", &[])), &info("get", "pods", "p")).responded(
            respond::text(200, ""),
            None,
            false,
        );
    }
    f.auditor.close().await;
    assert_eq!(f.lines().len(), 25);
}

#[test]
fn large_events_lose_their_bodies() {
    let cut = Some(Truncation { event: 2000, batch: 4000 });
    let f = Fixture::new("Request", Format::Json, Mode::Blocking, cut);
    let c = f.begin(Some(&user("eve", &[])), &info("create", "configmaps", "a"));
    let body = json!({"data": {"x": "y".repeat(3000)}}).to_string();
    c.request_body(&Bytes::from(body), "application/json");
    c.responded(created(), None, false);
    let lines = f.lines();
    assert_eq!(lines[0]["annotations"], json!({"audit.k8s.io/truncated": "true"}));
    assert!(lines[0].get("requestObject").is_none());
}

#[test]
fn legacy_lines() {
    let f = Fixture::new("Metadata", Format::Legacy, Mode::Blocking, None);
    f.begin(Some(&user("eve", &["a", "b"])), &info("get", "pods", "p")).responded(
        respond::text(200, ""),
        None,
        false,
    );
    let text = std::fs::read_to_string(&f.path).expect("the log");
    let wanted = r#" AUDIT: id="the-id" stage="ResponseComplete" ip="192.0.2.7" method="get" user="eve" groups="\"a\",\"b\"" as="<self>" asgroups="<lookup>" user-agent="test" namespace="default" uri="/api/v1/namespaces/default/configmaps?x=y" response="200""#;
    assert!(text.trim_end().ends_with(wanted), "{text}");
}

#[test]
fn strict_refuses_what_cannot_be_stored() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("sub").join("audit.log");
    let limits = Limits { size: 1, ..Limits::default() };
    let of = |mode| {
        let log = Log::open(path.to_str().expect("text"), Format::Json, limits).expect("a log");
        let batching = Batching { buffer: 1, size: 1, wait: Duration::ZERO, throttle: None };
        let backend = Backend::new(Target::Log(log), mode, batching, None, Metrics::default());
        Auditor::new(
            policy("rules: [{level: Metadata}]").expect("a policy"),
            vec![backend],
            Metrics::default(),
        )
    };
    let (strict, lenient) = (of(Mode::BlockingStrict), of(Mode::Blocking));
    let received = |a: &Arc<Auditor>| {
        let (parts, ()) = Request::new(()).into_parts();
        let i = info("get", "pods", "p");
        let at = jiff::Timestamp::now();
        let r = Received { parts: &parts, info: &i, user: None, audit_id: "x", at, peer: None };
        a.begin(&r).expect("audited").received()
    };
    assert!(received(&strict));
    // The next event must rotate, which fails without the folder.
    std::fs::remove_dir_all(path.parent().expect("a folder")).expect("removed");
    assert!(!received(&strict));
    assert!(received(&lenient));
    assert_eq!(strict.metrics.rejected.get(), 1);
}

#[test]
fn addresses_and_credentials() {
    let mut h = http::HeaderMap::new();
    let peer = Some("::ffff:192.0.2.9".parse().expect("an address"));
    assert_eq!(source_ips(&h, peer), ["192.0.2.9"]);
    h.insert("x-forwarded-for", "10.0.0.1,10.0.0.2".parse().expect("a header"));
    h.insert("x-real-ip", "10.0.0.1".parse().expect("a header"));
    assert_eq!(source_ips(&h, peer), ["10.0.0.1", "10.0.0.2", "192.0.2.9"]);
    h.insert("authorization", "Bearer x".parse().expect("a header"));
    assert_eq!(attempted(&h, true), "bearer, x509");
}

#[tokio::test]
async fn annotations_find_their_request() {
    let f = Fixture::new("Metadata", Format::Json, Mode::Blocking, None);
    let c = f.begin(Some(&user("eve", &[])), &info("get", "pods", "p"));
    annotate("nobody", || "hears");
    scope(Some(c.clone()), async { annotate("inner", || "told") }).await;
    c.responded(respond::text(200, ""), None, false);
    assert_eq!(f.lines()[0]["annotations"], json!({"inner": "told"}));
}

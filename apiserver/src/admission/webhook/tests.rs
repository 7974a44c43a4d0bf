use serde_json::{Value, json};

use super::hook::{self, ReviewVersion};
use super::review;
use super::rules::{Gvr, Rule};
use crate::admission::{Attributes, Operation};
use crate::request::UserInfo;

fn attrs<'a>(
    user: &'a UserInfo,
    resource: &'a str,
    subresource: &'a str,
    namespace: &'a str,
) -> Attributes<'a> {
    Attributes {
        user,
        group: "",
        version: "v1",
        resource,
        kind: "Pod",
        subresource,
        namespace,
        name: "n",
        operation: Operation::Create,
        dry_run: false,
        old: None,
        options: Default::default(),
        warnings: Default::default(),
        reinvocation: Default::default(),
    }
}

#[test]
fn rules() {
    let user = UserInfo::default();
    let matches = |rule: Value, resource: &str, sub: &str, ns: &str| {
        let gvr = Gvr { group: "", version: "v1", resource };
        Rule::from_value(&rule).matches(&attrs(&user, resource, sub, ns), gvr)
    };
    let rule = |resources: Value, scope: &str| json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": resources, "scope": scope});
    assert!(matches(rule(json!(["pods"]), "*"), "pods", "", "a"));
    assert!(!matches(rule(json!(["pods"]), "*"), "pods", "status", "a"));
    assert!(matches(rule(json!(["pods/*"]), "*"), "pods", "status", "a"));
    assert!(matches(rule(json!(["pods/*"]), "*"), "pods", "", "a"));
    assert!(matches(rule(json!(["*/*"]), "*"), "nodes", "status", ""));
    assert!(!matches(rule(json!(["*"]), "*"), "nodes", "status", ""));
    assert!(matches(rule(json!(["*/status"]), "*"), "nodes", "status", ""));
    assert!(matches(rule(json!(["pods"]), "Namespaced"), "pods", "", "a"));
    assert!(!matches(rule(json!(["pods"]), "Cluster"), "pods", "", "a"));
    assert!(matches(rule(json!(["namespaces"]), "Cluster"), "namespaces", "", "a"));
    assert!(!matches(rule(json!(["namespaces"]), "Namespaced"), "namespaces", "", "a"));
    let mut other = rule(json!(["pods"]), "*");
    other["operations"] = json!(["UPDATE", "DELETE"]);
    assert!(!matches(other.clone(), "pods", "", "a"));
    other["operations"] = json!(["*"]);
    assert!(matches(other.clone(), "pods", "", "a"));
    other["apiVersions"] = json!(["v2"]);
    assert!(!matches(other, "pods", "", "a"));
}

#[test]
fn configurations() {
    let c = json!({"metadata": {"name": "c"}, "webhooks": [
        {"name": "a.b.c", "clientConfig": {"url": "https://x"}, "failurePolicy": "Ignore", "sideEffects": "Some",
         "admissionReviewVersions": ["v9", "v1beta1", "v1"], "timeoutSeconds": 3, "reinvocationPolicy": "IfNeeded"},
        {"name": "a.b.c", "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v9"],
         "matchPolicy": "Equivalent", "namespaceSelector": {"matchExpressions": [{"key": "k", "operator": "Nope"}]}},
    ]});
    let h = hook::of_configuration(&c);
    assert_eq!((h[0].uid.as_str(), h[1].uid.as_str()), ("c/a.b.c/0", "c/a.b.c/1"));
    assert!(h[0].fail_open && !h[0].dry_run && h[0].reinvoke && !h[0].equivalent);
    assert_eq!((h[0].review, h[0].timeout.as_secs()), (Some(ReviewVersion::V1Beta1), 3));
    assert!(!h[1].fail_open && h[1].dry_run && h[1].equivalent && h[1].review.is_none());
    assert_eq!(h[1].timeout.as_secs(), 10);
    assert!(h[1].client.is_err() && h[1].namespaces.is_none());
}

#[test]
fn answers() {
    let of = |mutating: bool, v: Value| {
        review::decode(ReviewVersion::V1, "u", mutating, v.to_string().as_bytes()).unwrap()
    };
    let answer = |response: Value| json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let ok = of(
        true,
        answer(json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch",
        "warnings": ["w"], "auditAnnotations": {"k": "v"}})),
    )
    .unwrap();
    assert_eq!(
        (ok.allowed, ok.patch.as_slice(), ok.warnings.as_slice()),
        (true, &b"[]"[..], &["w".to_owned()][..])
    );
    let bad = |mutating, v| of(mutating, v).unwrap_err();
    assert_eq!(bad(true, answer(Value::Null)), "webhook response was absent");
    assert_eq!(bad(true, answer(json!({"uid": "x"}))), "expected response.uid=\"u\", got \"x\"");
    assert_eq!(
        bad(
            true,
            json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {"uid": "u"}})
        ),
        "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview"
    );
    assert!(bad(true, answer(json!({"uid": "u", "patch": "W10="}))).contains("but not response.patchType"));
    assert!(
        bad(true, answer(json!({"uid": "u", "patchType": "JSONPatch"}))).contains("but not response.patch")
    );
    assert!(
        bad(false, answer(json!({"uid": "u", "patch": "W10="}))).contains("may not return response.patch")
    );
    let old = review::decode(
        ReviewVersion::V1Beta1,
        "u",
        true,
        br#"{"response": {"allowed": true, "patch": "W10="}}"#,
    );
    let old = old.unwrap().unwrap();
    assert_eq!((old.allowed, old.patch_type.as_str()), (true, "JSONPatch"));
    assert!(review::decode(ReviewVersion::V1, "u", true, b"hello").is_err());
}

#[test]
fn refusals() {
    let of = |v: Value| {
        let s = review::refusal("h", v.as_object().cloned());
        (
            s["message"].as_str().unwrap().to_owned(),
            s["code"].as_i64().unwrap(),
            s["status"].as_str().unwrap().to_owned(),
        )
    };
    let denied = "admission webhook \"h\" denied the request";
    let is = |m: &str, code: i64, status: &str| (format!("{denied}{m}"), code, status.to_owned());
    assert_eq!(of(Value::Null), is(" without explanation", 400, "Failure"));
    assert_eq!(of(json!({"message": "no", "reason": "R"})), is(": no", 400, "Failure"));
    assert_eq!(of(json!({"reason": "Forbidden", "code": 403})), is(": Forbidden", 403, "Failure"));
    assert_eq!(of(json!({"code": 200, "status": "Success"})), is(" without explanation", 400, "Failure"));
    assert_eq!(of(json!({"status": "custom", "code": 500})), is(" without explanation", 500, "custom"));
    assert_eq!(of(json!({"message": 5, "junk": {}})), is(" without explanation", 400, "Failure"));
}

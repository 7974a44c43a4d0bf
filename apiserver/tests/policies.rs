//! Admission policies, over HTTP.

mod common;

use std::time::Duration;

use common::{Answer, Client, TestServer};
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn policy(name: &str, extra: Value) -> Value {
    let mut spec = json!({"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]}});
    for (k, v) in extra.as_object().expect("an object") {
        spec[k] = v.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec})
}

fn binding(name: &str, policy: &str, extra: Value) -> Value {
    let mut spec = json!({"policyName": policy, "validationActions": ["Deny"]});
    for (k, v) in extra.as_object().expect("an object") {
        spec[k] = v.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name}, "spec": spec})
}

/// Tries until the answer has that code: policies come into force a moment after they are written.
async fn until(code: u16, mut ask: impl AsyncFnMut() -> Answer) -> Answer {
    for _ in 0..100 {
        let a = ask().await;
        if a.code == code {
            return a;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let a = ask().await;
    a.expect(code);
    a
}

async fn dry(c: &Client, o: &Value) -> Answer {
    c.post(&format!("{MAPS}?dryRun=All"), o).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_denies_warns_and_ends_with_its_binding() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let p = policy(
        "short",
        json!({"variables": [{"name": "n", "expression": "size(object.data)"}],
            "validations": [{"expression": "variables.n < 2", "messageExpression": "'too many: ' + string(variables.n)"}]}),
    );
    c.post(&format!("{GROUP}/validatingadmissionpolicies"), &p).await.expect(201);
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    c.post(&bindings, &binding("all", "short", json!({}))).await.expect(201);
    let long = map("long", json!({"a": "1", "b": "2"}));
    let refused = until(422, async || dry(c, &long).await).await.expect(422);
    let message = "ValidatingAdmissionPolicy 'short' with binding 'all' denied request: too many: 2";
    assert_eq!(refused["reason"], "Invalid");
    assert_eq!(refused["message"], format!("configmaps \"long\" is forbidden: {message}"));
    assert_eq!(refused["details"]["causes"][0]["message"], message);
    c.post(MAPS, &map("ok", json!({"a": "1"}))).await.expect(201);
    let wider = c.merge(&format!("{MAPS}/ok"), &json!({"data": {"b": "2"}})).await;
    assert!(wider.expect(422)["message"].as_str().expect("text").contains("too many: 2"));

    let warn = json!({"spec": {"validationActions": ["Warn"]}});
    c.merge(&format!("{bindings}/all"), &warn).await.expect(200);
    let warned = until(201, async || dry(c, &long).await).await;
    let warning = warned.headers.get("warning").expect("a warning").to_str().expect("text");
    assert!(
        warning.contains(
            "Validation failed for ValidatingAdmissionPolicy 'short' with binding 'all': too many: 2"
        ),
        "{warning}"
    );
    c.delete(&format!("{bindings}/all")).await.expect(200);
    until(201, async || {
        let a = dry(c, &long).await;
        match a.headers.contains_key("warning") {
            true => Answer { code: 0, ..a },
            false => a,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_come_from_objects() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let mut p = policy(
        "limit",
        json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConditions": [{"name": "named", "expression": "object.metadata.name != 'free'"}],
            "validations": [{"expression": "size(object.data) <= int(params.data.most)", "reason": "Forbidden",
                "message": "over the limit"}]}),
    );
    p["spec"]["matchConstraints"]["objectSelector"] =
        json!({"matchExpressions": [{"key": "params", "operator": "DoesNotExist"}]});
    c.post(&format!("{GROUP}/validatingadmissionpolicies"), &p).await.expect(201);
    let reference = json!({"paramRef": {"name": "params", "parameterNotFoundAction": "Deny"}});
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    c.post(&bindings, &binding("b", "limit", reference)).await.expect(201);
    let two = map("two", json!({"a": "1", "b": "2"}));
    let missing = until(422, async || dry(c, &two).await).await.expect(422);
    let why =
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(missing["message"].as_str().expect("text").ends_with(why), "{missing}");
    let mut params = map("params", json!({"most": "1"}));
    params["metadata"]["labels"] = json!({"params": "yes"});
    c.post(MAPS, &params).await.expect(201);
    let over = until(403, async || dry(c, &two).await).await.expect(403);
    assert!(over["message"].as_str().expect("text").ends_with("denied request: over the limit"));
    dry(c, &map("free", json!({"a": "1", "b": "2"}))).await.expect(201);
    c.merge(&format!("{MAPS}/params"), &json!({"data": {"most": "2"}})).await.expect(200);
    until(201, async || dry(c, &two).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_policies_are_refused_and_wrong_types_are_not() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let policies = format!("{GROUP}/validatingadmissionpolicies");
    let broken =
        policy("x", json!({"validations": [{"expression": "object.x && nope", "messageExpression": "1"}]}));
    let refused = c.post(&policies, &broken).await.expect(422);
    let causes = refused["details"]["causes"].as_array().expect("causes").clone();
    let fields: Vec<&str> = causes.iter().filter_map(|c| c["field"].as_str()).collect();
    assert_eq!(fields, ["spec.validations[0].expression", "spec.validations[0].messageExpression"]);
    assert_eq!(
        causes[0]["message"],
        "Invalid value: \"object.x && nope\": compilation failed: ERROR: <input>:1:13: undeclared reference to 'nope' (in container '')\n | object.x && nope\n | ............^"
    );
    assert_eq!(causes[1]["message"], "Invalid value: \"1\": must evaluate to string but got int");

    // What the types are is for the controller manager to check, which writes the status.
    let untyped =
        policy("typed", json!({"validations": [{"expression": "object.data.all(k, object.dta[k] == '')"}]}));
    let made = c.post(&policies, &untyped).await.expect(201);
    assert!(made["status"].get("observedGeneration").is_none(), "{}", made["status"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_mutate() {
    let s = TestServer::start(&[]).await;
    let c = &s.admin;
    let mut p = policy(
        "label",
        json!({"failurePolicy": "Fail", "reinvocationPolicy": "Never", "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{labels: {'made-by': request.userInfo.username}}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/data/size', value: string(size(object.data))}]"}}]}),
    );
    p["kind"] = json!("MutatingAdmissionPolicy");
    c.post(&format!("{GROUP}/mutatingadmissionpolicies"), &p).await.expect(201);
    let mut b = binding("label", "label", json!({}));
    b["kind"] = json!("MutatingAdmissionPolicyBinding");
    b["spec"].as_object_mut().expect("a spec").remove("validationActions");
    c.post(&format!("{GROUP}/mutatingadmissionpolicybindings"), &b).await.expect(201);
    let made = until(201, async || {
        let a = dry(c, &map("m", json!({"a": "1"}))).await;
        match a.json()["metadata"]["labels"].is_null() {
            true => Answer { code: 0, ..a },
            false => a,
        }
    })
    .await
    .json();
    assert_eq!(made["metadata"]["labels"], json!({"made-by": "admin"}));
    assert_eq!(made["data"], json!({"a": "1", "size": "1"}));
    let refused =
        dry(c, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "none"}})).await;
    let refused = refused.expect(403);
    let message = refused["message"].as_str().expect("text");
    assert!(message.starts_with("policy 'label' with binding 'label' denied request: "), "{message}");
}

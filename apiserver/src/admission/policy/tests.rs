//! Decisions of validating policies, and what mutations make of objects.

use serde_json::{Value, json};

use super::compiled;
use super::decision::{Annotation, Decision, Denial, decide};
use super::patch::mutate;
use crate::admission::expressions::Inputs;
use crate::patch::fields::Ty;
use crate::request::UserInfo;

static NULL: Value = Value::Null;

fn inputs<'a>(object: &'a Value, params: &'a Value, user: &'a UserInfo) -> Inputs<'a> {
    Inputs { object, old: &NULL, request: &NULL, namespace: &NULL, params, authority: None, user }
}

fn verdict(spec: &Value, object: &Value, params: &Value) -> super::decision::Verdict {
    let policy = compiled::validating(&json!({"metadata": {"name": "p"}, "spec": spec}));
    let user = UserInfo::default();
    decide(&policy, &inputs(object, params, &user))
}

fn denied(message: &str, reason: &str, failed: bool) -> Decision {
    Decision::Deny(Denial { message: message.into(), reason: reason.into(), failed })
}

#[test]
fn validations_decide_one_by_one() {
    let object = json!({"spec": {"replicas": 7}});
    let spec = json!({"validations": [
        {"expression": "object.spec.replicas < 10"},
        {"expression": "object.spec.replicas < 5"},
        {"expression": "object.spec.replicas < 5", "message": " too many ", "reason": "Forbidden"},
        {"expression": "object.spec.replicas < 5", "messageExpression": "'at most 5, not ' + string(object.spec.replicas)"},
        {"expression": "object.spec.replicas < 5", "message": "m", "messageExpression": "string(object.nope)"},
        {"expression": "object.nope > 5"},
    ]});
    let v = verdict(&spec, &object, &NULL);
    assert_eq!(
        v.decisions,
        [
            Decision::Admit,
            denied("failed expression: object.spec.replicas < 5", "Invalid", false),
            denied("too many", "Forbidden", false),
            denied("at most 5, not 7", "Invalid", false),
            denied("m", "Invalid", false),
            denied("expression 'object.nope > 5' resulted in error: no such key: nope", "", true),
        ]
    );
    let mut ignoring = spec.clone();
    ignoring["failurePolicy"] = json!("Ignore");
    let v = verdict(&ignoring, &object, &NULL);
    assert!(matches!(&v.decisions[5], Decision::Ignored(m) if m.contains("no such key")));
    assert!(matches!(v.decisions[1], Decision::Deny(_)), "false is no failure");
}

#[test]
fn parameters_variables_and_conditions() {
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "c", "expression": "object.kind == 'Deployment'"}],
        "variables": [{"name": "most", "expression": "params == null ? 3 : int(params.data.most)"}],
        "validations": [{"expression": "object.replicas <= variables.most"}],
    });
    let object = json!({"kind": "Deployment", "replicas": 4});
    assert!(matches!(verdict(&spec, &object, &NULL).decisions[0], Decision::Deny(_)));
    let params = json!({"data": {"most": "4"}});
    assert_eq!(verdict(&spec, &object, &params).decisions, [Decision::Admit]);
    let other = json!({"kind": "Other"});
    assert!(verdict(&spec, &other, &params).decisions.is_empty(), "a condition excludes it");
    let v = verdict(&spec, &json!({}), &params);
    assert!(
        matches!(&v.decisions[..], [Decision::Deny(d)] if d.failed && d.message.contains("no such key: kind"))
    );
}

#[test]
fn annotations() {
    let spec = json!({"auditAnnotations": [
        {"key": "a", "valueExpression": "' ' + object.name + ' '"},
        {"key": "b", "valueExpression": "null"},
        {"key": "c", "valueExpression": "object.nope == '' ? 'x' : 'y'"},
    ]});
    let v = verdict(&spec, &json!({"name": "n"}), &NULL);
    assert_eq!(v.annotations[0], Annotation::Publish { key: "a".into(), value: "n".into() });
    assert_eq!(v.annotations[1], Annotation::Exclude);
    assert!(matches!(&v.annotations[2], Annotation::Error(m) if m.contains("no such key: nope")));
}

#[test]
fn an_expensive_policy_runs_out_of_budget() {
    let list: Vec<u64> = (0..600).collect();
    let expensive = json!({"expression": "object.list.all(x, object.list.all(y, x + y >= 0))"});
    let spec = json!({"validations": [expensive]});
    let v = verdict(&spec, &json!({"list": list}), &NULL);
    let Decision::Deny(d) = &v.decisions[0] else { panic!("admitted") };
    assert!(d.message.ends_with("operation cancelled: actual cost limit exceeded"), "{}", d.message);
    let many: Vec<Value> = (0..30)
        .map(|_| json!({"expression": "object.list.all(x, object.list.all(y, x + y >= 0))"}))
        .collect();
    let short: Vec<u64> = (0..250).collect();
    let v = verdict(&json!({"validations": many}), &json!({"list": short}), &NULL);
    assert_eq!(
        v.decisions,
        [denied(
            "validation failed due to running out of cost budget, no further validation rules will be run",
            "",
            true
        )]
    );
}

fn mutated(kind: &str, expression: &str, object: &Value, ty: Ty<'_>) -> Result<Value, String> {
    let field = if kind == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
    let mutation = json!({"patchType": kind, field: {"expression": expression}});
    let policy = compiled::mutating(&json!({"spec": {"mutations": [mutation]}}));
    let user = UserInfo::default();
    mutate(&policy.body.mutations[0], &policy.variables, &inputs(object, &NULL, &user), ty)
}

#[test]
fn apply_configurations_merge_along_the_schema() {
    let pod = proto::schema::by_gvk("", "v1", "Pod").unwrap();
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let apply = |e: &str| mutated("ApplyConfiguration", e, &object, Ty::Def(pod));
    let new = apply(
        "Object{metadata: Object.metadata{labels: {'env': 'test'}}, spec: Object.spec{containers: \
         [Object.spec.containers{name: 'c', imagePullPolicy: 'Always'}, Object.spec.containers{name: 'side', image: 'y'}]}}",
    )
    .unwrap();
    assert_eq!(new["metadata"]["labels"], json!({"a": "b", "env": "test"}));
    assert_eq!(
        new["spec"]["containers"],
        json!([{"name": "c", "image": "x", "imagePullPolicy": "Always"}, {"name": "side", "image": "y"}])
    );
    let atomic =
        apply("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'c', args: ['x']}]}}");
    assert_eq!(
        atomic.unwrap_err(),
        "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].args"
    );
    let wrong = apply("Object{spec: Object.nope{}}");
    assert!(wrong.unwrap_err().starts_with("type mismatch: unexpected type name"));
    assert!(apply("'x'").unwrap_err().starts_with("must evaluate to Object but got string"));
}

#[test]
fn json_patches() {
    let object = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"n": 1}});
    let patch = |e: &str| mutated("JSONPatch", e, &object, Ty::Deduced);
    let new = patch(
        "[JSONPatch{op: 'test', path: '/spec/n', value: 1}, \
          JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('x/y'), value: 'z'}]",
    );
    assert_eq!(new.unwrap()["metadata"]["labels"], json!({"a": "b", "x/y": "z"}));
    let unchanged =
        patch("[JSONPatch{op: 'test', path: '/spec/n', value: 2}, JSONPatch{op: 'remove', path: '/spec'}]");
    assert_eq!(unchanged.unwrap(), object, "a failed test changes nothing");
    assert!(patch("[JSONPatch{op: 'remove', path: '/nope'}]").unwrap_err().starts_with("JSON Patch: "));
    let typed =
        patch("[JSONPatch{op: 'add', path: '/spec/o', value: Object.spec.o{x: [Object.spec.o.x{y: 1}]}}]");
    assert_eq!(typed.unwrap()["spec"]["o"], json!({"x": [{"y": 1}]}));
}

//! Rules on objects: what is told of which value.

use serde_json::{Value, json};

use super::*;

fn schema(properties: Value, rules: Value) -> Arc<Schema> {
    let spec = json!({"type": "object", "properties": properties, "x-kubernetes-validations": rules});
    let root = json!({"type": "object", "properties": {"spec": spec}});
    Schema::compile(&root, SchemaOptions::default()).unwrap()
}

fn object(spec: &Value) -> Value {
    json!({"apiVersion": "g.io/v1", "kind": "Foo", "metadata": {"name": "x"}, "spec": spec})
}

/// Errors, then warnings.
fn told(s: &Schema, new: Value, old: Option<Value>) -> (Vec<String>, Vec<String>) {
    let mut warnings = Vec::new();
    let old = old.map(|o| object(&o));
    let e = s.validate_with_warnings(&ValidationCx::default(), &object(&new), old.as_ref(), &mut warnings);
    (e.iter().map(ToString::to_string).collect(), warnings)
}

fn errors(s: &Schema, new: Value, old: Option<Value>) -> Vec<String> {
    told(s, new, old).0
}

fn number() -> Value {
    json!({"a": {"type": "integer"}, "b": {"type": "string"}})
}

#[test]
fn a_broken_rule_is_told() {
    for (rule, spec, want) in [
        (json!({"rule": "self.a > 1"}), json!({"a": 2}), ""),
        (json!({"rule": " self.a > 1 "}), json!({"a": 1}), "spec: Invalid value: failed rule: self.a > 1"),
        (json!({"rule": "self.a > 1", "message": " more "}), json!({"a": 1}), "spec: Invalid value: more"),
        (
            json!({"rule": "self.a > 1", "messageExpression": "'got ' + string(self.a)"}),
            json!({"a": 1}),
            "spec: Invalid value: got 1",
        ),
        (
            json!({"rule": "self.a > 1", "message": "m", "messageExpression": "self.b"}),
            json!({"a": 1}),
            "spec: Invalid value: m",
        ),
        (
            json!({"rule": "self.a > 1", "message": "m", "messageExpression": "self.b"}),
            json!({"a": 1, "b": "x\ny"}),
            "spec: Invalid value: m",
        ),
        (
            json!({"rule": "self.a > 1", "reason": "FieldValueForbidden", "fieldPath": ".a", "message": "no"}),
            json!({"a": 1}),
            "spec.a: Forbidden: no",
        ),
        (
            json!({"rule": "has(self.b)", "reason": "FieldValueRequired", "fieldPath": ".b", "message": "needed"}),
            json!({"a": 1}),
            "spec.b: Required value: needed",
        ),
        (
            json!({"rule": "self.a > 1", "reason": "FieldValueDuplicate", "message": "m"}),
            json!({"a": 1}),
            "spec: Duplicate value",
        ),
        (
            json!({"rule": "self.b == 'x'"}),
            json!({"a": 1}),
            "spec: Invalid value: \"object\": no such key: b evaluating rule: self.b == 'x'",
        ),
        (
            json!({"rule": "1 / self.a == 1"}),
            json!({"a": 0}),
            "spec: Invalid value: \"object\": division by zero evaluating rule: 1 / self.a == 1",
        ),
        (
            json!({"rule": "self.nope"}),
            json!({}),
            "spec: Invalid value: \"object\": rule compile error: compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope\n | ....^",
        ),
    ] {
        let s = schema(number(), json!([rule]));
        assert_eq!(errors(&s, spec, None).join("; "), want, "{rule}");
    }
}

#[test]
fn scalars_are_shown() {
    let s = schema(
        json!({"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1", "message": "m"}]}}),
        json!([]),
    );
    assert_eq!(errors(&s, json!({"a": 1}), None), ["spec.a: Invalid value: 1: m"]);
}

#[test]
fn transitions_need_an_old_value() {
    let s = schema(number(), json!([{"rule": "self.a >= oldSelf.a", "message": "shrank"}]));
    assert!(errors(&s, json!({"a": 1}), None).is_empty());
    assert!(errors(&s, json!({"a": 2}), Some(json!({"a": 1}))).is_empty());
    assert_eq!(errors(&s, json!({"a": 1}), Some(json!({"a": 2}))), ["spec: Invalid value: shrank"]);
    let s = schema(
        number(),
        json!([{"rule": "oldSelf.hasValue() || self.a == 1", "optionalOldSelf": true, "message": "begins at one"}]),
    );
    assert_eq!(errors(&s, json!({"a": 2}), None), ["spec: Invalid value: begins at one"]);
    assert!(errors(&s, json!({"a": 2}), Some(json!({"a": 1}))).is_empty());
}

#[test]
fn items_of_maps_find_their_old_selves() {
    let rule = json!([{"rule": "self.v >= oldSelf.v", "message": "shrank"}]);
    let item = json!({"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}, "x-kubernetes-validations": rule});
    let s = schema(
        json!({"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": item},
               "m": {"type": "object", "additionalProperties": item}}),
        json!([]),
    );
    let l = |a: i32, b: i32| json!({"l": [{"k": "b", "v": b}, {"k": "a", "v": a}]});
    assert!(errors(&s, l(1, 2), Some(l(1, 1))).is_empty());
    assert_eq!(
        errors(&s, l(0, 2), Some(json!({"l": [{"k": "a", "v": 1}]}))),
        ["spec.l[1]: Invalid value: shrank"]
    );
    assert_eq!(
        errors(&s, json!({"m": {"x": {"v": 0}}}), Some(json!({"m": {"x": {"v": 1}}}))),
        ["spec.m[x]: Invalid value: shrank"]
    );
}

#[test]
fn unchanged_values_only_warn() {
    let s = schema(
        json!({"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 5", "message": "small"}]}, "b": {"type": "string"}}),
        json!([]),
    );
    let (e, w) = told(&s, json!({"a": 1, "b": "new"}), Some(json!({"a": 1, "b": "old"})));
    assert!(e.is_empty());
    assert_eq!(w, ["spec.a: Invalid value: 1: small"]);
    assert_eq!(errors(&s, json!({"a": 2}), Some(json!({"a": 1}))), ["spec.a: Invalid value: 2: small"]);
}

#[test]
fn rules_wait_for_a_valid_object() {
    let s = schema(number(), json!([{"rule": "self.a > 1"}]));
    assert_eq!(
        errors(&s, json!({"a": "x"}), None),
        [
            "spec.a: Invalid value: \"string\": spec.a in body must be of type integer: \"string\"",
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"
        ]
    );
}

#[test]
fn the_root_has_names() {
    let root = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('y')", "message": "name"}]});
    let s = Schema::compile(&root, SchemaOptions::default()).unwrap();
    assert_eq!(errors(&s, json!({}), None), ["<nil>: Invalid value: name"]);
}

#[test]
fn budgets_end() {
    let s = schema(
        json!({"l": {"type": "array", "items": {"type": "string"}}}),
        json!([{"rule": "self.l.all(x, self.l.all(y, x == y))"}, {"rule": "false"}]),
    );
    let many: Vec<String> = vec!["x".into(); 2000];
    let e = errors(&s, json!({"l": many}), None);
    assert_eq!(
        e,
        [
            "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: self.l.all(x, self.l.all(y, x == y))"
        ]
    );
    let some: Vec<String> = vec!["x".into(); 200];
    let rule = json!({"rule": "self.l.all(x, self.l.all(y, x == y))"});
    let s = schema(json!({"l": {"type": "array", "items": {"type": "string"}}}), vec![rule; 200].into());
    let e = errors(&s, json!({"l": some}), None);
    assert_eq!(
        e,
        [
            "spec: Invalid value: \"object\": validation failed due to running out of cost budget, no further validation rules will be run"
        ]
    );
}

#[test]
fn a_large_array_costs_too_much() {
    let s = schema(
        json!({"largeArray": {"type": "array", "maxItems": 725, "items": {"type": "integer"}}}),
        json!([{"rule": "self.largeArray.all(x, self.largeArray.all(y, y == x))"}]),
    );
    assert!(errors(&s, json!({"largeArray": [2, 2]}), None).is_empty());
    let e = errors(&s, json!({"largeArray": vec![20; 725]}), None);
    assert!(e.len() == 1 && e[0].contains("call cost exceeds limit"), "{e:?}");
}

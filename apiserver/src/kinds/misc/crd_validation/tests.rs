//! Definitions that are wrong in one way each, and what is said about them.

use serde_json::{Value, json};

use super::*;

fn crd(spec: &Value) -> api::CustomResourceDefinition {
    serde_json::from_value(json!({
        "metadata": {"name": "foos.g.io"},
        "spec": spec,
        "status": {"storedVersions": ["v1"], "acceptedNames": {"kind": "", "plural": ""}, "conditions": []},
    }))
    .unwrap()
}

fn base(version: &Value) -> Value {
    let mut v = json!({"name": "v1", "served": true, "storage": true});
    merge(&mut v, version);
    json!({
        "group": "g.io", "scope": "Namespaced", "versions": [v],
        "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
    })
}

fn merge(into: &mut Value, from: &Value) {
    for (k, v) in from.as_object().unwrap() {
        into[k] = v.clone();
    }
}

fn root(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

fn told(e: &ErrorList) -> Vec<String> {
    e.iter().map(ToString::to_string).collect()
}

/// What is wrong with a definition of one version with that schema, places below `openAPIV3Schema`.
fn schema_errors(schema: &Value) -> Vec<String> {
    let spec = base(&json!({"schema": {"openAPIV3Schema": schema}}));
    let e = told(&validate(&crd(&spec)));
    e.into_iter().map(|e| e.replace("spec.validation.openAPIV3Schema", "S")).collect()
}

fn version_errors(version: &Value) -> Vec<String> {
    let mut v = json!({"schema": {"openAPIV3Schema": {"type": "object"}}});
    merge(&mut v, version);
    told(&validate(&crd(&base(&v))))
}

#[test]
fn schemas_are_structural() {
    let nested = |v: Value| {
        root(json!({"a": {"type": "object", "properties": {"b": {"type": "string"}}, "allOf": [v]}}))
    };
    let a = |v: Value| root(json!({"a": v}));
    for (schema, want) in [
        (a(json!({"type": "string"})), vec![]),
        (json!({}), vec!["S.type: Required value: must not be empty at the root"]),
        (json!({"type": "string"}), vec!["S.type: Invalid value: \"string\": must be object at the root"]),
        (
            json!({"type": "object", "nullable": true}),
            vec!["S.nullable: Forbidden: nullable cannot be true at the root"],
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            vec!["S.additionalProperties: Forbidden: must not be used at the root"],
        ),
        (
            a(json!({})),
            vec!["S.properties[a].type: Required value: must not be empty for specified object fields"],
        ),
        (
            a(json!({"type": "array", "items": {}})),
            vec!["S.properties[a].items.type: Required value: must not be empty for specified array items"],
        ),
        (a(json!({"type": "array"})), vec!["S.properties[a].items: Required value: must be specified"]),
        (
            a(json!({"type": "int"})),
            vec![
                "S.properties[a].type: Unsupported value: \"int\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ],
        ),
        (a(json!({"x-kubernetes-int-or-string": true})), vec![]),
        (
            a(
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
            vec![],
        ),
        (
            a(json!({"x-kubernetes-int-or-string": true, "x-kubernetes-preserve-unknown-fields": true})),
            vec![
                "S.properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string is true",
            ],
        ),
        (
            a(json!({"x-kubernetes-preserve-unknown-fields": false, "type": "object"})),
            vec![
                "S.properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
            ],
        ),
        (
            a(
                json!({"type": "string", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
            ),
            vec![
                "S.properties[a].type: Invalid value: \"string\": must be object if x-kubernetes-embedded-resource is true",
            ],
        ),
        (
            a(json!({"type": "object", "x-kubernetes-embedded-resource": true})),
            vec![
                "S.properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
            ],
        ),
        (
            a(json!({"type": "string", "pattern": "("})),
            vec![
                "S.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
            ],
        ),
        (
            nested(json!({"type": "object"})),
            vec!["S.properties[a].allOf[0].type: Forbidden: must be empty to be structural"],
        ),
        (
            json!({"type": "object", "allOf": [{"properties": {"c": {"minLength": 1}}}]}),
            vec!["S.properties[c]: Required value: because it is defined in S.allOf[0].properties[c]"],
        ),
        (
            nested(json!({"properties": {"b": {"minLength": 1, "default": "x"}}})),
            vec![
                "S.properties[a].allOf[0].properties[b].default: Forbidden: must be undefined to be structural",
            ],
        ),
        (
            root(
                json!({"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}}}),
            ),
            vec![],
        ),
        (
            root(json!({"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}})),
            vec![
                "S.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ],
        ),
        (
            root(json!({"kind": {"type": "integer"}})),
            vec!["S.properties[kind].type: Invalid value: \"integer\": must be string"],
        ),
        (
            a(json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}})),
            vec![
                "S.properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ],
        ),
        (
            a(
                json!({"type": "object", "properties": {"b": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            ),
            vec![
                "S.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            ],
        ),
        (
            a(json!({"type": "object", "$ref": "x"})),
            vec!["S.properties[a].$ref: Forbidden: $ref is not supported"],
        ),
    ] {
        assert_eq!(schema_errors(&schema), want, "{schema}");
    }
}

#[test]
fn an_unknown_type_hides_nothing() {
    let e = schema_errors(&root(json!({"a": {"type": "int"}, "b": {}})));
    assert_eq!(e.len(), 2, "{e:?}");
}

#[test]
fn lists_have_a_topology() {
    let list = |v: Value, items: Value| {
        let mut l = json!({"type": "array", "items": items});
        merge(&mut l, &v);
        root(json!({"a": l}))
    };
    let item = json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "o": {"type": "string"}}});
    let keys = |k: Value| json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": k});
    for (schema, want) in [
        (list(keys(json!(["k"])), item.clone()), vec![]),
        (
            list(json!({"x-kubernetes-list-type": "map"}), item.clone()),
            vec![
                "S.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ],
        ),
        (
            list(keys(json!(["x"])), item.clone()),
            vec![
                "S.properties[a].x-kubernetes-list-map-keys: Invalid value: [\"x\"]: entries must all be names of item properties",
            ],
        ),
        (
            list(keys(json!(["k", "k"])), item.clone()),
            vec![
                "S.properties[a].x-kubernetes-list-map-keys: Invalid value: [\"k\",\"k\"]: must not contain duplicate entries",
            ],
        ),
        (
            list(keys(json!(["o"])), item.clone()),
            vec![
                "S.properties[a].items.properties[o].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ],
        ),
        (
            list(json!({"x-kubernetes-list-map-keys": ["k"]}), item.clone()),
            vec![
                "S.properties[a].x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty",
            ],
        ),
        (
            list(json!({"x-kubernetes-list-type": "bag"}), item.clone()),
            vec![
                "S.properties[a].x-kubernetes-list-type: Unsupported value: \"bag\": supported values: \"atomic\", \"set\", \"map\"",
            ],
        ),
        (
            list(json!({"x-kubernetes-list-type": "set"}), item),
            vec![
                "S.properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
            ],
        ),
        (
            root(json!({"a": {"type": "string", "x-kubernetes-map-type": "atomic"}})),
            vec![
                "S.properties[a].type: Invalid value: \"string\": must be object if x-kubernetes-map-type is specified",
            ],
        ),
    ] {
        assert_eq!(schema_errors(&schema), want, "{schema}");
    }
}

#[test]
fn defaults_are_valid_and_pruned() {
    let a = |v: Value| root(json!({"a": v}));
    let embedded = |d: Value| {
        a(
            json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"metadata": {"type": "object", "default": d}}}),
        )
    };
    for (schema, want) in [
        (a(json!({"type": "string", "default": "x"})), vec![]),
        (
            a(json!({"type": "string", "default": 1})),
            vec![
                "S.properties[a].default: Invalid value: \"integer\":  in body must be of type string: \"integer\"",
            ],
        ),
        (
            a(json!({"type": "object", "default": {"b": 1}, "properties": {"c": {"type": "string"}}})),
            vec!["S.properties[a].default: Invalid value: {\"b\":1}: must not have unknown fields"],
        ),
        (
            root(json!({"metadata": {"type": "object", "default": {}}})),
            vec!["S.properties[metadata].default: Forbidden: must not be set in top-level metadata"],
        ),
        (embedded(json!({"name": "x"})), vec![]),
        (
            embedded(json!({"name": 5})),
            vec![
                "S.properties[a].properties[metadata].default: Invalid value: {\"name\":5}: must result in valid metadata: metadata: Invalid value: {\"name\":5}: json: cannot unmarshal number into Go struct field ObjectMeta.name of type string",
            ],
        ),
    ] {
        assert_eq!(schema_errors(&schema), want, "{schema}");
    }
}

#[test]
fn parts_of_versions() {
    let long = "x".repeat(257);
    for (version, want) in [
        (
            json!({"additionalPrinterColumns": [{"name": "", "type": "x", "jsonPath": "a", "format": "f"}]}),
            vec![
                "spec.additionalPrinterColumns[0].name: Required value",
                "spec.additionalPrinterColumns[0].type: Invalid value: \"x\": must be one of boolean,date,integer,number,string",
                "spec.additionalPrinterColumns[0].format: Invalid value: \"f\": must be one of byte,date,date-time,double,float,int32,int64,password",
                "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"a\": must be a simple json path starting with .",
            ],
        ),
        (
            json!({"subresources": {"scale": {"specReplicasPath": ".status.n", "statusReplicasPath": "n", "labelSelectorPath": ".x"}}}),
            vec![
                "spec.subresources.scale.specReplicasPath: Invalid value: \".status.n\": should be a json path under .spec",
                "spec.subresources.scale.statusReplicasPath: Invalid value: \"n\": must be a simple json path starting with .",
                "spec.subresources.scale.labelSelectorPath: Invalid value: \".x\": should be a json path under either .spec or .status",
            ],
        ),
        (
            json!({"deprecationWarning": "x"}),
            vec![
                "spec.versions[0].deprecationWarning: Invalid value: \"x\": can only be set for deprecated versions",
            ],
        ),
        (
            json!({"deprecated": true, "deprecationWarning": ""}),
            vec!["spec.versions[0].deprecationWarning: Invalid value: \"\": must not be an empty string"],
        ),
        (
            json!({"deprecated": true, "deprecationWarning": "a\tb"}),
            vec![
                "spec.versions[0].deprecationWarning: Invalid value: \"a\\tb\": must only contain printable UTF-8 characters; non-printable character found at index 1",
            ],
        ),
        (
            json!({"schema": {"openAPIV3Schema": root(json!({"spec": {"type": "object", "properties": {"a": {"type": "string"}, "o": {"type": "object"}}}}))},
                "selectableFields": [{"jsonPath": ".spec.a"}, {"jsonPath": ".spec.a"}, {"jsonPath": ".spec.o"}, {"jsonPath": ".metadata.name"}, {"jsonPath": ""}]}),
            vec![
                "spec.selectableFields[1].jsonPath: Duplicate value: \".spec.a\"",
                "spec.selectableFields[2].jsonPath: Invalid value: \".spec.o\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
                "spec.selectableFields[3].jsonPath: Invalid value: \".metadata.name\": is an invalid path: does not refer to a valid field",
                "spec.selectableFields[4].jsonPath: Required value",
            ],
        ),
        (
            json!({"subresources": {"status": {}}, "schema": {"openAPIV3Schema": {"type": "object", "maxProperties": 3}}}),
            vec![
                "spec.validation.openAPIV3Schema: Invalid value: {\"maxProperties\":3,\"type\":\"object\"}: only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource is enabled",
            ],
        ),
    ] {
        assert_eq!(version_errors(&version), want, "{version}");
    }
    assert_eq!(version_errors(&json!({"deprecated": true, "deprecationWarning": long})).len(), 1);
}

#[test]
fn rules_have_a_form() {
    let with = |rule: Value| json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [rule]});
    let at = |s: &str| format!("S.x-kubernetes-validations[0].{s}");
    for (rule, want) in [
        (json!({"rule": " "}), at("rule: Required value: rule is not specified")),
        (
            json!({"rule": "true", "message": " "}),
            at("message: Invalid value: \" \": must be non-empty if specified"),
        ),
        (
            json!({"rule": "true\n", "message": "a\nb"}),
            at("message: Invalid value: \"a\\nb\": must not contain line breaks"),
        ),
        (
            json!({"rule": "true ||\n true"}),
            at("message: Required value: message must be specified if rule contains line breaks"),
        ),
        (
            json!({"rule": "true", "messageExpression": " "}),
            at("messageExpression: Required value: messageExpression must be non-empty if specified"),
        ),
        (
            json!({"rule": "true", "reason": "X"}),
            at(
                "reason: Unsupported value: \"X\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\"",
            ),
        ),
        (
            json!({"rule": "true", "fieldPath": ".b"}),
            at("fieldPath: Invalid value: \".b\": must be a valid path"),
        ),
    ] {
        assert_eq!(schema_errors(&with(rule.clone())), [want], "{rule}");
    }
}

#[test]
fn the_whole_definition() {
    let with = |change: Value| {
        let mut spec = base(&json!({"schema": {"openAPIV3Schema": {"type": "object"}}}));
        merge(&mut spec, &change);
        told(&validate(&crd(&spec)))
    };
    assert!(with(json!({})).is_empty());
    assert_eq!(with(json!({"scope": ""})), ["spec.scope: Required value"]);
    assert_eq!(
        with(json!({"preserveUnknownFields": true})),
        [
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        ]
    );
    let webhook = |w: Value| with(json!({"conversion": {"strategy": "Webhook", "webhook": w}}));
    assert_eq!(
        webhook(json!({"conversionReviewVersions": ["v7", "v7"], "clientConfig": {}})),
        [
            "spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required",
            "spec.conversion.conversionReviewVersions[1]: Invalid value: \"v7\": duplicate version",
            "spec.conversion.conversionReviewVersions: Invalid value: [\"v7\",\"v7\"]: must include at least one of v1, v1beta1",
        ]
    );
    assert_eq!(
        with(
            json!({"conversion": {"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": {"url": "https://a"}}}})
        ),
        [
            "spec.conversion.webhookClientConfig: Forbidden: should not be set when strategy is not set to Webhook",
            "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook",
        ]
    );
    let mut lacking = base(&json!({}));
    lacking["versions"][0].as_object_mut().unwrap().remove("schema");
    assert_eq!(told(&validate(&crd(&lacking))), ["spec.versions[0].schema.openAPIV3Schema: Required value"]);
    let mut protected = crd(&base(&json!({"schema": {"openAPIV3Schema": {"type": "object"}}})));
    protected.spec.group = "x.k8s.io".into();
    protected.metadata.name = Some("foos.x.k8s.io".into());
    assert!(
        told(&validate(&protected))[0]
            .starts_with("metadata.annotations[api-approved.kubernetes.io]: Required value")
    );
}

#[test]
fn versions_that_differ_are_told_apart() {
    let mut spec = base(&json!({"schema": {"openAPIV3Schema": {"type": "object"}}}));
    spec["versions"].as_array_mut().unwrap().push(json!({
        "name": "v2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "string"}}
    }));
    let e = told(&validate(&crd(&spec)));
    assert_eq!(
        e[0],
        "spec.versions[1].schema.openAPIV3Schema.type: Invalid value: \"string\": must be object at the root"
    );
    assert!(e[1].ends_with("must have exactly one version marked as storage version"), "{e:?}");
}

#[test]
fn an_update_forgives_old_faults() {
    let spec = |schema: Value| base(&json!({"schema": {"openAPIV3Schema": schema}}));
    let set = |t: &str| {
        root(
            json!({"a": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}, "description": t}}),
        )
    };
    let (old, new) = (crd(&spec(set("x"))), crd(&spec(set("y"))));
    assert_eq!(told(&validate(&new)).len(), 1);
    assert!(told(&validate_update(&new, &old)).is_empty());
    let fine = crd(&spec(json!({"type": "object"})));
    assert_eq!(told(&validate_update(&new, &fine)).len(), 1);
    let mut moved = fine.clone();
    moved.spec.group = "h.io".into();
    assert_eq!(
        told(&validate_update(&moved, &fine)),
        ["spec.group: Invalid value: \"h.io\": field is immutable"]
    );
    let mut stored = fine.clone();
    stored.status.as_mut().unwrap().stored_versions = Some(vec!["v0".into(), "v1".into()]);
    assert!(
        told(&validate_update(&stored, &fine))[0]
            .starts_with("status.storedVersions[0]: Invalid value: \"v0\": missing from spec.versions")
    );
}

#[test]
fn unknown_formats_warn_once() {
    let with = |f: &str| {
        crd(&base(
            &json!({"schema": {"openAPIV3Schema": root(json!({"a": {"type": "string", "format": f}}))}}),
        ))
    };
    assert_eq!(warnings(&with("phone"), None), ["unrecognized format \"phone\""]);
    assert!(warnings(&with("phone"), Some(&with("phone"))).is_empty());
    assert!(warnings(&with("date"), None).is_empty());
}

#[test]
fn deep_schemas_do_not_overflow() {
    let deep =
        (0..90).fold(json!({"type": "string"}), |s, _| json!({"type": "object", "properties": {"a": s}}));
    assert!(schema_errors(&deep).is_empty());
}

fn with_rule(properties: Value, rule: Value) -> Vec<String> {
    schema_errors(&json!({"type": "object", "properties": properties, "x-kubernetes-validations": [rule]}))
}

#[test]
fn rules_compile() {
    let a = || json!({"a": {"type": "string", "maxLength": 10}});
    assert!(
        with_rule(
            a(),
            json!({"rule": "self.a.size() > 1", "messageExpression": "'is ' + self.a", "fieldPath": ".a"})
        )
        .is_empty()
    );
    let e = with_rule(a(), json!({"rule": "self.b == 'x'"}));
    let shown = r#"{"Rule":"self.b == 'x'","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}"#;
    let want = format!(
        "S.x-kubernetes-validations[0].rule: Invalid value: {shown}: compilation failed: ERROR: <input>:1:5: undefined field 'b'"
    );
    assert!(e.len() == 1 && e[0].starts_with(&want), "{e:?}");
    let e = with_rule(a(), json!({"rule": "self.a"}));
    assert!(e[0].ends_with("cel expression must evaluate to a bool"), "{e:?}");
    let e = with_rule(a(), json!({"rule": "true", "messageExpression": "1"}));
    assert!(
        e[0].starts_with("S.x-kubernetes-validations[0].messageExpression: Invalid value")
            && e[0].ends_with("messageExpression must evaluate to a string"),
        "{e:?}"
    );
    let e = with_rule(a(), json!({"rule": "true", "optionalOldSelf": true}));
    assert_eq!(
        e,
        [
            "S.x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
        ]
    );
    let odd = json!({"m": {"type": "object", "x-kubernetes-map-type": "odd", "properties": {"f": {"type": "string",
        "maxLength": 5, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    let e = schema_errors(&root(odd));
    assert!(
        e.len() == 2 && e[0].contains("x-kubernetes-map-type") && e[1].contains("within S.properties[m]"),
        "{e:?}"
    );
    let list = json!({"l": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 5,
        "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}});
    assert_eq!(
        schema_errors(&root(list)),
        [
            "S.properties[l].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within S.properties[l]"
        ]
    );
}

#[test]
fn rules_cost_within_limits() {
    let nested = |max: Option<u32>| {
        let mut s = json!({"type": "string"});
        let mut l = json!({"type": "array", "items": {}, "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x != y))"}]});
        if let Some(n) = max {
            s["maxLength"] = json!(10);
            l["maxItems"] = json!(n);
        }
        l["items"] = s;
        schema_errors(&root(json!({"l": l})))
    };
    assert!(nested(Some(10)).is_empty());
    let e = nested(None);
    assert!(e[0].starts_with("S.properties[l].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule"), "{e:?}");
    assert_eq!(
        e[1],
        "S.properties[l].x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
    );
    assert!(e[2].starts_with("S: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget"), "{e:?}");
    // What is stored already keeps its rules, but for the sum of all.
    let spec = |d: &str| {
        base(&json!({"schema": {"openAPIV3Schema": {"type": "object", "description": d, "properties": {"l": {
        "type": "array", "maxItems": 200, "items": {"type": "string", "maxLength": 1000},
        "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x != y))"}]}}}}}))
    };
    let (a, b) = (crd(&spec("a")), crd(&spec("b")));
    let fresh = told(&validate(&a));
    assert_eq!(told(&validate_update(&b, &a)), fresh);
    assert!(told(&validate_update(&a, &a)).len() < fresh.len());
}

#[test]
fn rules_of_the_conformance_suite() {
    let ints = |max: u32| json!({"type": "array", "maxItems": max, "items": {"type": "integer"}});
    let spec = json!({"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.x + self.y > 0"},
            {"rule": "self.firstArray.isSorted() && self.secondArray.isSorted() && ((self.firstArray.sum() + self.secondArray.sum()) % 2 == 0)"},
            {"rule": "self.largeArray.all(x, self.largeArray.all(y, y == x))"},
        ],
        "properties": {"x": {"type": "integer"}, "y": {"type": "integer"},
            "firstArray": ints(1000), "secondArray": ints(1000), "largeArray": ints(725)}});
    assert!(schema_errors(&root(json!({"spec": spec}))).is_empty());
    let strings = json!({"type": "array", "items": {"type": "string"},
        "x-kubernetes-validations": [{"rule": "self.all(s, s == 'string constant')"}]});
    let e = schema_errors(&root(
        json!({"spec": {"type": "object", "properties": {"x": {"type": "array", "items": strings}}}}),
    ));
    assert!(e[0].contains("exceeds budget"), "{e:?}");
    let broken = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self = 42"}]});
    let e = schema_errors(&root(json!({"spec": broken})));
    assert!(e[0].contains("Syntax error"), "{e:?}");
}

#[test]
fn defaults_keep_rules() {
    let a = |d: u32| {
        root(
            json!({"a": {"type": "integer", "default": d, "x-kubernetes-validations": [{"rule": "self > 5", "message": "too small"}]}}),
        )
    };
    assert!(schema_errors(&a(6)).is_empty());
    assert_eq!(schema_errors(&a(3)), ["S.properties[a].default: Invalid value: 3: too small"]);
}

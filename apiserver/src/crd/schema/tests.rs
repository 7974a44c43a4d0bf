//! Tables of cases: a schema, an object, and what becomes of it.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::meta::Malformed;
use super::*;

fn schema(spec: Value) -> Arc<Schema> {
    compile(json!({"type": "object", "properties": {"spec": spec}}))
}

fn compile(schema: Value) -> Arc<Schema> {
    let o = SchemaOptions { group: "g.io", version: "v1", kind: "Foo", preserve_unknown_fields: false };
    Schema::compile(&schema, o).unwrap()
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "g.io/v1", "kind": "Foo", "metadata": {"name": "x"}, "spec": spec})
}

fn errors(spec_schema: Value, spec: Value) -> Vec<String> {
    let e = schema(spec_schema).validate(&ValidationCx::default(), &object(spec), None);
    e.iter().map(ToString::to_string).collect()
}

#[test]
fn values_are_checked_in_upstreams_words() {
    let invalid = |v: &str, what: &str| format!("spec: Invalid value: {v}: spec in body {what}");
    for (s, v, want) in [
        (json!({"type": "string"}), json!(1), invalid("\"integer\"", "must be of type string: \"integer\"")),
        (json!({"type": "string"}), json!(null), invalid("\"null\"", "must be of type string: \"null\"")),
        (json!({"type": "string", "nullable": true}), json!(null), String::new()),
        (json!({"type": "integer"}), json!(1.0), String::new()),
        (json!({"type": "number"}), json!(1), String::new()),
        (
            json!({"type": "boolean"}),
            json!("true"),
            invalid("\"string\"", "must be of type boolean: \"string\""),
        ),
        (json!({"x-kubernetes-int-or-string": true}), json!("5"), String::new()),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            invalid("\"boolean\"", "must be of type integer,string: \"boolean\""),
        ),
        (
            json!({"type": "string", "maxLength": 1}),
            json!("ab"),
            "spec: Too long: may not be more than 1 byte".into(),
        ),
        (json!({"type": "string", "maxLength": 2}), json!("éé"), String::new()),
        (
            json!({"type": "string", "minLength": 3}),
            json!("ab"),
            invalid("\"ab\"", "should be at least 3 chars long"),
        ),
        (json!({"type": "string", "pattern": "^a$"}), json!("b"), invalid("\"b\"", "should match '^a$'")),
        (
            json!({"type": "string", "format": "date"}),
            json!("x"),
            invalid("\"x\"", "must be of type date: \"x\""),
        ),
        (json!({"type": "string", "format": "whatever"}), json!("x"), String::new()),
        (
            json!({"type": "integer", "maximum": 3}),
            json!(4),
            invalid("4", "should be less than or equal to 3"),
        ),
        (
            json!({"type": "integer", "maximum": 3, "exclusiveMaximum": true}),
            json!(3),
            invalid("3", "should be less than 3"),
        ),
        (
            json!({"type": "number", "minimum": 0.5}),
            json!(0.25),
            invalid("0.25", "should be greater than or equal to 0.5"),
        ),
        (
            json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true}),
            json!(1),
            invalid("1", "should be greater than 1"),
        ),
        (json!({"type": "integer", "multipleOf": 3}), json!(4), invalid("4", "should be a multiple of 3")),
        (json!({"type": "number", "multipleOf": 0.1}), json!(0.3), String::new()),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            "spec: Unsupported value: \"c\": supported values: \"a\", \"b\"".into(),
        ),
        (
            json!({"type": "integer", "enum": [1, 2]}),
            json!(3),
            "spec: Unsupported value: 3: supported values: \"1\", \"2\"".into(),
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", "b"]),
            "spec: Too many: 2: must have at most 1 item".into(),
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
            json!([]),
            invalid("0", "should have at least 1 items"),
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!([1]),
            "spec[0]: Invalid value: \"integer\": spec[0] in body must be of type string: \"integer\"".into(),
        ),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}),
            json!({}),
            "spec.a: Required value".into(),
        ),
        (
            json!({"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}}),
            json!({"a": "", "b": ""}),
            "spec: Too many: 2: must have at most 1 item".into(),
        ),
        (
            json!({"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}}),
            json!({}),
            invalid("0", "should have at least 1 properties"),
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"k": 1}),
            "spec.k: Invalid value: \"integer\": spec.k in body must be of type string: \"integer\"".into(),
        ),
        (
            json!({"type": "integer", "format": "int32"}),
            json!(1i64 << 40),
            "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec"
                .into(),
        ),
        (
            json!({"type": "string", "not": {"enum": ["a"]}}),
            json!("a"),
            "<nil>: Invalid value: \"\": \"spec\" must not validate the schema (not)".into(),
        ),
    ] {
        assert_eq!(errors(s.clone(), v.clone()).join("\n"), want, "{s} {v}");
    }
}

#[test]
fn alternatives_tell_of_the_best_one() {
    let s = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert_eq!(
        errors(s.clone(), json!({})),
        [
            "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found none valid",
            "spec.a: Required value"
        ]
    );
    assert_eq!(
        errors(s, json!({"a": "x", "b": 1})),
        [
            "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found 2 valid alternatives"
        ]
    );
    let s = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "anyOf": [{"properties": {"a": {"minLength": 2}}}, {"required": ["z"]}]});
    assert_eq!(
        errors(s, json!({"a": "x"})),
        [
            "<nil>: Invalid value: \"\": \"spec\" must validate at least one schema (anyOf)",
            "spec.a: Invalid value: \"x\": spec.a in body should be at least 2 chars long"
        ]
    );
    let s = json!({"type": "integer", "allOf": [{"minimum": 5}, {"maximum": 10}]});
    assert_eq!(
        errors(s, json!(3)),
        [
            "spec: Invalid value: 3: spec in body should be greater than or equal to 5",
            "<nil>: Invalid value: \"\": \"spec\" must validate all the schemas (allOf)"
        ]
    );
}

#[test]
fn what_did_not_change_may_stay_wrong() {
    let s = schema(json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 1},
        "n": {"type": "integer", "maximum": 5},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}},
        "atomic": {"type": "array", "items": {"type": "integer", "maximum": 1}}
    }}));
    let check = |new: Value, old: Value| {
        let e = s.validate(&ValidationCx::default(), &object(new), Some(&object(old)));
        e.iter().map(|e| e.field.clone()).collect::<Vec<_>>()
    };
    assert_eq!(check(json!({"name": "long", "n": 9}), json!({"name": "long", "n": 1})), ["spec.n"]);
    assert!(check(json!({"name": "long", "n": 2}), json!({"name": "long", "n": 1})).is_empty());
    let (a, b) = (json!({"k": "a", "v": 7}), json!({"k": "b", "v": 7}));
    assert!(check(json!({"list": [b, a]}), json!({"list": [a, b]})).is_empty());
    assert_eq!(check(json!({"list": [b, {"k": "a", "v": 8}]}), json!({"list": [a, b]})), ["spec.list[1].v"]);
    assert_eq!(check(json!({"atomic": [7, 1]}), json!({"atomic": [7]})), ["spec.atomic[0]"]);
    assert!(check(json!({"atomic": [7], "n": 1}), json!({"atomic": [7]})).is_empty());
}

#[test]
fn sets_and_maps_hold_each_item_once() {
    let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
    assert_eq!(errors(set.clone(), json!(["a", "b", "a", "a"])), ["spec[2]: Duplicate value: \"a\""]);
    let map = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "properties": {"k": {"type": "string"}}}});
    assert_eq!(errors(map, json!([{"k": "a"}, {"k": "a"}])), ["spec[1]: Duplicate value: {\"k\":\"a\"}"]);
    let s = schema(set);
    let (old, new) = (object(json!(["a", "a"])), object(json!(["a", "a", "b", "b"])));
    assert!(s.validate(&ValidationCx::default(), &new, Some(&old)).is_empty());
}

#[test]
fn unknown_fields_are_dropped_and_named() {
    let s = schema(json!({"type": "object", "properties": {
        "a": {"type": "string"},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"closed": {"type": "object", "properties": {"x": {"type": "string"}}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
        "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "null": {"type": "string"}, "nullable": {"type": "string", "nullable": true},
        "nulldefault": {"type": "string", "default": "d"}
    }}));
    let mut v = object(json!({
        "a": "1", "b": "2", "null": null, "nullable": null, "nulldefault": null,
        "open": {"any": {"thing": 1}, "closed": {"x": "", "y": 1}},
        "map": {"k": {"x": "", "y": 1}}, "list": [{"x": "", "y": {"z": 1}}],
        "embedded": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n", "bogus": 1, "labels": {}}, "spec": {}},
    }));
    v["other"] = json!(1);
    let unknown = s.decode(&mut v, Malformed::Refuse, true).unwrap();
    let want: Vec<String> = [
        "other",
        "spec.b",
        "spec.list[0].y",
        "spec.map.k.y",
        "spec.open.closed.y",
        "spec.embedded.metadata.bogus",
    ]
    .iter()
    .map(|p| format!("unknown field \"{p}\""))
    .collect();
    assert_eq!(unknown, want);
    s.default(&mut v);
    assert_eq!(
        v,
        object(json!({
            "a": "1", "nullable": null, "nulldefault": "d", "open": {"any": {"thing": 1}, "closed": {"x": ""}},
            "map": {"k": {"x": ""}}, "list": [{"x": ""}],
            "embedded": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n"}, "spec": {}},
        }))
    );
}

#[test]
fn embedded_objects_have_metadata() {
    let s = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
    assert_eq!(
        errors(s.clone(), json!({})),
        ["spec.apiVersion: Required value", "spec.kind: Required value"]
    );
    let bad = json!({"apiVersion": "a/b/c", "kind": "a_b", "metadata": {"name": "a/b"}});
    let e = errors(s.clone(), bad);
    assert_eq!(e[0], "spec.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c");
    assert!(e[1].starts_with("spec.kind: Invalid value: \"a_b\": may have mixed case"), "{e:?}");
    assert!(e[2].starts_with("spec.metadata.name: Invalid value: \"a/b\""), "{e:?}");
    let mut v = object(json!({"apiVersion": 1, "kind": "X"}));
    let e = schema(s).decode(&mut v, Malformed::Refuse, false).unwrap_err();
    assert_eq!(e, "spec.apiVersion: Invalid value: 1: must be a string");
}

#[test]
fn defaults_nest() {
    let s = schema(json!({"type": "object", "default": {}, "properties": {
        "a": {"type": "object", "default": {}, "properties": {"b": {"type": "integer", "default": 7}}},
        "m": {"type": "object", "additionalProperties": {"type": "integer", "default": 3}},
        "l": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "string", "default": "c"}}}}
    }}));
    let mut v = json!({"metadata": {}});
    s.default(&mut v);
    assert_eq!(v["spec"], json!({"a": {"b": 7}}));
    let mut v = object(json!({"a": null, "m": {"x": null}, "l": [{}]}));
    s.default(&mut v);
    assert_eq!(v["spec"], json!({"a": {"b": 7}, "m": {"x": 3}, "l": [{"c": "c"}]}));
}

#[test]
fn scale_paths_lead_to_counts() {
    let s = compile(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    let scale = ScalePaths {
        spec_replicas: ".spec.n".into(),
        status_replicas: ".status.n".into(),
        label_selector: ".status.s".into(),
    };
    let cx = ValidationCx { scale: Some(&scale), ..Default::default() };
    let check = |v: Value| s.validate(&cx, &v, None).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(check(json!({"spec": {"n": 1}})).is_empty());
    assert_eq!(
        check(json!({"spec": {"n": -1}})),
        [".spec.n: Invalid value: -1: should be a non-negative integer"]
    );
    assert_eq!(
        check(json!({"spec": {"n": "x"}, "status": {"s": 1}})),
        [
            ".spec.n: Invalid value: 0: .spec.n accessor error: x is of the type string, expected int64",
            ".status.s: Invalid value: \"\": .status.s accessor error: 1 is of the type int64, expected string"
        ]
    );
}

#[test]
fn is_published() {
    let s = schema(json!({"type": "object", "description": "d", "required": ["n", "p"], "properties": {
        "n": {"type": "string", "nullable": true, "default": "x"},
        "p": {"x-kubernetes-int-or-string": true},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}},
        "e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}
    }}));
    let v3 = s.openapi_v3();
    let spec = &v3["properties"]["spec"];
    assert_eq!(spec["properties"]["p"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
    assert_eq!(spec["properties"]["n"], json!({"type": "string", "nullable": true, "default": "x"}));
    assert_eq!(spec["properties"]["e"]["required"], json!(["kind", "apiVersion"]));
    assert_eq!(
        v3["properties"]["metadata"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    assert_eq!(
        v3["x-kubernetes-group-version-kind"],
        json!([{"group": "g.io", "version": "v1", "kind": "Foo"}])
    );
    let spec = s.openapi_v2()["properties"]["spec"].clone();
    assert_eq!(spec["properties"]["n"], json!({}));
    assert_eq!(spec["required"], json!(["p"]));
    assert_eq!(spec["properties"]["p"], json!({"x-kubernetes-int-or-string": true}));
    assert_eq!(spec["properties"]["open"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    let open = compile(
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}}),
    );
    assert_eq!(open.openapi_v2()["properties"], json!(null));
    assert!(open.openapi_v3()["properties"]["a"].is_object());
}

#[test]
fn lists_are_published() {
    let gvk = Gvk { group: "stable.example.com", version: "v1", kind: "CronTab" };
    let l = openapi::list(gvk, "CronTabList", "crontabs", Edition::V3);
    assert_eq!(
        l["properties"]["items"]["items"]["$ref"],
        "#/components/schemas/com.example.stable.v1.CronTab"
    );
    assert_eq!(l["x-kubernetes-group-version-kind"][0]["kind"], "CronTabList");
}

#[test]
fn merges_by_topology() {
    use proto::schema::{Kind, ListType};
    let s = schema(json!({"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
        "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"], "items":
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "integer", "default": 1}}}}
    }}));
    let t = s.type_def();
    let spec = &t.field("spec").unwrap().ty;
    assert!(spec.atomic && t.field("metadata").is_some());
    let Kind::List(l) = &spec.field("m").unwrap().ty.kind else { panic!("no list") };
    assert_eq!((l.list, &l.keys[..]), (ListType::Map, &["a", "b"][..]));
    assert_eq!(l.elem.field("b").unwrap().default, "1");
}

#[test]
fn open_objects_merge_what_they_declare() {
    use crate::patch::fields::{Ty, to_set, validate};
    let s = schema(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
        "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}}}
    }}));
    let t = s.type_def();
    let v = object(json!({"m": [{"k": "a"}], "free": {"x": [1]}}));
    assert_eq!(validate(&v, Ty::Def(&t)), Ok(()));
    let paths = to_set(&v, Ty::Def(&t)).to_fields();
    let spec = &paths["f:spec"];
    assert!(spec["f:m"]["k:{\"k\":\"a\"}"].is_object() && spec["f:free"]["f:x"].is_object(), "{paths}");
    let closed = schema(json!({"type": "object", "properties": {"a": {"type": "string"}}})).type_def();
    assert!(validate(&object(json!({"b": 1})), Ty::Def(&closed)).is_err());
}

#[test]
fn what_is_not_structural_does_not_compile() {
    let e = Schema::compile(
        &json!({"type": "object", "$ref": "x", "properties": {"a": {"type": "nope"}}}),
        SchemaOptions::default(),
    );
    assert_eq!(
        e.unwrap_err(),
        ["OpenAPIV3Schema '$ref' is not supported", "OpenAPIV3Schema type 'nope' is not supported"]
    );
    let deep = (0..400).fold(json!({"type": "string"}), |s, _| json!({"type": "array", "items": s}));
    assert!(Schema::compile(&deep, SchemaOptions::default()).is_err());
}

#[test]
fn deep_objects_do_not_overflow() {
    const DEPTH: usize = 190;
    let leaf = json!({"type": "integer", "maximum": 1});
    let s = schema((0..DEPTH).fold(leaf, |s, i| match i % 2 {
        0 => json!({"type": "object", "properties": {"k": {"type": "string"}, "a": s}}),
        _ => json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": s}),
    }));
    let value = |n: i32| {
        object((0..DEPTH).fold(json!(n), |v, i| match i % 2 {
            0 => json!({"k": "x", "a": v}),
            _ => json!([v]),
        }))
    };
    let (mut new, old) = (value(3), value(2));
    assert!(s.decode(&mut new, Malformed::Refuse, true).unwrap().is_empty());
    s.default(&mut new);
    assert_eq!(s.validate(&ValidationCx::default(), &new, Some(&old)).len(), 1);
    assert!(s.validate(&ValidationCx::default(), &new, Some(&value(3))).is_empty());
    s.type_def();
}

/// Any JSON, small, from few names so that schema and object meet.
fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| json!(f)),
        "[a-z]{0,3}".prop_map(Value::from)
    ];
    scalar.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(
                prop_oneof!["[ab]", Just("metadata".into()), Just("kind".into())],
                inner,
                0..4
            )
            .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string", "pattern": "^a", "default": "x"})),
        Just(json!({"type": "integer", "maximum": 3, "multipleOf": 2})),
        Just(json!({"type": "number", "format": "float", "minimum": -1.5})),
        Just(json!({"x-kubernetes-int-or-string": true})),
        Just(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})),
        Just(json!({"type": "boolean", "nullable": true})),
        Just(json!({"type": "string", "enum": ["a", 1, null], "format": "date"})),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|s| json!({"type": "array", "items": s, "x-kubernetes-list-type": "set", "maxItems": 2})),
            inner.clone().prop_map(|s| json!({"type": "array", "items": s, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]})),
            inner.clone().prop_map(|s| json!({"type": "object", "additionalProperties": s, "minProperties": 1})),
            (inner.clone(), any::<bool>(), any::<bool>()).prop_map(|(s, e, p)| json!({
                "type": "object", "properties": {"a": s}, "required": ["a"], "default": {},
                "x-kubernetes-embedded-resource": e, "x-kubernetes-preserve-unknown-fields": p.then_some(true)})),
            (inner.clone(), inner).prop_map(|(a, b)| json!({
                "type": "object", "properties": {"a": a}, "oneOf": [b, {"required": ["b"]}], "not": {"required": ["a"]}})),
        ]
    })
}

proptest! {
    #[test]
    fn pruning_and_defaulting_settle(s in any_schema(), v in any_json()) {
        let s = schema(s);
        let mut once = object(v);
        s.prune(&mut once);
        let mut twice = once.clone();
        s.prune(&mut twice);
        prop_assert_eq!(&once, &twice);
        prop_assert!(s.unknown_fields(&once).is_empty());
        s.default(&mut once);
        let mut twice = once.clone();
        s.default(&mut twice);
        prop_assert_eq!(&once, &twice);
    }

    #[test]
    fn nothing_panics(s in any_schema(), new in any_json(), old in any_json()) {
        let s = schema(s);
        let (new, old) = (object(new), object(old));
        s.validate(&ValidationCx::default(), &new, Some(&old));
        let status = ValidationCx { status: true, ..Default::default() };
        prop_assert!(s.validate(&status, &new, Some(&new)).is_empty());
        let mut v = new.clone();
        let _ = s.decode(&mut v, Malformed::Drop, true);
        s.type_def();
        s.openapi_v2();
        s.openapi_v3();
    }

    #[test]
    fn an_unchanged_object_stays_valid_or_blocked_only_by_what_is_not_ratcheted(s in any_schema(), v in any_json()) {
        let node = Compiler::default().node(Props::new(&s).unwrap(), MAX_DEPTH);
        let e = check::check(&v, &node, Some(&v), &Path::default());
        // Fields that the schema does not know count as changed.
        prop_assert!(e.is_empty() || !ratchet::Pair::new(&v, &v, &node).same());
    }

    #[test]
    fn any_json_as_schema_compiles_or_not(s in any_json()) {
        let _ = Schema::compile(&s, SchemaOptions::default());
    }
}

use proto::json::Strictness;
use proto::schema::{TypeDef, by_gvk};
use serde_json::{Value, json};

use super::apply::{Writer, apply, track_update};
use super::fields::Set;
use super::{PatchType, patched};

fn pod_type() -> &'static TypeDef {
    by_gvk("", "v1", "Pod").unwrap()
}

fn canonical(v: &Value) -> Value {
    proto::json::normalize(v, pod_type(), Strictness::Strict).unwrap().value
}

fn pod(spec: Value) -> Value {
    canonical(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}))
}

fn strategic(live: &Value, patch: Value) -> Value {
    let body = serde_json::to_vec(&patch).unwrap();
    patched(PatchType::Strategic, live, &body, Some(pod_type()), Strictness::Strict).unwrap().value
}

fn names(v: &Value) -> Vec<&str> {
    v.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect()
}

#[test]
fn lists_merge_by_key_and_keep_their_order() {
    let live =
        pod(json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}, {"name": "c"}]}));
    let out = strategic(
        &live,
        json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "d", "image": "3"}]}}),
    );
    assert_eq!(names(&out["spec"]["containers"]), ["a", "b", "d", "c"]);
    assert_eq!(out["spec"]["containers"][1]["image"], "2");
    assert_eq!(out["spec"]["containers"][0]["image"], "1");

    let out = strategic(&live, json!({"spec": {"containers": [{"name": "b", "$patch": "delete"}]}}));
    assert_eq!(names(&out["spec"]["containers"]), ["a", "c"]);

    let out = strategic(&live, json!({"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}));
    assert_eq!(names(&out["spec"]["containers"]), ["z"]);

    let order =
        json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}});
    assert_eq!(names(&strategic(&live, order)["spec"]["containers"]), ["c", "a", "b"]);
}

#[test]
fn directives_on_maps_and_scalars() {
    let mut live = pod(json!({"containers": [], "nodeSelector": {"a": "1", "b": "2"}}));
    live["metadata"]["finalizers"] = json!(["x/a", "x/b"]);
    let out = strategic(&live, json!({"spec": {"nodeSelector": {"$patch": "replace", "c": "3"}}}));
    assert_eq!(out["spec"]["nodeSelector"], json!({"c": "3"}));
    let out = strategic(&live, json!({"spec": {"nodeSelector": {"a": null, "c": "3"}}}));
    assert_eq!(out["spec"]["nodeSelector"], json!({"b": "2", "c": "3"}));
    let out = strategic(&live, json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"]}}));
    assert_eq!(out["metadata"]["finalizers"], json!(["x/b"]));
    let out = strategic(&live, json!({"metadata": {"finalizers": ["x/c"]}}));
    // New items come first, as upstream has it.
    assert_eq!(out["metadata"]["finalizers"], json!(["x/c", "x/a", "x/b"]));

    let live = pod(json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}));
    let out = strategic(
        &live,
        json!({"spec": {"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}]}}),
    );
    assert_eq!(out["spec"]["volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]));
}

#[test]
fn faults_have_their_codes() {
    let live = pod(json!({"containers": []}));
    let run = |kind, body: &str| {
        let e = patched(kind, &live, body.as_bytes(), Some(pod_type()), Strictness::Strict).unwrap_err();
        (e.code, e.message)
    };
    let (code, message) = run(PatchType::Json, r#"[{"op":"remove","path":"/metadata/labels/none"}]"#);
    assert_eq!(
        (code, message.as_str()),
        (422, "the server rejected our request due to an error in our request")
    );
    assert_eq!(run(PatchType::Json, "{").0, 400);
    assert_eq!(run(PatchType::Merge, "[]").0, 400);
    assert_eq!(run(PatchType::Strategic, r#"{"spec":{"$patch":"nonsense"}}"#).0, 500);
    let (code, message) = run(PatchType::Merge, r#"{"spec":{"nope":1}}"#);
    assert_eq!(code, 422);
    assert!(message.ends_with(r#"strict decoding error: unknown field "spec.nope""#), "{message}");
    let retain = r#"{"spec":{"$retainKeys":["a"],"nodeName":"x"}}"#;
    assert_eq!(run(PatchType::Strategic, retain).0, 422);
}

#[test]
fn json_and_merge_patches() {
    let live = pod(json!({"containers": [{"name": "a", "image": "1"}]}));
    let run = |kind, body: Value| {
        let body = serde_json::to_vec(&body).unwrap();
        patched(kind, &live, &body, Some(pod_type()), Strictness::Strict).unwrap().value
    };
    let out =
        run(PatchType::Json, json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "2"}]));
    assert_eq!(out["spec"]["containers"][0]["image"], "2");
    let out = run(
        PatchType::Merge,
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "x"}]}}),
    );
    assert_eq!(names(&out["spec"]["containers"]), ["x"]);
    assert_eq!(out["metadata"]["labels"], json!({"a": "b"}));
}

fn writer<'a>(manager: &'a str, now: &'a str, reset: &'a Set) -> Writer<'a> {
    Writer { def: Some(pod_type()), manager, api_version: "v1", subresource: "", reset, now }
}

fn wanted(image: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]}})
}

fn stored(mut v: Value) -> Value {
    v["metadata"]["uid"] = "u".into();
    v
}

#[test]
fn apply_owns_changes_and_removes() {
    let reset = Set::of(&["status"]);
    let (t1, t2) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let one =
        apply(None, &wanted("1", json!({"a": "1", "b": "1"})), &writer("m", t1, &reset), false).unwrap();
    let entries = one["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["operation"], "Apply");
    assert_eq!(
        entries[0]["fieldsV1"],
        json!({
            "f:metadata": {"f:labels": {"f:a": {}, "f:b": {}}},
            "f:spec": {"f:containers": {r#"k:{"name":"c"}"#: {
                ".": {}, "f:name": {}, "f:image": {},
                "f:ports": {r#"k:{"containerPort":80,"protocol":"TCP"}"#: {".": {}, "f:containerPort": {}}},
            }}},
        })
    );
    let one = stored(one);
    // What is left out goes; what another manager owns stays.
    let two =
        apply(Some(&one), &wanted("1", json!({"b": "1"})), &writer("other", t2, &reset), false).unwrap();
    let three = apply(Some(&stored(two)), &wanted("1", json!({})), &writer("m", t2, &reset), false).unwrap();
    assert_eq!(three["metadata"]["labels"], json!({"b": "1"}));
}

#[test]
fn apply_conflicts_and_force() {
    let reset = Set::default();
    let (t1, t2) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let one = stored(apply(None, &wanted("1", json!({"a": "1"})), &writer("m", t1, &reset), false).unwrap());
    let e = apply(Some(&one), &wanted("2", json!({"a": "1"})), &writer("n", t2, &reset), false).unwrap_err();
    assert_eq!(e.code, 409);
    assert_eq!(
        e.message,
        r#"Apply failed with 1 conflict: conflict with "m": .spec.containers[name="c"].image"#
    );
    let cause = &e.details.as_ref().unwrap().causes[0];
    assert_eq!(cause.reason, "FieldManagerConflict");
    assert_eq!(cause.field, r#".spec.containers[name="c"].image"#);
    let two = apply(Some(&one), &wanted("2", json!({"a": "1"})), &writer("n", t2, &reset), true).unwrap();
    assert_eq!(two["spec"]["containers"][0]["image"], "2");
    let m =
        two["metadata"]["managedFields"].as_array().unwrap().iter().find(|e| e["manager"] == "m").unwrap();
    assert!(m["fieldsV1"].pointer("/f:spec/f:containers/k:{\"name\":\"c\"}/f:image").is_none());
}

#[test]
fn unknown_fields_of_an_apply_are_named() {
    let reset = Set::default();
    let mut v = wanted("1", json!({}));
    v["spec"]["foo"] = 1.into();
    let e = apply(None, &v, &writer("m", "2026-01-01T00:00:00Z", &reset), false).unwrap_err();
    assert_eq!(
        e.message,
        "failed to create typed patch object (/p; /v1, Kind=Pod): .spec.foo: field not declared in schema"
    );
}

#[test]
fn updates_move_ownership_and_time() {
    let reset = Set::of(&["status"]);
    let (t1, t2) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let mut v = canonical(&wanted("1", json!({"a": "1"})));
    track_update(None, &mut v, &writer("creator", t1, &reset));
    let before = stored(v);
    assert_eq!(
        before["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"],
        json!({"f:labels": {".": {}, "f:a": {}}})
    );

    let mut same = before.clone();
    track_update(Some(&before), &mut same, &writer("nobody", t2, &reset));
    assert_eq!(same, before);

    let mut after = before.clone();
    after["metadata"]["labels"]["a"] = "2".into();
    after["status"]["phase"] = "Running".into();
    track_update(Some(&before), &mut after, &writer("editor", t2, &reset));
    let entries = after["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["manager"], "creator");
    assert_eq!(entries[0]["time"], t1);
    assert_eq!(entries[1]["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:a": {}}}}));
    assert_eq!(entries[1]["time"], t2);
}

#[test]
fn too_many_updaters_are_folded() {
    let reset = Set::default();
    let mut v = canonical(&wanted("1", json!({})));
    track_update(None, &mut v, &writer("m0", "2026-01-01T00:00:00Z", &reset));
    for i in 1..15 {
        let before = stored(v.clone());
        v = before.clone();
        v["metadata"]["labels"][format!("l{i}")] = "x".into();
        let now = format!("2026-01-01T00:00:{i:02}Z");
        track_update(Some(&before), &mut v, &writer(&format!("m{i}"), &now, &reset));
    }
    let entries = v["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert!(entries.iter().any(|e| e["manager"] == "ancient-changes"));
}

#[test]
fn a_client_may_drop_all_entries() {
    let reset = Set::default();
    let mut v = canonical(&wanted("1", json!({})));
    track_update(None, &mut v, &writer("m", "2026-01-01T00:00:00Z", &reset));
    let before = stored(v);
    let mut after = before.clone();
    after["metadata"]["managedFields"] = json!([{}]);
    track_update(Some(&before), &mut after, &writer("m", "2026-01-01T00:00:00Z", &reset));
    assert!(after["metadata"].get("managedFields").is_none());
}

/// The ways that spare work find what the general ones find.
#[test]
fn small_patches_and_their_owners_are_as_general_ones() {
    let reset = Set::of(&["spec"]);
    let mut live = canonical(&wanted("1", json!({"a": "1"})));
    track_update(None, &mut live, &writer("creator", "2026-01-01T00:00:00Z", &Set::default()));
    let mut live = stored(live);
    let patches = [
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
        json!({"metadata": {"uid": "u"}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
        json!({"metadata": {"labels": {"a": "2", "b": "3"}}}),
        json!({"spec": {"containers": [{"name": "c", "image": "2"}]}}),
        json!({"spec": {"terminationGracePeriodSeconds": 7, "nodeSelector": {}}}),
        json!({"status": {"conditions": []}}),
        json!({"metadata": {"labels": {"a": null}}}),
        json!({"status": {"phase": 1}}),
        json!({"status": {"foo": 1}}),
    ];
    let mut narrow = 0;
    for (i, patch) in patches.iter().enumerate() {
        let body = serde_json::to_vec(patch).unwrap();
        for kind in [PatchType::Strategic, PatchType::Merge] {
            // With a directive that says nothing new, the general way is taken.
            let mut general = patch.clone();
            general["$retainKeys"] = live.as_object().unwrap().keys().cloned().collect::<Vec<_>>().into();
            let general = match kind {
                PatchType::Strategic => serde_json::to_vec(&general).unwrap(),
                _ => serde_json::to_vec(&json!([])).unwrap(),
            };
            let Some(found) = super::narrow::patched(kind, &live, &body, pod_type(), Strictness::Strict)
            else {
                continue;
            };
            narrow += 1;
            if kind == PatchType::Strategic {
                let expected = patched(kind, &live, &general, Some(pod_type()), Strictness::Strict).unwrap();
                assert_eq!(found, expected.value, "{patch}");
            }
            // Without entries to compare, the general way is taken.
            let (now, name) = (format!("2026-01-02T00:00:{i:02}Z"), format!("m{}", i % 3));
            let w = writer(&name, &now, &reset);
            let mut general = found.clone();
            general["metadata"].as_object_mut().unwrap().remove("managedFields");
            track_update(Some(&live), &mut general, &w);
            let mut tracked = found;
            assert!(super::owners::track(&live, &mut tracked, &w));
            assert_eq!(tracked, general, "{patch}");
            live = tracked;
        }
    }
    assert_eq!(narrow, 11);
}

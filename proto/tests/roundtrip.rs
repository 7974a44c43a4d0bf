//! Every kind of the table, there and back in both forms.
#![allow(clippy::unwrap_used)]

mod common;

use common::filled;
use proto::json::{self, Strictness};
use proto::schema::{self, Kind, TypeDef};
use proto::wire;
use serde_json::Value;

fn has_wire_form(def: &TypeDef) -> bool {
    def.structure().is_some_and(|s| !s.wire.is_empty())
}

/// Fills a type, sends it through every form, and wants the same back each time.
fn there_and_back(def: &TypeDef, depth: usize) {
    let v = filled(def, depth, &mut 0);
    let text = serde_json::to_vec(&v).unwrap();
    let d = json::decode(&text, def, Strictness::Strict).unwrap_or_else(|e| panic!("{}: {e}", def.name));
    assert_eq!(d.strict_errors, Vec::<String>::new(), "{}", def.name);
    assert_eq!(d.value, v, "{}: through JSON", def.name);

    let bytes = wire::to_proto(&v, def).unwrap_or_else(|e| panic!("{}: {e}", def.name));
    let back = wire::from_proto(&bytes, def).unwrap_or_else(|e| panic!("{}: {e}", def.name));
    assert_eq!(back, v, "{}: through protobuf", def.name);
    assert_eq!(wire::to_proto(&back, def).unwrap(), bytes, "{}", def.name);

    let mut streamed = Vec::new();
    wire::proto_to_json(&bytes, def, "", "", &mut streamed).unwrap();
    let mut encoded = Vec::new();
    json::encode(&v, def, &mut encoded);
    let streamed: Value = serde_json::from_slice(&streamed).unwrap_or_else(|e| panic!("{}: {e}", def.name));
    let encoded: Value = serde_json::from_slice(&encoded).unwrap();
    assert_eq!(streamed, encoded, "{}: one pass and two", def.name);
    let again = json::decode(&serde_json::to_vec(&streamed).unwrap(), def, Strictness::Strict).unwrap();
    assert_eq!(again.value, v, "{}: JSON from protobuf", def.name);
}

#[test]
fn every_kind_filled() {
    let mut n = 0;
    for (gvk, def) in schema::kinds() {
        if has_wire_form(def) && gvk.kind != "List" {
            there_and_back(def, 12);
            n += 1;
        }
    }
    assert!(n > 300, "only {n} kinds");
}

#[test]
fn every_type_filled_and_empty() {
    let mut n = 0;
    for def in schema::types().filter(|t| has_wire_form(t)) {
        there_and_back(def, 3);
        there_and_back(def, 0);
        n += 1;
    }
    assert!(n > 600, "only {n} types");
}

#[test]
fn every_resource_has_its_type() {
    for r in proto::resources() {
        assert!(r.type_def().is_some(), "{}/{} {}", r.group, r.version, r.kind);
        assert!(std::ptr::eq(proto::resource(r.group, r.version, r.resource).unwrap(), r));
    }
}

#[test]
fn every_kind_has_its_metadata_in_field_one() {
    for r in proto::resources() {
        let def = r.type_def().unwrap();
        if let Some(f) = def.field("metadata") {
            assert_eq!(f.tag, 1, "{}", def.name);
        }
        let Kind::Struct(s) = &def.kind else { panic!("{}", def.name) };
        assert!(s.wire.is_sorted_by(|a, b| a.tag < b.tag), "{}", def.name);
        assert!(s.fields.is_sorted_by(|a, b| a.json < b.json), "{}", def.name);
    }
}

#[test]
fn resource_version_is_replaced_in_place() {
    let pod = schema::by_gvk("", "v1", "Pod").unwrap();
    for depth in [0, 8] {
        let mut v = filled(pod, depth, &mut 0);
        let bytes = wire::to_proto(&v, pod).unwrap();
        for version in ["", "7", "12345678901234567890"] {
            let changed = wire::with_resource_version(&bytes, version).unwrap();
            let meta = v["metadata"].as_object_mut().unwrap();
            meta.remove("resourceVersion");
            if !version.is_empty() {
                meta.insert("resourceVersion".into(), version.into());
            }
            assert_eq!(wire::from_proto(&changed, pod).unwrap(), v);
            assert_eq!(changed, wire::to_proto(&v, pod).unwrap());
            assert_eq!(wire::metadata(&changed).unwrap().resource_version, version);
        }
    }
}

#[test]
fn picked_fields_are_those_of_the_whole_object() {
    let pod = schema::by_gvk("", "v1", "Pod").unwrap();
    let paths =
        ["metadata.name", "spec.nodeName", "spec.hostNetwork", "spec.containers", "status.podIPs", "no.such"];
    for depth in [0, 8] {
        let bytes = wire::to_proto(&filled(pod, depth, &mut 0), pod).unwrap();
        let (whole, picked) =
            (wire::from_proto(&bytes, pod).unwrap(), wire::pick(&bytes, pod, &paths).unwrap());
        for path in paths {
            let at = format!("/{}", path.replace('.', "/"));
            let of = |v: &Value| v.pointer(&at).filter(|v| !v.is_null()).cloned();
            assert_eq!(of(&picked), of(&whole), "{path}");
        }
        let fields = |name: &str| picked[name].as_object().map_or(0, |o| o.len());
        assert!(fields("metadata") <= 1 && fields("spec") <= 3 && fields("status") <= 1, "{picked}");
        assert!(depth == 0 || fields("spec") == 3, "{picked}");
    }
}

#[test]
fn objects_are_alike_where_they_are_written_alike() {
    let pod = schema::by_gvk("", "v1", "Pod").unwrap();
    let before = filled(pod, 8, &mut 0);
    let mut after = before.clone();
    after["status"]["phase"] = "another".into();
    after["metadata"]["labels"]["another"] = "label".into();
    let written = |v: &Value| wire::to_proto(v, pod).unwrap();
    let alike = |paths: &[&str]| wire::alike(&written(&before), &written(&after), pod, paths).unwrap();
    assert!(alike(&["metadata.name", "metadata.annotations", "spec", "status.podIPs"]));
    assert!(!alike(&["spec", "status"]));
    assert!(!alike(&["status.phase"]));
    assert!(!alike(&["metadata.labels"]));
    let mut without = before.clone();
    without.as_object_mut().unwrap().remove("spec");
    assert!(!wire::alike(&written(&before), &written(&without), pod, &["spec"]).unwrap());
    assert!(wire::alike(&written(&before), &written(&without), pod, &["metadata"]).unwrap());
}

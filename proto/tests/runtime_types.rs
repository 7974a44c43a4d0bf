//! Types made at run time, as custom resource definitions will: the same decoder takes them.
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::sync::Arc;

use proto::json::{Strictness, decode, encode};
use proto::schema::{Field, Kind, Presence, Struct, TypeDef, TypeRef, by_name, intern};
use serde_json::json;

fn field(name: &str, ty: TypeRef) -> Field {
    Field {
        json: intern(name),
        embed: "",
        ty,
        tag: 0,
        inline: false,
        presence: Presence::Pointer,
        required: false,
        patch_merge: false,
        retain_keys: false,
        patch_replace: false,
        default: "",
        merge_key: "",
    }
}

fn object(name: &str, fields: Vec<Field>) -> TypeDef {
    TypeDef {
        name: intern(name),
        go: intern(name),
        kind: Kind::Struct(Struct { fields: Cow::Owned(fields), wire: Cow::Owned(Vec::new()) }),
        gvks: Cow::Owned(Vec::new()),
        atomic: false,
    }
}

#[test]
fn a_custom_type_decodes_like_a_built_in_one() {
    let meta = by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap();
    let number =
        TypeDef { name: "", go: "int64", kind: Kind::Int64, gvks: Cow::Owned(Vec::new()), atomic: false };
    let spec = object("WidgetSpec", vec![field("size", TypeRef::Shared(Arc::new(number)))]);
    let widget = object(
        "Widget",
        vec![field("metadata", TypeRef::Static(meta)), field("spec", TypeRef::Shared(Arc::new(spec)))],
    );
    let body = br#"{"metadata":{"name":"w","labels":{}},"spec":{"size":0,"colour":"red"}}"#;
    let d = decode(body, &widget, Strictness::Strict).unwrap();
    assert_eq!(d.strict_errors, [r#"unknown field "spec.colour""#]);
    assert_eq!(d.value, json!({"metadata": {"name": "w"}, "spec": {"size": 0}}));
    let mut out = Vec::new();
    encode(&d.value, &widget, &mut out);
    assert_eq!(out, br#"{"metadata":{"name":"w"},"spec":{"size":0}}"#);
    let e = decode(br#"{"spec":{"size":"x"}}"#, &widget, Strictness::Strict).unwrap_err();
    assert_eq!(
        e.to_string(),
        "json: cannot unmarshal string into Go struct field WidgetSpec.spec.size of type int64"
    );
    assert!(std::ptr::eq(intern("size"), intern("size")));
}

//! Whatever bytes come in: an error or an object, never a panic, and no stack that grows with the input.
#![allow(clippy::unwrap_used)]

mod common;

use proptest::prelude::*;
use proto::json::Strictness;
use proto::{envelope, json, schema, wire};

const KINDS: &[(&str, &str, &str)] = &[
    ("", "v1", "Pod"),
    ("apps", "v1", "StatefulSet"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ("authorization.k8s.io", "v1", "SubjectAccessReview"),
    ("", "v1", "Secret"),
];

fn feed(bytes: &[u8]) {
    for (g, v, k) in KINDS {
        let def = schema::by_gvk(g, v, k).unwrap();
        let value = wire::from_proto(bytes, def);
        let mut out = Vec::new();
        let text = wire::proto_to_json(bytes, def, v, k, &mut out);
        // Whatever can be read can be written again.
        if let Ok(value) = value {
            let again = wire::to_proto(&value, def).unwrap();
            assert_eq!(wire::from_proto(&again, def).unwrap(), value);
        }
        if text.is_ok() {
            // Raw JSON inside is copied as it is; everything else must parse.
            let _ = serde_json::from_slice::<serde_json::Value>(&out);
        }
        let _ = json::decode(bytes, def, Strictness::Strict);
    }
    let _ = wire::metadata(bytes);
    let _ = wire::with_resource_version(bytes, "1");
    let _ = envelope::unwrap(bytes);
    let _ = envelope::decode(bytes);
    let _ = json::interpret(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        feed(&bytes);
    }

    #[test]
    fn damaged_objects(at in any::<prop::sample::Index>(), by in any::<u8>(), cut in any::<prop::sample::Index>(), kind in 0..KINDS.len()) {
        let (g, v, k) = KINDS[kind];
        let def = schema::by_gvk(g, v, k).unwrap();
        let mut bytes = wire::to_proto(&common::filled(def, 5, &mut 0), def).unwrap();
        let i = at.index(bytes.len());
        bytes[i] ^= by;
        feed(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        feed(&bytes);
    }
}

#[test]
fn deep_nesting_is_refused() {
    // spec.validation… of a CRD: `not` within `not`, each one message in the other.
    let props =
        schema::by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let tag = props.field("not").unwrap().tag;
    let mut bytes = Vec::new();
    for _ in 0..5_000 {
        let mut outer = Vec::new();
        let mut put = |mut n: u64| {
            while n >= 0x80 {
                outer.push(n as u8 | 0x80);
                n >>= 7;
            }
            outer.push(n as u8);
        };
        put(u64::from(tag) << 3 | 2);
        put(bytes.len() as u64);
        outer.extend_from_slice(&bytes);
        bytes = outer;
    }
    assert_eq!(wire::from_proto(&bytes, props), Err(wire::WireError::Depth));
    assert_eq!(wire::proto_to_json(&bytes, props, "", "", &mut Vec::new()), Err(wire::WireError::Depth));
    let text = format!("{}{{}}{}", r#"{"not":"#.repeat(5_000), "}".repeat(5_000));
    assert!(json::decode(text.as_bytes(), props, Strictness::Ignore).is_err());
}

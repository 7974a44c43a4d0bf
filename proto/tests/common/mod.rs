//! Objects with every field filled, made from the schema table.

use proto::schema::{Kind, TypeDef};
use serde_json::{Map, Value, json};

/// A value of that type with every field set; below `depth` levels only what is always written.
pub fn filled(def: &TypeDef, depth: usize, seed: &mut u32) -> Value {
    *seed += 1;
    let n = *seed;
    match &def.kind {
        Kind::Struct(s) => {
            // Schemas contain schemas: an object is not made any bigger than this.
            if depth == 0 || n > 4000 {
                return proto::json::zero(def).expect("structures have a zero value");
            }
            let mut o = Map::new();
            for f in s.fields.iter().filter(|f| f.tag > 0) {
                let mut v = filled(&f.ty, depth - 1, seed);
                if f.json == "volumeClaimTemplates" {
                    for t in v.as_array_mut().expect("a list") {
                        t["apiVersion"] = "v1".into();
                        t["kind"] = "PersistentVolumeClaim".into();
                    }
                }
                o.insert(f.json.into(), v);
            }
            Value::Object(o)
        }
        Kind::String => format!("s{n} \"é\u{1f600}\n").into(),
        Kind::Bytes => "aGVsbG8=".into(),
        Kind::Bool => true.into(),
        Kind::Int32 => (-(n as i32)).into(),
        Kind::Int64 => (i64::from(n) << 33).into(),
        Kind::Double => 1.5.into(),
        Kind::Quantity => format!("{}m", n * 10 + 1).into(),
        Kind::IntOrString if n.is_multiple_of(2) => n.into(),
        Kind::IntOrString => format!("p{n}").into(),
        Kind::Time => "2026-06-01T12:34:56Z".into(),
        Kind::MicroTime => "2026-06-01T12:34:56.000789Z".into(),
        Kind::FieldsV1 => json!({"f:spec": {"f:replicas": {}}}),
        Kind::RawExtension | Kind::RawJson => json!({"a": [1, 2.5, "x", null, true], "b": {}}),
        Kind::Json => Value::Null,
        Kind::SchemaOrArray(t) if n.is_multiple_of(2) => json!([filled(t, depth.min(2) / 2, seed)]),
        Kind::SchemaOrArray(t) => filled(t, depth.min(2) / 2, seed),
        Kind::SchemaOrBool(_) => true.into(),
        Kind::SchemaOrStrings(_) => json!(["a", "b"]),
        Kind::List(l) => json!([filled(&l.elem, depth, seed), filled(&l.elem, depth, seed)]),
        Kind::Map(m) => json!({"a/b": filled(&m.elem, depth, seed), "c": filled(&m.elem, depth, seed)}),
    }
}

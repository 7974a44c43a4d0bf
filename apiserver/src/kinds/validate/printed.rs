//! Values as upstream prints them in errors: its internal types have no JSON names, so fields show by their Go names,
//! in the order in which they are declared, and absent ones with their zero value.

use k8s_openapi::api::core::v1::{ObjectReference, Toleration};
use serde::Serialize;

use crate::kinds::semantic::text;

/// The JSON of a plain value.
pub fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// A structure with these fields, whose values are printed already.
pub fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// A list of what is printed already; `null` where there is none.
pub fn list<T>(items: Option<&[T]>, each: impl FnMut(&T) -> String) -> String {
    match items {
        None => "null".to_owned(),
        Some(items) => format!("[{}]", items.iter().map(each).collect::<Vec<_>>().join(",")),
    }
}

/// A reference to an object.
pub fn object_reference(r: &ObjectReference) -> String {
    let string = |s: &Option<String>| json(text(s));
    object(&[
        ("Kind", string(&r.kind)),
        ("Namespace", string(&r.namespace)),
        ("Name", string(&r.name)),
        ("UID", string(&r.uid)),
        ("APIVersion", string(&r.api_version)),
        ("ResourceVersion", string(&r.resource_version)),
        ("FieldPath", string(&r.field_path)),
    ])
}

/// A toleration.
pub fn toleration(t: &Toleration) -> String {
    let string = |s: &Option<String>| json(text(s));
    object(&[
        ("Key", string(&t.key)),
        ("Operator", string(&t.operator)),
        ("Value", string(&t.value)),
        ("Effect", string(&t.effect)),
        ("TolerationSeconds", json(&t.toleration_seconds)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_show_their_zero_value() {
        let t = Toleration { key: Some("k".into()), ..Default::default() };
        let shown = r#"{"Key":"k","Operator":"","Value":"","Effect":"","TolerationSeconds":null}"#;
        assert_eq!(toleration(&t), shown);
        assert_eq!(list(Some(&[1, 2]), |n| n.to_string()), "[1,2]");
        assert_eq!(list::<u8>(None, |n| n.to_string()), "null");
    }
}

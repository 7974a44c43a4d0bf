//! Schemas of custom resources: structural, so that the server can prune, default and apply by them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// The schema of a whole object.
pub fn root(s: &JSONSchemaProps, path: &Path, errors: &mut ErrorList) {
    if s.nullable == Some(true) {
        errors.push(Error::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    match text(&s.type_) {
        "object" => {}
        "" => errors.push(Error::required(&path.child("type"), "must not be empty at the root")),
        other => errors.push(Error::invalid(&path.child("type"), other, "must be object at the root")),
    }
    node(s, path, true, errors);
}

fn node(s: &JSONSchemaProps, path: &Path, is_root: bool, errors: &mut ErrorList) {
    let kind = text(&s.type_);
    let free = s.x_kubernetes_preserve_unknown_fields == Some(true);
    let either = s.x_kubernetes_int_or_string == Some(true);
    if kind.is_empty() && !is_root && !free && !either {
        errors.push(Error::required(&path.child("type"), "must not be empty for specified object fields"));
    }
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, &TYPES));
    }
    if either && !kind.is_empty() {
        errors.push(Error::invalid(
            &path.child("type"),
            kind,
            "must be empty if x-kubernetes-int-or-string is true",
        ));
    }
    if free && !matches!(kind, "object" | "") {
        errors.push(Error::invalid(
            &path.child("type"),
            kind,
            "must be object if x-kubernetes-preserve-unknown-fields is true",
        ));
    }
    for (field, given) in [
        ("$ref", s.ref_path.is_some()),
        ("uniqueItems", s.unique_items == Some(true)),
        ("patternProperties", s.pattern_properties.as_ref().is_some_and(|m| !m.is_empty())),
        ("definitions", s.definitions.as_ref().is_some_and(|m| !m.is_empty())),
        ("dependencies", s.dependencies.as_ref().is_some_and(|m| !m.is_empty())),
        ("additionalItems", s.additional_items.is_some()),
    ] {
        if given {
            let why = match field {
                "uniqueItems" => {
                    "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
                        .to_owned()
                }
                _ => format!("{} is not supported", field.trim_start_matches('$')),
            };
            errors.push(Error::forbidden(&path.child(field), why));
        }
    }
    let has_properties = s.properties.as_ref().is_some_and(|p| !p.is_empty());
    match &s.additional_properties {
        Some(JSONSchemaPropsOrBool::Bool(false)) => errors.push(Error::forbidden(
            &path.child("additionalProperties"),
            "additionalProperties cannot be set to false",
        )),
        Some(JSONSchemaPropsOrBool::Schema(inner)) => {
            if has_properties {
                errors.push(Error::forbidden(
                    &path.child("additionalProperties"),
                    "additionalProperties and properties are mutual exclusive",
                ));
            }
            node(inner, &path.child("additionalProperties"), false, errors);
        }
        Some(JSONSchemaPropsOrBool::Bool(true)) | None => {}
    }
    for (name, inner) in s.properties.iter().flatten() {
        node(inner, &path.child("properties").key(name), false, errors);
    }
    match &s.items {
        Some(JSONSchemaPropsOrArray::Schema(inner)) => node(inner, &path.child("items"), false, errors),
        Some(JSONSchemaPropsOrArray::Schemas(_)) => {
            errors.push(Error::forbidden(
                &path.child("items"),
                "items must be a schema object and not an array",
            ));
        }
        None if kind == "array" => {
            errors.push(Error::required(&path.child("items"), "must be specified"));
        }
        None => {}
    }
    lists(s, kind, path, errors);
}

fn lists(s: &JSONSchemaProps, kind: &str, path: &Path, errors: &mut ErrorList) {
    let list = text(&s.x_kubernetes_list_type);
    let keys = items(&s.x_kubernetes_list_map_keys);
    let at = path.child("x-kubernetes-list-type");
    if !list.is_empty() {
        if kind != "array" {
            let why = "must be array if x-kubernetes-list-type is specified";
            errors.push(if kind.is_empty() {
                Error::required(&path.child("type"), why)
            } else {
                Error::invalid(&path.child("type"), kind, why)
            });
        }
        if !["atomic", "map", "set"].contains(&list) {
            errors.push(Error::not_supported(&at, list, &["atomic", "map", "set"]));
        }
    }
    let at = path.child("x-kubernetes-list-map-keys");
    if list == "map" && keys.is_empty() {
        errors.push(Error::required(&at, "must not be empty if x-kubernetes-list-type is map"));
    }
    if list != "map" && !keys.is_empty() {
        let at = path.child("x-kubernetes-list-type");
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(if list.is_empty() { Error::required(&at, why) } else { Error::invalid(&at, list, why) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(v: serde_json::Value) -> String {
        let schema: JSONSchemaProps = serde_json::from_value(v).unwrap();
        let mut e = ErrorList::new();
        root(&schema, &Path::new("s"), &mut e);
        if e.is_empty() { String::new() } else { e.aggregate() }
    }

    #[test]
    fn structural() {
        assert_eq!(check(serde_json::json!({"type": "object", "properties": {"a": {"type": "string"}}})), "");
        let e = check(serde_json::json!({"type": "object", "properties": {"a": {}}}));
        assert_eq!(e, "s.properties[a].type: Required value: must not be empty for specified object fields");
        assert!(check(serde_json::json!({})).contains("must not be empty at the root"));
        let e = check(serde_json::json!({"type": "object", "properties": {"a": {"type": "array"}}}));
        assert_eq!(e, "s.properties[a].items: Required value: must be specified");
    }
}

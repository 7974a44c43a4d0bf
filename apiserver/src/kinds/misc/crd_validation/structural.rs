//! Whether a schema is structural: that every value has one place where its type is said, so that the server can
//! prune, default and merge by it.
//!
//! Source: Kubernetes documentation, "Specifying a structural schema".

use serde_json::{Value, json};

use crate::crd::schema::props::{Additional, Props};
use crate::crd::schema::regexp;
use crate::field::{Error, ErrorList, Path};

/// How deep in the object a schema applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps `schema` from being structural, sorted.
pub fn check(schema: Props<'_>, path: &Path) -> ErrorList {
    let mut errors = Vec::new();
    node(schema, Level::Root, path, &mut errors);
    complete(schema, Some(schema), path, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors.into()
}

fn either() -> Value {
    json!([{"type": "integer"}, {"type": "string"}])
}

fn is_either(p: Props<'_>) -> bool {
    p.get("anyOf") == Some(&either())
}

fn begins_with_either(p: Props<'_>) -> bool {
    p.schemas("allOf").next().is_some_and(is_either)
}

fn node(p: Props<'_>, level: Level, path: &Path, errors: &mut Vec<Error>) {
    if p.ty() == "array" && p.items().is_none() {
        errors.push(Error::required(&path.child("items"), "must be specified"));
    }
    if let Some(inner) = p.item() {
        node(inner, Level::Item, &path.child("items"), errors);
    }
    for (name, inner) in p.properties() {
        node(inner, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = path.child("additionalProperties");
    if p.additional().is_some() && level == Level::Root {
        errors.push(Error::forbidden(&additional, "must not be used at the root"));
    }
    if let Some(Additional::Schema(inner)) = p.additional() {
        node(inner, Level::Field, &additional, errors);
    }
    if p.int_or_string() {
        for (field, given) in [
            ("x-kubernetes-preserve-unknown-fields", p.preserves()),
            ("x-kubernetes-embedded-resource", p.embeds()),
        ] {
            if given {
                let why = "must be false if x-kubernetes-int-or-string is true";
                errors.push(Error::invalid(&path.child(field), true, why));
            }
        }
    }
    values(p, is_either(p), begins_with_either(p), path, errors);
    types(p, level, path, errors);
    metadata(p, level, path, errors);
}

fn types(p: Props<'_>, level: Level, path: &Path, errors: &mut Vec<Error>) {
    let at = path.child("type");
    let wrong = |why: &str| {
        if p.ty().is_empty() { Error::required(&at, why) } else { Error::invalid(&at, p.ty(), why) }
    };
    if p.embeds() && p.ty() != "object" {
        errors.push(wrong("must be object if x-kubernetes-embedded-resource is true"));
    } else if p.ty().is_empty() && !p.int_or_string() && !p.preserves() {
        errors.push(wrong(match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        }));
    }
    if p.embeds() && p.additional().is_some() {
        errors.push(Error::forbidden(
            &path.child("additionalProperties"),
            "must not be used if x-kubernetes-embedded-resource is set",
        ));
    }
    if level == Level::Root && !p.ty().is_empty() && p.ty() != "object" {
        errors.push(Error::invalid(&at, p.ty(), "must be object at the root"));
    }
    if p.embeds() && !p.preserves() && !p.has_properties() {
        errors.push(Error::required(
            &path.child("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without \
             x-kubernetes-preserve-unknown-fields",
        ));
    }
}

/// Metadata has a schema already; only names may be restricted.
fn metadata(p: Props<'_>, level: Level, path: &Path, errors: &mut Vec<Error>) {
    let is_object = level == Level::Root || p.embeds();
    let of = |name: &str| path.child("properties").key(name);
    for name in ["kind", "apiVersion"] {
        if let Some(inner) = p.property(name).filter(|i| is_object && i.ty() != "string") {
            errors.push(Error::invalid(&of(name).child("type"), inner.ty(), "must be string"));
        }
    }
    let Some(meta) = p.property("metadata") else { return };
    if is_object && meta.ty() != "object" {
        errors.push(Error::invalid(&of("metadata").child("type"), meta.ty(), "must be object"));
    }
    if level != Level::Root {
        return;
    }
    let names_only = meta.properties().all(|(n, _)| matches!(n, "name" | "generateName"));
    let more = meta.map().iter().any(|(field, v)| match field.as_str() {
        "type" | "default" => false,
        "properties" => !names_only,
        _ => !is_zero(v),
    });
    if more {
        errors.push(Error::forbidden(
            &of("metadata"),
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        ));
    }
}

/// True for what counts as not given.
pub fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
        Value::Number(_) => false,
    }
}

/// Value validations of a node, in which types are said only of integers or strings.
fn values(p: Props<'_>, skip_any: bool, skip_first: bool, path: &Path, errors: &mut Vec<Error>) {
    if !skip_any {
        for (i, inner) in p.schemas("anyOf").enumerate() {
            nested(inner, false, &path.child("anyOf").index(i), errors);
        }
    }
    for (i, inner) in p.schemas("allOf").enumerate() {
        nested(inner, skip_first && i == 0, &path.child("allOf").index(i), errors);
    }
    for (i, inner) in p.schemas("oneOf").enumerate() {
        nested(inner, false, &path.child("oneOf").index(i), errors);
    }
    if let Some(inner) = p.schema("not") {
        nested(inner, false, &path.child("not"), errors);
    }
    let pattern = p.text("pattern");
    if let (false, Err(why)) = (pattern.is_empty(), regexp::compile(pattern)) {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        errors.push(Error::invalid(&path.child("pattern"), pattern, why));
    }
}

/// A schema under a junctor: it may restrict values, not say what they are.
fn nested(p: Props<'_>, skip_any: bool, path: &Path, errors: &mut Vec<Error>) {
    values(p, skip_any, false, path, errors);
    if let Some(inner) = p.item() {
        nested(inner, false, &path.child("items"), errors);
    }
    for (name, inner) in p.properties() {
        nested(inner, false, &path.child("properties").key(name), errors);
    }
    if matches!(p.additional(), Some(Additional::Schema(_) | Additional::Allowed(true))) {
        let at = path.child("additionalProperties");
        errors.push(Error::forbidden(&at, "must be undefined to be structural"));
    }
    for (field, state) in [
        ("type", "empty"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        let given = match state {
            "undefined" => p.get(field).is_some(),
            _ => p.get(field).is_some_and(|v| !is_zero(v)),
        };
        if given {
            let why = format!("must be {state} to be structural");
            errors.push(Error::forbidden(&path.child(field), why));
        }
    }
    if p.property("metadata").is_some() {
        let at = path.child("properties").key("metadata");
        errors.push(Error::forbidden(&at, "must not be specified in a nested context"));
    }
}

/// Everything that junctors of `v` restrict must be part of `s`, the structure. As upstream, only those of the
/// root are followed.
fn complete(v: Props<'_>, s: Option<Props<'_>>, s_path: &Path, v_path: &Path, errors: &mut Vec<Error>) {
    let Some(s) = s else { return missing(s_path, v_path, errors) };
    if let Some(inner) = v.schema("not") {
        nested_complete(inner, Some(s), s_path, &v_path.child("not"), errors);
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        for (i, inner) in v.schemas(field).enumerate() {
            nested_complete(inner, Some(s), s_path, &v_path.child(field).index(i), errors);
        }
    }
}

fn missing(s_path: &Path, v_path: &Path, errors: &mut Vec<Error>) {
    errors.push(Error::required(s_path, format!("because it is defined in {v_path}")));
}

fn nested_complete(
    v: Props<'_>,
    s: Option<Props<'_>>,
    s_path: &Path,
    v_path: &Path,
    errors: &mut Vec<Error>,
) {
    let Some(s) = s else { return missing(s_path, v_path, errors) };
    complete(v, Some(s), s_path, v_path, errors);
    if let Some(inner) = v.item() {
        nested_complete(inner, s.item(), &s_path.child("items"), &v_path.child("items"), errors);
    }
    for (name, inner) in v.properties() {
        let (s_at, v_at) = (s_path.child("properties").key(name), v_path.child("properties").key(name));
        nested_complete(inner, s.property(name), &s_at, &v_at, errors);
    }
}

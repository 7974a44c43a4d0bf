//! The paths of a resource with their operations.

use serde_json::{Map, Value, json};

use super::schemas::Schemas;
use crate::discovery::documents;
use crate::registry::resource::Resource;

const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Adds everything below the resource's path.
pub fn add(r: &Resource, paths: &mut Map<String, Value>, schemas: &mut Schemas) {
    let base = documents::path(r.group, r.version);
    let place = if r.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
    let collection = format!("{place}/{}", r.resource);
    let gvk = json!({"group": r.group, "version": r.version, "kind": r.kind});
    let one = schemas.reference(&r.schema);
    let mut many = None;

    let mut item = Map::new();
    if r.has_verb("list") {
        let list = schemas.list_of(&r.schema, &r.api_version(), r.kind);
        item.insert("get".into(), operation("list", &gvk, None, &list, &LIST));
        many = Some(list);
    }
    if r.has_verb("create") {
        item.insert("post".into(), operation("post", &gvk, Some(&one), &one, &WRITE));
    }
    if r.has_verb("deletecollection") {
        item.insert("delete".into(), operation("deletecollection", &gvk, None, &status(schemas), &LIST));
    }
    insert(paths, collection.clone(), item, r.namespaced, false);
    if let Some(list) = many.filter(|_| r.namespaced) {
        let mut item = Map::new();
        item.insert("get".into(), operation("list", &gvk, None, &list, &LIST));
        insert(paths, format!("{base}/{}", r.resource), item, false, false);
    }

    let named = format!("{collection}/{{name}}");
    let item = verbs(r.verbs, &gvk, &one, schemas, false);
    insert(paths, named.clone(), item, r.namespaced, true);
    for s in r.subresources.iter() {
        let (group, version) =
            if s.kind.version.is_empty() { (r.group, r.version) } else { (s.kind.group, s.kind.version) };
        let gvk = json!({"group": group, "version": version, "kind": s.kind.kind});
        let schema = match proto::schema::by_gvk(group, version, s.kind.kind) {
            Some(d) => schemas.reference(d),
            None => json!({"type": "string"}),
        };
        let item = verbs(s.verbs, &gvk, &schema, schemas, true);
        insert(paths, format!("{named}/{}", s.name), item, r.namespaced, true);
    }
}

fn status(schemas: &mut Schemas) -> Value {
    match proto::schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.Status") {
        Some(d) => schemas.reference(d),
        None => json!({"type": "object"}),
    }
}

/// Operations on one named object or subresource.
fn verbs(verbs: &[&str], gvk: &Value, one: &Value, schemas: &mut Schemas, sub: bool) -> Map<String, Value> {
    let mut item = Map::new();
    for v in verbs {
        match *v {
            "get" => item.insert("get".into(), operation("get", gvk, None, one, &[])),
            "create" if sub => item.insert("post".into(), operation("post", gvk, Some(one), one, &WRITE)),
            "update" => item.insert("put".into(), operation("put", gvk, Some(one), one, &WRITE)),
            "patch" => item.insert("patch".into(), patch(gvk, one, schemas)),
            "delete" => {
                item.insert("delete".into(), operation("delete", gvk, None, &status(schemas), &DELETE))
            }
            _ => None,
        };
    }
    item
}

fn insert(
    paths: &mut Map<String, Value>,
    path: String,
    mut item: Map<String, Value>,
    namespaced: bool,
    named: bool,
) {
    if item.is_empty() {
        return;
    }
    let mut parameters = Vec::new();
    for (name, there) in [("name", named), ("namespace", namespaced)] {
        if there {
            parameters.push(json!({
                "name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true},
            }));
        }
    }
    parameters.push(query(&("pretty", "string")));
    item.insert("parameters".into(), parameters.into());
    paths.insert(path, Value::Object(item));
}

type Parameter = (&'static str, &'static str);

const LIST: [Parameter; 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: [Parameter; 3] =
    [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const DELETE: [Parameter; 4] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

fn query((name, kind): &Parameter) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn content(schema: &Value, media: &[&str]) -> Value {
    media.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

fn operation(
    action: &str,
    gvk: &Value,
    body: Option<&Value>,
    answer: &Value,
    parameters: &[Parameter],
) -> Value {
    let mut o = json!({
        "parameters": parameters.iter().map(query).collect::<Vec<_>>(),
        "responses": {
            "200": {"description": "OK", "content": content(answer, &MEDIA)},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk,
    });
    if let Some(b) = body {
        o["requestBody"] = json!({"required": true, "content": content(b, &MEDIA)});
    }
    o
}

fn patch(gvk: &Value, answer: &Value, schemas: &mut Schemas) -> Value {
    let body = match proto::schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.Patch") {
        Some(d) => schemas.reference(d),
        None => json!({"type": "object"}),
    };
    let mut o = operation("patch", gvk, None, answer, &WRITE);
    o["requestBody"] = json!({"required": true, "content": content(&body, &PATCHES)});
    if let Some(p) = o["parameters"].as_array_mut() {
        p.push(query(&("force", "boolean")));
    }
    o
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_says_that_fields_are_validated() {
        let o = patch(&json!({"kind": "Pod"}), &json!({}), &mut Schemas::default());
        let names: Vec<&str> =
            o["parameters"].as_array().expect("list").iter().filter_map(|p| p["name"].as_str()).collect();
        assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
        assert!(o["requestBody"]["content"]["application/apply-patch+yaml"].is_object());
    }
}

//! The types of what policies are about: those of built-in kinds are known, those of custom resources and aggregated APIs
//! are read from the server's OpenAPI documents.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use expressions::DeclType;
use expressions::admission::typecheck::{Kind, MAX_TYPES, Named};
use http::Request;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::Client;
use serde_json::Value;

/// A type has no more parts; what comes after is anything.
const MAX_PARTS: usize = 100_000;

/// The kinds of these resources with their types, in the order of their names. As upstream, what the server does not
/// have or cannot say now is left out: type checks never hold up a policy.
pub async fn of_resources(client: &Client, rules: &[Vec<Named>]) -> Vec<Kind> {
    let mut found: BTreeSet<(&str, &str, String)> = BTreeSet::new();
    let mut known: BTreeMap<(&str, &str), Vec<APIResource>> = BTreeMap::new();
    'rules: for rule in rules {
        let mut count = 0;
        for n in rule {
            let at = (n.group.as_str(), n.version.as_str());
            let resources = match known.entry(at) {
                Entry::Occupied(e) => e.into_mut(),
                Entry::Vacant(e) => e.insert(resources(client, at).await),
            };
            let Some(r) = resources.iter().find(|r| r.name == n.resource) else { continue };
            found.insert((at.0, at.1, r.kind.clone()));
            count += 1;
            if count == MAX_TYPES {
                break 'rules;
            }
        }
    }
    let mut out = Vec::new();
    for (group, version, kind) in found {
        if let Some(ty) = of_kind(client, group, version, &kind).await {
            out.push(Kind::new(group, version, &kind, ty));
        }
    }
    out
}

/// The type of the objects of a kind, if it can be found out.
pub async fn of_kind(client: &Client, group: &str, version: &str, kind: &str) -> Option<DeclType> {
    if let Some(known) = proto::schema::by_gvk(group, version, kind) {
        return Some(DeclType::from_schema(known));
    }
    let path = match group {
        "" => format!("/openapi/v3/api/{version}"),
        _ => format!("/openapi/v3/apis/{group}/{version}"),
    };
    match document(client, &path).await {
        Ok(d) => from_openapi(&d, (group, version, kind)),
        Err(e) => {
            tracing::debug!(path, error = %e, "no types can be read");
            None
        }
    }
}

async fn document(client: &Client, path: &str) -> kube::Result<Value> {
    client.request(Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?).await
}

/// The resources of a version of a group; none if they cannot be read.
async fn resources(client: &Client, (group, version): (&str, &str)) -> Vec<APIResource> {
    let list = match group {
        "" => client.list_core_api_resources(version).await,
        group => client.list_api_group_resources(&format!("{group}/{version}")).await,
    };
    match list {
        Ok(list) => list.resources,
        Err(e) => {
            tracing::debug!(group, version, error = %e, "no kinds can be read");
            Vec::new()
        }
    }
}

/// The type of a kind (group, version, kind) in an OpenAPI v3 document.
pub fn from_openapi(document: &Value, gvk: (&str, &str, &str)) -> Option<DeclType> {
    let schemas = document.pointer("/components/schemas")?.as_object()?;
    let text = |v: &Value, field: &str| v.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_it = |s: &Value| {
        let kinds = s.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
        kinds.into_iter().flatten().any(|k| {
            (text(k, "group"), text(k, "version"), text(k, "kind"))
                == (gvk.0.to_owned(), gvk.1.to_owned(), gvk.2.to_owned())
        })
    };
    let (name, schema) = schemas.iter().find(|(_, s)| is_it(s))?;
    let mut resolving = Resolving { all: schemas, within: vec![name], left: MAX_PARTS };
    DeclType::from_structural(&resolving.resolve(schema), name, false)
}

/// A schema whose references are being replaced by what they refer to.
struct Resolving<'a> {
    all: &'a serde_json::Map<String, Value>,
    /// The references within which it is: what refers to itself is anything below its first level.
    within: Vec<&'a str>,
    /// Parts that may still be written: documents come from servers that anybody may have added.
    left: usize,
}

impl<'a> Resolving<'a> {
    fn resolve(&mut self, schema: &'a Value) -> Value {
        if self.left == 0 {
            return Value::Object(serde_json::Map::new());
        }
        self.left -= 1;
        match schema {
            Value::Array(list) => list.iter().map(|v| self.resolve(v)).collect(),
            Value::Object(fields) => match self.referred(fields) {
                Some((name, _)) if self.within.contains(&name) => Value::Object(serde_json::Map::new()),
                Some((name, target)) => {
                    self.within.push(name);
                    let whole = self.resolve(target);
                    self.within.pop();
                    whole
                }
                None => fields.iter().map(|(k, v)| (k.clone(), self.resolve(v))).collect(),
            },
            other => other.clone(),
        }
    }

    /// A reference stands alone, or, beside a description or default, in a list of one.
    fn referred(&self, fields: &'a serde_json::Map<String, Value>) -> Option<(&'a str, &'a Value)> {
        let reference = fields.get("$ref").or_else(|| match fields.get("allOf")?.as_array()?.as_slice() {
            [one] => one.get("$ref"),
            _ => None,
        });
        let name = reference?.as_str()?.strip_prefix("#/components/schemas/")?;
        Some((name, self.all.get(name)?))
    }
}

#[cfg(test)]
mod tests {
    use expressions::admission::typecheck::warnings;
    use serde_json::json;

    use super::*;

    #[test]
    fn types_of_custom_resources_come_from_openapi() {
        let gvk = json!([{"group": "a.io", "version": "v1", "kind": "Foo"}]);
        let document = json!({"components": {"schemas": {
            "io.a.v1.Foo": {"type": "object", "x-kubernetes-group-version-kind": gvk, "properties": {
                "metadata": {"description": "d", "allOf": [{"$ref": "#/components/schemas/ObjectMeta"}]},
                "spec": {"type": "object", "properties": {"n": {"type": "integer"}, "again": {"$ref": "#/components/schemas/io.a.v1.Foo"}}}}},
            "ObjectMeta": {"type": "object", "properties": {"labels": {"type": "object", "additionalProperties": {"type": "string"}}}}}}});
        let ty = from_openapi(&document, ("a.io", "v1", "Foo")).expect("a type");
        let kinds = [Kind::new("a.io", "v1", "Foo", ty)];
        let told = |expression: &str| {
            let policy = json!({"spec": {"validations": [{"expression": expression}]}});
            warnings(&policy, &kinds, None).into_iter().map(|w| w.warning).collect::<String>()
        };
        assert_eq!(told("object.spec.n > 3 && object.metadata.labels['x'] == 'y'"), "");
        assert!(told("object.spec.n == 'a'").contains("a.io/v1, Kind=Foo: compilation failed: ERROR"));
        assert!(told("object.spec.m == 1").contains("undefined field 'm'"));
        assert!(from_openapi(&document, ("a.io", "v1", "Bar")).is_none());
    }
}

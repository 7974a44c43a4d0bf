//! What a `CustomResourceDefinition` says, read once per change of it and shared by everything that serves its
//! resources: names, versions with their compiled schemas, subresources, conversion.

use std::sync::Arc;

use proto::schema::intern;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::columns::Columns;
use super::convert::Conversion;
use super::fields::Selectable;
use super::schema::{ScalePaths, Schema, SchemaOptions};
use crate::lookup::{items, text};
use crate::registry::table::compare_versions;

/// Names under which the resource is served: those that were accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub plural: String,
    pub singular: String,
    pub short: Vec<String>,
    pub kind: String,
    pub list_kind: String,
    pub categories: Vec<String>,
}

impl Names {
    /// From `spec.names` or `status.acceptedNames`.
    pub fn read(v: Option<&Value>) -> Self {
        let Some(v) = v else { return Self::default() };
        let list = |p: &str| items(v, p).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            plural: text(v, "/plural").to_owned(),
            singular: text(v, "/singular").to_owned(),
            short: list("/shortNames"),
            kind: text(v, "/kind").to_owned(),
            list_kind: text(v, "/listKind").to_owned(),
            categories: list("/categories"),
        }
    }

    /// As `status.acceptedNames`; `plural` and `kind` are always there.
    pub fn to_value(&self) -> Value {
        let mut out = json!({"plural": self.plural, "kind": self.kind});
        for (key, value) in [("singular", &self.singular), ("listKind", &self.list_kind)] {
            if !value.is_empty() {
                out[key] = value.as_str().into();
            }
        }
        for (key, list) in [("shortNames", &self.short), ("categories", &self.categories)] {
            if !list.is_empty() {
                out[key] = list.iter().map(String::as_str).collect();
            }
        }
        out
    }
}

/// One version.
pub struct Version {
    pub name: &'static str,
    /// `group/version`.
    pub api_version: String,
    pub served: bool,
    pub schema: Arc<Schema>,
    /// Of the schema's text: equal where two versions have the same fields.
    digest: [u8; 32],
    pub has_status: bool,
    /// Where the `scale` subresource finds its values, if there is one.
    pub scale: Option<ScalePaths>,
    pub columns: Columns,
    pub selectable: Vec<Selectable>,
    /// The sentence for the `Warning` header of every request.
    pub warning: Option<String>,
}

impl Version {
    /// Whether the other version has the same schema, so that nothing of an object can be lost between them.
    pub fn same_fields(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// One definition.
pub struct Definition {
    /// `plural.group`.
    pub name: String,
    pub group: &'static str,
    pub names: Names,
    pub namespaced: bool,
    /// `spec.preserveUnknownFields`: nothing is pruned in any version.
    pub preserve_unknown_fields: bool,
    pub versions: Vec<Version>,
    /// Place of the storage version among [`Self::versions`].
    pub storage: usize,
    pub conversion: Conversion,
    /// Stands for all that decides what is served.
    pub digest: [u8; 32],
}

/// Stands for all of a definition that decides what is served: its spec, and the names that were accepted.
pub fn digest(crd: &Value) -> [u8; 32] {
    let mut h = Sha256::new();
    for p in ["/spec", "/status/acceptedNames"] {
        h.update(crd.pointer(p).map(Value::to_string).unwrap_or_default());
        h.update([0]);
    }
    h.finalize().into()
}

impl Definition {
    /// Reads a definition whose resources are to be served as `names`.
    ///
    /// # Errors
    /// What makes it impossible to serve; validation lets nothing of that kind in.
    pub fn read(crd: &Value, names: Names, conversion: Conversion) -> Result<Self, String> {
        for (what, value) in [
            ("plural", &names.plural),
            ("singular", &names.singular),
            ("kind", &names.kind),
            ("listKind", &names.list_kind),
        ] {
            if value.is_empty() {
                return Err(format!("status.acceptedNames.{what} is empty"));
            }
        }
        let group = intern(text(crd, "/spec/group"));
        let preserve = crd.pointer("/spec/preserveUnknownFields").and_then(Value::as_bool).unwrap_or(false);
        let all = items(crd, "/spec/versions");
        let versions =
            all.iter().map(|v| version(crd, v, group, &names, preserve)).collect::<Result<Vec<_>, _>>()?;
        let storage = all
            .iter()
            .position(|v| v.get("storage").and_then(Value::as_bool) == Some(true))
            .ok_or("there is no storage version")?;
        Ok(Self {
            name: text(crd, "/metadata/name").to_owned(),
            group,
            names,
            namespaced: text(crd, "/spec/scope") == "Namespaced",
            preserve_unknown_fields: preserve,
            versions,
            storage,
            conversion,
            digest: digest(crd),
        })
    }

    /// The version of that name.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.name == name)
    }

    /// The version of an `apiVersion`, if that is one of this group.
    pub fn of_api_version(&self, api_version: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.api_version == api_version)
    }

    /// The version in which objects are stored.
    pub fn storage_version(&self) -> &Version {
        &self.versions[self.storage]
    }
}

fn version(
    crd: &Value,
    v: &Value,
    group: &'static str,
    names: &Names,
    preserve: bool,
) -> Result<Version, String> {
    let name = intern(text(v, "/name"));
    let free;
    let props = match v.pointer("/schema/openAPIV3Schema") {
        Some(props) => props,
        // Only definitions of before `v1` lack one.
        None => {
            free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
            &free
        }
    };
    let options =
        SchemaOptions { group, version: name, kind: &names.kind, preserve_unknown_fields: preserve };
    let schema = Schema::compile(props, options).map_err(|e| format!("version {name}: {}", e.join("; ")))?;
    let scale = v.pointer("/subresources/scale").map(|s| ScalePaths {
        spec_replicas: text(s, "/specReplicasPath").to_owned(),
        status_replicas: text(s, "/statusReplicasPath").to_owned(),
        label_selector: text(s, "/labelSelectorPath").to_owned(),
    });
    let flag = |p: &str| v.pointer(p).and_then(Value::as_bool).unwrap_or(false);
    let warning = flag("/deprecated").then(|| match v.get("deprecationWarning").and_then(Value::as_str) {
        Some(w) => w.to_owned(),
        None => deprecation(crd, group, name, &names.kind),
    });
    Ok(Version {
        name,
        api_version: format!("{group}/{name}"),
        served: flag("/served"),
        schema,
        digest: Sha256::digest(props.to_string()).into(),
        has_status: v.pointer("/subresources/status").is_some(),
        scale,
        columns: Columns::read(items(v, "/additionalPrinterColumns")),
        selectable: items(v, "/selectableFields")
            .iter()
            .map(|f| Selectable::new(text(f, "/jsonPath")))
            .collect(),
        warning,
    })
}

/// What is said of a deprecated version that says nothing itself: the best version to go to, if there is one.
fn deprecation(crd: &Value, group: &str, version: &str, kind: &str) -> String {
    let mut better: Vec<&str> = items(crd, "/spec/versions")
        .iter()
        .filter(|v| {
            let flag = |f: &str| v.get(f).and_then(Value::as_bool).unwrap_or(false);
            flag("served") && !flag("deprecated") && compare_versions(text(v, "/name"), version).is_lt()
        })
        .map(|v| text(v, "/name"))
        .collect();
    better.sort_by(|a, b| compare_versions(a, b));
    let said = format!("{group}/{version} {kind} is deprecated");
    match better.first() {
        Some(v) => format!("{said}; use {group}/{v} {kind}"),
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deprecated_versions_point_to_better_ones() {
        let v =
            |name: &str, deprecated: bool| json!({"name": name, "served": true, "deprecated": deprecated});
        let crd = json!({"spec": {"versions": [v("v1alpha1", true), v("v1beta1", true), v("v1", false), v("v2beta1", false)]}});
        let said = |version: &str| deprecation(&crd, "g.io", version, "Foo");
        assert_eq!(said("v1alpha1"), "g.io/v1alpha1 Foo is deprecated; use g.io/v1 Foo");
        assert_eq!(said("v1"), "g.io/v1 Foo is deprecated");
    }

    #[test]
    fn names_come_back() {
        let v = json!({"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList", "shortNames": ["f"]});
        assert_eq!(Names::read(Some(&v)).to_value(), v);
        assert_eq!(Names::default().to_value(), json!({"plural": "", "kind": ""}));
    }
}

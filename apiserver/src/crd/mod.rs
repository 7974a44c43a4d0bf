//! Custom resources: what `CustomResourceDefinition`s add to what is served, on the same path as built-in kinds.
//!
//! The controller ([`controller`]) follows the definitions. What each says is read into a [`Definition`], from which
//! [`serve`] makes resources for the registry's table: their objects are stored as JSON ([`form`]), and their
//! rules ([`strategy`]) come from the schema. Handlers work on objects in the version of the request; [`convert`]
//! stands between that and the version in which objects are stored.
//!
//! | file | what |
//! | --- | --- |
//! | `definition.rs` | one definition, read |
//! | `naming.rs`, `conditions.rs` | its names and conditions, as pure functions |
//! | `controller.rs`, `finalize.rs` | the life cycle, driven by a watch |
//! | `serve.rs` | from a definition to resources of the table |
//! | `form.rs`, `convert.rs` | stored bytes; versions |
//! | `webhook.rs`, `metrics.rs` | conversion webhooks |
//! | `strategy.rs`, `decode.rs` | rules; bodies of requests |
//! | `columns.rs`, `fields.rs`, `jsonpath.rs` | tables and field selectors |
//! | `schema/` | the schema engine |

pub mod columns;
pub mod conditions;
pub mod controller;
pub mod convert;
pub mod decode;
pub mod definition;
pub mod fields;
mod finalize;
pub mod form;
pub mod jsonpath;
pub mod metrics;
pub mod naming;
pub mod schema;
pub mod serve;
mod strategy;
pub mod v1beta1;
pub mod webhook;

use std::sync::Arc;

pub use definition::{Definition, Version};

/// What the handlers of one served version need beyond what every resource has.
pub struct Served {
    pub definition: Arc<Definition>,
    /// Place of the version in the definition.
    at: usize,
    /// The definition is being deleted: nothing new is created.
    pub terminating: bool,
}

impl Served {
    /// The version.
    pub fn version(&self) -> &Version {
        &self.definition.versions[self.at]
    }

    /// The name under which OpenAPI has a kind of this version: `com.example.stable.v1.CronTab`.
    pub fn model(&self, kind: &str) -> String {
        let mut parts: Vec<&str> = self.definition.group.rsplit('.').collect();
        parts.extend([self.version().name, kind]);
        parts.join(".")
    }

    /// Whether field selectors may name the field.
    pub fn selects(&self, field: &str) -> bool {
        match field {
            "metadata.name" => true,
            "metadata.namespace" => self.definition.namespaced,
            f => self.version().selectable.iter().any(|s| s.name == f),
        }
    }
}

/// A definition for tests of the parts around.
#[cfg(test)]
pub mod testing {
    use std::sync::Arc;

    use serde_json::json;

    use super::convert::Conversion;
    use super::definition::Names;
    use super::{Definition, Served};

    /// The only version of `cows.example.com`.
    pub fn served() -> Arc<Served> {
        let names = json!({"plural": "cows", "singular": "cow", "kind": "Cow", "listKind": "CowList"});
        let crd = json!({"metadata": {"name": "cows.example.com"}, "spec": {"group": "example.com",
            "scope": "Namespaced", "names": names, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        let definition = Definition::read(&crd, Names::read(crd.pointer("/spec/names")), Conversion::Retype);
        Arc::new(Served {
            definition: Arc::new(definition.expect("a definition")),
            at: 0,
            terminating: false,
        })
    }
}

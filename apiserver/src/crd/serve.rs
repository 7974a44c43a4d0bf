//! From a definition to the resources of the registry's table.

use std::borrow::Cow;
use std::sync::Arc;

use proto::Subresource;
use proto::schema::{Gvk, intern};

use super::Served;
use super::definition::{Definition, Version};
use super::form::JsonForm;
use super::strategy::CustomStrategy;
use crate::cache::Feed;
use crate::registry::resource::Resource;
use crate::registry::rules::{self, Rules};
use crate::registry::storage::Storage;
use crate::registry::strategy::StrategyRef;

const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const SUBRESOURCE_VERBS: &[&str] = &["get", "patch", "update"];

/// The resources of one definition with their storage.
pub struct Serving {
    pub definition: Arc<Definition>,
    pub storage: Arc<Storage>,
}

impl Serving {
    /// Storage for the objects of a definition. Nothing is read before somebody asks.
    pub fn new(feed: &Arc<Feed>, d: Arc<Definition>) -> Self {
        let v = d.storage_version();
        let def = names(&d, v);
        let prefix = prefix(d.group, &d.names.plural);
        let form = Arc::new(JsonForm(Arc::clone(&d)));
        let storage = Storage::with_form(feed, prefix, (d.group, v.name), &def, v.schema.type_def(), form);
        Self { definition: d, storage: Arc::new(storage) }
    }

    /// The resource of each served version.
    pub fn resources(&self, terminating: bool) -> Vec<Resource> {
        let served = |at: &usize| self.definition.versions[*at].served;
        (0..self.definition.versions.len()).filter(served).map(|at| self.resource(at, terminating)).collect()
    }

    /// The resource in the storage version, served or not.
    pub fn stored(&self) -> Resource {
        self.resource(self.definition.storage, true)
    }

    fn resource(&self, at: usize, terminating: bool) -> Resource {
        let served = Arc::new(Served { definition: Arc::clone(&self.definition), at, terminating });
        let v = served.version();
        Resource {
            def: names(&self.definition, v),
            rules: Rules { unconditional_update: false, ..rules::of("", "") },
            schema: v.schema.type_def(),
            storage: Some(Arc::clone(&self.storage)),
            strategy: Some(StrategyRef::Shared(Arc::new(CustomStrategy(Arc::clone(&served))))),
            custom: Some(served),
        }
    }
}

/// Where objects are stored.
pub fn prefix(group: &str, plural: &str) -> String {
    format!("/registry/{group}/{plural}/")
}

/// What the resource is called in one version.
fn names(d: &Definition, v: &Version) -> proto::Resource {
    let all = |l: &[String]| Cow::Owned(l.iter().map(|n| intern(n)).collect::<Vec<_>>());
    let kind = intern(&d.names.kind);
    let mut subresources = Vec::new();
    if v.has_status {
        let kind = Gvk { group: d.group, version: v.name, kind };
        subresources.push(Subresource { name: "status", verbs: SUBRESOURCE_VERBS, kind });
    }
    if v.scale.is_some() {
        let kind = Gvk { group: "autoscaling", version: "v1", kind: "Scale" };
        subresources.push(Subresource { name: "scale", verbs: SUBRESOURCE_VERBS, kind });
    }
    proto::Resource {
        group: d.group,
        version: v.name,
        resource: intern(&d.names.plural),
        singular: intern(&d.names.singular),
        kind,
        namespaced: d.namespaced,
        verbs: VERBS,
        short_names: all(&d.names.short),
        categories: all(&d.names.categories),
        subresources: subresources.into(),
    }
}

//! The table of served resources: what each is called, where it is stored and by which rules it lives.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use proto::schema::TypeDef;

use super::rules::{self, Rules};
use super::storage::Storage;
use super::strategy::DynStrategy;
use crate::cache::Feed;
use crate::status::ApiResult;
use crate::store::Store;

/// One resource in one version.
pub struct Resource {
    /// Names, verbs and subresources.
    pub def: &'static proto::Resource,
    pub rules: Rules,
    /// The type of its objects in this version.
    pub schema: &'static TypeDef,
    /// None for kinds that are only asked, never stored.
    pub storage: Option<Arc<Storage>>,
    pub strategy: Option<&'static dyn DynStrategy>,
}

impl std::ops::Deref for Resource {
    type Target = proto::Resource;
    fn deref(&self) -> &proto::Resource {
        self.def
    }
}

impl Resource {
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether this version is the one in which objects are stored.
    pub fn is_storage_version(&self) -> bool {
        self.storage.as_ref().is_none_or(|s| s.group == self.group && s.version == self.version)
    }

    /// The storage, or the answer for kinds that have none.
    pub fn storage(&self) -> ApiResult<&Arc<Storage>> {
        self.storage.as_ref().ok_or_else(super::method_not_allowed)
    }
}

pub use proto::resources::api_version;

/// One group with its versions, preferred first.
pub struct Group {
    pub name: &'static str,
    pub versions: Vec<Version>,
}

/// One version of a group.
pub struct Version {
    pub name: &'static str,
    /// Sorted by name.
    pub resources: Vec<Arc<Resource>>,
}

/// Everything that is served.
#[derive(Default)]
pub struct Table {
    pub groups: Vec<Group>,
    index: HashMap<&'static str, HashMap<&'static str, HashMap<&'static str, Arc<Resource>>>>,
}

impl Table {
    /// Whether the group and version are served at all.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.index.get(group).is_some_and(|v| v.contains_key(version))
    }

    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.index.get(group)?.get(version)?.get(resource)
    }

    /// Any served version of the resource, the preferred one first.
    pub fn any_version(&self, group: &str, resource: &str) -> Option<&Arc<Resource>> {
        let g = self.groups.iter().find(|g| g.name == group)?;
        g.versions.iter().flat_map(|v| &v.resources).find(|r| r.resource == resource)
    }

    /// The resource whose objects are of this kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let g = self.groups.iter().find(|g| g.name == group)?;
        let v = g.versions.iter().find(|v| v.name == version)?;
        v.resources.iter().find(|r| r.kind == kind)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.groups.iter().flat_map(|g| &g.versions).flat_map(|v| &v.resources)
    }

    /// Builds the table of all built-in resources that `enabled` (group, version) lets through.
    pub fn build(store: &Arc<dyn Store>, enabled: impl Fn(&str, &str) -> bool) -> Result<Self, String> {
        let feed = Feed::new(Arc::clone(store), "/registry/");
        let mut storages: HashMap<String, Arc<Storage>> = HashMap::new();
        let mut table = Self::default();
        for def in proto::resources() {
            if !enabled(def.group, def.version) {
                continue;
            }
            let schema = find_schema(def.group, def.version, def.kind)?;
            let storage = if def.verbs.contains(&"list") && def.resource != "componentstatuses" {
                let prefix = rules::key_prefix(def.group, def.resource);
                let s = match storages.entry(prefix) {
                    Entry::Occupied(o) => Arc::clone(o.get()),
                    Entry::Vacant(v) => {
                        let (group, version) = rules::storage_group_version(def.group, def.resource)
                            .unwrap_or((def.group, def.version));
                        let schema = find_schema(group, version, def.kind)?;
                        let s = Storage::new(&feed, v.key().clone(), group, version, def, schema);
                        Arc::clone(v.insert(Arc::new(s)))
                    }
                };
                Some(s)
            } else {
                None
            };
            // The rules are those of the version in which objects are stored.
            let group = storage.as_ref().map_or(def.group, |s| s.group);
            let strategy = crate::kinds::strategy(group, def.resource);
            table.add(Arc::new(Resource {
                def,
                rules: rules::of(def.group, def.resource),
                schema,
                storage,
                strategy,
            }));
        }
        table.groups.sort_by_key(|g| GROUP_ORDER.iter().position(|n| *n == g.name).unwrap_or(usize::MAX));
        for g in &mut table.groups {
            g.versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v.name)));
            for v in &mut g.versions {
                v.resources.sort_by_key(|r| r.resource);
            }
        }
        Ok(table)
    }

    fn add(&mut self, r: Arc<Resource>) {
        let at = match self.groups.iter().position(|g| g.name == r.group) {
            Some(i) => i,
            None => {
                self.groups.push(Group { name: r.group, versions: Vec::new() });
                self.groups.len() - 1
            }
        };
        let g = &mut self.groups[at];
        let at = match g.versions.iter().position(|v| v.name == r.version) {
            Some(i) => i,
            None => {
                g.versions.push(Version { name: r.version, resources: Vec::new() });
                g.versions.len() - 1
            }
        };
        g.versions[at].resources.push(Arc::clone(&r));
        self.index.entry(r.group).or_default().entry(r.version).or_default().insert(r.resource, r);
    }
}

fn find_schema(group: &str, version: &str, kind: &str) -> Result<&'static TypeDef, String> {
    proto::schema::by_gvk(group, version, kind)
        .ok_or_else(|| format!("the type table has no {kind} in {}", api_version(group, version)))
}

/// The order in which clients find the groups: it decides which group wins for an ambiguous name.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "storagemigration.k8s.io",
];

/// Orders versions: stable before beta before alpha, higher before lower.
pub fn version_rank(v: &str) -> (u8, u32, u32) {
    let Some(rest) = v.strip_prefix('v') else { return (0, 0, 0) };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..digits].parse().unwrap_or(0);
    let tail = &rest[digits..];
    if tail.is_empty() {
        return (3, major, 0);
    }
    for (stage, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some(n) = tail.strip_prefix(stage) {
            return (rank, major, n.parse().unwrap_or(0));
        }
    }
    (0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::version_rank;

    #[test]
    fn ranks() {
        let mut v = ["v1", "v1beta1", "v2", "v1alpha1", "v1beta2"];
        v.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        assert_eq!(v, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1"]);
    }
}

//! The table of served resources. A table is never changed in place: requests hold the one they began with, and
//! [`super::Registry::change_table`] puts another in its place. Groups are shared between tables, so that a change
//! costs what its group has.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use proto::schema::TypeRef;

use super::resource::{Resource, api_version};
use super::rules;
use super::storage::Storage;
use super::strategy::StrategyRef;
use crate::cache::Feed;
use crate::store::Store;

/// One group with its versions, preferred first.
#[derive(Clone)]
pub struct Group {
    pub name: &'static str,
    pub versions: Vec<Version>,
}

/// One version of a group.
#[derive(Clone)]
pub struct Version {
    pub name: &'static str,
    /// Sorted by name.
    pub resources: Vec<Arc<Resource>>,
}

impl Group {
    /// The version of that name.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.name == name)
    }
}

impl Version {
    /// The resource of that plural name.
    pub fn resource(&self, name: &str) -> Option<&Arc<Resource>> {
        self.resources.binary_search_by(|r| r.resource.cmp(name)).ok().map(|i| &self.resources[i])
    }
}

/// Everything that is served.
#[derive(Default, Clone)]
pub struct Table {
    /// In the order of discovery.
    pub groups: Vec<Arc<Group>>,
    index: HashMap<&'static str, Arc<Group>>,
    feed: Option<Arc<Feed>>,
}

impl Table {
    /// The group of that name.
    pub fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.index.get(name)
    }

    /// Whether the group and version are served at all.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.group(group).is_some_and(|g| g.version(version).is_some())
    }

    /// Whether the group is the server's own, in whatever version: one that custom resources alone make is not.
    pub fn is_builtin(&self, group: &str) -> bool {
        self.group(group)
            .is_some_and(|g| g.versions.iter().any(|v| v.resources.iter().any(|r| r.custom.is_none())))
    }

    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.group(group)?.version(version)?.resource(resource)
    }

    /// Any served version of the resource, the preferred one first.
    pub fn any_version(&self, group: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.group(group)?.versions.iter().find_map(|v| v.resource(resource))
    }

    /// The resource whose objects are of this kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.group(group)?.version(version)?.resources.iter().find(|r| r.kind == kind)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.groups.iter().flat_map(|g| &g.versions).flat_map(|v| &v.resources)
    }

    /// The one watch of the store behind all caches; none in an empty table.
    pub fn feed(&self) -> Option<&Arc<Feed>> {
        self.feed.as_ref()
    }

    /// Builds the table of all built-in resources that `enabled` (group, version) lets through.
    pub fn build(store: &Arc<dyn Store>, enabled: impl Fn(&str, &str) -> bool) -> Result<Self, String> {
        let feed = Feed::new(Arc::clone(store), "/registry/");
        let mut storages: HashMap<String, Arc<Storage>> = HashMap::new();
        let mut all = Vec::new();
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
            let strategy = crate::kinds::strategy(group, def.resource).map(StrategyRef::Static);
            let rules = rules::of(def.group, def.resource);
            all.push(Resource { def: def.clone(), rules, schema, storage, strategy, custom: None });
        }
        let mut table = Self { feed: Some(feed), ..Self::default() };
        table.put(all);
        Ok(table)
    }

    /// Serves these resources, instead of those of the same group, version and name where there are any. A custom
    /// resource does not take the place of a built-in one.
    pub fn put(&mut self, resources: impl IntoIterator<Item = Resource>) {
        let mut touched: HashMap<&'static str, Group> = HashMap::new();
        for r in resources {
            let r = Arc::new(r);
            let g = touched.entry(r.group).or_insert_with(|| match self.index.get(r.group) {
                Some(g) => Group::clone(g),
                None => Group { name: r.group, versions: Vec::new() },
            });
            let at = match g.versions.iter().position(|v| v.name == r.version) {
                Some(i) => i,
                None => {
                    g.versions.push(Version { name: r.version, resources: Vec::new() });
                    g.versions.len() - 1
                }
            };
            let list = &mut g.versions[at].resources;
            match list.binary_search_by(|x| x.resource.cmp(r.resource)) {
                Ok(i) if list[i].custom.is_none() && r.custom.is_some() => {}
                Ok(i) => list[i] = r,
                Err(i) => list.insert(i, r),
            }
        }
        for mut g in touched.into_values() {
            g.versions.sort_by(|a, b| compare_versions(a.name, b.name));
            self.set_group(g);
        }
    }

    /// Serves the custom resource in no version any more but in those of `keep`.
    pub fn remove(&mut self, group: &str, resource: &str, keep: &[&str]) {
        let Some(g) = self.index.get(group) else { return };
        let mut g = Group::clone(g);
        for v in &mut g.versions {
            if !keep.contains(&v.name) {
                v.resources.retain(|r| r.resource != resource || r.custom.is_none());
            }
        }
        g.versions.retain(|v| !v.resources.is_empty());
        self.set_group(g);
    }

    fn set_group(&mut self, g: Group) {
        let key = |g: &Group| (GROUP_ORDER.iter().position(|n| *n == g.name).unwrap_or(usize::MAX), g.name);
        let at = self.groups.binary_search_by_key(&key(&g), |x| key(x));
        if g.versions.is_empty() {
            self.index.remove(g.name);
            if let Ok(i) = at {
                self.groups.remove(i);
            }
            return;
        }
        let g = Arc::new(g);
        self.index.insert(g.name, Arc::clone(&g));
        match at {
            Ok(i) => self.groups[i] = g,
            Err(i) => self.groups.insert(i, g),
        }
    }

    /// Storages that are here and not in `new`.
    pub fn storages_missing_in(&self, new: &Self) -> Vec<Arc<Storage>> {
        let mut missing: Vec<Arc<Storage>> = Vec::new();
        for g in &self.groups {
            let after = new.index.get(g.name);
            if after.is_some_and(|n| Arc::ptr_eq(n, g)) {
                continue;
            }
            let of = |g: &Group| -> Vec<Arc<Storage>> {
                g.versions.iter().flat_map(|v| &v.resources).filter_map(|r| r.storage.clone()).collect()
            };
            let kept = after.map(|g| of(g)).unwrap_or_default();
            let has = |list: &[Arc<Storage>], s: &Arc<Storage>| list.iter().any(|x| Arc::ptr_eq(x, s));
            for s in of(g) {
                if !has(&kept, &s) && !has(&missing, &s) {
                    missing.push(s);
                }
            }
        }
        missing
    }
}

fn find_schema(group: &str, version: &str, kind: &str) -> Result<TypeRef, String> {
    proto::schema::by_gvk(group, version, kind)
        .map(TypeRef::Static)
        .ok_or_else(|| format!("the type table has no {kind} in {}", api_version(group, version)))
}

/// The order in which clients find the groups: it decides which group wins for an ambiguous name. Groups of custom
/// resources come after these, by name.
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
    if digits == 0 {
        return (0, 0, 0);
    }
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

/// Upstream's order of versions: by [`version_rank`], names that are no versions by the alphabet at the end.
pub fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    Reverse(version_rank(a)).cmp(&Reverse(version_rank(b))).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let mut v = ["v1", "foo", "v1beta1", "bar", "v2", "v1alpha1", "v1beta2"];
        v.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(v, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "bar", "foo"]);
    }

    fn resource(group: &'static str, version: &'static str, name: &'static str) -> Resource {
        let pods = proto::resource("", "v1", "pods").expect("pods");
        Resource {
            def: proto::Resource { group, version, resource: name, ..pods.clone() },
            rules: rules::of(group, name),
            schema: find_schema("", "v1", "Pod").expect("a type"),
            storage: None,
            strategy: None,
            custom: group.contains('.').then(crate::crd::testing::served),
        }
    }

    #[test]
    fn resources_come_and_go() {
        let mut t = Table::default();
        t.put([resource("", "v1", "pods"), resource("apps", "v1", "sets")]);
        t.put([resource("b.example.com", "v1beta1", "cows"), resource("b.example.com", "v1", "cows")]);
        t.put([resource("a.example.com", "v1", "cats")]);
        let names: Vec<&str> = t.groups.iter().map(|g| g.name).collect();
        assert_eq!(names, ["", "apps", "a.example.com", "b.example.com"]);
        assert_eq!(t.any_version("b.example.com", "cows").map(|r| r.version), Some("v1"));
        let before = t.clone();
        t.remove("b.example.com", "cows", &["v1beta1"]);
        assert!(t.get("b.example.com", "v1", "cows").is_none() && !t.serves("b.example.com", "v1"));
        assert!(t.get("b.example.com", "v1beta1", "cows").is_some());
        t.remove("b.example.com", "cows", &[]);
        assert!(t.group("b.example.com").is_none() && t.groups.len() == 3);
        assert!(before.get("b.example.com", "v1", "cows").is_some(), "older tables stay as they were");
        assert!(Arc::ptr_eq(&before.groups[0], &t.groups[0]), "untouched groups are shared");
    }
}

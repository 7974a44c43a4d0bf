//! Every resource that v1.36 serves, and the columns of its tables. Custom resources are described in the same way,
//! with names that are kept for the life of the process ([`crate::schema::intern`]).

use std::borrow::Cow;

use crate::schema::{Gvk, TypeDef, by_gvk};
use crate::tables;

/// One resource of one group version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version in the group.
    pub version: &'static str,
    /// Plural name, as in paths.
    pub resource: &'static str,
    /// Singular name.
    pub singular: &'static str,
    /// Kind of its objects.
    pub kind: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Verbs, sorted.
    pub verbs: &'static [&'static str],
    /// Short names (`po`).
    pub short_names: Cow<'static, [&'static str]>,
    /// Categories (`all`).
    pub categories: Cow<'static, [&'static str]>,
    /// Subresources.
    pub subresources: Cow<'static, [Subresource]>,
}

/// One subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// Name (`status`, `scale`, …).
    pub name: &'static str,
    /// Verbs, sorted.
    pub verbs: &'static [&'static str],
    /// Kind it takes or returns.
    pub kind: Gvk,
}

/// One column of a server-side table.
#[derive(Debug)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type.
    pub kind: &'static str,
    /// OpenAPI format, or `name`.
    pub format: &'static str,
    /// Zero shows always, others with `-o wide`.
    pub priority: i32,
}

impl Resource {
    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// The type of its objects.
    pub fn type_def(&self) -> Option<&'static TypeDef> {
        by_gvk(self.group, self.version, self.kind)
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// The scope as discovery and CRDs name it.
    pub fn scope(&self) -> &'static str {
        if self.namespaced { "Namespaced" } else { "Cluster" }
    }
}

/// `version`, or `group/version` outside the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group and version of an `apiVersion`; the group of `v1` is empty.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// All resources, sorted by group, version and name. Alpha and beta ones are among them.
pub fn resources() -> &'static [Resource] {
    tables::RESOURCES
}

/// The resource with that group, version and plural name.
pub fn resource(group: &str, version: &str, resource: &str) -> Option<&'static Resource> {
    let all = tables::RESOURCES;
    all.binary_search_by(|r| (r.group, r.version, r.resource).cmp(&(group, version, resource)))
        .ok()
        .map(|i| &all[i])
}

/// The resource whose objects are of that kind.
pub fn resource_of_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    tables::RESOURCES.iter().find(|r| r.group == group && r.version == version && r.kind == kind)
}

/// Columns of the server-side table of a kind; none for kinds that show name and age alone.
pub fn table_columns(kind: &str) -> Option<&'static [Column]> {
    let all = tables::COLUMNS;
    all.binary_search_by(|c| c.0.cmp(kind)).ok().map(|i| all[i].1)
}

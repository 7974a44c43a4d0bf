//! All API services, ready for requests: the remote ones by path, all of them in upstream's order.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::service::Service;
use crate::registry::table::compare_versions;

/// See the module. Never changed in place.
#[derive(Default)]
pub struct Table {
    all: Vec<Arc<Service>>,
    /// By group, then version.
    remote: HashMap<String, HashMap<String, Arc<Service>>>,
}

impl Table {
    pub fn new(services: impl IntoIterator<Item = Arc<Service>>) -> Self {
        let all: Vec<Arc<Service>> = services.into_iter().collect();
        let mut remote: HashMap<String, HashMap<String, Arc<Service>>> = HashMap::new();
        for s in all.iter().filter(|s| s.backend.is_some()) {
            remote.entry(s.group.clone()).or_default().insert(s.version.clone(), Arc::clone(s));
        }
        Self { all, remote }
    }

    /// Whether every request is this server's own.
    pub fn has_no_remote(&self) -> bool {
        self.remote.is_empty()
    }

    /// The remote API service to which a path belongs.
    pub fn target(&self, path: &str) -> Option<&Arc<Service>> {
        let mut parts = path.strip_prefix('/')?.splitn(4, '/');
        let (group, version) = match parts.next()? {
            "apis" => (parts.next()?, parts.next()?),
            "api" => ("", parts.next()?),
            _ => return None,
        };
        self.remote.get(group)?.get(version)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.all.iter()
    }

    /// Those that other servers serve.
    pub fn remote(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.remote.values().flat_map(|g| g.values())
    }

    /// How important a group is: the most that any of its API services claims.
    pub fn group_priority(&self, group: &str) -> Option<i64> {
        self.all.iter().filter(|s| s.group == group).map(|s| s.group_priority).max()
    }

    /// How important a version is within its group.
    pub fn version_priority(&self, group: &str, version: &str) -> i64 {
        self.all.iter().find(|s| s.group == group && s.version == version).map_or(0, |s| s.version_priority)
    }

    /// The versions of a group that have API services, preferred first.
    pub fn versions(&self, group: &str) -> Vec<Arc<Service>> {
        let mut v: Vec<Arc<Service>> = self.all.iter().filter(|s| s.group == group).cloned().collect();
        v.sort_by(|a, b| {
            (Reverse(a.version_priority).cmp(&Reverse(b.version_priority)))
                .then_with(|| compare_versions(&a.version, &b.version))
        });
        v
    }
}

//! The table of watched kinds: places in the graph name a kind by its number here. Numbers are never used again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::util::discovery::Kind;

/// Resources that have no owners worth following, and change all the time.
const IGNORED: &[&str] = &["events", "events.events.k8s.io"];

#[derive(Default)]
struct Inner {
    kinds: Vec<Arc<Kind>>,
    by_name: HashMap<(String, String), usize>,
    live: Vec<bool>,
}

/// Grows as kinds are discovered.
#[derive(Default)]
pub struct Kinds(RwLock<Inner>);

/// What a new discovery changed.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    pub added: Vec<usize>,
    pub removed: Vec<usize>,
}

impl Kinds {
    /// Takes over what discovery found; `complete` is false when some group did not answer, so that nothing is removed.
    pub fn update(&self, found: Vec<Kind>, complete: bool) -> Changes {
        let mut inner = self.0.write();
        let mut changes = Changes::default();
        let mut seen = vec![false; inner.kinds.len()];
        for kind in found {
            if !kind.supports(&["list", "watch", "delete"])
                || IGNORED.contains(&kind.group_resource().as_str())
            {
                continue;
            }
            let name = (kind.resource.group.clone(), kind.resource.kind.clone());
            if let Some(&id) = inner.by_name.get(&name)
                && *inner.kinds[id] == kind
            {
                if let Some(seen) = seen.get_mut(id) {
                    *seen = true;
                }
                if !inner.live[id] {
                    inner.live[id] = true;
                    changes.added.push(id);
                }
                continue;
            }
            let id = inner.kinds.len();
            inner.kinds.push(Arc::new(kind));
            inner.live.push(true);
            inner.by_name.insert(name, id);
            changes.added.push(id);
        }
        if complete {
            for (id, seen) in seen.into_iter().enumerate() {
                if !seen && inner.live[id] {
                    inner.live[id] = false;
                    changes.removed.push(id);
                }
            }
        }
        changes
    }

    /// The kind of a number.
    pub fn get(&self, id: usize) -> Option<Arc<Kind>> {
        self.0.read().kinds.get(id).cloned()
    }

    /// The kind that an owner reference means, if it is served now.
    pub fn resolve(&self, api_version: &str, kind: &str) -> Option<(usize, Arc<Kind>)> {
        let group = api_version.split_once('/').map_or("", |(g, _)| g);
        let inner = self.0.read();
        let id = *inner.by_name.get(&(group.to_owned(), kind.to_owned()))?;
        inner.live[id].then(|| (id, inner.kinds[id].clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::{ApiResource, GroupVersionKind};

    fn kind(group: &str, kind: &str, verbs: &[&str]) -> Kind {
        Kind {
            resource: ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind)),
            namespaced: true,
            verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    #[test]
    fn kinds_come_and_go_and_come_back() {
        let all = &["list", "watch", "delete"];
        let kinds = Kinds::default();
        let found = || vec![kind("", "Pod", all), kind("", "Event", all), kind("", "Binding", &["create"])];
        assert_eq!(kinds.update(found(), true), Changes { added: vec![0], removed: vec![] });
        assert_eq!(kinds.update(found(), true), Changes::default());
        assert_eq!(kinds.update(vec![], false), Changes::default(), "an incomplete answer removes nothing");
        assert_eq!(kinds.update(vec![], true), Changes { added: vec![], removed: vec![0] });
        assert!(kinds.resolve("v1", "Pod").is_none());
        assert_eq!(kinds.update(found(), true).added, [0]);
        assert_eq!(kinds.resolve("v1", "Pod").map(|(id, _)| id), Some(0));
    }
}

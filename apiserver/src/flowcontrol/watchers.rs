//! How many watches a write's events go to: what the write costs beyond its own run.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::request::RequestInfo;

/// Running watches by what they watch. Keyed by hash: a collision only makes an estimate worse.
#[derive(Default)]
pub struct Watchers {
    hasher: RandomState,
    counts: Mutex<HashMap<u64, usize>>,
}

/// Counts as a watch until dropped.
pub struct Registration {
    watchers: Arc<Watchers>,
    key: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut counts = self.watchers.counts.lock();
        if let Some(n) = counts.get_mut(&self.key) {
            *n -= 1;
            if *n == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

impl Watchers {
    fn key(&self, info: &RequestInfo, namespace: &str, name: &str) -> u64 {
        self.hasher.hash_one((&info.api_group, &info.resource, namespace, name))
    }

    /// Counts a watch. Those of one node's pods are not counted: of each write only one of them hears.
    pub fn register(self: &Arc<Self>, info: &RequestInfo, field_selector: &str) -> Option<Registration> {
        let of_one_node = info.resource == "pods"
            && field_selector.split(',').any(|t| {
                let value = t.trim().strip_prefix("spec.nodeName=").unwrap_or_default();
                !value.trim_start_matches('=').is_empty()
            });
        if of_one_node {
            return None;
        }
        let key = self.key(info, &info.namespace, &info.name);
        *self.counts.lock().entry(key).or_default() += 1;
        Some(Registration { watchers: Arc::clone(self), key })
    }

    /// Watches that hear of this write.
    pub fn interested(&self, info: &RequestInfo) -> usize {
        let counts = self.counts.lock();
        if counts.is_empty() {
            return 0;
        }
        let of = |namespace: &str, name: &str| {
            counts.get(&self.key(info, namespace, name)).copied().unwrap_or_default()
        };
        let mut n = of("", "");
        if !info.namespace.is_empty() {
            n += of(&info.namespace, "");
        }
        if !info.name.is_empty() {
            n += of(&info.namespace, &info.name);
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_hears() {
        let info = |verb: &str, namespace: &str, name: &str| RequestInfo {
            is_resource: true,
            verb: verb.into(),
            resource: "pods".into(),
            namespace: namespace.into(),
            name: name.into(),
            ..RequestInfo::default()
        };
        let w = Arc::new(Watchers::default());
        let all = w.register(&info("watch", "", ""), "").expect("counted");
        let _a = w.register(&info("watch", "a", ""), "").expect("counted");
        let _b = w.register(&info("watch", "b", ""), "").expect("counted");
        let _one = w.register(&info("watch", "a", "p"), "").expect("counted");
        assert!(w.register(&info("watch", "", ""), "spec.nodeName=n1").is_none());
        assert_eq!(w.interested(&info("create", "a", "")), 2);
        assert_eq!(w.interested(&info("update", "a", "p")), 3);
        drop(all);
        assert_eq!(w.interested(&info("create", "a", "")), 1);
    }
}

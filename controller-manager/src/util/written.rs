//! Which version of an object was written here last, so that a controller does not act on an older one that its cache
//! still shows. Resource versions of one kind can be compared as numbers (KEP-5504).

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

/// The last versions written, by key: uid and resource version.
#[derive(Debug, Default)]
pub struct Written(Mutex<HashMap<String, (String, u64)>>);

fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl Written {
    /// The server answered a write with this object.
    pub fn wrote(&self, key: &str, written: &ObjectMeta) {
        let uid = written.uid.clone().unwrap_or_default();
        self.0.lock().insert(key.to_owned(), (uid, version(written)));
    }

    /// Whether the cached object is as new as what was written. The event that brings the newer one wakes its
    /// controller, so nothing needs to wait.
    pub fn visible(&self, key: &str, cached: &ObjectMeta) -> bool {
        let mut all = self.0.lock();
        let seen = all
            .get(key)
            .is_none_or(|(uid, v)| Some(uid.as_str()) != cached.uid.as_deref() || version(cached) >= *v);
        if seen {
            all.remove(key);
        }
        seen
    }

    /// The object is gone.
    pub fn forget(&self, key: &str) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, version: &str) -> ObjectMeta {
        ObjectMeta { uid: Some(uid.into()), resource_version: Some(version.into()), ..ObjectMeta::default() }
    }

    #[test]
    fn older_versions_of_the_same_object_are_not_acted_on() {
        let w = Written::default();
        assert!(w.visible("k", &meta("a", "5")));
        w.wrote("k", &meta("a", "10"));
        assert!(!w.visible("k", &meta("a", "9")), "compared as numbers");
        assert!(w.visible("k", &meta("b", "3")), "another object of that name");
        w.wrote("k", &meta("a", "10"));
        assert!(w.visible("k", &meta("a", "11")));
    }
}

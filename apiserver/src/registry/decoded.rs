//! Values of the objects that the server itself looks up for many requests (namespaces, service accounts, classes), so
//! that each version of them is decoded once. Only what was asked for lately is kept, within a bound.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::render;
use super::resource::Resource;
use super::write::Stored;
use crate::status::ApiResult;
use crate::store::Revision;

/// Stored bytes of all objects kept; a value takes some ten times the memory.
const LIMIT: usize = 256 << 10;
/// Stored bytes of an object that is worth keeping.
const LARGEST: usize = 16 << 10;

/// See the module.
#[derive(Default)]
pub(super) struct Decoded {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By key of the store.
    values: HashMap<String, Entry>,
    bytes: usize,
}

struct Entry {
    revision: Revision,
    bytes: usize,
    value: Arc<Value>,
}

impl Kept {
    fn get(&self, key: &str, revision: Revision) -> Option<Arc<Value>> {
        self.values.get(key).filter(|e| e.revision == revision).map(|e| Arc::clone(&e.value))
    }

    fn put(&mut self, key: &str, revision: Revision, bytes: usize, value: &Arc<Value>) {
        if self.bytes + bytes > LIMIT {
            // What is still asked for comes back with the next request.
            *self = Self::default();
        }
        self.bytes += bytes;
        let entry = Entry { revision, bytes, value: Arc::clone(value) };
        if let Some(old) = self.values.insert(key.to_owned(), entry) {
            self.bytes -= old.bytes;
        }
    }
}

impl Decoded {
    /// [`render::value`] of an object from the cache.
    pub fn value(&self, r: &Resource, s: &Stored) -> ApiResult<Arc<Value>> {
        // Of other versions and of custom resources there are several values to one key.
        if s.shared.is_none() || r.custom.is_some() || !r.is_hub_version() || s.bytes.len() > LARGEST {
            return render::value(r, s).map(Arc::new);
        }
        if let Some(value) = self.kept.lock().get(&s.key, s.revision) {
            return Ok(value);
        }
        let value = Arc::new(render::value(r, s)?);
        self.kept.lock().put(&s.key, s.revision, s.bytes.len(), &value);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_kept_until_there_is_a_newer_one_or_no_room() {
        let mut kept = Kept::default();
        let (first, second) = (Arc::new(Value::from(1)), Arc::new(Value::from(2)));
        kept.put("/a", 1, LARGEST, &first);
        assert_eq!(kept.get("/a", 1), Some(first));
        assert_eq!(kept.get("/a", 2), None);
        kept.put("/a", 2, 10, &second);
        assert_eq!((kept.get("/a", 1), kept.get("/a", 2)), (None, Some(Arc::clone(&second))));
        assert_eq!(kept.bytes, 10);
        for i in 0..LIMIT / LARGEST {
            kept.put(&format!("/{i}"), 3, LARGEST, &second);
            assert!(kept.bytes <= LIMIT);
        }
        assert_eq!(kept.get("/a", 2), None);
        assert_eq!(kept.bytes, kept.values.values().map(|e| e.bytes).sum::<usize>());
    }
}

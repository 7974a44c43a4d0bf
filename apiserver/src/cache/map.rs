//! An ordered map of objects that is shared by copying as little as possible: a list of short sorted chunks. A
//! snapshot is one reference; a write after it copies the list of chunks and the one chunk it changes.

use std::sync::Arc;

use super::object::Object;

/// Objects in a chunk; one that grows beyond is halved.
const CHUNK: usize = 128;

/// Objects by key.
#[derive(Clone, Default)]
pub struct Map {
    /// None empty; all keys of one below those of the next.
    chunks: Vec<Arc<Vec<Arc<Object>>>>,
    len: usize,
}

impl Map {
    /// From objects in key order.
    pub fn from_sorted(objects: Vec<Arc<Object>>) -> Map {
        let len = objects.len();
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK));
        let mut objects = objects.into_iter();
        loop {
            let chunk: Vec<_> = objects.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Map { chunks, len };
            }
            chunks.push(Arc::new(chunk));
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.len
    }

    /// The chunk that holds `key`, if any does.
    fn chunk_of(&self, key: &str) -> usize {
        self.chunks.partition_point(|c| c.first().is_some_and(|o| *o.key <= *key)).saturating_sub(1)
    }

    pub fn get(&self, key: &str) -> Option<&Arc<Object>> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        chunk.binary_search_by(|o| (*o.key).cmp(key)).ok().and_then(|i| chunk.get(i))
    }

    /// Puts an object in its place; what was there.
    pub fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let at = self.chunk_of(&object.key);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Arc::new(vec![object]));
            self.len = 1;
            return None;
        };
        let objects = Arc::make_mut(chunk);
        match objects.binary_search_by(|o| o.key.cmp(&object.key)) {
            Ok(i) => Some(std::mem::replace(&mut objects[i], object)),
            Err(i) => {
                objects.insert(i, object);
                self.len += 1;
                if objects.len() > CHUNK {
                    let upper = objects.split_off(CHUNK / 2);
                    self.chunks.insert(at + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &str) -> Option<Arc<Object>> {
        let at = self.chunk_of(key);
        let chunk = self.chunks.get_mut(at)?;
        let i = chunk.binary_search_by(|o| (*o.key).cmp(key)).ok()?;
        let objects = Arc::make_mut(chunk);
        let removed = objects.remove(i);
        self.len -= 1;
        if objects.is_empty() {
            self.chunks.remove(at);
        } else if objects.len() < CHUNK / 4
            && self.chunks.get(at + 1).is_some_and(|next| next.len() < CHUNK / 2)
        {
            // Otherwise a map that shrank would end as one chunk per object.
            let next = self.chunks.remove(at + 1);
            if let Some(chunk) = self.chunks.get_mut(at) {
                Arc::make_mut(chunk).extend(next.iter().cloned());
            }
        }
        Some(removed)
    }

    /// Objects of `[start, end)` in order.
    pub fn range<'a>(&'a self, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        let at = self.chunk_of(start);
        let skip = self.chunks.get(at).map_or(0, |c| c.partition_point(|o| *o.key < *start));
        let chunks = self.chunks.get(at..).unwrap_or_default();
        let objects = chunks.iter().flat_map(|c| c.iter());
        objects.skip(skip).take_while(move |o| end.is_empty() || *o.key < *end)
    }

    /// How many objects `[start, end)` has.
    pub fn count(&self, start: &str, end: &str) -> usize {
        let rank = |key: &str| {
            let at = self.chunk_of(key);
            let before: usize = self.chunks.iter().take(at).map(|c| c.len()).sum();
            before + self.chunks.get(at).map_or(0, |c| c.partition_point(|o| *o.key < *key))
        };
        let end = if end.is_empty() { self.len } else { rank(end) };
        end.saturating_sub(rank(start))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::cache::Indexed;
    use crate::store::KeyValue;

    fn object(key: u16, revision: u64) -> Arc<Object> {
        let kv = KeyValue {
            key: format!("/r/{key:05}"),
            value: Bytes::new(),
            create_revision: revision,
            mod_revision: revision,
        };
        Arc::new(Object::new(&kv, Indexed::default()))
    }

    proptest! {
        #[test]
        fn like_a_btree_map(
            first in 0usize..400,
            ops in prop::collection::vec((0u16..500, prop::bool::weighted(0.55)), 0..1500),
            ranges in prop::collection::vec((0u16..520, 0u16..520), 8),
        ) {
            let mut model: BTreeMap<String, u64> = BTreeMap::new();
            let sorted: Vec<_> = (0..first).map(|i| object(i as u16, 1)).collect();
            model.extend(sorted.iter().map(|o| (o.key.to_string(), o.mod_revision)));
            let mut map = Map::from_sorted(sorted);
            let before = map.clone();
            for (revision, (key, put)) in (2u64..).zip(ops) {
                let o = object(key, revision);
                if put {
                    let old = model.insert(o.key.to_string(), revision);
                    prop_assert_eq!(map.insert(Arc::clone(&o)).map(|o| o.mod_revision), old);
                } else {
                    prop_assert_eq!(map.remove(&o.key).map(|o| o.mod_revision), model.remove(&*o.key));
                }
                prop_assert_eq!(map.get(&o.key).map(|o| o.mod_revision), model.get(&*o.key).copied());
            }
            prop_assert_eq!(map.len(), model.len());
            prop_assert_eq!(before.range("", "").count(), first, "a snapshot does not change");
            for (a, b) in ranges {
                let (start, end) = (format!("/r/{:05}", a.min(b)), format!("/r/{:05}", a.max(b)));
                let ours: Vec<_> = map.range(&start, &end).map(|o| (o.key.to_string(), o.mod_revision)).collect();
                let theirs: Vec<_> = model.range(start.clone()..end.clone()).map(|(k, r)| (k.clone(), *r)).collect();
                prop_assert_eq!(map.count(&start, &end), theirs.len());
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}

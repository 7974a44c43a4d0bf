//! The newest writes of the applied state, held back in memory so that many of them go to the map below as one. Each
//! batch of `sled` costs two of its buffers, each of which a thread writes and waits for; while the log, which is what
//! is durable, waits for the same disk.
//!
//! Nothing is weaker for it. What goes below is always everything that is held, with the index of its last entry: the
//! map stays that of one moment, a little earlier. After a crash the log gives what is missing; a snapshot, which lets
//! the log go, first hands everything on.
//!
//! There is one writer, as of every map. Readers may come at any time: what is held stays until it is below.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::kv::{Batch, Kv};
use crate::StoreError;

/// Bytes, and keys, that are held: a moment's work for whoever applies.
const BYTES: usize = 512 << 10;
const KEYS: usize = 1024;

#[derive(Default)]
struct Held {
    writes: BTreeMap<Vec<u8>, Option<Bytes>>,
    bytes: usize,
}

/// See the module.
pub struct Staged {
    below: Arc<dyn Kv>,
    held: RwLock<Held>,
    keys: usize,
}

impl Staged {
    pub fn new(below: Arc<dyn Kv>) -> Staged {
        Staged::holding(below, KEYS)
    }

    /// Holds at most so many keys.
    pub fn holding(below: Arc<dyn Kv>, keys: usize) -> Staged {
        Staged { below, held: RwLock::default(), keys }
    }
}

fn size(key: &[u8], value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len)
}

impl Kv for Staged {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(held) = self.held.read().writes.get(key) {
            return Ok(held.clone());
        }
        self.below.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        each: &mut dyn FnMut(&[u8], Bytes) -> bool,
    ) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        let held = self.held.read();
        let mut ours =
            held.writes.range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Excluded(end)));
        let mut ours = ours.by_ref().peekable();
        let mut go_on = true;
        self.below.scan(start, end, &mut |k, v| {
            go_on = before(&mut ours, k, each);
            if go_on {
                // What is held of the same key stands in its place.
                go_on = match ours.next_if(|(key, _)| key.as_slice() == k) {
                    Some((_, held)) => held.clone().is_none_or(|v| each(k, v)),
                    None => each(k, v),
                };
            }
            go_on
        })?;
        while go_on && let Some((key, value)) = ours.next() {
            go_on = value.clone().is_none_or(|v| each(key, v));
        }
        Ok(())
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut held = self.held.write();
        for (key, value) in batch {
            let value = value.map(Bytes::from);
            let (old, new) =
                (held.writes.get(&key).map_or(0, |v| size(&key, v.as_ref())), size(&key, value.as_ref()));
            held.bytes = held.bytes + new - old;
            held.writes.insert(key, value);
        }
        Ok(())
    }

    fn hand_on(&self, all: bool) -> Result<(), StoreError> {
        let batch: Batch = {
            let held = self.held.read();
            let due = all || held.bytes >= BYTES || held.writes.len() >= self.keys;
            if !due || held.writes.is_empty() {
                return Ok(());
            }
            held.writes.iter().map(|(k, v)| (k.clone(), v.as_ref().map(|v| v.to_vec()))).collect()
        };
        self.below.apply(batch)?;
        *self.held.write() = Held::default();
        self.below.hand_on(all)
    }

    fn clear(&self) -> Result<(), StoreError> {
        *self.held.write() = Held::default();
        self.below.clear()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.below.flush()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.hand_on(true)?;
        self.below.close()
    }

    fn size_on_disk(&self) -> u64 {
        self.below.size_on_disk()
    }
}

/// Gives `each` what is held of keys before `key`. False where it wants no more.
fn before<'a>(
    ours: &mut Peekable<impl Iterator<Item = (&'a Vec<u8>, &'a Option<Bytes>)>>,
    key: &[u8],
    each: &mut dyn FnMut(&[u8], Bytes) -> bool,
) -> bool {
    while let Some((ours, value)) = ours.next_if(|(k, _)| k.as_slice() < key) {
        if !value.clone().is_none_or(|v| each(ours, v)) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::embedded::kv::MemKv;

    fn all(kv: &dyn Kv, start: &[u8], end: &[u8], limit: usize) -> Vec<(Vec<u8>, Bytes)> {
        let mut found = Vec::new();
        kv.scan(start, end, &mut |k, v| {
            found.push((k.to_vec(), v));
            found.len() < limit
        })
        .unwrap();
        found
    }

    /// Like a plain map, whatever is held and whatever is below.
    #[test]
    fn it_reads_as_one_map() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (plain, below) = (MemKv::default(), MemKv::default());
            let staged = Staged::holding(Arc::new(below.clone()), 20);
            for step in 0..200u64 {
                let key = |rng: &mut StdRng| vec![b'k', rng.random_range(0..40)];
                let mut batch = Batch::new();
                for _ in 0..rng.random_range(1..4) {
                    let value = rng.random_bool(0.7).then(|| step.to_le_bytes().to_vec());
                    batch.insert(key(&mut rng), value);
                }
                plain.apply(batch.clone()).unwrap();
                staged.apply(batch).unwrap();
                if rng.random_bool(0.3) {
                    staged.hand_on(rng.random_bool(0.2)).unwrap();
                }
                let (a, b, limit) = (key(&mut rng), key(&mut rng), rng.random_range(1..50));
                assert_eq!(staged.get(&a).unwrap(), plain.get(&a).unwrap());
                if a < b {
                    assert_eq!(all(&staged, &a, &b, limit), all(&plain, &a, &b, limit), "seed {seed}");
                }
            }
            staged.close().unwrap();
            assert_eq!(*plain.0.lock(), *below.0.lock());
        }
    }

    #[test]
    fn much_is_handed_on_as_one() {
        let below = MemKv::default();
        let staged = Staged::holding(Arc::new(below.clone()), 3);
        for (n, expected) in [(0, 0), (1, 0), (2, 3), (3, 3), (4, 3), (5, 6)] {
            staged.apply(Batch::from([(vec![n], Some(vec![n]))])).unwrap();
            staged.hand_on(false).unwrap();
            assert_eq!(below.0.lock().len(), expected, "after {n}");
        }
        staged.apply(Batch::from([(vec![9], Some(vec![0; BYTES]))])).unwrap();
        staged.hand_on(false).unwrap();
        assert_eq!(below.0.lock().len(), 7);
        staged.apply(Batch::from([(vec![9], None)])).unwrap();
        assert!(staged.get(&[9]).unwrap().is_none() && below.get(&[9]).unwrap().is_some());
    }
}

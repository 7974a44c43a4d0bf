//! The newest writes of the applied state, held back in memory so that many of them go to the map below as one, beside
//! whoever applies. Each batch of `sled` costs two of its buffers, each of which a thread writes and waits for; while
//! the log, which is what is durable, waits for the same disk.
//!
//! Nothing is weaker for it. What goes below is always everything that is held, with the index of its last entry: the
//! map stays that of one moment, a little earlier. After a crash the log gives what is missing; a snapshot, which lets
//! the log go, first hands everything on.
//!
//! There is one writer, as of every map. Readers may come at any time: what is held stays until it is below.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};

use super::kv::{Batch, Kv};
use super::start::guarded;
use crate::StoreError;

/// Bytes, and keys, that are held: a moment's work.
const BYTES: usize = 512 << 10;
const KEYS: usize = 1024;
/// Stack of the thread.
const STACK: usize = 512 << 10;

#[derive(Default)]
struct Layers {
    held: Batch,
    bytes: usize,
    /// On its way below.
    going: Option<Arc<Batch>>,
}

impl Layers {
    fn find(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.held.get(key).or_else(|| self.going.as_ref()?.get(key)).cloned()
    }

    /// What is known of the keys of `[start, end)`, newest wins.
    fn range(&self, start: &[u8], end: &[u8]) -> Batch {
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let mut found = Batch::new();
        for layer in self.going.as_deref().into_iter().chain([&self.held]) {
            found.extend(layer.range::<[u8], _>(bounds).map(|(k, v)| (k.clone(), v.clone())));
        }
        found
    }
}

#[derive(Default)]
struct Way {
    busy: bool,
    failed: Option<StoreError>,
}

struct Shared {
    below: Arc<dyn Kv>,
    layers: RwLock<Layers>,
    way: Mutex<Way>,
    free: Condvar,
}

impl Shared {
    /// What was on its way is below, or failed to get there and stays.
    fn arrived(&self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        if outcome.is_ok() {
            self.layers.write().going = None;
        }
        self.release(outcome)
    }

    /// Waits until nothing is on its way, and keeps the way for the caller.
    fn reserve(&self) -> Result<(), StoreError> {
        let mut way = self.way.lock();
        self.free.wait_while(&mut way, |way| way.busy);
        if let Some(e) = &way.failed {
            return Err(e.clone());
        }
        way.busy = true;
        Ok(())
    }

    fn release(&self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        let mut way = self.way.lock();
        way.busy = false;
        way.failed = outcome.clone().err();
        self.free.notify_all();
        outcome
    }
}

/// See the module.
pub struct Staged {
    shared: Arc<Shared>,
    keys: usize,
    /// None: whoever applies puts things below itself.
    thread: Option<(SyncSender<Arc<Batch>>, JoinHandle<()>)>,
}

impl Staged {
    /// With a thread that puts things below.
    pub fn new(below: Arc<dyn Kv>) -> Result<Staged, StoreError> {
        let mut staged = Staged::holding(below, KEYS);
        let (batches, inbox) = mpsc::sync_channel::<Arc<Batch>>(1);
        let shared = Arc::clone(&staged.shared);
        let thread = std::thread::Builder::new().name("store-map".to_owned()).stack_size(STACK);
        let thread = thread.spawn(move || {
            for batch in inbox {
                // Whoever hands on the next is told.
                let _ = shared.arrived(guarded(|| shared.below.apply(&batch)));
            }
        });
        let thread = thread.map_err(|e| StoreError::Unavailable(format!("starting a thread: {e}")))?;
        staged.thread = Some((batches, thread));
        Ok(staged)
    }

    /// Holds at most so many keys, and has no thread.
    pub fn holding(below: Arc<dyn Kv>, keys: usize) -> Staged {
        let shared =
            Shared { below, layers: RwLock::default(), way: Mutex::default(), free: Condvar::default() };
        Staged { shared: Arc::new(shared), keys, thread: None }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some((batches, thread)) = self.thread.take() {
            drop(batches);
            if thread.join().is_err() {
                tracing::error!("the thread that writes the applied state panicked");
            }
        }
    }
}

fn size(key: &[u8], value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len)
}

impl Kv for Staged {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(found) = self.shared.layers.read().find(key) {
            return Ok(found);
        }
        self.shared.below.get(key)
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
        // Looked at before what is below: what leaves meanwhile is there already.
        let mut ours = self.shared.layers.read().range(start, end).into_iter().peekable();
        let mut go_on = true;
        self.shared.below.scan(start, end, &mut |k, v| {
            while go_on && let Some((key, value)) = ours.next_if(|(key, _)| key.as_slice() < k) {
                go_on = value.is_none_or(|v| each(&key, v));
            }
            if go_on {
                // What is held of the same key stands in its place.
                go_on = match ours.next_if(|(key, _)| key.as_slice() == k) {
                    Some((_, held)) => held.is_none_or(|v| each(k, v)),
                    None => each(k, v),
                };
            }
            go_on
        })?;
        while go_on && let Some((key, value)) = ours.next() {
            go_on = value.is_none_or(|v| each(&key, v));
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut layers = self.shared.layers.write();
        for (key, value) in batch {
            let new = size(key, value.as_ref());
            let old = layers.held.insert(key.clone(), value.clone()).map_or(0, |v| size(key, v.as_ref()));
            layers.bytes = layers.bytes + new - old;
        }
        Ok(())
    }

    fn hand_on(&self, all: bool) -> Result<(), StoreError> {
        let due = {
            let layers = self.shared.layers.read();
            all || layers.bytes >= BYTES || layers.held.len() >= self.keys
        };
        if !due {
            return Ok(());
        }
        // Whoever applies is faster than the map only for a while.
        self.shared.reserve()?;
        let batch = {
            let mut layers = self.shared.layers.write();
            layers.bytes = 0;
            let batch = Arc::new(std::mem::take(&mut layers.held));
            layers.going = Some(Arc::clone(&batch));
            batch
        };
        match &self.thread {
            Some((batches, _)) if !all => batches.send(batch).map_err(|_| {
                StoreError::Unavailable("the thread that writes the applied state has stopped".to_owned())
            }),
            _ => {
                let outcome = if batch.is_empty() { Ok(()) } else { self.shared.below.apply(&batch) };
                self.shared.arrived(outcome)
            }
        }
    }

    fn load(&self, batch: &Batch) -> Result<(), StoreError> {
        self.hand_on(true)?;
        self.shared.below.load(batch)
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.shared.reserve()?;
        *self.shared.layers.write() = Layers::default();
        let outcome = self.shared.below.clear();
        self.shared.release(outcome)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.shared.below.flush()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.hand_on(true)?;
        self.shared.below.close()
    }

    fn size_on_disk(&self) -> u64 {
        self.shared.below.size_on_disk()
    }
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

    /// Like a plain map, whatever is held, on its way and below, and whoever puts it there.
    #[test]
    fn it_reads_as_one_map() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (plain, below) = (MemKv::default(), MemKv::default());
            let mut staged = Staged::holding(Arc::new(below.clone()), 20);
            if seed % 2 == 0 {
                staged = Staged::new(Arc::new(below.clone())).unwrap();
                staged.keys = 20;
            }
            for step in 0..200u64 {
                let key = |rng: &mut StdRng| vec![b'k', rng.random_range(0..40)];
                let mut batch = Batch::new();
                for _ in 0..rng.random_range(1..4) {
                    let value = rng.random_bool(0.7).then(|| Bytes::from(step.to_le_bytes().to_vec()));
                    batch.insert(key(&mut rng), value);
                }
                plain.apply(&batch).unwrap();
                staged.apply(&batch).unwrap();
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

    fn one(key: u8, value: Option<Bytes>) -> Batch {
        Batch::from([(vec![key], value)])
    }

    #[test]
    fn much_is_handed_on_as_one() {
        let below = MemKv::default();
        let staged = Staged::holding(Arc::new(below.clone()), 3);
        for (n, expected) in [(0, 0), (1, 0), (2, 3), (3, 3), (4, 3), (5, 6)] {
            staged.apply(&one(n, Some(vec![n].into()))).unwrap();
            staged.hand_on(false).unwrap();
            assert_eq!(below.0.lock().len(), expected, "after {n}");
        }
        staged.apply(&one(9, Some(vec![0; BYTES].into()))).unwrap();
        staged.hand_on(false).unwrap();
        assert_eq!(below.0.lock().len(), 7);
        staged.apply(&one(9, None)).unwrap();
        assert!(staged.get(&[9]).unwrap().is_none() && below.get(&[9]).unwrap().is_some());
    }

    /// A map whose disk has failed, or that panics.
    struct Broken(MemKv, bool);

    impl Kv for Broken {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.0.get(key)
        }
        fn scan(
            &self,
            start: &[u8],
            end: &[u8],
            each: &mut dyn FnMut(&[u8], Bytes) -> bool,
        ) -> Result<(), StoreError> {
            self.0.scan(start, end, each)
        }
        fn apply(&self, _: &Batch) -> Result<(), StoreError> {
            assert!(!self.1, "the disk is gone");
            Err(StoreError::Unavailable("the disk is gone".to_owned()))
        }
        fn flush(&self) -> Result<(), StoreError> {
            self.0.flush()
        }
        fn clear(&self) -> Result<(), StoreError> {
            self.0.clear()
        }
        fn close(&self) -> Result<(), StoreError> {
            self.0.close()
        }
        fn size_on_disk(&self) -> u64 {
            0
        }
    }

    #[test]
    fn what_cannot_be_put_below_is_told_and_stays_readable() {
        for panics in [false, true] {
            let mut staged = Staged::new(Arc::new(Broken(MemKv::default(), panics))).unwrap();
            staged.keys = 1;
            staged.apply(&one(1, Some(Bytes::from_static(b"v")))).unwrap();
            staged.hand_on(false).unwrap();
            let told = staged.hand_on(true).unwrap_err();
            assert!(told.to_string().contains("the disk is gone"));
            assert_eq!(staged.get(&[1]).unwrap().as_deref(), Some(&b"v"[..]));
        }
    }
}

//! A small memory of answers that may be used again for a while: bounded in number, each entry with its own end.
//! Time is passed in.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

struct Entry<V> {
    /// Tells this entry from an older one of the same key.
    serial: u64,
    until: Instant,
    value: V,
}

struct Inner<K, V> {
    map: HashMap<K, Entry<V>>,
    /// Keys in the order in which they came: the first goes when there is no room.
    order: VecDeque<(u64, K)>,
    next: u64,
}

/// See the module. Reads and writes may come from any thread.
pub struct TtlCache<K, V> {
    capacity: usize,
    inner: Mutex<Inner<K, V>>,
}

impl<K: Clone + Eq + Hash, V: Clone> TtlCache<K, V> {
    /// Holds at most `capacity` entries.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::new(Inner { map: HashMap::new(), order: VecDeque::new(), next: 0 }) }
    }

    pub fn get<Q>(&self, key: &Q, now: Instant) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let inner = self.inner.lock();
        inner.map.get(key).filter(|e| now < e.until).map(|e| e.value.clone())
    }

    /// Remembers for `ttl`; a `ttl` of zero forgets.
    pub fn put(&self, key: K, value: V, now: Instant, ttl: Duration) {
        let mut inner = self.inner.lock();
        if ttl.is_zero() {
            inner.map.remove(&key);
            return;
        }
        let until = now + ttl;
        if let Some(e) = inner.map.get_mut(&key) {
            (e.until, e.value) = (until, value);
            return;
        }
        let serial = inner.next;
        inner.next += 1;
        inner.map.insert(key.clone(), Entry { serial, until, value });
        inner.order.push_back((serial, key));
        while inner.map.len() > self.capacity || inner.order.len() > 2 * self.capacity {
            let Some((serial, oldest)) = inner.order.pop_front() else { return };
            if inner.map.get(&oldest).is_some_and(|e| e.serial == serial) {
                inner.map.remove(&oldest);
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.map.clear();
        inner.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_for_a_while_and_not_too_much() {
        let c = TtlCache::new(2);
        let now = Instant::now();
        let second = Duration::from_secs(1);
        c.put("a".to_owned(), 1, now, second);
        assert_eq!(c.get("a", now), Some(1));
        assert_eq!(c.get("a", now + second), None);
        c.put("b".to_owned(), 2, now, second);
        c.put("c".to_owned(), 3, now, second);
        assert_eq!((c.get("a", now), c.get("b", now), c.get("c", now)), (None, Some(2), Some(3)));
        c.put("c".to_owned(), 3, now, Duration::ZERO);
        assert_eq!(c.get("c", now), None);
        for i in 0..100 {
            c.put("d".to_owned(), i, now, Duration::ZERO);
            c.put("d".to_owned(), i, now, second);
        }
        assert!(c.inner.lock().order.len() <= 4);
        assert_eq!(c.get("d", now), Some(99));
        c.clear();
        assert_eq!(c.get("d", now), None);
    }
}

//! State machine of one cache: the objects, and the last events with what they changed. No I/O and no time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::map::Map;
use super::object::Object;
use crate::store::{Event, KeyValue, Revision};

/// Recent events kept: at least so many, and more for watches that come back late. What is not kept is read from the
/// store's history, decoded and rendered for each watch by itself.
const RING: usize = 64;
const RING_MAX: usize = 16_384;
/// Bytes of objects that only recent events keep alive: at most what a busy server writes in half a second.
const RING_BYTES: usize = 128 << 10;
const RING_BYTES_MAX: usize = 16 << 20;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

impl EventKind {
    /// What a change is for who sees only some objects: those that begin to be chosen are added, those that cease to be
    /// are deleted. None: it is not seen.
    pub fn seen(before: bool, after: bool) -> Option<Self> {
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(Self::Added),
            (true, true) => Some(Self::Modified),
            (true, false) => Some(Self::Deleted),
        }
    }
}

/// One change.
#[derive(Debug, Clone)]
pub struct CacheEvent {
    pub kind: EventKind,
    /// The object after the change; of a deletion its last state, with the deletion's revision.
    pub object: Arc<Object>,
    /// The object before the change.
    pub prev: Option<Arc<Object>>,
}

/// How far a cache is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    No,
    /// The state is being read; events wait for it.
    Begun,
    Yes,
}

/// What a cache counts, over all its life.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    received: u64,
    dispatched: u64,
    fills: u64,
    grown: u64,
}

/// A cache in numbers, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    pub objects: usize,
    pub bytes: usize,
    /// Events kept at most.
    pub capacity: usize,
    pub revision: Revision,
    /// Events that came, and those that watches could see.
    pub received: u64,
    pub dispatched: u64,
    /// How often the whole state was read.
    pub fills: u64,
    /// How often the capacity grew.
    pub grown: u64,
}

/// One cache.
pub struct Core {
    loaded: Loaded,
    /// Grows when everything held is dropped, which ends all watches of before.
    generation: u64,
    objects: Arc<Map>,
    /// How many objects there are, and their bytes.
    count: usize,
    bytes: usize,
    seen: Seen,
    /// Everything of this resource up to here is in `objects`; the feed may have come further.
    revision: Revision,
    /// Revision of the state that was read.
    filled_at: Revision,
    waiting: Vec<Event>,
    ring: VecDeque<CacheEvent>,
    ring_bytes: usize,
    /// All events above this are in the ring.
    floor: Revision,
    capacity: usize,
}

impl Core {
    pub fn new() -> Core {
        Core {
            loaded: Loaded::No,
            generation: 0,
            objects: Arc::default(),
            count: 0,
            bytes: 0,
            seen: Seen::default(),
            revision: 0,
            filled_at: 0,
            waiting: Vec::new(),
            ring: VecDeque::new(),
            ring_bytes: 0,
            floor: 0,
            capacity: RING,
        }
    }

    pub fn loaded(&self) -> Loaded {
        self.loaded
    }

    /// Number and bytes of the objects; none before they are known.
    pub fn size(&self) -> Option<(usize, usize)> {
        (self.loaded == Loaded::Yes).then_some((self.count, self.bytes))
    }

    /// Everything that is counted; none before the cache is filled.
    pub fn numbers(&self) -> Option<Numbers> {
        (self.loaded == Loaded::Yes).then_some(Numbers {
            objects: self.count,
            bytes: self.bytes,
            capacity: self.capacity,
            revision: self.revision,
            received: self.seen.received,
            dispatched: self.seen.dispatched,
            fills: self.seen.fills,
            grown: self.seen.grown,
        })
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// From now on events are kept for [`Core::fill`].
    pub fn begin(&mut self) {
        self.reset();
        self.loaded = Loaded::Begun;
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self =
            Core { generation: self.generation + 1, capacity: self.capacity, seen: self.seen, ..Core::new() };
    }

    /// Takes the state at `revision`, in key order, and applies the events that waited.
    pub fn fill(
        &mut self,
        objects: Vec<Arc<Object>>,
        revision: Revision,
        mut index: impl FnMut(&KeyValue) -> Option<Arc<Object>>,
    ) {
        if self.loaded != Loaded::Begun {
            // Emptied meanwhile; the reader looks again.
            return;
        }
        self.seen.fills += 1;
        self.count = objects.len();
        self.bytes = objects.iter().map(|o| o.bytes.len()).sum();
        self.objects = Arc::new(Map::from_sorted(objects));
        self.revision = revision;
        self.filled_at = revision;
        self.floor = revision;
        self.loaded = Loaded::Yes;
        for event in std::mem::take(&mut self.waiting) {
            self.apply(&event, &mut index);
        }
    }

    /// Takes one event. True if watches have something to see.
    pub fn apply(&mut self, event: &Event, mut index: impl FnMut(&KeyValue) -> Option<Arc<Object>>) -> bool {
        match self.loaded {
            Loaded::No => return false,
            Loaded::Begun => {
                self.waiting.push(event.clone());
                return false;
            }
            // The state that was read has it already. Several events may be of one revision: keys of one lease in
            // etcd go together.
            Loaded::Yes if event.kv.mod_revision <= self.filled_at => return false,
            Loaded::Yes if event.kv.mod_revision < self.revision => return false,
            Loaded::Yes => {}
        }
        self.seen.received += 1;
        self.revision = event.kv.mod_revision;
        let objects = Arc::make_mut(&mut self.objects);
        let object = index(&event.kv);
        let event = match (event.deleted, object) {
            (false, Some(object)) => {
                let prev = objects.insert(Arc::clone(&object));
                self.bytes = self.bytes + object.bytes.len() - prev.as_ref().map_or(0, |p| p.bytes.len());
                self.count += usize::from(prev.is_none());
                let kind = if prev.is_some() { EventKind::Modified } else { EventKind::Added };
                CacheEvent { kind, object, prev }
            }
            // What cannot be served any more is gone for clients.
            (deleted, object) => {
                let Some(prev) = objects.remove(&event.kv.key) else { return false };
                self.bytes -= prev.bytes.len();
                self.count -= 1;
                let object = object.filter(|_| deleted).unwrap_or_else(|| Arc::clone(&prev));
                CacheEvent { kind: EventKind::Deleted, object, prev: Some(prev) }
            }
        };
        self.seen.dispatched += 1;
        self.remember(event);
        true
    }

    fn remember(&mut self, event: CacheEvent) {
        self.ring_bytes += cost(&event);
        self.ring.push_back(event);
        let bytes = (RING_BYTES * self.capacity / RING).min(RING_BYTES_MAX);
        while self.ring.len() > self.capacity || (self.ring_bytes > bytes && self.ring.len() > 1) {
            let Some(old) = self.ring.pop_front() else { break };
            self.ring_bytes = self.ring_bytes.saturating_sub(cost(&old));
            self.floor = old.object.mod_revision;
        }
    }

    /// A snapshot, and the revision it is exact at. `feed`: how far the feed has come, read while this is locked.
    pub fn snapshot(&self, feed: Revision) -> (Arc<Map>, Revision) {
        (Arc::clone(&self.objects), self.revision(feed))
    }

    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.objects.get(key).cloned()
    }

    /// The revision up to which the cache is complete.
    pub fn revision(&self, feed: Revision) -> Revision {
        if self.loaded == Loaded::Yes { self.revision.max(feed) } else { 0 }
    }

    /// Revision of the last change; the snapshot is the same from there on.
    pub fn changed_at(&self) -> Revision {
        self.revision
    }

    /// Whether all events above `revision` are in the ring.
    pub fn reaches_back_to(&self, revision: Revision) -> bool {
        self.loaded != Loaded::Yes || revision >= self.floor
    }

    /// Events of `[start, end)` above `after`, `limit` or what its last revision has more, and the revision up to which that is complete. None:
    /// the ring does not reach back so far; it will keep more from now on.
    pub fn events(
        &mut self,
        start: &str,
        end: &str,
        after: Revision,
        limit: usize,
        feed: Revision,
    ) -> Option<(Vec<CacheEvent>, Revision)> {
        if after < self.floor {
            self.seen.grown += u64::from(self.capacity < RING_MAX);
            self.capacity = (self.capacity * 2).min(RING_MAX);
            return None;
        }
        let from = self.ring.partition_point(|e| e.object.mod_revision <= after);
        let mut found: Vec<CacheEvent> = Vec::new();
        for e in self.ring.range(from..) {
            if found.len() >= limit
                && let Some(last) = found.last().map(|l| l.object.mod_revision)
                && last < e.object.mod_revision
            {
                return Some((found, last));
            }
            if *e.object.key >= *start && (end.is_empty() || *e.object.key < *end) {
                found.push(e.clone());
            }
        }
        Some((found, self.revision(feed)))
    }
}

/// What a recent event keeps alive that would otherwise be gone, at most.
fn cost(e: &CacheEvent) -> usize {
    // Rendered JSON may come later and is not counted: the cost must be the same when the event leaves.
    let of = |o: &Object| o.key.len() + o.bytes.len() + size_of::<Object>();
    of(&e.object) + e.prev.as_deref().map_or(0, of)
}

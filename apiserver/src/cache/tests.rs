//! Tests of caches over the model of the store: what they show is what happened, whatever the order of things.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{
    Cache, CacheEvent, EventKind, Feed, Freshness, From, Indexed, Indexer, Object, Pairs, Predicate, Watch,
    WatchItem,
};
use crate::store::conformance::{delete, put};
use crate::store::testing::MemoryStore;
use crate::store::{
    KeyValue, Range, RangeRequest, Revision, Store, StoreError, Txn, TxnResult, WatchStream, prefix_end,
};

/// Serves `revision:value`; the value is a label, and `bad` cannot be served.
struct Plain;

impl Indexer for Plain {
    fn index(&self, kv: &KeyValue) -> Result<Indexed, String> {
        let text = std::str::from_utf8(&kv.value).map_err(|e| e.to_string())?;
        let text = text.split_once(':').map_or(text, |(_, rest)| rest);
        if text == "bad" {
            return Err("bad".to_owned());
        }
        let bytes = Bytes::from(format!("{}:{text}", kv.mod_revision));
        let labels: Pairs = [("value", text)].into_iter().collect();
        Ok(Indexed { bytes, labels, fields: Pairs::default() })
    }
}

const PODS: &str = "/registry/pods/";

fn store() -> Arc<dyn Store> {
    MemoryStore::new()
}

fn pods(s: &Arc<dyn Store>) -> (Arc<Feed>, Arc<Cache>) {
    let feed = Feed::new(Arc::clone(s), "/registry/");
    let cache = Cache::new(&feed, PODS, Arc::new(Plain));
    (feed, cache)
}

fn key(name: &str) -> String {
    format!("{PODS}{name}")
}

async fn listed(c: &Cache, freshness: Freshness) -> Vec<String> {
    let list = c.list(PODS, &prefix_end(PODS), freshness).await.unwrap();
    assert_eq!(list.len(), list.iter().count());
    list.iter().map(|o| format!("{}={}", &o.key[PODS.len()..], text(o))).collect()
}

fn text(o: &Object) -> String {
    String::from_utf8(o.bytes.to_vec()).unwrap()
}

async fn watch(c: &Cache, from: From) -> Watch {
    c.watch(PODS, &prefix_end(PODS), from, None).await.unwrap()
}

async fn next(w: &mut Watch) -> WatchItem {
    tokio::time::timeout(Duration::from_secs(10), w.next()).await.expect("a watch stalls").unwrap()
}

async fn event(w: &mut Watch) -> CacheEvent {
    match next(w).await {
        WatchItem::Event(e) => e,
        other => panic!("{other:?}"),
    }
}

fn show(e: &CacheEvent) -> String {
    format!("{:?} {} {}", e.kind, &e.object.key[PODS.len()..], text(&e.object))
}

#[tokio::test]
async fn reads_see_every_acknowledged_write() {
    let s = store();
    put(&s, "/registry/secrets/x", "other", 0).await;
    let r2 = put(&s, &key("a/1"), "one", 0).await;
    let (_feed, c) = pods(&s);
    assert_eq!(listed(&c, Freshness::Newest).await, ["a/1=2:one"]);
    let r3 = put(&s, &key("a/1"), "two", r2).await;
    assert_eq!(listed(&c, Freshness::Newest).await, ["a/1=3:two"]);
    put(&s, &key("b/1"), "three", 0).await;
    let last = put(&s, "/registry/secrets/y", "other", 0).await;
    let list = c.list(&key("b/"), &prefix_end(&key("b/")), Freshness::AtLeast(last)).await.unwrap();
    assert_eq!((list.revision, list.len()), (last, 1), "as new as the store, though nothing of it changed");
    delete(&s, &key("a/1"), r3).await;
    assert!(c.get(&key("a/1"), Freshness::Newest).await.unwrap().is_none());
    assert_eq!(text(&c.get(&key("b/1"), Freshness::Any).await.unwrap().unwrap()), "4:three");
    assert_eq!(list.len(), 1, "a snapshot stays what it was");
}

#[tokio::test]
async fn the_future_is_refused_in_time() {
    let s = store();
    put(&s, &key("a"), "x", 0).await;
    let (_feed, c) = pods(&s);
    let error = c.list(PODS, &prefix_end(PODS), Freshness::AtLeast(1000)).await.err().unwrap();
    assert!(matches!(error, StoreError::Future { requested: 1000, current: 1 }), "{error:?}");
}

#[tokio::test]
async fn lists_at_older_revisions() {
    let s = store();
    let r1 = put(&s, &key("a"), "one", 0).await;
    let r2 = put(&s, &key("b"), "two", 0).await;
    let (_feed, c) = pods(&s);
    c.load().await.unwrap();
    delete(&s, &key("a"), r1).await;
    let last = put(&s, "/registry/secrets/x", "x", 0).await;
    listed(&c, Freshness::Newest).await;
    let at = |revision, limit| {
        let c = Arc::clone(&c);
        async move {
            let (list, remaining) = c.list_at(PODS, &prefix_end(PODS), revision, limit).await.unwrap();
            assert_eq!(list.revision, revision);
            (list.iter().map(|o| text(o)).collect::<Vec<_>>(), remaining)
        }
    };
    assert_eq!(at(r1, 0).await, (vec!["1:one".to_owned()], 0));
    assert_eq!(at(r2, 1).await, (vec!["1:one".to_owned()], 1));
    assert_eq!(at(last - 1, 0).await, (vec!["2:two".to_owned()], 0));
    assert_eq!(at(last, 0).await, (vec!["2:two".to_owned()], 0));

    // Nothing of this range has changed since, but that is chance: the revision is gone.
    s.compact(last).await.unwrap();
    let gone = c.list_at(PODS, &prefix_end(PODS), last - 1, 0).await.err().unwrap();
    assert!(matches!(gone, StoreError::Compacted { .. }), "{gone:?}");
    assert_eq!(at(last, 0).await, (vec!["2:two".to_owned()], 0));
}

#[tokio::test]
async fn a_watch_begins_with_the_state_or_at_a_revision() {
    let s = store();
    let r1 = put(&s, &key("a"), "one", 0).await;
    let (_feed, c) = pods(&s);
    let mut now = watch(&c, From::Now).await;
    let mut state = watch(&c, From::State(Freshness::Newest)).await;
    let r2 = put(&s, &key("b"), "two", 0).await;
    put(&s, "/registry/podsecurity/x", "not ours", 0).await;
    let r4 = put(&s, &key("a"), "three", r1).await;
    delete(&s, &key("b"), r2).await;
    let rest = ["Added b 2:two", "Modified a 4:three", "Deleted b 5:two"];
    for e in rest {
        assert_eq!(show(&event(&mut now).await), e);
    }
    assert_eq!(show(&event(&mut state).await), "Added a 1:one");
    assert!(matches!(next(&mut state).await, WatchItem::Synced(1)));
    for e in rest {
        assert_eq!(show(&event(&mut state).await), e);
    }
    let mut old = watch(&c, From::After(r2)).await;
    for e in &rest[1..] {
        assert_eq!(show(&event(&mut old).await), *e);
    }
    assert_eq!(old.bookmark().await.unwrap(), Some(5));
    assert_eq!(text(event_prev(&c, r4).await.as_ref().unwrap()), "1:one");
}

async fn event_prev(c: &Cache, revision: Revision) -> Option<Arc<Object>> {
    event(&mut watch(c, From::After(revision - 1)).await).await.prev
}

#[tokio::test]
async fn bookmarks_follow_the_store_on_quiet_resources() {
    let s = store();
    put(&s, &key("a"), "one", 0).await;
    let (_feed, c) = pods(&s);
    let mut w = watch(&c, From::Now).await;
    assert_eq!(w.bookmark().await.unwrap(), Some(1));
    let r2 = put(&s, "/registry/secrets/x", "x", 0).await;
    w.newer_than(1).await.unwrap();
    assert_eq!(w.bookmark().await.unwrap(), Some(r2));
    put(&s, &key("b"), "two", 0).await;
    w.newer_than(r2).await.unwrap();
    assert_eq!(w.bookmark().await.unwrap(), None, "an event comes first");
    assert_eq!(show(&event(&mut w).await), "Added b 3:two");
    assert_eq!(w.bookmark().await.unwrap(), Some(3));
}

#[tokio::test]
async fn selection_changes_become_added_and_deleted() {
    let s = store();
    let (_feed, c) = pods(&s);
    let chosen: Predicate = Arc::new(|o| o.labels.get("value").is_some_and(|v| v.starts_with("in")));
    let mut w = c.watch(PODS, &prefix_end(PODS), From::Now, Some(Arc::clone(&chosen))).await.unwrap();
    let mut at = 0;
    for v in ["out", "in1", "in2", "out", "out", "in3"] {
        at = put(&s, &key("a"), v, at).await;
    }
    delete(&s, &key("a"), at).await;
    let expected =
        ["Added a 2:in1", "Modified a 3:in2", "Deleted a 4:in2", "Added a 6:in3", "Deleted a 7:in3"];
    for e in expected {
        assert_eq!(show(&event(&mut w).await), e);
    }
    let mut w = c.watch(PODS, &prefix_end(PODS), From::After(1), Some(chosen)).await.unwrap();
    for e in expected {
        assert_eq!(show(&event(&mut w).await), e, "also for events of the past");
    }
}

#[tokio::test]
async fn what_cannot_be_served_is_gone_for_clients() {
    let s = store();
    let (_feed, c) = pods(&s);
    let mut w = watch(&c, From::Now).await;
    let r1 = put(&s, &key("a"), "good", 0).await;
    let r2 = put(&s, &key("a"), "bad", r1).await;
    assert_eq!(listed(&c, Freshness::Newest).await, [""; 0]);
    put(&s, &key("a"), "good", r2).await;
    for e in ["Added a 1:good", "Deleted a 1:good", "Added a 3:good"] {
        assert_eq!(show(&event(&mut w).await), e);
    }
}

/// More events than the ring keeps: they come from the store's history, without a gap.
#[tokio::test]
async fn a_watch_far_behind_reads_history() {
    let s = store();
    let (_feed, c) = pods(&s);
    let mut other = put(&s, "/registry/other/x", "x", 0).await;
    let mut slow = watch(&c, From::Now).await;
    let mut at = 0;
    for i in 0..1000 {
        at = put(&s, &key("a"), &i.to_string(), at).await;
        other = put(&s, "/registry/other/x", "x", other).await;
    }
    listed(&c, Freshness::Newest).await;
    for i in 0..1000 {
        assert!(show(&event(&mut slow).await).ends_with(&format!(":{i}")), "event {i}");
    }
    let mut late = watch(&c, From::After(at - 1)).await;
    assert!(show(&event(&mut late).await).ends_with(":999"));
}

#[tokio::test]
async fn a_watch_from_before_the_start_of_the_server() {
    let s = store();
    let mut at = 0;
    for i in 0..10 {
        at = put(&s, &key("a"), &i.to_string(), at).await;
    }
    let last = put(&s, "/registry/other/x", "x", 0).await;
    let (_feed, c) = pods(&s);
    let mut w = watch(&c, From::After(7)).await;
    for e in ["Modified a 8:7", "Modified a 9:8", "Modified a 10:9"] {
        assert_eq!(show(&event(&mut w).await), e);
    }
    put(&s, &key("b"), "live", 0).await;
    assert_eq!(show(&event(&mut w).await), "Added b 12:live");
    s.compact(last).await.unwrap();
    let error = c.watch(PODS, &prefix_end(PODS), From::After(7), None).await.err().unwrap();
    assert!(matches!(error, StoreError::Compacted { requested: 7, .. }), "{error:?}");
    let error = c.watch(PODS, &prefix_end(PODS), From::After(0), None).await.err().unwrap();
    assert!(matches!(error, StoreError::Compacted { requested: 0, .. }), "{error:?}");
}

#[tokio::test]
async fn an_unused_cache_holds_nothing() {
    let s = store();
    let feed = Feed::new(Arc::clone(&s), "/registry/");
    let used = Cache::new(&feed, PODS, Arc::new(Plain));
    let unused = Cache::new(&feed, "/registry/secrets/", Arc::new(Plain));
    used.load().await.unwrap();
    let last = put(&s, "/registry/secrets/x", "x", 0).await;
    feed.wait(last, Duration::from_secs(5)).await.unwrap();
    assert_eq!(unused.revision(), 0);
    let list = unused.list("/registry/secrets/", "/registry/secrets0", Freshness::Newest).await.unwrap();
    assert_eq!(list.len(), 1);
}

/// Writers, readers, watches that begin whenever: each watch ends with what the store holds, each list is that of its
/// revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_clients_see_the_truth() {
    for seed in 0..20 {
        let s = store();
        let mut rng = StdRng::seed_from_u64(seed);
        for i in 0..rng.random_range(0..30) {
            put(&s, &key(&format!("{i}")), "start", 0).await;
        }
        let (_feed, c) = pods(&s);
        let writer = tokio::spawn(write_at_random(Arc::clone(&s), StdRng::seed_from_u64(seed + 1000)));
        let mut watchers = Vec::new();
        for i in 0..6 {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..4))).await;
            let list = c.list(PODS, &prefix_end(PODS), Freshness::Newest).await.unwrap();
            check_list(&s, &list).await;
            let mut state: BTreeMap<String, String> = BTreeMap::new();
            let from = match i % 2 {
                0 => From::State(Freshness::Newest),
                _ => {
                    state.extend(list.iter().map(|o| (o.key.to_string(), text(o))));
                    From::After(list.revision)
                }
            };
            let slow = rng.random_bool(0.5);
            let w = watch(&c, from).await;
            watchers.push(tokio::spawn(follow(w, state, slow)));
        }
        writer.await.unwrap();
        put(&s, &key("end"), "end", 0).await;
        let request = RangeRequest { start: PODS.into(), end: prefix_end(PODS), ..RangeRequest::default() };
        let truth = s.range(request).await.unwrap().items;
        let truth: BTreeMap<_, _> = truth
            .into_iter()
            .map(|kv| (kv.key.clone(), text(&Object::new(&kv, Plain.index(&kv).unwrap()))))
            .collect();
        for w in watchers {
            assert_eq!(w.await.unwrap(), truth, "seed {seed}");
        }
    }
}

async fn check_list(s: &Arc<dyn Store>, list: &super::List) {
    let request =
        RangeRequest { start: PODS.into(), end: prefix_end(PODS), revision: list.revision, limit: 0 };
    let truth = s.range(request).await.unwrap().items;
    let ours: Vec<_> = list.iter().map(|o| (o.key.to_string(), o.mod_revision)).collect();
    assert_eq!(ours, truth.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect::<Vec<_>>());
}

async fn write_at_random(s: Arc<dyn Store>, mut rng: StdRng) {
    for i in 0..300 {
        let key = key(&format!("{}", rng.random_range(0..40)));
        let at = s.get(&key, 0).await.unwrap().map_or(0, |kv| kv.mod_revision);
        match rng.random_range(0..10) {
            0..3 if at > 0 => drop(delete(&s, &key, at).await),
            3..5 => {
                let other = "/registry/other/x";
                let at = s.get(other, 0).await.unwrap().map_or(0, |kv| kv.mod_revision);
                put(&s, other, "x", at).await;
            }
            _ => drop(put(&s, &key, &format!("v{i}"), at).await),
        }
        if rng.random_bool(0.1) {
            tokio::task::yield_now().await;
        }
    }
}

/// Applies a watch to a state until the last write is seen, checking that each event fits.
async fn follow(mut w: Watch, mut state: BTreeMap<String, String>, slow: bool) -> BTreeMap<String, String> {
    let mut synced = !state.is_empty();
    let mut last = 0;
    loop {
        if slow {
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        let e = match next(&mut w).await {
            WatchItem::Event(e) => e,
            WatchItem::Synced(revision) => {
                (synced, last) = (true, revision);
                continue;
            }
        };
        let key = e.object.key.to_string();
        if synced {
            assert!(e.object.mod_revision > last, "in order, once");
            last = e.object.mod_revision;
        }
        let before = match e.kind {
            EventKind::Deleted => state.remove(&key),
            _ => state.insert(key.clone(), text(&e.object)),
        };
        assert_eq!(before.is_some(), e.kind != EventKind::Added, "{}", show(&e));
        if key.ends_with("/end") {
            return state;
        }
    }
}

#[tokio::test]
async fn after_the_store_forgot_clients_list_anew() {
    let s = store();
    let (feed, c) = pods(&s);
    let r1 = put(&s, &key("a"), "one", 0).await;
    let mut w = watch(&c, From::Now).await;
    feed.reset();
    let error = tokio::time::timeout(Duration::from_secs(5), w.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}");
    put(&s, &key("a"), "two", r1).await;
    assert_eq!(listed(&c, Freshness::Newest).await, ["a=2:two"]);
}

/// A store whose ranges take a turn of the scheduler, as those from disk do.
struct Slow(Arc<dyn Store>);

#[async_trait::async_trait]
impl Store for Slow {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.0.current_revision().await
    }

    async fn get(&self, key: &str, revision: Revision) -> Result<Option<KeyValue>, StoreError> {
        self.0.get(key, revision).await
    }

    async fn range(&self, request: RangeRequest) -> Result<Range, StoreError> {
        tokio::task::yield_now().await;
        self.0.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.0.txn(txn).await
    }

    async fn watch(&self, start: &str, end: &str, after: Revision) -> Result<WatchStream, StoreError> {
        self.0.watch(start, end, after).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.0.compact(revision).await
    }
}

/// A reader that comes while another one fills the cache must leave the worker to it. On a thread apart, as a reader
/// that does not could not be stopped.
#[test]
fn readers_wait_for_the_one_that_fills_the_cache() {
    for freshness in [Freshness::Newest, Freshness::AtLeast(1), Freshness::Any] {
        let (done, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let read = runtime.block_on(async {
                let s: Arc<dyn Store> = Arc::new(Slow(store()));
                put(&s, &key("a"), "x", 0).await;
                let (_feed, c) = pods(&s);
                tokio::join!(listed(&c, freshness), listed(&c, freshness))
            });
            done.send(read).unwrap();
        });
        let read = told.recv_timeout(Duration::from_secs(20));
        let (first, second) = read.unwrap_or_else(|_| panic!("{freshness:?}: the readers block each other"));
        assert_eq!((first, second), (vec!["a=1:x".to_owned()], vec!["a=1:x".to_owned()]));
    }
}

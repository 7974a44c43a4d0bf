//! What every engine must do, run on every engine: `suite!(open)` in an engine's tests, with
//! `async fn open(dir: &Path) -> (Arc<dyn Store>, Guard)`, makes one test of each function here, and compares the
//! engine with the model on random histories.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::testing::MemoryStore;
use super::{
    Event, KeyValue, Op, RangeRequest, Revision, Store, StoreError, Txn, TxnResult, WatchBatch, WatchStream,
    prefix_end,
};

/// Makes the tests. The maker gets an empty directory that lives as long as the test, as does the guard.
#[cfg(test)]
macro_rules! suite {
    ($make:expr) => {
        crate::conformance::suite!(@tests $make;
            create_update_delete compare_and_swap ranges history compaction watch_from_now watch_from_the_past
            watch_of_a_range watch_of_the_future watch_progress watch_too_old watch_at_the_fence many_writers large_values expiry expiry_replaced
            random_histories slow_watcher);
    };
    (@tests $make:expr; $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let make = $make;
                let (store, _guard) = make(dir.path()).await;
                crate::conformance::$name(store).await;
            }
        )*
    };
}
#[cfg(test)]
pub(crate) use suite;

type S = Arc<dyn Store>;

pub fn value(s: &str) -> Bytes {
    Bytes::copy_from_slice(s.as_bytes())
}

/// A put that must succeed; its revision.
pub async fn put(s: &S, key: &str, v: &str, expected: Revision) -> Revision {
    let op = Op::Put { value: value(v), ttl_seconds: 0 };
    match s.txn(Txn { key: key.into(), expected, op }).await.unwrap() {
        TxnResult::Done(revision) => revision,
        TxnResult::Conflict(c) => panic!("{key}: expected {expected}, found {c:?}"),
    }
}

async fn put_ttl(s: &S, key: &str, ttl_seconds: u64, expected: Revision) -> Revision {
    let op = Op::Put { value: value("short-lived"), ttl_seconds };
    match s.txn(Txn { key: key.into(), expected, op }).await.unwrap() {
        TxnResult::Done(revision) => revision,
        TxnResult::Conflict(c) => panic!("{key}: expected {expected}, found {c:?}"),
    }
}

pub async fn delete(s: &S, key: &str, expected: Revision) -> Revision {
    match s.txn(Txn { key: key.into(), expected, op: Op::Delete }).await.unwrap() {
        TxnResult::Done(revision) => revision,
        TxnResult::Conflict(c) => panic!("{key}: expected {expected}, found {c:?}"),
    }
}

fn request(prefix: &str, revision: Revision, limit: u64) -> RangeRequest {
    RangeRequest { start: prefix.into(), end: prefix_end(prefix), revision, limit }
}

pub async fn keys(s: &S, prefix: &str, revision: Revision) -> Vec<String> {
    s.range(request(prefix, revision, 0)).await.unwrap().items.into_iter().map(|kv| kv.key).collect()
}

/// The next events, skipping progress.
pub async fn next_events(w: &mut WatchStream) -> Vec<Event> {
    loop {
        let batch = tokio::time::timeout(Duration::from_secs(20), w.recv()).await.expect("a watch stalls");
        match batch.expect("a watch ended").expect("a watch failed") {
            WatchBatch::Events(events) => return events,
            WatchBatch::Progress(_) => {}
        }
    }
}

async fn take_events(w: &mut WatchStream, n: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < n {
        events.extend(next_events(w).await);
    }
    assert_eq!(events.len(), n);
    events
}

pub async fn create_update_delete(s: S) {
    let start = s.current_revision().await.unwrap();
    assert_eq!(s.get("/r/a", 0).await.unwrap(), None);
    let r1 = put(&s, "/r/a", "one", 0).await;
    assert_eq!(r1, start + 1);
    let kv = KeyValue { key: "/r/a".into(), value: value("one"), create_revision: r1, mod_revision: r1 };
    assert_eq!(s.get("/r/a", 0).await.unwrap(), Some(kv));
    let r2 = put(&s, "/r/a", "two", r1).await;
    let kv = KeyValue { key: "/r/a".into(), value: value("two"), create_revision: r1, mod_revision: r2 };
    assert_eq!(s.get("/r/a", 0).await.unwrap(), Some(kv));
    let r3 = delete(&s, "/r/a", r2).await;
    assert_eq!((r2, r3), (start + 2, start + 3));
    assert_eq!(s.get("/r/a", 0).await.unwrap(), None);
    let r4 = put(&s, "/r/a", "again", 0).await;
    assert_eq!(s.get("/r/a", 0).await.unwrap().unwrap().create_revision, r4);
    assert_eq!(s.current_revision().await.unwrap(), r4);
}

pub async fn compare_and_swap(s: S) {
    let r1 = put(&s, "/r/a", "one", 0).await;
    let r2 = put(&s, "/r/a", "two", r1).await;
    for expected in [0, r1, r2 + 1, u64::MAX] {
        for op in [Op::Put { value: value("no"), ttl_seconds: 0 }, Op::Delete] {
            match s.txn(Txn { key: "/r/a".into(), expected, op }).await.unwrap() {
                TxnResult::Conflict(Some(kv)) => assert_eq!((kv.mod_revision, kv.value), (r2, value("two"))),
                other => panic!("{other:?}"),
            }
        }
    }
    let r3 = delete(&s, "/r/a", r2).await;
    for expected in [r2, r3] {
        let op = Op::Put { value: value("no"), ttl_seconds: 0 };
        let result = s.txn(Txn { key: "/r/a".into(), expected, op }).await.unwrap();
        assert!(matches!(result, TxnResult::Conflict(None)), "{result:?}");
    }
    assert_eq!(s.current_revision().await.unwrap(), r3, "conflicts take no revision");
    assert_eq!(delete(&s, "/r/a", 0).await, r3, "deleting what is absent, expected absent, changes nothing");
}

pub async fn ranges(s: S) {
    for key in ["/r/b/2", "/r/a/1", "/r/b/1", "/r/c", "/r/b", "/r/b0"] {
        put(&s, key, key, 0).await;
    }
    assert_eq!(keys(&s, "/r/b/", 0).await, ["/r/b/1", "/r/b/2"]);
    assert_eq!(keys(&s, "/r/", 0).await, ["/r/a/1", "/r/b", "/r/b/1", "/r/b/2", "/r/b0", "/r/c"]);
    assert_eq!(keys(&s, "/q/", 0).await, [""; 0]);
    let range = s.range(request("/r/", 0, 2)).await.unwrap();
    assert_eq!((range.items.len(), range.remaining), (2, 4));
    assert_eq!(range.revision, s.current_revision().await.unwrap());
    let range = s.range(request("/r/", 0, 6)).await.unwrap();
    assert_eq!((range.items.len(), range.remaining), (6, 0));
    let rest = RangeRequest { start: "/r/b\0".into(), end: prefix_end("/r/"), revision: 0, limit: 1 };
    assert_eq!(s.range(rest).await.unwrap().items[0].key, "/r/b/1");
}

pub async fn history(s: S) {
    let r1 = put(&s, "/r/a", "one", 0).await;
    let r2 = put(&s, "/r/b", "b", 0).await;
    let r3 = put(&s, "/r/a", "two", r1).await;
    let r4 = delete(&s, "/r/b", r2).await;
    let r5 = put(&s, "/r/b", "new", 0).await;
    for (at, a, b) in [
        (r1, Some("one"), None),
        (r2, Some("one"), Some("b")),
        (r3, Some("two"), Some("b")),
        (r4, Some("two"), None),
        (r5, Some("two"), Some("new")),
    ] {
        let got = |kv: Option<KeyValue>| kv.map(|kv| kv.value);
        assert_eq!(got(s.get("/r/a", at).await.unwrap()), a.map(value), "a at {at}");
        assert_eq!(got(s.get("/r/b", at).await.unwrap()), b.map(value), "b at {at}");
        let n = usize::from(a.is_some()) + usize::from(b.is_some());
        let range = s.range(request("/r/", at, 0)).await.unwrap();
        assert_eq!((range.items.len(), range.revision), (n, at));
    }
    let error = s.get("/r/a", r5 + 1).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Future { requested, current } if requested == r5 + 1 && current == r5)
    );
    assert!(matches!(s.range(request("/r/", r5 + 9, 0)).await, Err(StoreError::Future { .. })));
}

pub async fn compaction(s: S) {
    let r1 = put(&s, "/r/a", "1", 0).await;
    let r2 = put(&s, "/r/a", "2", r1).await;
    let gone = put(&s, "/r/gone", "x", 0).await;
    let r4 = delete(&s, "/r/gone", gone).await;
    let r5 = put(&s, "/r/a", "5", r2).await;
    assert!(matches!(s.compact(r5 + 1).await, Err(StoreError::Future { .. })));
    s.compact(r4).await.unwrap();
    assert!(matches!(s.compact(r4).await, Err(StoreError::Compacted { .. })));
    // Time to remove what is below the fence, where an engine does so later.
    tokio::time::sleep(Duration::from_millis(50)).await;
    for old in [r1, r2, gone] {
        let error = s.get("/r/a", old).await.unwrap_err();
        assert!(matches!(error, StoreError::Compacted { oldest, .. } if oldest == r4), "{error:?}");
        assert!(matches!(s.range(request("/r/", old, 0)).await, Err(StoreError::Compacted { .. })));
    }
    assert_eq!(s.get("/r/a", r4).await.unwrap().unwrap().value, value("2"));
    assert_eq!(s.get("/r/gone", r4).await.unwrap(), None);
    assert_eq!(s.get("/r/a", r5).await.unwrap().unwrap().value, value("5"));
    let r6 = put(&s, "/r/gone", "back", 0).await;
    assert_eq!(s.get("/r/gone", r5).await.unwrap(), None);
    assert_eq!(s.get("/r/gone", 0).await.unwrap().unwrap().create_revision, r6);
    s.compact(r6).await.unwrap();
    assert_eq!(keys(&s, "/r/", 0).await, ["/r/a", "/r/gone"]);
}

pub async fn watch_from_now(s: S) {
    let r1 = put(&s, "/r/a", "1", 0).await;
    let mut w = s.watch("/r/", &prefix_end("/r/"), 0).await.unwrap();
    let r2 = put(&s, "/r/a", "2", r1).await;
    let r3 = delete(&s, "/r/a", r2).await;
    let events = take_events(&mut w, 2).await;
    let kv = KeyValue { key: "/r/a".into(), value: value("2"), create_revision: r1, mod_revision: r2 };
    assert_eq!(events[0], Event { kv: kv.clone(), prev: Some(value("1")), deleted: false });
    let kv = KeyValue { mod_revision: r3, ..kv };
    assert_eq!(events[1], Event { kv, prev: Some(value("2")), deleted: true });
}

/// A watch from a revision that does not exist yet shows nothing older than that: it waits, or says so.
pub async fn watch_of_the_future(s: S) {
    let now = put(&s, "/r/a", "0", 0).await;
    let mut w = s.watch("/r/", &prefix_end("/r/"), now + 2).await.unwrap();
    let mut revision = now;
    for i in 1..5 {
        revision = put(&s, "/r/a", &i.to_string(), revision).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let next = tokio::time::timeout(Duration::from_secs(20), w.recv()).await.expect("nothing comes");
        match next.expect("the watch ended") {
            Ok(WatchBatch::Events(events)) => seen.extend(events.iter().map(|e| e.kv.mod_revision)),
            Ok(WatchBatch::Progress(_)) => {}
            // An etcd that is behind its watchers was restored from a backup.
            Err(StoreError::Future { requested, .. }) if requested == now + 2 && seen.is_empty() => return,
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(seen, [now + 3, now + 4]);
}

pub async fn watch_from_the_past(s: S) {
    let mut revisions = vec![put(&s, "/r/a", "0", 0).await];
    for i in 1..50 {
        revisions.push(put(&s, "/r/a", &i.to_string(), revisions[i - 1]).await);
    }
    for from in [0, 7, 48] {
        let mut w = s.watch("/r/", &prefix_end("/r/"), revisions[from]).await.unwrap();
        let events = take_events(&mut w, 49 - from).await;
        for (e, i) in events.iter().zip(from + 1..) {
            assert_eq!(e.kv.mod_revision, revisions[i]);
            assert_eq!(
                (&e.kv.value, e.prev.as_ref()),
                (&value(&i.to_string()), Some(&value(&(i - 1).to_string())))
            );
        }
    }
}

pub async fn watch_of_a_range(s: S) {
    let mut w = s.watch("/r/b/", &prefix_end("/r/b/"), 0).await.unwrap();
    for key in ["/r/a/1", "/r/b/1", "/r/b", "/r/b0", "/r/b/2", "/r/c"] {
        put(&s, key, "x", 0).await;
    }
    let seen: Vec<_> = take_events(&mut w, 2).await.into_iter().map(|e| e.kv.key).collect();
    assert_eq!(seen, ["/r/b/1", "/r/b/2"]);
}

pub async fn watch_progress(s: S) {
    let mut w = s.watch("/r/quiet/", &prefix_end("/r/quiet/"), 0).await.unwrap();
    let last = put(&s, "/r/busy/1", "x", 0).await;
    s.request_progress().await.unwrap();
    let wait = async {
        loop {
            match w.recv().await.unwrap().unwrap() {
                WatchBatch::Progress(r) if r >= last => break,
                WatchBatch::Progress(_) => {}
                WatchBatch::Events(e) => panic!("{e:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("no progress is told");
}

pub async fn watch_too_old(s: S) {
    let r1 = put(&s, "/r/a", "1", 0).await;
    let r2 = put(&s, "/r/a", "2", r1).await;
    let r3 = put(&s, "/r/a", "3", r2).await;
    s.compact(r2).await.unwrap();
    let error = s.watch("/r/", &prefix_end("/r/"), r1).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { requested, oldest } if (requested, oldest) == (r1, r2)));
    let mut w = s.watch("/r/", &prefix_end("/r/"), r2).await.unwrap();
    assert_eq!(next_events(&mut w).await[0].kv.mod_revision, r3);
}

/// From the fence of compaction on, nothing is missing and nothing comes twice.
pub async fn watch_at_the_fence(s: S) {
    let mut revisions: Vec<Revision> = Vec::new();
    for i in 0..8usize {
        // Three keys in turn.
        let before = i.checked_sub(3).map_or(0, |j| revisions[j]);
        revisions.push(put(&s, &format!("/r/{}", i % 3), "x", before).await);
    }
    for fence in [2, 4, 7] {
        s.compact(revisions[fence]).await.unwrap();
        for (i, after) in revisions.iter().enumerate().skip(fence) {
            let mut w = s.watch("/r/", &prefix_end("/r/"), *after).await.unwrap();
            let left = take_events(&mut w, revisions.len() - 1 - i).await;
            let seen: Vec<_> = left.iter().map(|e| e.kv.mod_revision).collect();
            assert_eq!(seen, revisions[i + 1..], "after {after}, compacted at {}", revisions[fence]);
        }
    }
}

/// Counters raised by many tasks at once lose nothing, and a watch sees each step.
pub async fn many_writers(s: S) {
    let start = s.current_revision().await.unwrap();
    let mut w = s.watch("/r/", &prefix_end("/r/"), 0).await.unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let s = Arc::clone(&s);
            tokio::spawn(async move {
                for _ in 0..20 {
                    let key = format!("/r/{}", task % 4);
                    loop {
                        let now = s.get(&key, 0).await.unwrap();
                        let (n, expected) = now.map_or((0, 0), |kv| {
                            (std::str::from_utf8(&kv.value).unwrap().parse::<u64>().unwrap(), kv.mod_revision)
                        });
                        let op = Op::Put { value: value(&(n + 1).to_string()), ttl_seconds: 0 };
                        let result = s.txn(Txn { key: key.clone(), expected, op }).await.unwrap();
                        if matches!(result, TxnResult::Done(_)) {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for t in tasks {
        t.await.unwrap();
    }
    for key in ["/r/0", "/r/1", "/r/2", "/r/3"] {
        assert_eq!(s.get(key, 0).await.unwrap().unwrap().value, value("80"));
    }
    let events = take_events(&mut w, 320).await;
    let revisions: Vec<_> = events.iter().map(|e| e.kv.mod_revision).collect();
    assert_eq!(revisions, (start + 1..=start + 320).collect::<Vec<_>>());
}

pub async fn large_values(s: S) {
    let big = "x".repeat((3 << 19) - 100);
    let r = put(&s, "/r/big", &big, 0).await;
    assert_eq!(s.get("/r/big", 0).await.unwrap().unwrap().value.len(), big.len());
    let op = Op::Put { value: Bytes::from(vec![b'x'; 3 << 19]), ttl_seconds: 0 };
    let error = s.txn(Txn { key: "/r/big".into(), expected: r, op }).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
    assert_eq!(s.current_revision().await.unwrap(), r);
}

/// No time to live is shorter.
const TTL: Duration = Duration::from_secs(1);

pub async fn expiry(s: S) {
    let mut w = s.watch("/r/", &prefix_end("/r/"), 0).await.unwrap();
    let stays = put(&s, "/r/stays", "x", 0).await;
    put_ttl(&s, "/r/later", 3600, 0).await;
    let begun = std::time::Instant::now();
    let r = put_ttl(&s, "/r/event", 1, 0).await;
    let found = s.get("/r/event", 0).await.unwrap();
    // A machine that is busy may take its time over these two.
    assert!(found.is_some() || begun.elapsed() >= TTL, "it went after {:?}", begun.elapsed());
    let events = take_events(&mut w, 4).await;
    assert!(begun.elapsed() >= TTL, "it went after {:?}", begun.elapsed());
    let gone = &events[3];
    assert!(gone.deleted && gone.kv.key == "/r/event" && gone.kv.mod_revision > r, "{gone:?}");
    assert_eq!(keys(&s, "/r/", 0).await, ["/r/later", "/r/stays"]);
    assert_eq!(s.get("/r/stays", 0).await.unwrap().unwrap().mod_revision, stays);
}

pub async fn expiry_replaced(s: S) {
    // Long enough for a busy machine to come to the next line before it goes.
    let r = put_ttl(&s, "/r/kept", 4, 0).await;
    put(&s, "/r/kept", "for good", r).await;
    put_ttl(&s, "/r/mark", 5, 0).await;
    let wait = async {
        while s.get("/r/mark", 0).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("a key did not expire");
    assert_eq!(s.get("/r/kept", 0).await.unwrap().unwrap().value, value("for good"));
}

/// The engine and the model do the same, whatever comes.
pub async fn random_histories(s: S) {
    // etcd begins at one.
    let model: S = MemoryStore::beginning_at(s.current_revision().await.unwrap());
    let mut rng = StdRng::seed_from_u64(7);
    for step in 0..600 {
        let key = format!("/r/{}/{}", rng.random_range(0..3), rng.random_range(0..8));
        let now = model.current_revision().await.unwrap();
        match rng.random_range(0..100) {
            0..60 => {
                let at = model.get(&key, 0).await.unwrap().map_or(0, |kv| kv.mod_revision);
                let expected = if rng.random_bool(0.8) { at } else { rng.random_range(0..=now) };
                let op = match rng.random_bool(0.7) {
                    true => Op::Put { value: value(&"v".repeat(step)), ttl_seconds: 0 },
                    false => Op::Delete,
                };
                let txn = Txn { key, expected, op };
                let (ours, theirs) = (s.txn(txn.clone()).await, model.txn(txn).await);
                assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "step {step}");
            }
            60..75 => {
                let at = rng.random_range(0..=now + 1);
                let (ours, theirs) = (s.get(&key, at).await, model.get(&key, at).await);
                assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "step {step}");
            }
            75..97 => {
                let prefix = ["/r/", "/r/1/", "/r/2/"][rng.random_range(0..3)];
                let r = request(prefix, rng.random_range(0..=now), rng.random_range(0..10));
                let (ours, theirs) = (s.range(r.clone()).await, model.range(r).await);
                assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "step {step}");
            }
            _ => {
                let at = rng.random_range(now / 2..=now);
                let (ours, theirs) = (s.compact(at).await, model.compact(at).await);
                assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "step {step}");
            }
        }
    }
}

/// A watch nobody reads for a while gets everything once it is read again.
pub async fn slow_watcher(s: S) {
    let mut w = s.watch("/r/", &prefix_end("/r/"), 0).await.unwrap();
    let filler = "x".repeat(20_000);
    let mut revision = 0;
    for _ in 0..150 {
        revision = put(&s, "/r/a", &filler, revision).await;
    }
    let events = take_events(&mut w, 150).await;
    assert!(events.windows(2).all(|p| p[0].kv.mod_revision + 1 == p[1].kv.mod_revision));
    assert_eq!(events[149].kv.mod_revision, revision);
}

//! How many seats a request takes, guessed before it runs: lists and watches by the bytes they load, writes by the
//! watches that hear of them (KEP-1040; upstream's size-based list estimate).

use std::time::Duration;

use super::queueset::Work;
use crate::http::query::Query;
use crate::request::RequestInfo;

const MAX_LIST_SEATS: u32 = 100;
const MAX_MUTATING_SEATS: u32 = 10;
const BYTES_PER_SEAT: u64 = 100_000;
/// What streaming a list from memory holds at a time.
const CACHED_LIST_BYTES: u64 = 1_000_000;
const MAX_OBJECT_BYTES: u64 = 1_500_000;
const WATCHES_PER_SEAT: f64 = 10.0;
/// Work per event and seat.
const EVENT: Duration = Duration::from_millis(5);

/// How much there is of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    pub objects: u64,
    pub bytes: u64,
}

/// Seats of a list, or of a watch that begins with the state. `stats`: none where nothing is known of the resource.
/// `max`: the most that the level grants one request, zero for no such bound.
pub fn list(info: &RequestInfo, query: &Query, stats: Option<Stats>, max: u32) -> Work {
    let max = if max == 0 { MAX_LIST_SEATS } else { max.min(MAX_LIST_SEATS) };
    let one = Work::ONE;
    if info.verb == "watch" {
        let state = query.flag("sendInitialEvents");
        let revision = query.get("resourceVersion").unwrap_or_default();
        if !state && !matches!(revision, "" | "0") {
            return one;
        }
    }
    let Some(stats) = stats else { return one };
    let Ok(limit) = query.int("limit") else { return Work { initial: max, ..one } };
    let limited = match limit.and_then(|l| u64::try_from(l).ok()).filter(|l| *l > 0) {
        Some(l) => l.min(stats.objects),
        None => stats.objects,
    };
    let from_store = info.verb != "watch"
        && (query.get("continue").is_some() || query.get("resourceVersionMatch") == Some("Exact"));
    let selects = query.get("fieldSelector").is_some() || query.get("labelSelector").is_some();
    let loaded = match () {
        () if !info.name.is_empty() => 1,
        () if from_store && selects => limited.max(stats.objects / 2),
        () => limited,
    };
    let average = match (stats.bytes, stats.objects) {
        (0, 1..) => MAX_OBJECT_BYTES,
        (_, 0) => 0,
        (b, n) => b / n,
    };
    let mut bytes = loaded.saturating_mul(average);
    if !from_store {
        bytes = bytes.min(CACHED_LIST_BYTES);
    }
    let seats = u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(u32::MAX);
    Work { initial: seats.clamp(1, max.max(1)), ..one }
}

/// Seats of a write of which `watchers` watches hear.
pub fn write(info: &RequestInfo, watchers: usize, max: u32) -> Work {
    let max = if max == 0 { MAX_MUTATING_SEATS } else { max.min(MAX_MUTATING_SEATS) };
    // Tokens are not stored: nobody hears of them.
    let silent = info.resource == "serviceaccounts" && info.subresource == "token";
    if silent || (watchers as f64) < WATCHES_PER_SEAT {
        return Work::ONE;
    }
    let seats = (watchers as f64 / WATCHES_PER_SEAT).ceil();
    let area = seats * EVENT.as_nanos() as f64;
    let last = (seats.min(f64::from(max)) as u32).max(1);
    Work { initial: 1, last, extra: (area / f64::from(last)) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(verb: &str, name: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: verb.into(),
            resource: "pods".into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn lists() {
        let stats = Some(Stats { objects: 1000, bytes: 5_000_000 });
        let seats = |verb, name, q: &str, stats, max| {
            list(&info(verb, name), &Query::parse(Some(q)), stats, max).initial
        };
        assert_eq!(seats("list", "", "", stats, 0), 10);
        assert_eq!(seats("list", "", "limit=100", stats, 0), 5);
        assert_eq!(seats("list", "", "continue=x&limit=900", stats, 0), 45);
        assert_eq!(seats("list", "", "continue=x&limit=10&labelSelector=a", stats, 0), 25);
        assert_eq!(seats("list", "", "continue=x", stats, 7), 7);
        assert_eq!(seats("list", "one", "", stats, 0), 1);
        assert_eq!(seats("list", "", "", None, 0), 1);
        assert_eq!(seats("list", "", "limit=x", stats, 12), 12);
        assert_eq!(seats("watch", "", "resourceVersion=7", stats, 0), 1);
        assert_eq!(seats("watch", "", "resourceVersion=7&sendInitialEvents=true", stats, 0), 10);
        assert_eq!(seats("watch", "", "", stats, 0), 10);
    }

    #[test]
    fn writes() {
        assert_eq!(write(&info("create", ""), 9, 0), Work::ONE);
        assert_eq!(write(&info("create", ""), 25, 0), Work { initial: 1, last: 3, extra: 5_000_000 });
        // The same area, but no wider than allowed.
        assert_eq!(write(&info("create", ""), 200, 4), Work { initial: 1, last: 4, extra: 25_000_000 });
        let mut token = info("create", "a");
        token.resource = "serviceaccounts".into();
        token.subresource = "token".into();
        assert_eq!(write(&token, 500, 0), Work::ONE);
    }
}

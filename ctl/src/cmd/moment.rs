//! A point in the store's past: a revision, or a time. Revisions have no times, but leases have: nodes and daemons
//! renew theirs every few seconds, and each renewal is a revision. So the revision of a time is the last one at which
//! no lease had been renewed later, found by asking for the leases at one revision after the other: a few dozen
//! small lists at most, of any API server.

use std::str::FromStr;

use anyhow::{Context as _, bail};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::api::resources::{array, text};
use crate::api::rest::{ApiError, Media, Rest};

const LEASES: &str = "/apis/coordination.k8s.io/v1/leases";

/// What `--at` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Revision(u64),
    Time(Timestamp),
    /// So long before now.
    Ago(SignedDuration),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(s: &str) -> Result<Moment, String> {
        if let Ok(revision) = s.parse() {
            return Ok(Moment::Revision(revision));
        }
        if let Ok(time) = s.parse() {
            return Ok(Moment::Time(time));
        }
        match s.parse::<SignedDuration>() {
            Ok(ago) => Ok(Moment::Ago(ago.abs())),
            Err(_) => Err("it is no revision, no time like 2026-01-31T09:30:00Z, and no duration like 5m or \"1h 30m ago\""
                .to_owned()),
        }
    }
}

/// What the leases at a revision say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// None was renewed after the time.
    Before,
    After,
    /// The store does not keep that revision any more.
    Forgotten,
}

/// Finds the last revision that is not after the time: goes back in growing steps, then halves.
struct Search {
    /// After the time.
    high: u64,
    /// Not after it, or forgotten.
    low: Option<(u64, Seen)>,
    stride: u64,
}

impl Search {
    /// `newest` is after the time.
    fn new(newest: u64) -> Search {
        Search { high: newest, low: None, stride: 64 }
    }

    /// What to ask for next; none at the end.
    fn next(&self) -> Option<u64> {
        match self.low {
            None if self.high <= 1 => None,
            None => Some(self.high.saturating_sub(self.stride).max(1)),
            Some((low, _)) if low + 1 >= self.high => None,
            Some((low, _)) => Some(low + (self.high - low) / 2),
        }
    }

    fn tell(&mut self, revision: u64, seen: Seen) {
        match seen {
            Seen::After => {
                self.high = revision;
                self.stride = self.stride.saturating_mul(4);
            }
            Seen::Before | Seen::Forgotten => self.low = Some((revision, seen)),
        }
    }

    fn found(&self) -> Option<u64> {
        self.low.filter(|(_, seen)| *seen == Seen::Before).map(|(revision, _)| revision)
    }
}

/// When a lease of these was last renewed.
fn latest(list: &Value) -> Option<Timestamp> {
    let times = array(&list["items"]).iter().map(|lease| text(&lease["spec"]["renewTime"]));
    times.filter_map(|t| t.parse().ok()).max()
}

impl Moment {
    /// The revision. Times ask the server, and say on standard error what they have come to.
    ///
    /// # Errors
    /// When the time is in the future or not kept any more, or leases cannot be listed.
    pub async fn revision(self, rest: &Rest) -> anyhow::Result<u64> {
        let now = Timestamp::now();
        let time = match self {
            Moment::Revision(revision) => return Ok(revision),
            Moment::Time(time) => time,
            Moment::Ago(ago) => now.checked_sub(ago).context("--at: before all time")?,
        };
        if time > now {
            bail!("--at: {time} is in the future");
        }
        let list = rest.get(LEASES).await.context("--at: a time is looked up among the leases")?;
        let newest = text(&list["metadata"]["resourceVersion"]);
        let newest: u64 = newest.parse().with_context(|| format!("{newest:?} is no revision"))?;
        let Some(last) = latest(&list) else {
            bail!("--at: no lease tells the time in this cluster; give a revision (a resourceVersion)")
        };
        let found = if last <= time { Some(newest) } else { search(rest, newest, time).await? };
        let Some(revision) = found else {
            bail!("--at: what was at {time} is not kept any more (kube-apiserver --store-history-retention)")
        };
        eprintln!("{time} was at revision {revision}");
        Ok(revision)
    }
}

async fn search(rest: &Rest, newest: u64, time: Timestamp) -> anyhow::Result<Option<u64>> {
    let mut search = Search::new(newest);
    while let Some(revision) = search.next() {
        let path = format!("{LEASES}?resourceVersion={revision}&resourceVersionMatch=Exact");
        let seen = match rest.call(Method::GET, &path, Media::default(), None).await {
            Ok(list) if latest(&list).is_some_and(|last| last > time) => Seen::After,
            Ok(_) => Seen::Before,
            Err(e) if ApiError::is_expired(&e) => Seen::Forgotten,
            Err(e) => return Err(e),
        };
        search.tell(revision, seen);
    }
    Ok(search.found())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        assert_eq!("1234".parse(), Ok(Moment::Revision(1234)));
        let time: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        assert_eq!("2026-01-31T09:30:00Z".parse(), Ok(Moment::Time(time)));
        assert_eq!("2026-01-31T10:30:00+01:00".parse(), Ok(Moment::Time(time)));
        let five = Ok(Moment::Ago(SignedDuration::from_mins(5)));
        assert_eq!(["5m", "5m ago", "300s"].map(str::parse), [five.clone(), five.clone(), five]);
        assert_eq!("1h30m".parse(), Ok(Moment::Ago(SignedDuration::from_mins(90))));
        assert!("yesterday".parse::<Moment>().unwrap_err().contains("no duration"));
    }

    /// `kept`: the first revision there is; `last`: the last one that is not after the time.
    fn run(newest: u64, kept: u64, last: u64) -> (Option<u64>, usize) {
        let mut search = Search::new(newest);
        let mut asked = 0;
        while let Some(revision) = search.next() {
            assert!(revision >= 1 && revision < newest);
            asked += 1;
            search.tell(
                revision,
                match revision {
                    r if r < kept => Seen::Forgotten,
                    r if r <= last => Seen::Before,
                    _ => Seen::After,
                },
            );
        }
        (search.found(), asked)
    }

    #[test]
    fn the_last_revision_before_a_time_is_found() {
        for newest in 2..40 {
            for kept in 1..=newest {
                for last in 0..newest {
                    let expected = (last >= kept).then_some(last);
                    assert_eq!(run(newest, kept, last).0, expected, "{newest} {kept} {last}");
                }
            }
        }
        for last in [1, 999_999_000, 1_000_000_000 - 70_000] {
            let (found, asked) = run(1_000_000_000, 1, last);
            assert!(found == Some(last) && asked <= 50, "{last}: {found:?} after {asked}");
        }
        assert_eq!(run(1_000_000_000, 999_999_000, 5).0, None);
    }

    #[test]
    fn leases_tell_the_time() {
        let lease = |t: &str| serde_json::json!({"spec": {"renewTime": t}});
        let list = serde_json::json!({"items": [lease("2026-01-31T09:30:00.000001Z"), lease("2026-01-31T09:30:00.5Z"),
            {"spec": {}}]});
        assert_eq!(latest(&list), Some("2026-01-31T09:30:00.5Z".parse().unwrap()));
        assert_eq!(latest(&serde_json::json!({"items": []})), None);
    }
}

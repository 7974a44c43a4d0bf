//! Decides what becomes of an event: written as new, counted onto an earlier one, folded into a summary, or dropped.
//!
//! A pure state machine with injected time; [`super::events`] does the writing. The limits are client-go's: 25 events
//! per source and object in a burst, then one every five minutes; more than ten different messages of the same reason
//! within ten minutes become one summary event.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
const REMEMBERED: usize = 1024;

/// Who speaks about what; equal keys are subject to one rate limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Component that reports.
    pub component: String,
    /// kind, namespace, name, uid and field path of the object.
    pub object: String,
}

/// An event as the correlator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notice {
    /// Reporter and object.
    pub subject: Subject,
    /// `Normal` or `Warning`.
    pub type_: String,
    /// CamelCase reason.
    pub reason: String,
    /// Sentence for people.
    pub message: String,
}

/// What to do with a notice.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too many from this subject.
    Drop,
    /// Write a new event with this message, and report its name with [`Correlator::written`].
    Create {
        /// Message to write, marked if it stands for several.
        message: String,
        /// Count to write: above one when the earlier event has expired on the server.
        key: Notice,
    },
    /// Raise the count of the event of this name.
    Bump {
        /// Name of the event to patch.
        name: String,
        /// New count.
        count: i32,
        /// New message.
        message: String,
        /// Key to give to [`Correlator::forget`] when the event is gone from the server.
        key: Notice,
    },
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

struct Similar {
    messages: HashSet<String>,
    last: Instant,
}

struct Written {
    name: String,
    count: i32,
    last: Instant,
}

/// Memory of recent events, bounded.
#[derive(Default)]
pub struct Correlator {
    buckets: HashMap<Subject, Bucket>,
    similar: HashMap<(Subject, String, String), Similar>,
    written: HashMap<Notice, Written>,
}

impl Correlator {
    /// Judges `notice`, raised at `now`.
    pub fn judge(&mut self, notice: &Notice, now: Instant) -> Verdict {
        if !self.take_token(&notice.subject, now) {
            return Verdict::Drop;
        }
        let (message, key) = if self.is_summary(notice, now) {
            let message = format!("(combined from similar events): {}", notice.message);
            (message, Notice { message: String::new(), ..notice.clone() })
        } else {
            (notice.message.clone(), notice.clone())
        };
        match self.written.get_mut(&key) {
            Some(written) => {
                written.count += 1;
                written.last = now;
                Verdict::Bump { name: written.name.clone(), count: written.count, message, key }
            }
            None => Verdict::Create { message, key },
        }
    }

    /// The event judged as `Create` now exists under `name` with `count`.
    pub fn written(&mut self, key: Notice, name: String, count: i32, now: Instant) {
        trim(&mut self.written, |w| w.last);
        self.written.insert(key, Written { name, count, last: now });
    }

    /// The event is gone from the server; the next one of this key is created anew.
    pub fn forget(&mut self, key: &Notice) {
        self.written.remove(key);
    }

    fn take_token(&mut self, subject: &Subject, now: Instant) -> bool {
        trim(&mut self.buckets, |b| b.at);
        let bucket = self.buckets.entry(subject.clone()).or_insert(Bucket { tokens: BURST, at: now });
        let refill = now.saturating_duration_since(bucket.at).as_secs_f64() * REFILL_PER_SECOND;
        bucket.tokens = (bucket.tokens + refill).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn is_summary(&mut self, notice: &Notice, now: Instant) -> bool {
        trim(&mut self.similar, |s| s.last);
        let group = (notice.subject.clone(), notice.type_.clone(), notice.reason.clone());
        let similar = self.similar.entry(group).or_insert(Similar { messages: HashSet::new(), last: now });
        if now.saturating_duration_since(similar.last) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.contains(&notice.message) {
            return similar.messages.len() >= SIMILAR_MAX;
        }
        if similar.messages.len() >= SIMILAR_MAX {
            return true;
        }
        similar.messages.insert(notice.message.clone());
        similar.messages.len() >= SIMILAR_MAX
    }
}

/// Forgets the older half once a memory is full.
fn trim<K: Clone + Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, at: impl Fn(&V) -> Instant) {
    if map.len() < REMEMBERED {
        return;
    }
    let mut times: Vec<Instant> = map.values().map(&at).collect();
    times.sort_unstable();
    let median = times[times.len() / 2];
    map.retain(|_, v| at(v) > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(message: &str) -> Notice {
        Notice {
            subject: Subject { component: "c".into(), object: "Pod/a/b".into() },
            type_: "Normal".into(),
            reason: "R".into(),
            message: message.into(),
        }
    }

    #[test]
    fn repeats_are_counted() {
        let mut c = Correlator::default();
        let now = Instant::now();
        let Verdict::Create { key, message } = c.judge(&notice("m"), now) else {
            panic!("first must be created")
        };
        assert_eq!(message, "m");
        c.written(key.clone(), "e1".into(), 1, now);
        assert_eq!(
            c.judge(&notice("m"), now),
            Verdict::Bump { name: "e1".into(), count: 2, message: "m".into(), key: key.clone() }
        );
        c.forget(&key);
        assert!(matches!(c.judge(&notice("m"), now), Verdict::Create { .. }));
    }

    #[test]
    fn a_flood_is_cut_and_recovers_slowly() {
        let mut c = Correlator::default();
        let now = Instant::now();
        let kept = (0..100).filter(|_| c.judge(&notice("m"), now) != Verdict::Drop).count();
        assert_eq!(kept, 25);
        assert_ne!(c.judge(&notice("m"), now + Duration::from_secs(301)), Verdict::Drop);
        assert_eq!(c.judge(&notice("m"), now + Duration::from_secs(302)), Verdict::Drop);
    }

    #[test]
    fn many_messages_become_a_summary() {
        let mut c = Correlator::default();
        let now = Instant::now();
        for i in 0..9 {
            let Verdict::Create { message, .. } = c.judge(&notice(&format!("m{i}")), now) else {
                panic!("distinct messages are separate events")
            };
            assert_eq!(message, format!("m{i}"));
        }
        let Verdict::Create { message, key } = c.judge(&notice("m10"), now) else {
            panic!("summary is created once")
        };
        assert_eq!(message, "(combined from similar events): m10");
        c.written(key, "sum".into(), 1, now);
        assert!(
            matches!(c.judge(&notice("m11"), now), Verdict::Bump { name, count: 2, .. } if name == "sum")
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut c = Correlator::default();
        let now = Instant::now();
        for i in 0..5000u64 {
            let mut n = notice("m");
            n.subject.object = i.to_string();
            let at = now + Duration::from_millis(i);
            if let Verdict::Create { key, .. } = c.judge(&n, at) {
                c.written(key, "e".into(), 1, at);
            }
        }
        assert!(
            c.buckets.len() <= REMEMBERED && c.written.len() <= REMEMBERED && c.similar.len() <= REMEMBERED
        );
    }
}

//! Judges a history. One order of revisions must explain everything that clients and watchers saw, and it must agree
//! with real time: the ideas of the store's own simulation, on what can be seen from outside.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use crate::history::{Ask, Event, Listed, Records, Revision, State, Told, Value};
use crate::load::Ends;

/// How many violations are shown of each guarantee.
const SHOWN: usize = 5;

/// What became of one guarantee.
#[derive(Debug)]
pub struct Verdict {
    pub guarantee: &'static str,
    /// How often it was looked at.
    pub checked: usize,
    pub violations: Vec<String>,
}

impl Verdict {
    fn new(guarantee: &'static str) -> Self {
        Self { guarantee, checked: 0, violations: Vec::new() }
    }

    fn check(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.violations.push(violation());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.violations.is_empty() {
            // A guarantee that was never put to the test is no good news.
            let word = if self.checked == 0 { "NOT SEEN" } else { "holds" };
            return write!(f, "{word:>8}  {} ({} checked)", self.guarantee, self.checked);
        }
        let (n, of) = (self.violations.len(), self.checked);
        write!(f, "{:>8}  {} ({n} of {of} violate it)", "BROKEN", self.guarantee)?;
        for v in self.violations.iter().take(SHOWN) {
            write!(f, "\n          - {v}")?;
        }
        Ok(())
    }
}

/// What one revision did.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fact {
    key: String,
    value: Value,
    deleted: bool,
}

/// The one order: what is known of each revision, and of each object in time.
#[derive(Default)]
struct Facts {
    all: BTreeMap<Revision, Fact>,
    /// By object: each of its revisions; the value is none where it was deleted.
    by_key: HashMap<String, BTreeMap<Revision, Option<Value>>>,
    contradictions: Vec<String>,
}

impl Facts {
    fn add(&mut self, revision: Revision, fact: Fact, source: &str) {
        match self.all.get(&revision) {
            // The value of a delete is not known from every source.
            Some(old)
                if old.key == fact.key
                    && old.deleted == fact.deleted
                    && (fact.deleted || old.value == fact.value) => {}
            Some(old) => {
                self.contradictions
                    .push(format!("revision {revision} is {old:?}, and {fact:?} for {source}"));
            }
            None => {
                let value = (!fact.deleted).then_some(fact.value);
                self.by_key.entry(fact.key.clone()).or_default().insert(revision, value);
                self.all.insert(revision, fact);
            }
        }
    }

    /// The object as of a revision: its own revision and value.
    fn at(&self, key: &str, revision: Revision) -> Option<(Revision, Value)> {
        let (at, value) = self.by_key.get(key)?.range(..=revision).next_back()?;
        value.map(|v| (*at, v))
    }

    /// The object's states from `floor` on, in order: since when, and what.
    fn states(&self, key: &str, floor: Revision) -> Vec<(Revision, Option<(Revision, Value)>)> {
        let mut out = vec![(floor, self.at(key, floor))];
        if let Some(revisions) = self.by_key.get(key) {
            let later = revisions.range(floor + 1..);
            out.extend(later.map(|(r, v)| (*r, v.map(|v| (*r, v)))));
        }
        out
    }

    fn state(&self, revision: Revision) -> State {
        let keys = self.by_key.keys();
        keys.filter_map(|k| Some((k.clone(), self.at(k, revision)?))).collect()
    }
}

fn written(ask: &Ask) -> Option<Value> {
    match ask {
        Ask::Create(v) | Ask::Update(v, _) => Some(*v),
        _ => None,
    }
}

/// The verdicts over a history. `stuck`: servers that did not come back.
pub fn judge(records: &Records, ends: &Ends, stuck: Vec<String>) -> Vec<Verdict> {
    let mut facts = Facts::default();
    for w in &records.watches {
        for Event { revision, key, value, deleted } in &w.events {
            facts.add(*revision, Fact { key: key.clone(), value: *value, deleted: *deleted }, &w.name);
        }
    }
    for o in &records.operations {
        if let (Told::Done(Some(revision)), Some(value)) = (o.told, written(&o.ask)) {
            facts.add(revision, Fact { key: o.key.clone(), value, deleted: false }, &o.to_string());
        }
    }
    let mut back = Verdict::new("every server comes back");
    back.checked = ends.lists.len();
    back.violations = stuck;
    vec![
        durable(&facts, records, ends),
        once(&facts, records),
        forward(records),
        compare_and_swap(&facts, records),
        reads(&facts, records),
        lists(&facts, records, ends),
        order(&facts, records),
        complete(&facts, records),
        bookmarks(records),
        resumable(records),
        back,
    ]
}

fn durable(facts: &Facts, records: &Records, ends: &Ends) -> Verdict {
    let mut v = Verdict::new("no acknowledged write is lost");
    let finals: Vec<_> = ends.lists.iter().map(|(n, l)| (n, &l.state)).collect();
    let expected = facts.state(ends.revision);
    for (n, state) in finals {
        for key in expected.keys().chain(state.keys()).collect::<BTreeSet<_>>() {
            let (have, want) = (state.get(key), expected.get(key));
            v.check(have == want, || format!("server {n} ends with {key} at {have:?}, not {want:?}"));
        }
    }
    for o in &records.operations {
        match (o.told, o.ask) {
            (Told::Done(Some(revision)), _) if written(&o.ask).is_some() => {
                let seen = records.watches.iter().any(|w| w.events.iter().any(|e| e.revision == revision));
                let there = facts.at(&o.key, revision).is_some();
                v.check(seen && there, || format!("{o}: no watch has ever shown it"));
            }
            (Told::Done(None), Ask::Delete(expected)) => {
                let next = facts.by_key.get(&o.key).and_then(|r| r.range(expected + 1..).next());
                v.check(matches!(next, Some((_, None))), || {
                    format!("{o}: after {expected} there is {next:?}")
                });
            }
            _ => {}
        }
    }
    v
}

fn once(facts: &Facts, records: &Records) -> Verdict {
    let mut v = Verdict::new("each write happens once, what is refused never");
    let mut revisions: HashMap<Value, Vec<Revision>> = HashMap::new();
    for (r, fact) in facts.all.iter().filter(|(_, f)| !f.deleted) {
        revisions.entry(fact.value).or_default().push(*r);
    }
    for o in &records.operations {
        let Some(value) = written(&o.ask) else { continue };
        let seen = revisions.get(&value).map_or(&[][..], Vec::as_slice);
        v.check(seen.len() <= 1, || format!("{o} happened at each of {seen:?}"));
        if matches!(o.told, Told::Refused | Told::NotDone) {
            v.check(seen.is_empty(), || format!("{o}, and yet it happened at {seen:?}"));
        }
    }
    v
}

fn forward(records: &Records) -> Verdict {
    let mut v = Verdict::new("revisions never go back");
    for o in &records.operations {
        if let Told::Done(Some(revision)) = o.told {
            v.check(revision > o.floor, || format!("{o}, and {} was known when it began", o.floor));
        }
    }
    for l in &records.lists {
        v.check(l.revision >= l.floor, || {
            format!("a list of revision {} began when {} was known", l.revision, l.floor)
        });
    }
    v
}

/// When the writes that made each revision began; what nobody here wrote is not in it.
fn begins(facts: &Facts, records: &Records) -> HashMap<Revision, u64> {
    let mut by_value = HashMap::new();
    let mut deletes: HashMap<(&str, Revision), u64> = HashMap::new();
    for o in &records.operations {
        if let Some(value) = written(&o.ask) {
            by_value.insert(value, o.begun);
        } else if let Ask::Delete(expected) = o.ask {
            let first = deletes.entry((&o.key, expected)).or_insert(o.begun);
            *first = o.begun.min(*first);
        }
    }
    let of = |(r, f): (&Revision, &Fact)| {
        let begun = match f.deleted {
            false => by_value.get(&f.value).copied(),
            true => facts.at(&f.key, r - 1).and_then(|(before, _)| deletes.get(&(&*f.key, before)).copied()),
        };
        Some((*r, begun?))
    };
    facts.all.iter().filter_map(of).collect()
}

fn compare_and_swap(facts: &Facts, records: &Records) -> Verdict {
    let mut v = Verdict::new("compare-and-swap is linearizable");
    v.violations.extend(facts.contradictions.iter().cloned());
    let begins = begins(facts, records);
    for o in &records.operations {
        let expected = match o.ask {
            Ask::Create(_) => None,
            Ask::Update(_, r) | Ask::Delete(r) => Some(r),
            Ask::Get => continue,
        };
        match o.told {
            Told::Done(Some(revision)) => {
                let before = facts.at(&o.key, revision - 1).map(|(r, _)| r);
                v.check(before == expected, || format!("{o}, but it was at {before:?}"));
            }
            Told::Refused => {
                // At some moment between its begin and its end the object was not as it must be.
                let states = facts.states(&o.key, o.floor);
                let possible = states.iter().enumerate().any(|(i, (since, state))| {
                    let other = state.map(|(r, _)| r) != expected;
                    other && (i == 0 || begins.get(since).is_none_or(|b| *b < o.ended))
                });
                v.check(possible, || format!("{o}, but it was as it must be all the time"));
            }
            _ => {}
        }
    }
    v
}

fn reads(facts: &Facts, records: &Records) -> Verdict {
    let mut v = Verdict::new("reads are not stale, nor of what is not written");
    let begins = begins(facts, records);
    for o in &records.operations {
        let Told::Found(found) = o.told else { continue };
        let states = facts.states(&o.key, o.floor);
        let possible = states.iter().enumerate().any(|(i, (since, state))| {
            *state == found && (i == 0 || begins.get(since).is_none_or(|b| *b < o.ended))
        });
        v.check(possible, || {
            let floor = facts.at(&o.key, o.floor);
            format!("{o}; at {}, which was known when it began, it was {floor:?}", o.floor)
        });
    }
    v
}

fn lists(facts: &Facts, records: &Records, ends: &Ends) -> Verdict {
    let mut v = Verdict::new("lists show one revision, whole");
    let finals = ends.lists.iter().map(|(_, l)| l);
    for Listed { revision, state, .. } in records.lists.iter().chain(finals) {
        let expected = facts.state(*revision);
        v.check(*state == expected, || {
            let differing = expected.keys().chain(state.keys()).find(|k| expected.get(*k) != state.get(*k));
            let key = differing.map(String::as_str).unwrap_or_default();
            format!("a list of {revision} has {key} at {:?}, not {:?}", state.get(key), expected.get(key))
        });
    }
    v
}

fn order(facts: &Facts, records: &Records) -> Verdict {
    let mut v = Verdict::new("watches are ordered and show nothing twice");
    for w in &records.watches {
        let mut last = w.after;
        for e in &w.events {
            v.check(e.revision > last, || format!("{} was shown {} after {last}", w.name, e.revision));
            last = last.max(e.revision);
            // A delete shows what was deleted.
            let before = facts.at(&e.key, e.revision - 1).map(|(_, value)| value);
            let shown = !e.deleted || before == Some(e.value);
            v.check(shown, || format!("{} was shown the delete of {e:?}; it was {before:?}", w.name));
        }
    }
    v
}

fn complete(facts: &Facts, records: &Records) -> Verdict {
    let mut v = Verdict::new("watches show everything");
    for w in &records.watches {
        let seen: BTreeSet<Revision> = w.events.iter().map(|e| e.revision).collect();
        for (r, fact) in facts.all.range(w.after + 1..=w.upto.max(w.after + 1)) {
            v.check(seen.contains(r), || format!("{} was not shown {r}: {fact:?}", w.name));
        }
    }
    v
}

fn bookmarks(records: &Records) -> Verdict {
    let mut v = Verdict::new("bookmarks are never ahead of their watch");
    for w in &records.watches {
        for (at, bookmark) in &w.bookmarks {
            let late = w.events[*at..].iter().find(|e| e.revision <= *bookmark);
            v.check(late.is_none(), || format!("{} was shown {late:?} after bookmark {bookmark}", w.name));
        }
    }
    v
}

fn resumable(records: &Records) -> Verdict {
    let mut v = Verdict::new("watches go on at any server");
    for w in &records.watches {
        v.checked += w.resumed;
        v.violations.extend(w.failures.iter().map(|f| format!("{} {f}", w.name)));
    }
    v
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Operation, Watched};

    /// Ten ops on two objects that are all right.
    fn fine() -> (Records, Ends) {
        let op = |key: &str, ask, told, at: u64, floor| Operation {
            key: key.to_owned(),
            ask,
            told,
            begun: at,
            ended: at + 5,
            floor,
        };
        let operations = vec![
            op("a", Ask::Create(1), Told::Done(Some(11)), 0, 10),
            op("a", Ask::Get, Told::Found(Some((11, 1))), 10, 11),
            op("a", Ask::Create(2), Told::Refused, 20, 11),
            op("b", Ask::Get, Told::Found(None), 20, 11),
            op("a", Ask::Update(3, 11), Told::Done(Some(13)), 30, 11),
            op("a", Ask::Update(4, 11), Told::Refused, 31, 11),
            op("b", Ask::Create(5), Told::Unknown, 40, 13),
            op("a", Ask::Delete(13), Told::Done(None), 50, 13),
            op("a", Ask::Update(6, 13), Told::NotDone, 60, 13),
        ];
        let event =
            |revision, key: &str, value, deleted| Event { revision, key: key.to_owned(), value, deleted };
        let events = vec![
            event(11, "a", 1, false),
            event(13, "a", 3, false),
            event(15, "b", 5, false),
            event(16, "a", 3, true),
        ];
        let watch = |name: &str| Watched {
            name: name.to_owned(),
            after: 10,
            upto: 17,
            events: events.clone(),
            bookmarks: vec![(2, 14)],
            resumed: 1,
            failures: Vec::new(),
        };
        let state = |list: &[(&str, Revision, Value)]| {
            list.iter().map(|(k, r, v)| ((*k).to_owned(), (*r, *v))).collect()
        };
        let listed = Listed { floor: 11, revision: 14, state: state(&[("a", 13, 3)]) };
        let last = Listed { floor: 16, revision: 17, state: state(&[("b", 15, 5)]) };
        let records = Records { operations, lists: vec![listed], watches: vec![watch("one"), watch("two")] };
        (records, Ends { revision: 17, lists: vec![(1, last.clone()), (2, last)] })
    }

    fn broken(change: impl FnOnce(&mut Records, &mut Ends)) -> Vec<&'static str> {
        let (mut records, mut ends) = fine();
        change(&mut records, &mut ends);
        let verdicts = judge(&records, &ends, Vec::new());
        verdicts.iter().filter(|v| !v.violations.is_empty()).map(|v| v.guarantee).collect()
    }

    #[test]
    fn nothing_is_wrong_with_what_is_fine() {
        let (records, ends) = fine();
        for v in judge(&records, &ends, Vec::new()) {
            assert!(v.violations.is_empty() && v.checked > 0, "{v}");
        }
    }

    #[test]
    fn lost_writes() {
        // At one server only.
        let found = broken(|_, ends| {
            ends.lists[1].1.state.remove("b");
        });
        assert!(found.contains(&"no acknowledged write is lost"), "{found:?}");
        // No watcher has seen an acknowledged write, or delete.
        let found = broken(|r, _| r.watches.iter_mut().for_each(|w| drop(w.events.remove(0))));
        assert!(found.contains(&"no acknowledged write is lost"), "{found:?}");
        let found = broken(|r, _| r.watches.iter_mut().for_each(|w| drop(w.events.pop())));
        assert!(found.contains(&"no acknowledged write is lost"), "{found:?}");
        let found = broken(|_, ends| {
            ends.lists[0].1.state.insert("a".into(), (13, 3));
        });
        assert!(found.contains(&"lists show one revision, whole"), "{found:?}");
    }

    #[test]
    fn refused_and_repeated_writes() {
        for told in [Told::Refused, Told::NotDone] {
            let found = broken(|r, _| r.operations[6].told = told);
            assert!(found.contains(&"each write happens once, what is refused never"), "{found:?}");
        }
        let found = broken(|r, _| r.watches.iter_mut().for_each(|w| w.events[2].value = 3));
        assert!(found.contains(&"each write happens once, what is refused never"), "{found:?}");
    }

    #[test]
    fn revisions_that_go_back() {
        let found = broken(|r, _| r.operations[4].floor = 13);
        assert!(found.contains(&"revisions never go back"), "{found:?}");
        let found = broken(|r, _| r.lists[0].floor = 15);
        assert!(found.contains(&"revisions never go back"), "{found:?}");
    }

    #[test]
    fn compare_and_swap_on_something_else() {
        let found = broken(|r, _| r.operations[4].ask = Ask::Update(3, 9));
        assert_eq!(found, ["compare-and-swap is linearizable"]);
        // Refused although nothing was in its way.
        let found = broken(|r, _| r.operations[5].ask = Ask::Update(4, 13));
        assert_eq!(found, Vec::<&str>::new(), "the delete began later, but it was not yet at 13");
        let found = broken(|r, _| {
            r.operations[5].floor = 13;
            r.operations[5].ask = Ask::Update(4, 13);
        });
        assert_eq!(found, ["compare-and-swap is linearizable"]);
        // Two watchers see different histories.
        let found = broken(|r, _| r.watches[1].events[2].value = 99);
        assert!(found.contains(&"compare-and-swap is linearizable"), "{found:?}");
    }

    #[test]
    fn stale_and_invented_reads() {
        let found = broken(|r, _| r.operations[1].floor = 13);
        assert_eq!(found, ["reads are not stale, nor of what is not written"]);
        let found = broken(|r, _| r.operations[1].told = Told::Found(Some((11, 7))));
        assert_eq!(found, ["reads are not stale, nor of what is not written"]);
        // From the future: the write began after the read had ended.
        let found = broken(|r, _| r.operations[1].told = Told::Found(Some((13, 3))));
        assert_eq!(found, ["reads are not stale, nor of what is not written"]);
        let found = broken(|r, _| r.lists[0].state = State::new());
        assert_eq!(found, ["lists show one revision, whole"]);
    }

    #[test]
    fn watches() {
        let found = broken(|r, _| r.watches[0].events.swap(0, 1));
        assert!(found.contains(&"watches are ordered and show nothing twice"), "{found:?}");
        let twice = |r: &mut Records, _: &mut Ends| {
            let again = r.watches[0].events[1].clone();
            r.watches[0].events.insert(2, again);
        };
        assert!(broken(twice).contains(&"watches are ordered and show nothing twice"));
        assert_eq!(broken(|r, _| drop(r.watches[0].events.remove(1))), ["watches show everything"]);
        assert_eq!(
            broken(|r, _| r.watches[0].bookmarks[0].1 = 15),
            ["bookmarks are never ahead of their watch"]
        );
        assert_eq!(
            broken(|r, _| r.watches[0].failures.push("stands still".into())),
            ["watches go on at any server"]
        );
    }
}

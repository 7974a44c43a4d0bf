//! What a history of the group must look like, whoever crashed. One order of revisions explains everything: each write
//! takes one, all members agree on it, and it agrees with real time.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{Event, Revision};

/// Number of a client's operation, and the value it writes.
pub type Operation = u64;

/// What is known of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fact {
    key: String,
    value: Bytes,
    deleted: bool,
}

/// Everything that was seen.
#[derive(Default)]
pub struct Checker {
    facts: BTreeMap<Revision, Fact>,
    /// The newest revision that some client has been told of.
    floor: Revision,
    acknowledged: BTreeMap<Operation, Revision>,
    /// Operations that were told to have done nothing.
    refused: Vec<Operation>,
    leaders: BTreeMap<u64, u64>,
    /// The fence of compaction that some member has applied.
    pub compacted: Revision,
}

/// A violation, in words.
pub type Verdict = Result<(), String>;

fn fail(what: String) -> Verdict {
    Err(what)
}

impl Checker {
    /// What an operation that begins now must come after.
    pub fn floor(&self) -> Revision {
        self.floor
    }

    pub fn newest(&self) -> Revision {
        self.facts.keys().next_back().copied().unwrap_or(0)
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// A member leads in a term.
    pub fn leads(&mut self, term: u64, id: u64) -> Verdict {
        match self.leaders.insert(term, id) {
            Some(other) if other != id => fail(format!("members {other} and {id} both lead in term {term}")),
            _ => Ok(()),
        }
    }

    /// A member has applied this.
    pub fn applied(&mut self, member: u64, event: &Event) -> Verdict {
        let revision = event.kv.mod_revision;
        let value = if event.deleted { Bytes::new() } else { event.kv.value.clone() };
        let fact = Fact { key: event.kv.key.clone(), value, deleted: event.deleted };
        if revision > self.newest() + 1 {
            return fail(format!("member {member} applied {revision} after {}", self.newest()));
        }
        match self.facts.insert(revision, fact.clone()) {
            Some(before) if before != fact => {
                fail(format!("revision {revision} is {before:?}, and {fact:?} at member {member}"))
            }
            _ => Ok(()),
        }
    }

    /// The write of `operation` was acknowledged.
    pub fn acknowledge(
        &mut self,
        operation: Operation,
        begun_at: Revision,
        key: &str,
        expected: Revision,
        revision: Revision,
    ) -> Verdict {
        if revision <= begun_at {
            return fail(format!("operation {operation} at {revision} began after {begun_at} was known"));
        }
        let value = operation.to_string();
        match self.facts.get(&revision) {
            Some(fact) if fact.key == key && (fact.deleted || fact.value == value.as_bytes()) => {}
            other => {
                return fail(format!(
                    "operation {operation} was acknowledged at {revision}, which is {other:?}"
                ));
            }
        }
        let before = self.at(key, revision - 1);
        if before != expected {
            return fail(format!("operation {operation} expected {key} at {expected}, it was at {before}"));
        }
        self.acknowledged.insert(operation, revision);
        self.floor = self.floor.max(revision);
        Ok(())
    }

    /// A key's modification revision as of `revision`; zero where it is absent.
    fn at(&self, key: &str, revision: Revision) -> Revision {
        let last = self.facts.range(..=revision).rev().find(|(_, f)| f.key == key);
        last.map_or(0, |(r, f)| if f.deleted { 0 } else { *r })
    }

    /// `operation` found `key` at `found` in place of what it expected.
    pub fn conflict(
        &mut self,
        operation: Operation,
        begun_at: Revision,
        key: &str,
        expected: Revision,
        found: Revision,
    ) -> Verdict {
        let possible = (begun_at..=self.newest()).any(|r| self.at(key, r) == found);
        if found == expected || !possible {
            return fail(format!(
                "operation {operation} expected {key} at {expected} and found it at {found}"
            ));
        }
        self.refused.push(operation);
        Ok(())
    }

    /// `operation` was told that nothing was done.
    pub fn refuse(&mut self, operation: Operation) {
        self.refused.push(operation);
    }

    /// A linearizable read that began at `begun_at` saw the store at `revision`, and `key` at `found`.
    pub fn read(&mut self, begun_at: Revision, key: &str, revision: Revision, found: Revision) -> Verdict {
        if revision < begun_at {
            return fail(format!("a read saw {revision} although {begun_at} was known before"));
        }
        if self.at(key, revision) != found {
            return fail(format!(
                "a read at {revision} saw {key} at {found}, not {}",
                self.at(key, revision)
            ));
        }
        self.floor = self.floor.max(revision);
        Ok(())
    }

    /// A watch was given these, after `after`, complete up to `upto`.
    pub fn watched(&self, after: Revision, upto: Revision, events: &[Event]) -> Verdict {
        if upto > self.newest() {
            return fail(format!("a watch is at {upto}, the store at {}", self.newest()));
        }
        let seen: Vec<_> = events.iter().map(|e| e.kv.mod_revision).collect();
        let expected: Vec<_> = (after + 1..=upto).collect();
        if seen != expected {
            return fail(format!("a watch after {after} up to {upto} was given {seen:?}"));
        }
        for e in events {
            let fact = &self.facts[&e.kv.mod_revision];
            if fact.key != e.kv.key || fact.deleted != e.deleted || (!e.deleted && fact.value != e.kv.value) {
                return fail(format!("a watch was given {e:?} for {fact:?}"));
            }
        }
        Ok(())
    }

    /// At the end: this is all a member holds.
    pub fn finished(&self, member: u64, revision: Revision, items: &[crate::KeyValue]) -> Verdict {
        if revision != self.newest() {
            return fail(format!("member {member} ends at {revision}, not at {}", self.newest()));
        }
        let mut expected: BTreeMap<&str, (Revision, &Bytes)> = BTreeMap::new();
        for (r, f) in &self.facts {
            if f.deleted {
                expected.remove(f.key.as_str());
            } else {
                expected.insert(&f.key, (*r, &f.value));
            }
        }
        let there: BTreeMap<&str, (Revision, &Bytes)> =
            items.iter().map(|kv| (kv.key.as_str(), (kv.mod_revision, &kv.value))).collect();
        if there != expected {
            return fail(format!("member {member} ends with {there:?}, not {expected:?}"));
        }
        for operation in &self.refused {
            let value = operation.to_string();
            if let Some((r, _)) = self.facts.iter().find(|(_, f)| !f.deleted && f.value == value.as_bytes()) {
                return fail(format!("operation {operation}, told to have done nothing, is revision {r}"));
            }
        }
        Ok(())
    }
}

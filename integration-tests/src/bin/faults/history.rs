//! What clients did and saw. Times are microseconds since the begin of the run, on the one clock of this process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Revision of the store, as clients see it in `resourceVersion`.
pub type Revision = u64;
/// What was written: the number of the operation that did.
pub type Value = u64;

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Must not be there.
    Create(Value),
    /// Must be at this revision.
    Update(Value, Revision),
    /// Must be at this revision.
    Delete(Revision),
    Get,
}

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Done; a delete does not say at which revision.
    Done(Option<Revision>),
    /// Not done, because the object was not as it must be.
    Refused,
    /// Not done, because the store was not available.
    NotDone,
    /// Nothing, or that it is not known.
    Unknown,
    /// A read: revision and value, none where nothing is there.
    Found(Option<(Revision, Value)>),
}

/// One operation on one object.
#[derive(Debug, Clone)]
pub struct Operation {
    pub key: String,
    pub ask: Ask,
    pub told: Told,
    pub begun: u64,
    pub ended: u64,
    /// The newest revision that any client had been told of when this began.
    pub floor: Revision,
}

/// Objects by name: revision and value.
pub type State = BTreeMap<String, (Revision, Value)>;

/// All objects, as a list shows them.
#[derive(Debug, Clone)]
pub struct Listed {
    pub floor: Revision,
    pub revision: Revision,
    pub state: State,
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub key: String,
    pub value: Value,
    pub deleted: bool,
}

/// What one watcher saw, over all the servers it wandered through.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    pub name: String,
    pub after: Revision,
    /// Up to which revision it has surely seen everything.
    pub upto: Revision,
    pub events: Vec<Event>,
    /// Places in `events` before which a bookmark with this revision came.
    pub bookmarks: Vec<(usize, Revision)>,
    /// How often it went on at another server.
    pub resumed: usize,
    /// What it was refused.
    pub failures: Vec<String>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Records {
    pub operations: Vec<Operation>,
    pub lists: Vec<Listed>,
    pub watches: Vec<Watched>,
}

/// Where clients write down what they see.
pub struct History {
    start: Instant,
    floor: AtomicU64,
    values: AtomicU64,
    records: Mutex<Records>,
    counts: Mutex<BTreeMap<&'static str, usize>>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            floor: AtomicU64::new(0),
            values: AtomicU64::new(1),
            records: Mutex::default(),
            counts: Mutex::default(),
        }
    }
}

impl History {
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A value that nobody has written.
    pub fn value(&self) -> Value {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    /// See [`Operation::floor`].
    pub fn floor(&self) -> Revision {
        self.floor.load(Ordering::SeqCst)
    }

    /// Some client has been told of a revision.
    pub fn heard(&self, revision: Revision) {
        self.floor.fetch_max(revision, Ordering::SeqCst);
    }

    /// Writes an operation down, the moment it has ended.
    pub fn operation(&self, operation: Operation) {
        if let Told::Done(Some(revision)) | Told::Found(Some((revision, _))) = operation.told {
            self.heard(revision);
        }
        let what = match operation.ask {
            Ask::Create(_) => "creates",
            Ask::Update(..) => "updates",
            Ask::Delete(_) => "deletes",
            Ask::Get => "gets",
        };
        self.count(what);
        match operation.told {
            Told::Done(_) => self.count("acknowledged writes"),
            Told::Refused => self.count("conflicts"),
            Told::NotDone => self.count("writes turned away"),
            Told::Unknown => self.count("without an answer"),
            Told::Found(_) => {}
        }
        self.records(|r| r.operations.push(operation));
    }

    pub fn listed(&self, listed: Listed) {
        self.heard(listed.revision);
        self.count("lists");
        self.records(|r| r.lists.push(listed));
    }

    pub fn watched(&self, watched: Watched) {
        self.records(|r| r.watches.push(watched));
    }

    pub fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// How often what was done.
    pub fn counts(&self) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(what, n)| format!("{n} {what}")).collect::<Vec<_>>().join(", ")
    }

    /// Takes everything out.
    pub fn take(&self) -> Records {
        let mut out = Records::default();
        self.records(|r| std::mem::swap(r, &mut out));
        out
    }

    fn records(&self, change: impl FnOnce(&mut Records)) {
        // Nothing is half done in there when somebody panics.
        change(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.begun as f64 / 1e6, self.ended as f64 / 1e6);
        write!(f, "{:?} of {} at {from:.3}..{to:.3} s: {:?}", self.ask, self.key, self.told)
    }
}

//! Second rounds of the mutating phase. Where a webhook or policy changed the object, all built-in plugins and those
//! that ask for it (`reinvocationPolicy: IfNeeded`) are called once more, so that they see each other's changes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::Value;

/// The state of one request's mutating phase.
#[derive(Debug, Default)]
pub struct Reinvocation {
    second: AtomicBool,
    wanted: AtomicBool,
    webhooks: Mutex<Round>,
    policies: Mutex<Round>,
}

/// What one plugin that calls many others (webhooks, policies) remembers between its rounds.
#[derive(Debug, Default)]
pub struct Round {
    /// The object as it was after the plugin's first round.
    output: Option<Value>,
    /// Called already, and may be called again.
    called: HashSet<String>,
    /// To be called again.
    again: HashSet<String>,
}

impl Reinvocation {
    /// Whether this is the second round.
    pub fn is_second(&self) -> bool {
        self.second.load(Ordering::Relaxed)
    }

    /// Asks for a second round.
    pub fn request(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Begins the second round if somebody asked for it.
    pub(super) fn begin_second(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && !self.second.swap(true, Ordering::Relaxed)
    }

    /// The memory of `MutatingAdmissionWebhook`.
    pub fn webhooks(&self) -> &Mutex<Round> {
        &self.webhooks
    }

    /// The memory of `MutatingAdmissionPolicy`.
    pub fn policies(&self) -> &Mutex<Round> {
        &self.policies
    }
}

impl Round {
    /// In the second round: everybody called before is due again where others changed the object since.
    pub fn compare(&mut self, object: Option<&Value>) {
        if self.output.as_ref() != object {
            self.require();
        }
    }

    /// Everybody called so far is due again, after a change.
    pub fn require(&mut self) {
        self.again.extend(self.called.drain());
    }

    /// Notes that `id` was called and may be again.
    pub fn note(&mut self, id: &str) {
        self.called.insert(id.to_owned());
    }

    /// Whether the second round calls `id`.
    pub fn is_due(&self, id: &str) -> bool {
        self.again.contains(id)
    }

    /// Keeps the object at the end of a round, where somebody may be called again.
    pub fn keep(&mut self, object: Option<&Value>) {
        if !self.called.is_empty() || !self.again.is_empty() {
            self.output = object.cloned();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_called_again() {
        let r = Reinvocation::default();
        assert!(!r.begin_second());
        r.request();
        assert!(r.begin_second() && r.is_second() && !r.begin_second(), "no third round");
        let mut round = Round::default();
        round.note("a");
        round.keep(Some(&json!(1)));
        round.compare(Some(&json!(1)));
        assert!(!round.is_due("a"), "nothing changed");
        round.compare(Some(&json!(2)));
        assert!(round.is_due("a") && !round.is_due("b"));
    }
}

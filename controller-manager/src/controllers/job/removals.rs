//! Finalizers we took off pods that the cache still shows: those pods are counted already.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

/// Uids of pods by job key.
#[derive(Debug, Default)]
pub struct Removals(Mutex<HashMap<String, HashSet<String>>>);

impl Removals {
    /// These finalizers are about to be taken away.
    pub fn expect(&self, key: &str, uids: impl IntoIterator<Item = String>) {
        let mut uids = uids.into_iter().peekable();
        if uids.peek().is_some() {
            self.0.lock().entry(key.to_owned()).or_default().extend(uids);
        }
    }

    /// The cache shows the pod without its finalizer, or it was not taken away.
    pub fn observed(&self, key: &str, uid: &str) {
        let mut all = self.0.lock();
        if let Some(open) = all.get_mut(key) {
            open.remove(uid);
            if open.is_empty() {
                all.remove(key);
            }
        }
    }

    /// The removals that have not come back yet.
    pub fn open(&self, key: &str) -> HashSet<String> {
        self.0.lock().get(key).cloned().unwrap_or_default()
    }

    /// The job is gone.
    pub fn forget(&self, key: &str) {
        self.0.lock().remove(key);
    }
}

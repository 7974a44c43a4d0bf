//! The policies and bindings in force: followed from the watch caches, compiled when they change.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::compiled::{self, Binding, Mutating, Policy, Validating};
use super::metrics::Metrics;
use crate::follow::{self, Change, follow};
use crate::registry::Registry;
use crate::registry::storage::Storage;
use crate::status::{ApiError, ApiResult};

const GROUP: &str = "admissionregistration.k8s.io";

/// A policy with its bindings.
#[derive(Debug)]
pub struct Hook<B> {
    pub policy: Arc<Policy<B>>,
    pub bindings: Vec<Arc<Binding>>,
}

/// All of one kind that have a binding, in the order of their names.
type Hooks<B> = ArcSwap<Vec<Hook<B>>>;

/// One kind of policies: what there is, and what of it is in force.
#[derive(Debug)]
struct Kind<B> {
    known: Mutex<Known<B>>,
    hooks: Hooks<B>,
}

#[derive(Debug)]
struct Known<B> {
    policies: BTreeMap<String, Arc<Policy<B>>>,
    bindings: BTreeMap<String, Arc<Binding>>,
}

impl<B> Default for Kind<B> {
    fn default() -> Self {
        let known = Known { policies: BTreeMap::new(), bindings: BTreeMap::new() };
        Self { known: Mutex::new(known), hooks: ArcSwap::default() }
    }
}

impl<B> Kind<B> {
    fn change(&self, f: impl FnOnce(&mut Known<B>)) {
        let mut known = self.known.lock();
        f(&mut known);
        let hooks = known.policies.values().filter_map(|policy| {
            let bindings: Vec<_> =
                known.bindings.values().filter(|b| b.policy == policy.name).map(Arc::clone).collect();
            (!bindings.is_empty()).then(|| Hook { policy: Arc::clone(policy), bindings })
        });
        self.hooks.store(Arc::new(hooks.collect()));
    }
}

/// The policies of this server.
#[derive(Default)]
pub struct Policies {
    validating: Kind<Validating>,
    mutating: Kind<Mutating>,
    pub metrics: Metrics,
    /// Set once the registry, which itself needs the admission chain, is there.
    registry: OnceLock<Arc<Registry>>,
}

impl Policies {
    /// Begins to follow policies and bindings. Returns when those that exist are in force.
    pub async fn start(self: &Arc<Self>, registry: &Arc<Registry>, stop: &CancellationToken) {
        // A second start would be a programming error without effect.
        let _ = self.registry.set(Arc::clone(registry));
        let table = registry.table();
        for resource in [
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
        ] {
            let Some(storage) = table.any_version(GROUP, resource).and_then(|r| r.storage.clone()) else {
                continue;
            };
            let (tx, synced) = tokio::sync::oneshot::channel();
            let this = Arc::clone(self);
            let stop = stop.clone();
            tokio::spawn(async move { this.follow(storage, stop, tx).await });
            // An error means that the server is being stopped.
            let _ = synced.await;
        }
    }

    async fn follow(
        &self,
        storage: Arc<Storage>,
        stop: CancellationToken,
        synced: tokio::sync::oneshot::Sender<()>,
    ) {
        let s = Arc::clone(&storage);
        let mut synced = Some(synced);
        follow(storage, stop, move |change| match change {
            Change::Reset => self.reset(s.resource),
            Change::Synced => {
                if let Some(tx) = synced.take() {
                    let _ = tx.send(());
                }
            }
            Change::Set(o) => match follow::decode(&s, o) {
                Ok(v) => self.set(s.resource, follow::name(&s, &o.key), &v),
                Err(e) => tracing::error!(key = %o.key, error = %e, "an admission policy cannot be read"),
            },
            Change::Gone(o) => self.remove(s.resource, follow::name(&s, &o.key)),
        })
        .await;
    }

    fn reset(&self, resource: &str) {
        match resource {
            "validatingadmissionpolicies" => self.validating.change(|k| k.policies.clear()),
            "validatingadmissionpolicybindings" => self.validating.change(|k| k.bindings.clear()),
            "mutatingadmissionpolicies" => self.mutating.change(|k| k.policies.clear()),
            _ => self.mutating.change(|k| k.bindings.clear()),
        }
    }

    /// Puts a policy or binding in force.
    pub fn set(&self, resource: &str, name: &str, v: &Value) {
        let name = name.to_owned();
        match resource {
            "validatingadmissionpolicies" => {
                let p = Arc::new(compiled::validating(v));
                self.validating.change(|k| drop(k.policies.insert(name, p)));
            }
            "mutatingadmissionpolicies" => {
                let p = Arc::new(compiled::mutating(v));
                self.mutating.change(|k| drop(k.policies.insert(name, p)));
            }
            "validatingadmissionpolicybindings" => {
                let b = Arc::new(compiled::binding(v));
                self.validating.change(|k| drop(k.bindings.insert(name, b)));
            }
            _ => {
                let b = Arc::new(compiled::binding(v));
                self.mutating.change(|k| drop(k.bindings.insert(name, b)));
            }
        }
    }

    fn remove(&self, resource: &str, name: &str) {
        match resource {
            "validatingadmissionpolicies" => self.validating.change(|k| drop(k.policies.remove(name))),
            "validatingadmissionpolicybindings" => self.validating.change(|k| drop(k.bindings.remove(name))),
            "mutatingadmissionpolicies" => self.mutating.change(|k| drop(k.policies.remove(name))),
            _ => self.mutating.change(|k| drop(k.bindings.remove(name))),
        }
    }

    pub fn validating(&self) -> Arc<Vec<Hook<Validating>>> {
        self.validating.hooks.load_full()
    }

    pub fn mutating(&self) -> Arc<Vec<Hook<Mutating>>> {
        self.mutating.hooks.load_full()
    }

    pub fn registry(&self) -> ApiResult<&Arc<Registry>> {
        self.registry.get().ok_or_else(|| ApiError::internal("admission policies are not set up yet"))
    }
}

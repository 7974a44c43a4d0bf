//! Admission webhooks: other servers that may change or refuse writes.
//!
//! The configurations are followed ([`crate::follow`]) and compiled when they change; a request takes the list as it is.
//! Without configurations a request pays one atomic load.
//!
//! | file | what |
//! | --- | --- |
//! | `hook.rs`, `rules.rs` | a webhook, made ready from its configuration |
//! | `matching.rs` | whether it is called, and in which version |
//! | `forms.rs` | objects in that version, and back |
//! | `review.rs` | question and answer as bytes |
//! | `call.rs` | one call and what its failure means |
//! | `mutating.rs`, `validating.rs` | the two plugins |
//! | `annotations.rs`, `metrics.rs` | what is told of it |

pub mod annotations;
pub mod call;
pub mod forms;
pub mod hook;
pub mod matching;
pub mod metrics;
mod mutating;
pub mod review;
pub mod rules;
mod validating;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use self::hook::Hook;
use self::metrics::Metrics;
pub(crate) use self::mutating::build as build_mutating;
pub(crate) use self::validating::build as build_validating;
use crate::cache::{Freshness, Pairs};
use crate::follow::{self, Change, follow};
use crate::registry::Registry;
use crate::registry::storage::{Storage, store_error};
use crate::status::{ApiError, ApiResult};
use crate::webhook::{CallError, Client, ClientConfig, Clients};

const GROUP: &str = "admissionregistration.k8s.io";

/// Webhooks in the order in which they are called.
type List = ArcSwap<Vec<Arc<Hook>>>;

/// The webhooks of this server and what calling them takes.
#[derive(Default)]
pub struct Webhooks {
    mutating: List,
    validating: List,
    pub metrics: Metrics,
    /// Set once the registry, which itself needs the admission chain, is there.
    wiring: OnceLock<Wiring>,
}

struct Wiring {
    registry: Arc<Registry>,
    callers: Callers,
}

/// Who calls: each of the two plugins may have credentials of its own.
#[derive(Clone)]
pub struct Callers {
    pub mutating: Arc<Clients>,
    pub validating: Arc<Clients>,
}

impl Webhooks {
    /// Begins to follow the configurations. Returns when those that exist are in force.
    pub async fn start(
        self: &Arc<Self>,
        registry: &Arc<Registry>,
        callers: Callers,
        stop: &CancellationToken,
    ) {
        // A second start would be a programming error without effect.
        let _ = self.wiring.set(Wiring { registry: Arc::clone(registry), callers });
        let table = registry.table();
        for (name, mutating) in
            [("mutatingwebhookconfigurations", true), ("validatingwebhookconfigurations", false)]
        {
            let Some(storage) = table.any_version(GROUP, name).and_then(|r| r.storage.clone()) else {
                continue;
            };
            let (tx, synced) = tokio::sync::oneshot::channel();
            let followed =
                Followed { webhooks: Arc::clone(self), mutating, all: BTreeMap::new(), synced: Some(tx) };
            tokio::spawn(followed.run(storage, stop.clone()));
            // An error means that the server is being stopped.
            let _ = synced.await;
        }
    }

    fn wiring(&self) -> ApiResult<&Wiring> {
        self.wiring.get().ok_or_else(|| ApiError::internal("webhooks are not set up yet"))
    }

    fn registry(&self) -> ApiResult<&Registry> {
        Ok(&self.wiring()?.registry)
    }

    fn client(
        &self,
        config: &Result<ClientConfig, String>,
        mutating: bool,
    ) -> Result<Arc<Client>, CallError> {
        let config = config.as_ref().map_err(|e| CallError::Config(e.clone()))?;
        let wiring = self.wiring().map_err(|e| CallError::Config(e.message))?;
        let callers = &wiring.callers;
        if mutating { callers.mutating.get(config) } else { callers.validating.get(config) }
    }

    /// The labels of a namespace, from the watch cache; where it is not in there yet, from the store.
    async fn namespace_labels(&self, name: &str) -> ApiResult<Pairs> {
        let table = self.registry()?.table();
        let namespaces = table
            .get("", "v1", "namespaces")
            .and_then(|r| r.storage.as_ref())
            .ok_or_else(|| ApiError::internal("namespaces are not served"))?;
        let key = namespaces.key("", name);
        for freshness in [Freshness::Any, Freshness::Newest] {
            let found = namespaces.cache.get(&key, freshness).await.map_err(|e| store_error(&e))?;
            if let Some(o) = found {
                return Ok(o.labels.clone());
            }
        }
        Err(ApiError::not_found("", "namespaces", name))
    }
}

/// The configurations of one kind.
struct Followed {
    webhooks: Arc<Webhooks>,
    mutating: bool,
    /// By the name of the configuration, which is the order of calls.
    all: BTreeMap<String, Vec<Arc<Hook>>>,
    synced: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Followed {
    async fn run(mut self, storage: Arc<Storage>, stop: CancellationToken) {
        let s = Arc::clone(&storage);
        follow(storage, stop, move |change| self.take(&s, change)).await;
    }

    fn take(&mut self, storage: &Storage, change: Change<'_>) {
        match change {
            Change::Reset => {
                self.all.clear();
                return;
            }
            Change::Set(o) => match follow::decode(storage, o) {
                Ok(v) => {
                    self.all.insert(follow::name(storage, &o.key).to_owned(), hook::of_configuration(&v));
                }
                Err(e) => tracing::error!(key = %o.key, error = %e, "a webhook configuration cannot be read"),
            },
            Change::Gone(o) => {
                self.all.remove(follow::name(storage, &o.key));
            }
            Change::Synced => {
                if let Some(tx) = self.synced.take() {
                    self.publish();
                    let _ = tx.send(());
                    return;
                }
            }
        }
        // While the state is being delivered for the first time nothing is complete.
        if self.synced.is_none() {
            self.publish();
        }
    }

    fn publish(&self) {
        let list: Vec<Arc<Hook>> = self.all.values().flatten().cloned().collect();
        let target = if self.mutating { &self.webhooks.mutating } else { &self.webhooks.validating };
        target.store(Arc::new(list));
    }
}

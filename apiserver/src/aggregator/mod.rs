//! Aggregation: API services name other servers that serve versions of groups, and this server passes their requests
//! on.
//!
//! [`Aggregator`] follows the API services. Requests look into a small immutable table of the remote ones (one atomic
//! load; where there are none that is all), after authorization. Availability, discovery and OpenAPI documents of
//! remote servers are looked after in the background.
//!
//! | file | what |
//! | --- | --- |
//! | `service.rs` | one API service, from its object |
//! | `table.rs` | all of them, ready for requests |
//! | `identity.rs` | how the aggregated server learns who asks |
//! | `proxy.rs` | passing requests on |
//! | `availability.rs` | the condition `Available`: pure decision |
//! | `check.rs` | its controller |
//! | `discovery.rs` | documents of remote groups and their merge |
//! | `openapi.rs` | their OpenAPI documents |
//! | `register.rs` | API services of custom resources |

pub mod availability;
pub mod check;
pub mod discovery;
pub mod identity;
pub mod metrics;
pub mod openapi;
pub mod proxy;
pub mod register;
pub mod service;
pub mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;
use self::service::{Factory, Service};
use self::table::Table;
use crate::follow::{self, Change, follow};
use crate::lookup::ObjectWriter;
use crate::registry::Registry;
use crate::registry::storage::Storage;
use crate::request::RequestInfo;

const GROUP: &str = "apiregistration.k8s.io";

/// What the background tasks and the requests share.
pub struct Aggregator {
    table: ArcSwap<Table>,
    /// Grows with every change of the table.
    changed: watch::Sender<u64>,
    pub discovery: discovery::Remote,
    pub specs: openapi::Specs,
    pub metrics: Metrics,
    factory: OnceLock<Factory>,
}

impl Default for Aggregator {
    fn default() -> Self {
        Self {
            table: ArcSwap::default(),
            changed: watch::Sender::new(0),
            discovery: discovery::Remote::default(),
            specs: openapi::Specs::default(),
            metrics: Metrics::default(),
            factory: OnceLock::new(),
        }
    }
}

impl Aggregator {
    /// The server that answers a request, where it is not this one.
    pub fn target(&self, info: &RequestInfo) -> Option<Arc<Service>> {
        let table = self.table.load();
        if table.has_no_remote() {
            return None;
        }
        table.target(&info.path).cloned()
    }

    /// All API services as they are now.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// What discovery adds to this server's own documents; none where there are no other servers.
    pub fn view(&self) -> Option<discovery::View> {
        let services = self.table.load_full();
        (!services.has_no_remote()).then(|| discovery::View { services, known: self.discovery.known() })
    }

    /// Begins to follow the API services and everything that depends on them. Returns when those that exist are known.
    pub async fn start(
        self: &Arc<Self>,
        registry: &Arc<Registry>,
        factory: Factory,
        stop: &CancellationToken,
    ) {
        // A second start would be a programming error without effect.
        let _ = self.factory.set(factory);
        let table = registry.table();
        let Some(storage) = table.any_version(GROUP, "apiservices").and_then(|r| r.storage.clone()) else {
            return;
        };
        let (tx, synced) = tokio::sync::oneshot::channel();
        let followed = Followed { aggregator: Arc::clone(self), all: BTreeMap::new(), synced: Some(tx) };
        tokio::spawn(followed.run(storage, stop.clone()));
        // An error means that the server is being stopped.
        let _ = synced.await;
        let writer: Arc<dyn ObjectWriter> = registry.clone();
        tokio::spawn(check::run(Arc::clone(self), Arc::clone(registry), writer.clone(), stop.clone()));
        tokio::spawn(discovery::run(Arc::clone(self), stop.clone()));
        tokio::spawn(openapi::run(Arc::clone(self), stop.clone()));
        tokio::spawn(register::run(Arc::clone(registry), writer, stop.clone()));
    }

    /// Told whenever the table changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

struct Followed {
    aggregator: Arc<Aggregator>,
    all: BTreeMap<String, Arc<Service>>,
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
            Change::Set(o) => {
                let name = follow::name(storage, &o.key);
                let Some(factory) = self.aggregator.factory.get() else { return };
                match follow::decode(storage, o) {
                    Ok(v) => {
                        // A change of the status alone keeps the connections.
                        let service = Service::new(&v, self.all.get(name).map(|s| &**s), factory);
                        self.all.insert(name.to_owned(), Arc::new(service));
                    }
                    Err(e) => tracing::error!(name, error = %e, "an API service cannot be read"),
                }
            }
            Change::Gone(o) => {
                self.all.remove(follow::name(storage, &o.key));
            }
            Change::Synced => {
                let first = self.synced.take();
                self.publish();
                if let Some(tx) = first {
                    let _ = tx.send(());
                }
                return;
            }
        }
        if self.synced.is_none() {
            self.publish();
        }
    }

    fn publish(&self) {
        self.aggregator.table.store(Arc::new(Table::new(self.all.values().cloned())));
        self.aggregator.changed.send_modify(|n| *n += 1);
    }
}

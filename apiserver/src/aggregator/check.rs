//! The controller behind the condition `Available`. Each remote API service has a task that looks again when its
//! service or endpoints change, and now and then, since a network can break without any object changing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Aggregator;
use super::availability::{self, Verdict};
use super::proxy;
use super::service::{Backend, Service};
use crate::cache::Object;
use crate::follow::{self, Change, follow};
use crate::lookup::{self, ObjectWriter};
use crate::registry::Registry;
use crate::registry::storage::Storage;
use crate::status::ApiResult;
use crate::webhook::services;

/// How often a service that works is asked again.
const RESYNC: Duration = Duration::from_secs(30);
/// The first pause after a failure; it doubles up to [`RESYNC`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Requests at a time: one that succeeds is enough, so that a single bad endpoint does not count.
const ATTEMPTS: usize = 5;
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// More than any discovery document has.
const DISCOVERY_LIMIT: usize = 8 << 20;

/// Who waits for changes of which backend.
type Waiting = Arc<Mutex<HashMap<(String, String), Vec<Arc<Notify>>>>>;

struct Worker {
    generation: (String, Value),
    stop: CancellationToken,
}

/// What all workers share.
#[derive(Clone)]
struct Shared {
    aggregator: Arc<Aggregator>,
    writer: Arc<dyn ObjectWriter>,
    services: Arc<Storage>,
    slices: Arc<Storage>,
    waiting: Waiting,
}

/// Runs until `stop`.
pub async fn run(
    aggregator: Arc<Aggregator>,
    registry: Arc<Registry>,
    writer: Arc<dyn ObjectWriter>,
    stop: CancellationToken,
) {
    let table = registry.table();
    let storage = |g: &str, r: &str| table.get(g, "v1", r).and_then(|r| r.storage.clone());
    let (Some(services), Some(slices)) =
        (storage("", "services"), storage("discovery.k8s.io", "endpointslices"))
    else {
        return;
    };
    drop(table);
    let mut changed = aggregator.subscribe();
    let shared = Shared { aggregator, writer, services, slices, waiting: Waiting::default() };
    let mut workers: HashMap<String, Worker> = HashMap::new();
    let mut watching = false;
    loop {
        let table = shared.aggregator.table();
        if !watching && !table.has_no_remote() {
            watching = true;
            shared.watch(&stop);
        }
        workers.retain(|name, w| {
            let still = table.remote().any(|s| s.name == *name && s.generation == w.generation);
            if !still {
                w.stop.cancel();
                shared.aggregator.metrics.forget(name);
            }
            still
        });
        for s in table.iter() {
            match &s.backend {
                None if !s.available => {
                    if let Err(e) = shared.write(s, &Verdict::local()).await {
                        tracing::debug!(name = s.name, error = %e, "the status of an API service was not written");
                    }
                }
                Some(_) if !workers.contains_key(&s.name) => {
                    let own = stop.child_token();
                    let worker = Worker { generation: s.generation.clone(), stop: own.clone() };
                    workers.insert(s.name.clone(), worker);
                    tokio::spawn(shared.clone().work(s.name.clone(), own));
                }
                _ => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            more = changed.changed() => if more.is_err() { return },
        }
    }
}

impl Shared {
    /// Follows services and endpoint slices, to wake those who wait for them. Only names are looked at.
    fn watch(&self, stop: &CancellationToken) {
        for (storage, slices) in [(&self.services, false), (&self.slices, true)] {
            let waiting = Arc::clone(&self.waiting);
            let s = Arc::clone(storage);
            tokio::spawn(follow(Arc::clone(storage), stop.clone(), move |change| {
                let (Change::Set(o) | Change::Gone(o)) = change else { return };
                let Some(key) = backend_of(&s, o, slices) else { return };
                if let Some(list) = waiting.lock().get(&key) {
                    list.iter().for_each(|n| n.notify_one());
                }
            }));
        }
    }

    async fn work(self, name: String, stop: CancellationToken) {
        let nudge = Arc::new(Notify::new());
        let Some(backend) = self.current(&name).and_then(|s| s.backend.clone()) else { return };
        let key = (backend.namespace.clone(), backend.name.clone());
        self.waiting.lock().entry(key.clone()).or_default().push(Arc::clone(&nudge));
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(service) = self.current(&name) else { break };
            let again = match self.sync(&service, &backend).await {
                Ok(true) => {
                    pause = FIRST_PAUSE;
                    RESYNC
                }
                // Unavailable, or the status could not be written.
                Ok(false) | Err(_) => {
                    pause = (pause * 2).min(RESYNC);
                    pause
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = nudge.notified() => pause = FIRST_PAUSE,
                () = tokio::time::sleep(again) => {}
            }
        }
        let mut waiting = self.waiting.lock();
        if let Some(list) = waiting.get_mut(&key) {
            list.retain(|n| !Arc::ptr_eq(n, &nudge));
            if list.is_empty() {
                waiting.remove(&key);
            }
        }
    }

    fn current(&self, name: &str) -> Option<Arc<Service>> {
        self.aggregator.table().iter().find(|s| s.name == name).cloned()
    }

    /// Looks and writes down what is seen. Whether the service is available.
    async fn sync(&self, service: &Service, backend: &Backend) -> ApiResult<bool> {
        let verdict = self.judge(service, backend).await;
        let available = verdict.status == "True";
        self.aggregator.metrics.set(&service.name, available);
        self.write(service, &verdict).await?;
        Ok(available)
    }

    async fn judge(&self, service: &Service, b: &Backend) -> Verdict {
        let unknown = |reason: &'static str, e: String| Verdict {
            status: "Unknown",
            reason,
            message: format!("service/{} in {:?} cannot be checked due to: {e}", b.name, b.namespace),
        };
        let object = match services::get(&self.services, &b.namespace, &b.name).await {
            Ok(o) => o,
            Err(e) => return unknown("ServiceAccessError", e),
        };
        let slices = match services::of_service(&self.slices, &b.namespace, &b.name).await {
            Ok(s) => s,
            Err(e) => return unknown("EndpointsAccessError", e),
        };
        let place = (b.namespace.as_str(), b.name.as_str(), b.port);
        if let Some(v) = availability::obstacle(place, object.as_ref(), &slices) {
            return v;
        }
        match self.reachable(service, b).await {
            Ok(()) => Verdict::passed(),
            Err(e) => Verdict::failed_discovery(e),
        }
    }

    /// Asks the server for what it must serve.
    async fn reachable(&self, service: &Service, b: &Backend) -> Result<(), String> {
        let link = service.link.as_ref().map_err(Clone::clone)?;
        let address = match &link.upgrades.service {
            Some(s) => s.resolver.resolve(&b.namespace, &b.name, b.port).await?,
            None => return Err("the service is this server's own".to_owned()),
        };
        let path = service.path();
        let url = format!("https://{address}{path}");
        let once = || async {
            let sent =
                proxy::get(service, &path, &[], &["system:masters"], DISCOVERY_TIMEOUT, DISCOVERY_LIMIT)
                    .await;
            let why = match sent {
                Ok(a) if a.status().is_success() => return Ok(()),
                Ok(a) => format!("bad status from {url}: {}", a.status().as_u16()),
                Err(e) => format!("Get {url:?}: {e}"),
            };
            Err(format!("failing or missing response from {url}: {why}"))
        };
        let mut attempts: FuturesUnordered<_> = (0..ATTEMPTS).map(|_| once()).collect();
        let mut last = Ok(());
        while let Some(done) = attempts.next().await {
            if done.is_ok() {
                return Ok(());
            }
            last = done;
        }
        last
    }

    async fn write(&self, service: &Service, verdict: &Verdict) -> ApiResult<()> {
        let Some(current) = self.writer.get(lookup::API_SERVICES, "", &service.name).await? else {
            return Ok(());
        };
        if current.get("spec") != Some(&service.generation.1) {
            // Changed meanwhile: the verdict is about what was.
            return Ok(());
        }
        let now = crate::registry::object::now();
        let Some(conditions) = availability::conditions(&current, verdict, &now) else { return Ok(()) };
        let mut new = (*current).clone();
        new["status"]["conditions"] = conditions;
        self.writer.update_status(lookup::API_SERVICES, "", new).await?;
        tracing::info!(
            name = service.name,
            status = verdict.status,
            reason = verdict.reason,
            message = verdict.message,
            "changing APIService availability"
        );
        if verdict.status != "True" && service.available {
            self.aggregator.metrics.turned(&service.name, verdict.reason);
        }
        Ok(())
    }
}

/// Namespace and name of the service that an object is or belongs to.
fn backend_of(storage: &Storage, o: &Object, slice: bool) -> Option<(String, String)> {
    let (namespace, name) = follow::name(storage, &o.key).split_once('/')?;
    let name = if slice { o.labels.get(services::SERVICE_NAME)? } else { name };
    Some((namespace.to_owned(), name.to_owned()))
}

//! What every controller is given, and how its workers run.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::Informer;
use component_base::controller::queue::WorkQueue;
use component_base::serving::health::Health;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use kube::Client;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clients::Clients;
use crate::flags::Flags;
use crate::informers::{Informers, Watched};

/// Everything a controller needs from outside.
pub struct Context {
    pub clients: Clients,
    pub informers: Arc<Informers>,
    pub events: EventRecorder,
    pub flags: Arc<Flags>,
    /// Controllers that run are named in it.
    pub health: Health,
    pub stop: CancellationToken,
    metrics: Metrics,
    tasks: TaskTracker,
}

impl Context {
    pub fn new(
        clients: Clients,
        informers: Arc<Informers>,
        events: EventRecorder,
        flags: Arc<Flags>,
        metrics: Metrics,
        health: Health,
        stop: CancellationToken,
    ) -> Self {
        Self { clients, informers, events, flags, health, stop, metrics, tasks: TaskTracker::new() }
    }

    /// The CA that pods verify the API server by, PEM: of `--root-ca-file`, or the one we verify it by ourselves.
    pub fn root_ca(&self) -> anyhow::Result<String> {
        match self.flags.root_ca_file.as_deref() {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("reading --root-ca-file {}", path.display())),
            None => Ok(self.clients.server_ca()),
        }
    }

    /// The client a controller writes with, by the name of its service account.
    pub fn client(&self, controller: &str) -> anyhow::Result<Client> {
        self.clients.for_controller(controller)
    }

    /// Runs `workers` workers on `queue` once all of `synced` have their first complete state. A key whose worker
    /// fails comes back after a growing delay; workers that are in the middle of a key at the end finish it.
    pub fn work<T, F, Fut>(
        &self,
        name: &'static str,
        queue: &WorkQueue<T>,
        workers: u16,
        synced: Vec<BoxFuture<'static, ()>>,
        reconcile: F,
    ) where
        T: Clone + Eq + Hash + std::fmt::Debug + Send + Sync + 'static,
        F: Fn(T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.metrics.watch_queue(name, queue.clone());
        let reconcile: Arc<Reconcile<T>> = Arc::new(move |item| Box::pin(reconcile(item)));
        let ready = self.when_all(synced);
        for _ in 0..workers.max(1) {
            let worker = Worker {
                name,
                queue: queue.clone(),
                reconcile: reconcile.clone(),
                ready: ready.clone(),
                stop: self.stop.clone(),
            };
            self.track(Box::pin(worker.run()));
        }
    }

    /// Ends when all of `waits` have.
    fn when_all(&self, waits: Vec<BoxFuture<'static, ()>>) -> Ready {
        let all: BoxFuture<'static, ()> = Box::pin(async move {
            futures::future::join_all(waits).await;
        });
        all.shared()
    }

    /// Starts a task. Boxed, since the runtime's part of a task is compiled for each type of future.
    fn track(&self, task: BoxFuture<'static, ()>) {
        self.tasks.spawn(task);
    }

    /// The registry of the process, for what a controller measures itself.
    pub fn registry(&self) -> &component_base::metrics::Metrics {
        &self.metrics.registry
    }

    /// Runs a task until the end of the process; `task` must watch [`Context::stop`] if it writes.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.track(Box::pin(until(self.stop.clone(), Box::pin(task))));
    }

    /// Waits until all workers have ended, at most `limit`.
    pub async fn finish(&self, limit: Duration) {
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!("some workers did not end in time");
        }
    }
}

async fn until(stop: CancellationToken, task: BoxFuture<'static, ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

type Reconcile<T> = dyn Fn(T) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync;
type Ready = Shared<BoxFuture<'static, ()>>;

/// One of the workers of a queue. Knows the kind of key, but not the controller: most keys are of one type, and what
/// is generic over the controller is compiled for each.
struct Worker<T> {
    name: &'static str,
    queue: WorkQueue<T>,
    reconcile: Arc<Reconcile<T>>,
    ready: Ready,
    stop: CancellationToken,
}

impl<T: Clone + Eq + Hash + std::fmt::Debug + Send + Sync + 'static> Worker<T> {
    async fn run(self) {
        let Self { name, queue, reconcile, ready, stop } = self;
        tokio::select! {
            () = stop.cancelled() => return,
            () = ready => {}
        }
        loop {
            let item = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                item = queue.get() => item,
            };
            let Some(item) = item else { return };
            match reconcile(item.clone()).await {
                Ok(()) => queue.forget(&item),
                Err(error) => {
                    note_failure(name, &item, &error);
                    queue.add_rate_limited(item.clone());
                }
            }
            queue.done(&item);
        }
    }
}

/// Waits until an informer has seen its first complete state; for [`Context::work`].
pub fn synced<K: Watched>(informer: &Arc<Informer<K>>) -> BoxFuture<'static, ()> {
    let informer = informer.clone();
    Box::pin(async move { informer.wait_synced().await })
}

fn note_failure<T: std::fmt::Debug>(controller: &str, key: &T, error: &anyhow::Error) {
    let conflict = error
        .chain()
        .any(|e| matches!(e.downcast_ref::<kube::Error>(), Some(kube::Error::Api(s)) if s.code == 409));
    if conflict {
        // Someone else wrote first: the next try sees it.
        tracing::debug!(controller, ?key, error = format!("{error:#}"), "conflict, trying again");
    } else {
        tracing::warn!(controller, ?key, error = format!("{error:#}"), "sync failed, trying again");
    }
}

type Reader = Box<dyn Fn() -> (usize, u64) + Send + Sync>;

/// Metrics of this daemon.
#[derive(Clone)]
pub struct Metrics {
    registry: component_base::metrics::Metrics,
    queues: Arc<Mutex<Vec<(&'static str, Reader)>>>,
    leader: Family<Vec<(String, String)>, Gauge>,
}

impl Metrics {
    /// Registers into the daemon's registry.
    pub fn new(registry: &component_base::metrics::Metrics) -> Self {
        let metrics = Self { registry: registry.clone(), queues: Arc::default(), leader: Family::default() };
        let queues = Queues(metrics.queues.clone());
        let leader = metrics.leader.clone();
        registry.register(|r| {
            r.register_collector(Box::new(queues));
            r.register(
                "leader_election_master_status",
                "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master",
                leader,
            );
        });
        metrics
    }

    fn watch_queue<T: Clone + Eq + Hash + Send + Sync + 'static>(
        &self,
        name: &'static str,
        queue: WorkQueue<T>,
    ) {
        self.queues.lock().push((name, Box::new(move || (queue.len(), queue.adds()))));
    }

    /// Shows whether this instance leads.
    pub fn follow_leadership(&self, lease: String, mut leading: watch::Receiver<bool>) {
        let gauge = self.leader.get_or_create(&vec![("name".to_owned(), lease)]).clone();
        tokio::spawn(async move {
            loop {
                gauge.set(i64::from(*leading.borrow_and_update()));
                if leading.changed().await.is_err() {
                    return;
                }
            }
        });
    }
}

struct Queues(Arc<Mutex<Vec<(&'static str, Reader)>>>);

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queues")
    }
}

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let rows: Vec<(&str, usize, u64)> = self
            .0
            .lock()
            .iter()
            .map(|(name, read)| {
                let (depth, adds) = read();
                (*name, depth, adds)
            })
            .collect();
        let depth = ConstGauge::new(0i64);
        let mut family = encoder.encode_descriptor(
            "workqueue_depth",
            "Current depth of workqueue",
            None,
            depth.metric_type(),
        )?;
        for (name, depth, _) in &rows {
            ConstGauge::new(*depth as i64).encode(family.encode_family(&[("name", *name)])?)?;
        }
        let adds = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor(
            "workqueue_adds",
            "Total number of adds handled by workqueue",
            None,
            adds.metric_type(),
        )?;
        for (name, _, adds) in &rows {
            ConstCounter::new(*adds).encode(family.encode_family(&[("name", *name)])?)?;
        }
        Ok(())
    }
}

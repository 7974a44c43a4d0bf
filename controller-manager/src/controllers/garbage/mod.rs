//! Garbage collector: deletes objects whose owners are gone, in the order their deleters asked for.
//!
//! One metadata-only watch per kind that discovery finds feeds [`graph`]; what the graph wakes goes through two queues.
//! A worker that may delete something always asks the server first ([`act`]): the graph may be behind. New kinds are
//! found when a custom resource definition or an API service changes.

mod act;
mod decide;
mod graph;
mod kinds;
mod monitor;

use std::sync::Arc;
use std::time::Duration;

use component_base::controller::events::EventRecorder;
use component_base::controller::queue::WorkQueue;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::act::Absent;
use self::graph::{Graph, Uid, Wake};
use self::kinds::Kinds;
use crate::clients::Clients;
use crate::context::Context;

const NAME: &str = "generic-garbage-collector";

pub(super) struct Collector {
    clients: Clients,
    client: kube::Client,
    events: EventRecorder,
    kinds: Kinds,
    graph: Mutex<Graph>,
    absent: Mutex<Absent>,
    check: WorkQueue<Uid>,
    orphan: WorkQueue<Uid>,
    rediscover: Notify,
    stop: CancellationToken,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    if !ctx.flags.enable_garbage_collector {
        return Ok(());
    }
    let c = Arc::new(Collector {
        clients: ctx.clients.clone(),
        client: ctx.client(NAME)?,
        events: ctx.events.for_component("garbage-collector-controller"),
        kinds: Kinds::default(),
        graph: Mutex::default(),
        absent: Mutex::default(),
        check: WorkQueue::default(),
        orphan: WorkQueue::default(),
        rediscover: Notify::new(),
        stop: ctx.stop.clone(),
    });
    let synced = Arc::new(tokio::sync::Semaphore::new(0));
    let (this, ready) = (c.clone(), synced.clone());
    ctx.spawn(async move { this.watch_kinds(&ready).await });
    let wait = |synced: &Arc<tokio::sync::Semaphore>| -> Vec<futures::future::BoxFuture<'static, ()>> {
        let synced = synced.clone();
        vec![Box::pin(async move {
            // Permits are added once, when the first kinds are complete, and never taken for good.
            let _ = synced.acquire().await;
        })]
    };
    let this = c.clone();
    ctx.work(
        "garbage_collector_attempt_to_delete",
        &c.check,
        ctx.flags.concurrent_gc_syncs,
        wait(&synced),
        move |uid| {
            let c = this.clone();
            async move { c.look_at(&uid).await }
        },
    );
    let this = c.clone();
    ctx.work("garbage_collector_attempt_to_orphan", &c.orphan, 2, wait(&synced), move |uid| {
        let c = this.clone();
        async move { c.orphan_dependents(&uid).await }
    });
    Ok(())
}

impl Collector {
    fn wake(&self, wake: Wake) {
        for uid in wake.check {
            self.check.add(uid);
        }
        for uid in wake.orphan {
            self.orphan.add(uid);
        }
    }

    /// Asks for a discovery soon.
    fn rediscover(&self) {
        self.rediscover.notify_one();
    }
}

/// How long to wait after a change of API definitions until discovery shows it.
const DISCOVERY_SETTLES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(10)];

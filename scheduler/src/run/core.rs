//! The loop that owns cache and queue: applies changes, takes decisions, hands work to the background.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Client;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::api::Writer;
use super::changes::Change;
use super::extender::{self, Answer, Extender, Proposal};
use super::preemption::Refused;
use super::prepare::{Prepare, undo};
use super::{volumes, watches};
use crate::cache::Cache;
use crate::config::Configuration;
use crate::decide::{Decision, Diagnosis, Turn, compile, decide, shortlist};
use crate::dra::claims::{Shared, uid};
use crate::framework::event::ClaimChange;
use crate::framework::{Action, ClusterEvent, Cycle, Profile, Rejection, Resource};
use crate::metrics::{Attempt, CacheLabel, Incoming, Metrics, Operation, QueueLabel, RejectedBy, Tries};
use crate::model::{PodInfo, Str};
use crate::plugins::dynamic_resources::{self, ClaimPlan};
use crate::plugins::volumes::{Delayed, Plan, plan, stands};
use crate::queue::{Queue, Queued};

/// Changes that may wait to be applied.
const BACKLOG: usize = 512;
/// Bindings, patches and evictions on their way at a time.
const IN_FLIGHT: usize = 64;
/// Decisions taken before other tasks get a turn.
const BATCH: usize = 16;

/// What the background reports.
pub(super) enum Report {
    /// A binding ended; an error if it failed.
    Bound { q: Box<Queued>, node: Str, decided: Instant, result: Result<(), String> },
    /// A claim has been written for a pod on its way; its allocation was pending under that UID.
    Claim { pending: Str, claim: Shared },
    /// The extenders have answered about a pod.
    Extended { q: Box<Queued>, begun: Instant, answer: anyhow::Result<Answer> },
    /// The extenders have said whom to evict.
    Preempted { refused: Box<Refused>, answer: anyhow::Result<Vec<Proposal>> },
    /// The victims of a preemption for this pod have been evicted, or not all of them.
    Evicted { uid: Str, all: bool },
}

/// The scheduler at work.
pub struct Worker {
    pub(super) cache: Cache,
    pub(super) queue: Queue,
    pub(super) profiles: HashMap<Box<str>, Profile>,
    pub(super) writer: Option<Writer>,
    /// For watches.
    watching: Client,
    /// For all else.
    pub(super) client: Client,
    pub(super) turn: Turn<SmallRng>,
    /// UIDs of pods whose victims are being evicted: true when the pod's turn came meanwhile.
    pub(super) preempting: HashMap<Str, bool>,
    pub(super) extenders: Arc<[Extender]>,
    /// Pods that extenders are asked about, as the watch shows them.
    pub(super) asking: HashMap<Str, Arc<PodInfo>>,
    started: Instant,
    pub(super) metrics: Metrics,
    pub(super) tasks: TaskTracker,
    pub(super) slots: Arc<Semaphore>,
    pub(super) reports: (mpsc::UnboundedSender<Report>, Option<mpsc::UnboundedReceiver<Report>>),
    synced: Arc<AtomicBool>,
    unsynced: usize,
}

impl Worker {
    /// A worker with an empty cache.
    #[must_use]
    pub fn new(
        (watching, client): (Client, Client),
        profiles: Vec<Profile>,
        config: &Configuration,
        extenders: Vec<Extender>,
        metrics: Metrics,
        synced: Arc<AtomicBool>,
    ) -> Self {
        let secs = |s: Option<i64>, d: u64| Duration::from_secs(s.map_or(d, i64::unsigned_abs));
        let (tx, rx) = mpsc::unbounded_channel();
        Self {
            cache: Cache::default(),
            queue: Queue::new(
                secs(config.pod_initial_backoff_seconds, 1),
                secs(config.pod_max_backoff_seconds, 10),
            ),
            profiles: profiles.into_iter().map(|p| (p.name.as_str().into(), p)).collect(),
            writer: None,
            watching,
            client,
            turn: Turn::new(SmallRng::from_os_rng()),
            preempting: HashMap::new(),
            extenders: extenders.into(),
            asking: HashMap::new(),
            started: Instant::now(),
            metrics,
            tasks: TaskTracker::new(),
            slots: Arc::new(Semaphore::new(IN_FLIGHT)),
            reports: (tx, Some(rx)),
            synced,
            unsynced: watches::KINDS,
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Schedules until `stop`, then waits a moment for bindings under way.
    pub async fn run(mut self, stop: CancellationToken) {
        let (tx, mut changes) = mpsc::channel(BACKLOG);
        let Some(mut reports) = self.reports.1.take() else { return };
        let writer = Writer::new(self.client.clone());
        self.writer = Some(writer.clone());
        watches::start(&self.watching, &tx, &stop, &self.tasks);
        drop(tx);
        let slots = self.slots.clone();
        // Pods wait, but everything the API server may be asked at a time is under way.
        let mut blocked = false;
        loop {
            let wake = self.queue.next_wakeup().map(|t| t.saturating_sub(self.now()));
            let sleep = tokio::time::sleep(wake.unwrap_or(Duration::from_secs(3600)));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(report) = reports.recv() => self.report(report),
                change = changes.recv() => match change {
                    Some(c) => self.change(c),
                    None => break,
                },
                _ = slots.acquire(), if blocked => {}
                () = sleep => {}
            }
            loop {
                while let Ok(c) = changes.try_recv() {
                    self.change(c);
                }
                while let Ok(r) = reports.try_recv() {
                    self.report(r);
                }
                blocked = false;
                if self.unsynced > 0 || stop.is_cancelled() || !self.batch(&writer) {
                    break;
                }
                if self.slots.available_permits() == 0 {
                    blocked = true;
                    break;
                }
                tokio::task::yield_now().await;
            }
            self.update_gauges();
        }
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await;
    }

    /// Some decisions; false when the queue has run dry.
    fn batch(&mut self, writer: &Writer) -> bool {
        for _ in 0..BATCH {
            // Without a free slot a decision would only be taken earlier than its binding.
            if self.slots.available_permits() == 0 {
                break;
            }
            let Some(q) = self.queue.pop(self.now()) else { return false };
            self.schedule(q, writer);
        }
        true
    }

    fn change(&mut self, c: Change) {
        if c.is_sync() && self.unsynced > 0 {
            self.unsynced -= 1;
            if self.unsynced == 0 {
                self.synced.store(true, Ordering::Relaxed);
                let (pods, _) = self.cache.sizes();
                info!(nodes = self.cache.order().len(), pods, "caches are synced");
            }
        }
        self.apply(c);
    }

    /// Tells the queue of an event.
    pub(super) fn event(&mut self, e: &ClusterEvent<'_>) {
        let now = self.now();
        let profiles = &self.profiles;
        let n = self.queue.on_event(e, |p| profiles.get(&p.want().scheduler), &self.cache, now);
        if n > 0 {
            debug!(event = e.label(), pods = n, "pods may be schedulable now");
        }
    }

    fn schedule(&mut self, q: Queued, writer: &Writer) {
        let begun = Instant::now();
        if let Some(tried) = self.preempting.get_mut(&q.pod.uid) {
            // Half of its victims may be gone: a decision now could evict others elsewhere.
            *tried = true;
            let now = self.now();
            return self.queue.put_back(q, now);
        }
        let Some(profile) = self.profiles.get(&q.pod.want().scheduler) else { return };
        if self.extenders.iter().any(|e| e.is_interested(&q.pod)) {
            return self.ask_extenders(q, begun, writer);
        }
        let decision = decide(&self.cache, profile, &q.pod, &mut self.turn);
        self.metrics.algorithm_seconds.observe(begun.elapsed().as_secs_f64());
        match decision {
            Decision::Node { slot, evaluated, feasible } => {
                let Some(node) = self.cache.node_at(slot).map(|n| n.name.clone()) else { return };
                debug!(pod = %q.pod.key(), node = %node, evaluated, feasible, "found a node");
                self.start_binding(q, node, begun, writer);
            }
            Decision::NoNodes => {
                let by = BTreeSet::from(["NodeName", "NodeResourcesFit", "TaintToleration"]);
                self.refuse(q, by, "no nodes available to schedule pods".into(), None, begun, writer);
            }
            Decision::Unschedulable(d) => self.unschedulable(q, &d, begun, writer),
        }
    }

    /// The plugins' part of a decision; the rest comes back as a report.
    fn ask_extenders(&mut self, q: Queued, begun: Instant, writer: &Writer) {
        let Some(profile) = self.profiles.get(&q.pod.want().scheduler) else { return };
        let nodes = match shortlist(&self.cache, profile, &q.pod) {
            Ok(nodes) => nodes,
            Err(d) => return self.unschedulable(q, &d, begun, writer),
        };
        let named = |(slot, score): (usize, i64)| Some((self.cache.node_at(slot)?.name.clone(), score));
        let nodes: Vec<(Str, i64)> = nodes.into_iter().filter_map(named).collect();
        self.asking.insert(q.pod.uid.clone(), q.pod.clone());
        let (client, extenders, reports) =
            (self.client.clone(), self.extenders.clone(), self.reports.0.clone());
        self.tasks.spawn(async move {
            let answer = extender::ask(&client, &extenders, &q.pod, nodes).await;
            let _ = reports.send(Report::Extended { q: Box::new(q), begun, answer });
        });
    }

    /// Goes on with a pod when its extenders have answered.
    fn extended(&mut self, mut q: Queued, begun: Instant, answer: anyhow::Result<Answer>) {
        let Some(writer) = self.writer.clone() else { return };
        // Gone, or bound by somebody else.
        let Some(pod) = self.asking.remove(&q.pod.uid) else { return };
        q.pod = pod;
        let Some(profile) = self.profiles.get(&q.pod.want().scheduler) else { return };
        let mut answer = match answer {
            Ok(a) => a,
            Err(e) => {
                let (text, pod, now) = (format!("{e:#}"), q.pod.clone(), self.now());
                warn!(pod = %pod.key(), why = text, "an extender failed, trying again");
                self.observe_attempt(&pod.want().scheduler, "error", begun);
                self.queue.put_error(q, now);
                return self.tell_failed(&writer, pod, "SchedulerError", text, None);
            }
        };
        let mut d = Diagnosis::new(self.cache.order().len());
        for (name, reason, resolvable) in answer.refused {
            if let Some(n) = self.cache.node(&name) {
                let reasons = vec![reason.into()];
                d.refuse(n.slot, Rejection { plugin: "", reasons, resolvable, failed: false });
            }
        }
        // The cluster has moved on: the best node that still does.
        answer.nodes.sort_by_key(|n| std::cmp::Reverse(n.1));
        let compiled = compile(profile, Cycle { cache: &self.cache, pod: &q.pod });
        let node = compiled.ok().and_then(|c| {
            let mut fits = answer.nodes.iter().filter_map(|(name, _)| self.cache.node(name));
            fits.find(|n| c.check(n).is_ok()).map(|n| n.name.clone())
        });
        match node {
            Some(node) => self.start_binding(q, node, begun, &writer),
            None if answer.nodes.is_empty() => self.unschedulable(q, &d, begun, &writer),
            None => {
                let now = self.now();
                self.queue.put_error(q, now);
            }
        }
    }

    /// The attempt was void: nobody knows yet whether the pod fits somewhere.
    pub(super) fn failed(&mut self, q: Queued, text: String, begun: Instant, writer: &Writer) {
        let (pod, now) = (q.pod.clone(), self.now());
        warn!(pod = %pod.key(), why = text, "the decision failed, trying again");
        self.observe_attempt(&pod.want().scheduler, "error", begun);
        self.queue.put_error(q, now);
        self.tell_failed(writer, pod, "SchedulerError", text, None);
    }

    /// The pod stays without a node for now.
    pub(super) fn refuse(
        &mut self,
        q: Queued,
        by: BTreeSet<&'static str>,
        message: String,
        nominated: Option<Str>,
        begun: Instant,
        writer: &Writer,
    ) {
        let profile = q.pod.want().scheduler.clone();
        info!(pod = %q.pod.key(), attempts = q.attempts, why = message, "unable to schedule the pod");
        self.observe_attempt(&profile, "unschedulable", begun);
        match nominated.as_deref() {
            Some("") => self.cache.nominate(&q.pod, None),
            Some(n) => self.cache.nominate(&q.pod, Some(n.into())),
            None => {}
        }
        let pod = q.pod.clone();
        let now = self.now();
        self.queue.put_unschedulable(q, by, now);
        self.tell_failed(writer, pod, "Unschedulable", message, nominated);
    }

    fn tell_failed(
        &self,
        writer: &Writer,
        pod: Arc<PodInfo>,
        reason: &'static str,
        text: String,
        nominated: Option<Str>,
    ) {
        let (writer, slots) = (writer.clone(), self.slots.clone());
        self.tasks.spawn(async move {
            let _permit = slots.acquire_owned().await;
            writer.tell_failed(&pod, &pod.want().scheduler, reason, &text, nominated).await;
        });
    }

    fn start_binding(&mut self, q: Queued, node: Str, decided: Instant, writer: &Writer) {
        let profile = self.profiles.get(&q.pod.want().scheduler);
        let timeout = profile.map_or(Duration::from_secs(600), |p| p.bind_timeout);
        let device_timeout = profile.map_or(timeout, |p| p.device_timeout);
        let claims = match self.claim_plans(&q.pod, &node) {
            Ok(c) => c,
            Err(text) => return self.failed(q, text, decided, writer),
        };
        let plans = self.volume_plans(&q.pod, &node);
        for c in &claims {
            if let Some(a) = &c.allocation {
                self.cache.dra.claims.reserve(&uid(&c.claim).into(), a.clone());
            }
        }
        for p in &plans {
            if let Plan::Bind { volume, claim, .. } = p {
                self.cache.storage.promised.insert(volume.clone(), claim.clone());
            }
        }
        let mut assumed = (*q.pod).clone();
        assumed.node = Some(node.clone());
        assumed.want = None;
        self.cache.nominate(&q.pod, None);
        self.cache.assume(Arc::new(assumed));
        let (writer, slots, reports) = (writer.clone(), self.slots.clone(), self.reports.0.clone());
        let (extenders, metrics) = (self.extenders.clone(), self.metrics.clone());
        self.tasks.spawn(async move {
            let permit = slots.acquire_owned().await;
            let mut result = Ok(());
            let mut reserved = Vec::new();
            if !plans.is_empty() || !claims.is_empty() {
                // Provisioning can take minutes: it must not hold a slot.
                drop(permit);
                // Others, such as a node autoscaler, see where the pod is expected (KEP-5278).
                writer.nominate(&q.pod, &node).await;
            }
            if !plans.is_empty() {
                result = volumes::bind(&writer.client, &plans, &node, timeout).await;
            }
            if result.is_ok() && !claims.is_empty() {
                let written = |pending: &str, claim: Shared| {
                    let _ = reports.send(Report::Claim { pending: pending.into(), claim });
                };
                let (pod, timeout) = (&q.pod, device_timeout);
                let to = Prepare { writer: &writer, metrics: &metrics, pod, node: &node, timeout };
                result = to
                    .claims(&claims, &mut reserved, written)
                    .await
                    .map_err(|e| format!("running PreBind plugin \"DynamicResources\": {e}"));
            }
            if result.is_ok() {
                result = bind(&writer, &extenders, &q.pod, &node)
                    .await
                    .map_err(|e| format!("binding pod {} to node {node}: {e:#}", q.pod.key()));
            }
            if result.is_ok() {
                writer.tell_scheduled(&q.pod, &node, &q.pod.want().scheduler);
            } else {
                undo(&writer, &q.pod, &reserved).await;
            }
            let _ = reports.send(Report::Bound { q: Box::new(q), node, decided, result });
        });
    }

    fn claim_plans(&self, pod: &PodInfo, node: &str) -> Result<Vec<ClaimPlan>, String> {
        self.cache.node(node).map_or(Ok(Vec::new()), |n| dynamic_resources::plan(&self.cache, pod, n))
    }

    fn volume_plans(&self, pod: &PodInfo, node: &str) -> Vec<Plan> {
        let storage = &self.cache.storage;
        let Ok(stands) = stands(storage, pod) else { return Vec::new() };
        let delayed = Delayed::all(storage, &stands);
        self.cache.node(node).and_then(|n| plan(storage, &delayed, n).ok()).unwrap_or_default()
    }

    fn report(&mut self, r: Report) {
        let (q, node, decided, result) = match r {
            Report::Bound { q, node, decided, result } => (q, node, decided, result),
            Report::Claim { pending, claim } => {
                self.claim_set(claim);
                self.cache.dra.claims.release(&pending);
                return;
            }
            Report::Evicted { uid, all } => return self.evicted(&uid, all),
            Report::Extended { q, begun, answer } => return self.extended(*q, begun, answer),
            Report::Preempted { refused, answer } => return self.preempted(*refused, answer),
        };
        let profile = q.pod.want().scheduler.clone();
        let claims: Vec<(Str, Str)> =
            q.pod.claims().map(|(n, _)| (q.pod.namespace.clone(), n.clone())).collect();
        self.cache.storage.promised.retain(|_, c| !claims.contains(c));
        self.release_claims(&q.pod);
        match result {
            Ok(()) => {
                info!(pod = %q.pod.key(), node = %node, attempts = q.attempts, "successfully bound pod to node");
                self.observe_attempt(&profile, "scheduled", decided);
                self.metrics.pod_attempts.observe(f64::from(q.attempts));
                let tries = Tries { attempts: q.attempts.min(15).to_string() };
                let waited = self.now().saturating_sub(q.first).as_secs_f64();
                self.metrics.sli_seconds.get_or_create(&tries).observe(waited);
            }
            Err(message) => {
                self.observe_attempt(&profile, "error", decided);
                if !self.cache.is_assumed(&q.pod.uid) {
                    // The watch has shown the pod on a node, or gone: nothing to try again.
                    debug!(pod = %q.pod.key(), why = message, "binding failed, but the pod is settled");
                    return;
                }
                warn!(pod = %q.pod.key(), why = message, "binding failed, trying again");
                let gone = self.cache.pod(&q.pod.uid).cloned();
                self.cache.forget(&q.pod.uid);
                let pod = q.pod.clone();
                let now = self.now();
                self.queue.put_error(*q, now);
                if let Some(p) = gone {
                    let e = ClusterEvent::pod(Resource::AssignedPod, Action::DELETE, &p);
                    self.event(&e);
                }
                if let Some(writer) = self.writer.clone() {
                    self.tell_failed(&writer, pod, "SchedulerError", message, None);
                }
            }
        }
    }

    /// Allocations for a pod that have not been written never will be.
    fn release_claims(&mut self, pod: &PodInfo) {
        for name in pod.want().resource_claims.iter().filter_map(|r| r.claim()) {
            let claims = &mut self.cache.dra.claims;
            let Some(c) = claims.get(&pod.namespace, name).cloned() else { continue };
            if claims.release(uid(&c)) {
                self.freed(&c);
            }
        }
        if self.cache.dra.claims.release(&pod.uid) {
            self.freed(&ResourceClaim::default());
        }
    }

    /// What a claim had, or was about to get, is free again.
    pub(super) fn freed(&mut self, c: &ResourceClaim) {
        let (mut had, mut has) = (c.clone(), c.clone());
        had.status.get_or_insert_default().allocation.get_or_insert_default();
        has.status.get_or_insert_default().allocation = None;
        self.event(&ClusterEvent::claim(ClaimChange { old: Some(&had), new: &has }));
    }

    fn observe_attempt(&self, profile: &str, result: &'static str, begun: Instant) {
        let label = Attempt { profile: profile.to_owned(), result };
        self.metrics.attempts.get_or_create(&label).inc();
        self.metrics.attempt_seconds.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
    }

    fn update_gauges(&mut self) {
        for ((event, queue), n) in self.queue.take_moves() {
            self.metrics.incoming.get_or_create(&Incoming { queue, event }).inc_by(n);
        }
        for ((profile, plugin), n) in self.queue.rejections() {
            let label = RejectedBy { plugin, profile: profile.to_string() };
            self.metrics.unschedulable.get_or_create(&label).set(*n);
        }
        let bindings = IN_FLIGHT.saturating_sub(self.slots.available_permits());
        self.metrics.tasks.get_or_create(&Operation { operation: "binding" }).set(bindings as i64);
        let s = self.queue.sizes();
        let queues = [
            ("active", s.active),
            ("backoff", s.backoff),
            ("unschedulable", s.unschedulable),
            ("gated", s.gated),
        ];
        for (queue, n) in queues {
            self.metrics.pending.get_or_create(&QueueLabel { queue }).set(n as i64);
        }
        let (pods, assumed) = self.cache.sizes();
        for (kind, n) in [("nodes", self.cache.order().len()), ("pods", pods), ("assumed_pods", assumed)] {
            self.metrics.cache_size.get_or_create(&CacheLabel { r#type: kind }).set(n as i64);
        }
    }
}

/// Binds a pod: by the extender that binds pods like it, or else directly.
async fn bind(writer: &Writer, extenders: &[Extender], pod: &PodInfo, node: &str) -> anyhow::Result<()> {
    let binder = extenders.iter().find(|e| e.binds() && e.is_interested(pod));
    if let Some(e) = binder
        && e.bind(pod, node).await?.is_some()
    {
        return Ok(());
    }
    Ok(writer.bind(pod, node).await?)
}

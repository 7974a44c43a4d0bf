//! One pod's worker: observes the runtime, asks the state machine, publishes the status, carries actions out.
//! Operations run beside the loop, so that a deletion is never held up by an image pull.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::task::{AbortHandle, JoinSet};

use super::{
    allocation::Trigger,
    gate::Gate,
    machine::{self, Action, Decision, Inputs, KillReason, Memory, Op, Stage, StartError, Stop},
    ops, resize, sandbox,
    shared::PodShared,
    spec,
};
use crate::{
    context::Context,
    cri::observe::Observer,
    events::{NORMAL, WARNING},
    image::puller::Failure,
    probe::Probers,
    status::generate::{self, Facts},
    volume::{PodDirs, setup::MountedVolumes},
};

#[path = "worker_upkeep.rs"]
mod upkeep;

enum Done {
    Volumes(Result<MountedVolumes, String>),
    Sandbox(Result<String, ops::NoSandbox>),
    Start(String, Result<String, Failure>),
    Kill { id: String, restart: bool },
    StopSandbox(Result<(), String>),
    Removed,
    Resized { plan: resize::Plan, took: Duration, result: Result<(), String> },
    Cleanup(Result<(), String>),
    Unprepared(Result<(), String>),
    Deleted(bool),
}

pub(super) struct Worker {
    ctx: Arc<Context>,
    shared: Arc<PodShared>,
    observer: Observer,
    memory: Memory,
    volumes: Arc<MountedVolumes>,
    volume_state: Arc<tokio::sync::Mutex<ops::VolumeState>>,
    volume_error: Option<String>,
    probers: Probers,
    ops: JoinSet<(Op, Done)>,
    handles: HashMap<Op, AbortHandle>,
    /// Of the starts under way, by container.
    gates: HashMap<String, Arc<Gate>>,
    last_status: Option<PodStatus>,
    sandbox_failures: u32,
    cleaned: bool,
    born: std::time::Instant,
    cleanup_retry: Option<Timestamp>,
    deleting: bool,
    started: Option<Timestamp>,
    /// The pod's cgroup may not have the limits of what is allocated.
    cgroup_due: bool,
    /// A resize that failed, and when to try it again.
    resize_failure: Option<(resize::Plan, Timestamp)>,
}

impl Worker {
    /// `rejected`: the node cannot run the pod; it fails with this reason and message.
    pub fn new(ctx: Arc<Context>, shared: Arc<PodShared>, rejected: Option<(String, String)>) -> Self {
        let max = ctx
            .config
            .crash_loop_back_off
            .max_container_restart_period
            .map_or(Duration::from_secs(300), |d| d.0);
        let mut memory = Memory::new(max);
        if rejected.is_some() {
            memory.stop = Some(Stop { at: Timestamp::now(), grace: 0, failure: rejected });
        }
        let cgroup_due = ctx.allocations.conditions(&shared.uid).in_progress.is_some();
        Self {
            ctx,
            shared,
            observer: Observer::default(),
            memory,
            volumes: Arc::default(),
            volume_state: Arc::default(),
            volume_error: None,
            probers: Probers::default(),
            ops: JoinSet::new(),
            handles: HashMap::new(),
            gates: HashMap::new(),
            last_status: None,
            sandbox_failures: 0,
            cleaned: false,
            born: std::time::Instant::now(),
            cleanup_retry: None,
            deleting: false,
            started: None,
            cgroup_due,
            resize_failure: None,
        }
    }

    /// Runs until the pod is gone from its source and from the runtime.
    pub async fn run(mut self) {
        loop {
            let observed = self.observe().await;
            let pod = self.shared.pod();
            self.consider_stop(&pod);
            let wake_at =
                if observed { self.step(&pod) } else { Some(Timestamp::now() + Duration::from_secs(1)) };
            if self.shared.is_removed() && self.cleaned && self.ops.is_empty() {
                break;
            }
            self.wait(wake_at).await;
        }
        self.erase().await;
    }

    async fn observe(&mut self) -> bool {
        if !self.shared.take_runtime_dirty() {
            return true;
        }
        match self.observer.observe(&self.ctx.cri, &self.shared.uid).await {
            Ok(view) => {
                *self.shared.runtime.write() = Arc::new(view);
                true
            }
            Err(e) => {
                tracing::warn!(pod = spec::key(&self.shared.pod()), error = %e, "cannot read the pod's state from the runtime");
                self.shared.mark_runtime_dirty();
                false
            }
        }
    }

    /// Deletion, removal from the source, and a terminal phase all stop the pod.
    fn consider_stop(&mut self, pod: &Pod) {
        let deleted = pod.metadata.deletion_timestamp.is_some();
        let terminal = spec::is_terminal_phase(spec::phase(pod.status.as_ref()));
        let wanted = if deleted || self.shared.is_removed() {
            // A grace of zero would skip the signal: one second is upstream's least.
            Some(spec::grace_period(pod).max(1))
        } else if terminal {
            Some(spec::spec(pod).termination_grace_period_seconds.unwrap_or(30))
        } else {
            None
        };
        if self.memory.stop.is_none()
            && let Some(failure) = self.shared.eviction()
        {
            // A hard limit leaves no time: one second is the least.
            self.stop(wanted.unwrap_or(1).min(1), Some(failure));
            return;
        }
        let Some(grace) = wanted else { return };
        match &mut self.memory.stop {
            None => self.stop(grace, None),
            Some(stop) if grace < stop.grace => {
                // A later deletion may only shorten the grace period: stop again with what is left.
                stop.grace = grace;
                stop.at = stop.at.max(Timestamp::now());
                self.abort(|op| matches!(op, Op::Kill(_)));
            }
            Some(_) => {}
        }
    }

    fn stop(&mut self, grace: i64, failure: Option<(String, String)>) {
        self.memory.stop = Some(Stop { at: Timestamp::now(), grace, failure });
        // A sandbox under way is waited for: half of one would be left behind.
        let gates = std::mem::take(&mut self.gates);
        self.abort(|op| match op {
            Op::Volumes | Op::Kill(_) => true,
            Op::Start(name) => gates.get(name).is_none_or(|gate| gate.call_off()),
            _ => false,
        });
        self.shared.wake_runtime();
    }

    fn abort(&mut self, which: impl Fn(&Op) -> bool) {
        let chosen: Vec<Op> = self.handles.keys().filter(|op| which(op)).cloned().collect();
        for op in chosen {
            if let Some(handle) = self.handles.remove(&op) {
                handle.abort();
            }
            self.memory.inflight.remove(&op);
        }
    }

    /// One decision carried out; returns when to look again.
    fn step(&mut self, pod: &Arc<Pod>) -> Option<Timestamp> {
        let now = Timestamp::now();
        let runtime = self.shared.runtime.read().clone();
        self.started = self.started.or_else(|| {
            let known = self.last_status.as_ref().or(pod.status.as_ref());
            known.and_then(|s| s.start_time.as_ref()).map(|t| t.0)
        });
        if self.shared.take_volumes_dirty() && self.memory.stop.is_none() {
            self.memory.start_errors.retain(|_, e| e.reason != "CreateContainerConfigError");
            self.memory.volumes_retry_at = None;
            if self.memory.volumes_ready {
                self.spawn_volumes(pod);
            }
        }
        let probes = self.shared.probes.lock().clone();
        let mut decision = machine::decide(&Inputs {
            pod,
            runtime: &runtime,
            probes: &probes,
            memory: &self.memory,
            started: self.started,
            now,
        });
        if let Some(failure) = decision.finish.take() {
            let grace = spec::spec(pod).termination_grace_period_seconds.unwrap_or(30);
            if let Some((reason, message)) = &failure {
                self.ctx.recorder.pod(pod, NORMAL, reason, message.clone());
            }
            self.stop(grace, failure);
            return Some(now);
        }
        if self.memory.stop.is_none()
            && let Some(at) = self.resize(pod, &runtime, now)
        {
            decision.wake_at = Some(decision.wake_at.map_or(at, |w| w.min(at)));
        }
        self.probers.sync(&self.ctx, &self.shared, pod, &runtime, self.memory.stop.is_some());
        let mut devices_back = None;
        if decision.stage == Stage::Stopped && self.ctx.dra.uses(&self.shared.uid) {
            // A pod that has ended gives its devices to others: their drivers must have them back before.
            decision.stage = Stage::Stopping;
            devices_back = self.unprepare(now);
        }
        self.publish(pod, &decision, now);
        for action in std::mem::take(&mut decision.actions) {
            self.act(pod, action);
        }
        let mut wake = decision.wake_at.into_iter().chain(devices_back).min();
        match decision.stage {
            Stage::Active => {
                self.collect_dead(&runtime);
                if let Some(at) = self.token_refresh(pod, now) {
                    wake = Some(wake.map_or(at, |w| w.min(at)));
                }
            }
            Stage::Stopping => {}
            Stage::Stopped => {
                if let Some(at) = self.finish(pod, now) {
                    wake = Some(wake.map_or(at, |w| w.min(at)));
                }
            }
        }
        wake
    }

    fn publish(&mut self, pod: &Arc<Pod>, decision: &Decision, now: Timestamp) {
        let mut waiting: BTreeMap<String, (String, String)> = self
            .memory
            .start_errors
            .iter()
            .map(|(name, e)| (name.clone(), (e.reason.clone(), e.message.clone())))
            .collect();
        waiting.extend(decision.waiting.clone());
        for (name, (reason, message)) in &decision.waiting {
            let known = self.last_waiting(name);
            if known.as_deref() != Some(reason) {
                self.ctx.recorder.container(
                    pod,
                    name,
                    WARNING,
                    "BackOff",
                    back_off_event(pod, name, message),
                );
            }
        }
        let runtime = self.shared.runtime.read().clone();
        let probes = self.shared.probes.lock().clone();
        let failure = self.memory.stop.as_ref().and_then(|s| s.failure.as_ref());
        let status = generate::generate(&Facts {
            pod,
            old: self.last_status.as_ref(),
            runtime: &runtime,
            probes: &probes,
            waiting: &waiting,
            ended: decision.stage == Stage::Stopped,
            failure,
            actuated: self.ctx.allocations.actuated(&self.shared.uid).as_ref(),
            resize: &self.ctx.allocations.conditions(&self.shared.uid),
            runtime_name: &self.ctx.runtime_name,
            host_ips: &self.ctx.node_ips,
            now,
        });
        if self.last_status.as_ref() == Some(&status) {
            return;
        }
        if status.phase.as_deref() == Some("Running") && spec::phase(self.last_status.as_ref()) == "Pending" {
            self.ctx.metrics.pod_started(self.born.elapsed());
        }
        // A worker that has just started knows what the API has.
        if let Some(old) = self.last_status.as_ref().or(pod.status.as_ref()) {
            self.ctx.metrics.status_changed(old, &status);
        }
        let over = spec::is_terminal_phase(spec::phase(Some(&status)));
        *self.shared.status.write() = Some(status.clone());
        if over && !spec::is_terminal_phase(spec::phase(self.last_status.as_ref())) {
            self.ctx.allocations.ring(Trigger::PodTerminated);
        }
        self.last_status = Some(status.clone());
        if !self.shared.is_removed() {
            self.ctx.status.update(pod, status);
        }
    }

    fn last_waiting(&self, name: &str) -> Option<String> {
        let s = self.last_status.as_ref()?;
        let all = s.container_statuses.iter().chain(&s.init_container_statuses).flatten();
        all.into_iter().find(|c| c.name == name)?.state.as_ref()?.waiting.as_ref()?.reason.clone()
    }

    fn spawn<F>(&mut self, op: Op, task: F)
    where
        F: Future<Output = Done> + Send + 'static,
    {
        let key = op.clone();
        let handle = self.ops.spawn(async move { (key, task.await) });
        self.memory.inflight.insert(op.clone());
        self.handles.insert(op, handle);
    }

    fn spawn_volumes(&mut self, pod: &Arc<Pod>) {
        let (ctx, pod, state) = (self.ctx.clone(), pod.clone(), self.volume_state.clone());
        let ips = self.shared.runtime.read().ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default();
        if self.memory.inflight.contains(&Op::Volumes) {
            // Under way: look again when it is done.
            self.shared.wake_volumes();
            return;
        }
        self.spawn(
            Op::Volumes,
            async move { Done::Volumes(ops::mount_volumes(&ctx, &pod, &state, ips).await) },
        );
    }

    fn act(&mut self, pod: &Arc<Pod>, action: Action) {
        let (ctx, pod) = (self.ctx.clone(), pod.clone());
        match action {
            Action::MountVolumes => self.spawn_volumes(&pod),
            Action::CreateSandbox { attempt } => {
                if let Some(problem) = ctx.machine.network_problem()
                    && !spec::host_network(&pod)
                {
                    ctx.recorder.pod(
                        &pod,
                        WARNING,
                        "NetworkNotReady",
                        format!("network is not ready: {problem}"),
                    );
                    self.memory.sandbox_retry_at = Some(Timestamp::now() + Duration::from_secs(1));
                    self.shared.wake();
                    return;
                }
                if attempt > 0 {
                    let message = "Pod sandbox changed, it will be killed and re-created.";
                    ctx.recorder.pod(&pod, NORMAL, "SandboxChanged", message);
                }
                self.ctx.allocations.actuate(&self.shared.uid, |known| {
                    known.pod = spec::spec(&pod).resources.clone();
                });
                self.spawn(Op::Sandbox, async move {
                    Done::Sandbox(ops::create_sandbox(&ctx, &pod, attempt).await)
                });
            }
            Action::Start { name, role, restart_count, sandbox, after } => {
                let now = Timestamp::now();
                if let Some(ended) = after {
                    self.memory.restarts.next(&name, ended, now);
                }
                if let Some((_, c)) =
                    spec::find_container(&pod, &name).filter(|_| role != spec::Role::Ephemeral)
                {
                    let resources = c.resources.clone().unwrap_or_default();
                    self.ctx.allocations.starting(&self.shared.uid, &name, &resources);
                }
                let gate = Arc::new(Gate::default());
                self.gates.insert(name.clone(), gate.clone());
                let start = ops::Start {
                    pod,
                    name: name.clone(),
                    role,
                    restart_count,
                    sandbox,
                    runtime: self.shared.runtime.read().clone(),
                    volumes: self.volumes.clone(),
                    gate,
                };
                self.spawn(Op::Start(name.clone()), async move {
                    let result = ops::start_container(&ctx, &start).await;
                    Done::Start(name, result)
                });
            }
            Action::Kill { id, name, message, reason, grace, restart } => {
                let message = kill_message(&name, &message, reason);
                self.spawn(Op::Kill(id.clone()), async move {
                    ops::kill_container(&ctx, &pod, &id, &name, &message, grace).await;
                    Done::Kill { id, restart }
                });
            }
            Action::StopSandbox { id } => {
                self.spawn(Op::StopSandbox(id.clone()), async move {
                    Done::StopSandbox(ctx.cri.stop_sandbox(&id).await.map_err(|e| e.to_string()))
                });
            }
        }
    }

    /// Renews tokens that are due; returns when the next one is.
    fn token_refresh(&mut self, pod: &Arc<Pod>, now: Timestamp) -> Option<Timestamp> {
        if !self.memory.volumes_ready || self.memory.inflight.contains(&Op::Volumes) {
            return None;
        }
        let next = self.volume_state.try_lock().ok()?.tokens.next_refresh()?;
        if next <= now {
            self.spawn_volumes(pod);
            return None;
        }
        Some(next)
    }

    /// Whether a clean-up may begin; otherwise when to ask again, if not when the one under way ends.
    fn may_clean_up(&self, now: Timestamp) -> Result<(), Option<Timestamp>> {
        match self.cleanup_retry {
            Some(at) if at > now => Err(Some(at)),
            _ if self.memory.inflight.contains(&Op::Cleanup) => Err(None),
            _ => Ok(()),
        }
    }

    /// Gives the pod's devices back.
    fn unprepare(&mut self, now: Timestamp) -> Option<Timestamp> {
        if let Err(wait) = self.may_clean_up(now) {
            return wait;
        }
        let (ctx, uid) = (self.ctx.clone(), self.shared.uid.clone());
        self.spawn(Op::Cleanup, async move {
            let begun = std::time::Instant::now();
            let result = ctx.dra.unprepare(&uid).await;
            ctx.metrics.devices("UnprepareResources", begun.elapsed(), result.is_err());
            Done::Unprepared(result)
        });
        None
    }

    /// Everything has stopped: volumes and cgroup go, then the API object if its deletion was asked for.
    fn finish(&mut self, pod: &Arc<Pod>, now: Timestamp) -> Option<Timestamp> {
        if !self.cleaned {
            if let Err(wait) = self.may_clean_up(now) {
                return wait;
            }
            let (ctx, uid) = (self.ctx.clone(), self.shared.uid.clone());
            self.spawn(Op::Cleanup, async move {
                let dirs = PodDirs::new(&ctx.root_dir, &uid);
                if let Err(e) = crate::volume::setup::tear_down(&ctx.csi, dirs).await {
                    return Done::Cleanup(Err(e));
                }
                let work = tokio::task::spawn_blocking(move || ctx.cgroups.remove_pod(&uid));
                Done::Cleanup(match work.await {
                    Ok(result) => result.map_err(|e| e.to_string()),
                    Err(e) => Err(e.to_string()),
                })
            });
            return None;
        }
        if pod.metadata.deletion_timestamp.is_some()
            && !self.shared.is_removed()
            && !self.deleting
            && !spec::is_static(pod)
        {
            self.deleting = true;
            let (ctx, pod) = (self.ctx.clone(), pod.clone());
            self.spawn(Op::Cleanup, async move { Done::Deleted(ctx.status.finish_deletion(&pod).await) });
        }
        None
    }

    async fn wait(&mut self, wake_at: Option<Timestamp>) {
        let now = Timestamp::now();
        let timeout =
            wake_at.map_or(self.ctx.config.sync_frequency.0.max(Duration::from_secs(10)) * 5, |at| {
                if at <= now { Duration::ZERO } else { at.duration_since(now).unsigned_abs() }
            });
        tokio::select! {
            () = self.shared.rung() => {}
            Some(result) = self.ops.join_next() => match result {
                Ok((op, done)) => self.done(op, done),
                // Aborted on purpose; what it did shows in the runtime.
                Err(_) => self.shared.wake_runtime(),
            },
            () = tokio::time::sleep(timeout) => {}
        }
    }

    fn done(&mut self, op: Op, done: Done) {
        self.memory.inflight.remove(&op);
        self.handles.remove(&op);
        let now = Timestamp::now();
        let pod = self.shared.pod();
        match done {
            Done::Volumes(Ok(volumes)) => {
                self.volumes = Arc::new(volumes);
                self.memory.volumes_ready = true;
                self.memory.volumes_retry_at = None;
                self.volume_error = None;
                self.shared.wake();
            }
            Done::Volumes(Err(e)) => {
                tracing::warn!(pod = spec::key(&pod), error = e, "cannot set up volumes");
                self.ctx.recorder.pod(&pod, WARNING, "FailedMount", e.clone());
                self.memory.volumes_retry_at =
                    Some(now + Duration::from_secs(if self.volume_error.is_some() { 5 } else { 1 }));
                self.volume_error = Some(e);
                self.shared.wake();
            }
            Done::Sandbox(result) => {
                match result {
                    Ok(_) => self.sandbox_failures = 0,
                    Err(e) => {
                        let (reason, text) = match e {
                            ops::NoSandbox::Devices(e) => (
                                "FailedPrepareDynamicResources",
                                format!("Failed to prepare dynamic resources: {e}"),
                            ),
                            ops::NoSandbox::Other(e) => {
                                ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {e}"))
                            }
                        };
                        tracing::warn!(pod = spec::key(&pod), error = text, "cannot create the pod sandbox");
                        self.ctx.recorder.pod(&pod, WARNING, reason, text);
                        let delay = Duration::from_secs(1 << self.sandbox_failures.min(4));
                        self.sandbox_failures += 1;
                        self.memory.sandbox_retry_at = Some(now + delay);
                    }
                }
                self.shared.wake_runtime();
            }
            Done::Start(name, result) => {
                self.gates.remove(&name);
                match result {
                    Ok(_) => {
                        self.memory.start_errors.remove(&name);
                    }
                    Err(f) => self.start_failed(&pod, name, f, now),
                }
                self.shared.wake_runtime();
            }
            Done::Kill { id, restart } => {
                if restart {
                    self.memory.force_restart.insert(id);
                }
                self.shared.wake_runtime();
            }
            Done::StopSandbox(result) => {
                if let Err(e) = result {
                    tracing::warn!(pod = spec::key(&pod), error = e, "cannot stop the pod sandbox");
                }
                self.shared.wake_runtime();
            }
            Done::Removed => self.shared.wake_runtime(),
            Done::Resized { plan, took, result } => self.resized(&pod, plan, took, result, now),
            Done::Cleanup(Ok(())) => {
                self.cleaned = true;
                self.ctx.objects.release(&self.shared.uid);
                // One more look: a start that was aborted may have come through after all.
                self.shared.wake_runtime();
            }
            Done::Cleanup(Err(e)) => {
                tracing::warn!(
                    pod = spec::key(&pod),
                    error = e,
                    "cannot clean up after the pod, trying again"
                );
                self.cleanup_retry = Some(now + Duration::from_secs(2));
                self.shared.wake();
            }
            Done::Unprepared(Ok(())) => self.shared.wake(),
            Done::Unprepared(Err(e)) => {
                tracing::warn!(pod = spec::key(&pod), error = e, "cannot give devices back, trying again");
                self.cleanup_retry = Some(now + Duration::from_secs(2));
                self.shared.wake();
            }
            Done::Deleted(gone) => {
                self.deleting = gone;
                if !gone {
                    self.cleanup_retry = Some(now + Duration::from_secs(2));
                }
                self.shared.wake();
            }
        }
    }

    fn start_failed(&mut self, pod: &Pod, name: String, f: Failure, now: Timestamp) {
        tracing::warn!(
            pod = spec::key(pod),
            container = name,
            reason = f.reason,
            message = f.message,
            "cannot start a container"
        );
        let image = spec::find_container(pod, &name).and_then(|(_, c)| c.image.clone()).unwrap_or_default();
        let retry_at = match f.reason {
            // Upstream shows the error first, then that it backs off.
            "ErrImagePull" => now + Duration::from_secs(3),
            "ImagePullBackOff" => {
                self.ctx.images.retry_at(pod, &image, now).unwrap_or(now + Duration::from_secs(10))
            }
            "PostStartHookError" => now,
            "RunContainerError" => now + Duration::from_secs(1),
            _ => now + Duration::from_secs(10),
        };
        self.memory
            .start_errors
            .insert(name, StartError { reason: f.reason.to_owned(), message: f.message, retry_at });
    }

    /// The pod is gone: nothing of it stays on the node.
    async fn erase(&mut self) {
        let pod = self.shared.pod();
        self.ctx.objects.release(&self.shared.uid);
        self.ctx.images.forget(&self.shared.uid);
        super::orphans::remove_from_runtime(&self.ctx, &self.shared.uid).await;
        let logs = sandbox::log_directory(std::path::Path::new(&self.ctx.config.pod_logs_dir), &pod);
        if let Err(e) = std::fs::remove_dir_all(&logs)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %logs.display(), error = %e, "cannot remove a pod's logs");
        }
        self.ctx.status.forget(&self.shared.uid);
        tracing::debug!(pod = spec::key(&pod), uid = self.shared.uid, "pod is gone");
    }
}

fn kill_message(name: &str, message: &str, reason: KillReason) -> String {
    if reason == KillReason::PodStopped { format!("Stopping container {name}") } else { message.to_owned() }
}

fn back_off_event(pod: &Pod, name: &str, _message: &str) -> String {
    format!("Back-off restarting failed container {name} in pod {}", spec::full_name(pod))
}

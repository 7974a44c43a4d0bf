//! The pod lifecycle as a pure function: what the pod should be, what the runtime shows, what probes say and
//! what is under way go in; the next actions come out. It never does I/O and never reads a clock, so every
//! situation is a unit test. The worker carries actions out and calls again after each change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as SpecContainer, Pod, PodSpec};

use super::{backoff::Backoff, spec, spec::Role};
use crate::cri::{Container, ContainerState, PodRuntime, Sandbox};

/// Latest probe results of one container instance; `None` means no result yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeState {
    pub startup: Option<bool>,
    pub readiness: Option<bool>,
    pub liveness: Option<bool>,
}

/// Something under way. At most one operation per key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Volumes,
    Sandbox,
    Start(String),
    Kill(String),
    StopSandbox(String),
    Remove(String),
    Resize,
    Cleanup,
}

/// Why and until when the pod is being stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct Stop {
    pub at: Timestamp,
    pub grace: i64,
    /// Set where the kubelet itself ends the pod: reason and message of phase Failed.
    pub failure: Option<(String, String)>,
}

/// What the worker remembers of a pod between calls.
#[derive(Clone, Debug)]
pub struct Memory {
    pub volumes_ready: bool,
    pub volumes_retry_at: Option<Timestamp>,
    pub sandbox_retry_at: Option<Timestamp>,
    pub inflight: HashSet<Op>,
    pub restarts: Backoff,
    /// Last failed start per container: waiting reason, message, when to try again.
    pub start_errors: HashMap<String, StartError>,
    /// Containers killed by us that start again whatever the restart policy says.
    pub force_restart: HashSet<String>,
    pub stop: Option<Stop>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StartError {
    pub reason: String,
    pub message: String,
    pub retry_at: Timestamp,
}

impl Memory {
    pub fn new(max_restart_delay: Duration) -> Self {
        Self {
            volumes_ready: false,
            volumes_retry_at: None,
            sandbox_retry_at: None,
            inflight: HashSet::new(),
            restarts: Backoff::new(Duration::from_secs(10), max_restart_delay),
            start_errors: HashMap::new(),
            force_restart: HashSet::new(),
            stop: None,
        }
    }

    fn busy(&self, op: &Op) -> bool {
        self.inflight.contains(op)
    }

    fn starting(&self) -> bool {
        self.inflight.iter().any(|op| matches!(op, Op::Start(_)))
    }
}

/// Input of [`decide`].
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub runtime: &'a PodRuntime,
    pub probes: &'a HashMap<String, ProbeState>,
    pub memory: &'a Memory,
    /// When the pod's active deadline began to count.
    pub started: Option<Timestamp>,
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    MountVolumes,
    CreateSandbox { attempt: u32 },
    Start { name: String, role: Role, restart_count: u32, sandbox: String, after: Option<Timestamp> },
    Kill { id: String, name: String, message: String, reason: KillReason, grace: i64, restart: bool },
    StopSandbox { id: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    PodStopped,
    SandboxChanged,
    SpecChanged,
    Liveness,
    Startup,
    Unknown,
}

/// How far the pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stage {
    #[default]
    Active,
    /// Containers or the sandbox are still being stopped.
    Stopping,
    /// Nothing runs any more, and nothing will.
    Stopped,
}

/// Output of [`decide`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    pub actions: Vec<Action>,
    /// Call again at this time at the latest.
    pub wake_at: Option<Timestamp>,
    /// Waiting reason and message per container, beyond failed starts.
    pub waiting: BTreeMap<String, (String, String)>,
    /// The pod ran to its end (or must end): stop it with this failure, if any.
    pub finish: Option<Option<(String, String)>>,
    pub stage: Stage,
}

impl Decision {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
}

/// Whether a new sandbox is needed, and its attempt number.
pub fn sandbox_changed<'a>(pod: &Pod, runtime: &'a PodRuntime) -> (bool, u32, Option<&'a Sandbox>) {
    let Some(newest) = runtime.sandboxes.first() else { return (true, 0, None) };
    let usable = newest.ready
        && newest.host_network == spec::host_network(pod)
        && (newest.host_network || !newest.ips.is_empty());
    (!usable, newest.attempt + 1, Some(newest))
}

/// The next steps of a pod.
pub fn decide(i: &Inputs<'_>) -> Decision {
    let mut d = Decision::default();
    if let Some(stop) = &i.memory.stop {
        terminate(i, stop, &mut d);
        return d;
    }
    let pod_spec = spec::spec(i.pod);
    if let (Some(limit), Some(started)) = (pod_spec.active_deadline_seconds, i.started) {
        let end = started + Duration::from_secs(limit.max(0) as u64);
        if end <= i.now {
            d.finish = Some(Some((
                "DeadlineExceeded".into(),
                "Pod was active on the node longer than the specified deadline".into(),
            )));
            return d;
        }
        d.wake(end);
    }
    sync(i, pod_spec, &mut d);
    d
}

fn sync(i: &Inputs<'_>, pod_spec: &PodSpec, d: &mut Decision) {
    let m = i.memory;
    let (need_sandbox, attempt, sandbox) = sandbox_changed(i.pod, i.runtime);
    if need_sandbox {
        let started_before = !i.runtime.containers.is_empty();
        if attempt != 0 && started_before && nothing_left(i, pod_spec) {
            d.finish = Some(None);
            return;
        }
        // What belongs to the lost sandbox ends first.
        let old: Vec<&Container> = i.runtime.alive().collect();
        for c in &old {
            kill(i, c, "Pod sandbox changed", KillReason::SandboxChanged, false, d);
        }
        for s in i.runtime.sandboxes.iter().filter(|s| s.ready) {
            if old.is_empty() && !m.busy(&Op::StopSandbox(s.id.clone())) {
                d.actions.push(Action::StopSandbox { id: s.id.clone() });
            }
        }
        if !old.is_empty() || i.runtime.sandboxes.iter().any(|s| s.ready) {
            return;
        }
        match m.sandbox_retry_at {
            Some(at) if at > i.now => d.wake(at),
            _ if m.busy(&Op::Sandbox) => {}
            _ => d.actions.push(Action::CreateSandbox { attempt }),
        }
    }
    if !m.volumes_ready {
        match m.volumes_retry_at {
            Some(at) if at > i.now => d.wake(at),
            _ if m.busy(&Op::Volumes) => {}
            _ => d.actions.push(Action::MountVolumes),
        }
    }
    let Some(sandbox) = sandbox.filter(|_| !need_sandbox) else { return };
    if !m.volumes_ready {
        return;
    }

    for e in pod_spec.ephemeral_containers.iter().flatten() {
        if i.runtime.container(&e.name).is_none() {
            start(i, &e.name, Role::Ephemeral, sandbox, None, d);
        }
    }
    match init_progress(i, pod_spec, sandbox, d) {
        Init::Failed => {
            d.actions.retain(|a| !matches!(a, Action::Start { .. }));
            d.finish = Some(None);
            return;
        }
        Init::Pending => return,
        Init::Done => {}
    }
    let mut kept = 0;
    let mut wanted = 0;
    for c in &pod_spec.containers {
        let last = i.runtime.container(&c.name);
        match last {
            Some(rc) if rc.state == ContainerState::Running => {
                if let Some((why, reason)) = must_kill(i, c, rc, "Container") {
                    let restart = reason == KillReason::SpecChanged || restarts_on_failure(pod_spec, c);
                    wanted += usize::from(restart);
                    let message = if restart { format!("{why}, will be restarted") } else { why };
                    kill(i, rc, &message, reason, restart, d);
                }
                // A container being killed still runs: the pod ends only once it is gone.
                kept += 1;
            }
            Some(rc) if rc.state == ContainerState::Unknown => {
                wanted += 1;
                kill(
                    i,
                    rc,
                    "Container is in \"unknown\" state, try killing it before restart",
                    KillReason::Unknown,
                    true,
                    d,
                );
            }
            Some(rc) if rc.state == ContainerState::Exited && !restart_wanted(i, pod_spec, c, rc) => {}
            other => {
                wanted += 1;
                start(i, &c.name, Role::Regular, sandbox, other, d);
            }
        }
    }
    if kept == 0 && wanted == 0 && !m.starting() {
        d.actions.retain(|a| !matches!(a, Action::Start { .. }));
        d.finish = Some(None);
    }
}

fn restart_wanted(i: &Inputs<'_>, pod_spec: &PodSpec, c: &SpecContainer, rc: &Container) -> bool {
    i.memory.force_restart.contains(&rc.id) || spec::should_restart(pod_spec, c, rc.exit_code)
}

fn restarts_on_failure(pod_spec: &PodSpec, c: &SpecContainer) -> bool {
    c.restart_policy.as_deref().or(pod_spec.restart_policy.as_deref()) != Some("Never")
}

/// True where a pod without a usable sandbox has nothing more to run.
fn nothing_left(i: &Inputs<'_>, pod_spec: &PodSpec) -> bool {
    let initialized = pod_spec.containers.iter().any(|c| i.runtime.container(&c.name).is_some());
    if !initialized {
        // Only a failed init container of a pod that never restarts ends it here.
        return spec::init_containers(pod_spec).any(|(role, c)| {
            role == Role::Init
                && i.runtime.container(&c.name).is_some_and(|rc| {
                    rc.state == ContainerState::Exited
                        && rc.exit_code != 0
                        && !spec::init_should_restart(pod_spec, c, rc.exit_code)
                })
        });
    }
    pod_spec.containers.iter().all(|c| {
        i.runtime
            .container(&c.name)
            .is_some_and(|rc| rc.state == ContainerState::Exited && !restart_wanted(i, pod_spec, c, rc))
    })
}

fn must_kill(i: &Inputs<'_>, c: &SpecContainer, rc: &Container, what: &str) -> Option<(String, KillReason)> {
    let probes = i.probes.get(&rc.id).copied().unwrap_or_default();
    let changed = rc.hash.is_some_and(|h| h != super::container::hash(c));
    if changed {
        Some((format!("{what} {} definition changed", c.name), KillReason::SpecChanged))
    } else if probes.liveness == Some(false) {
        Some((format!("{what} {} failed liveness probe", c.name), KillReason::Liveness))
    } else if probes.startup == Some(false) {
        Some((format!("{what} {} failed startup probe", c.name), KillReason::Startup))
    } else {
        None
    }
}

enum Init {
    Done,
    Pending,
    Failed,
}

/// Drives init containers in order. Only containers of the present sandbox count: a new sandbox starts over.
fn init_progress(i: &Inputs<'_>, pod_spec: &PodSpec, sandbox: &Sandbox, d: &mut Decision) -> Init {
    let current = |name: &str| i.runtime.container(name).filter(|c| c.sandbox_id == sandbox.id);
    // Once a regular container ran in this sandbox, finished init containers may have been collected.
    let initialized = pod_spec.containers.iter().any(|c| current(&c.name).is_some());
    for (role, c) in spec::init_containers(pod_spec) {
        if initialized && role == Role::Init {
            continue;
        }
        let last = i.runtime.container(&c.name);
        let Some(rc) = current(&c.name) else {
            start(i, &c.name, role, sandbox, last, d);
            if initialized {
                continue;
            }
            return Init::Pending;
        };
        let done = match (role, rc.state) {
            (Role::Sidecar, ContainerState::Running) => {
                if let Some((why, reason)) = must_kill(i, c, rc, "Init container") {
                    kill(i, rc, &why, reason, true, d);
                    false
                } else {
                    c.startup_probe.is_none() || i.probes.get(&rc.id).and_then(|p| p.startup) == Some(true)
                }
            }
            (Role::Sidecar, ContainerState::Unknown) | (_, ContainerState::Unknown) => {
                kill(
                    i,
                    rc,
                    "Init container is in \"unknown\" state, try killing it before restart",
                    KillReason::Unknown,
                    true,
                    d,
                );
                false
            }
            (Role::Sidecar, _) => {
                start(i, &c.name, role, sandbox, Some(rc), d);
                false
            }
            (_, ContainerState::Exited) if rc.exit_code == 0 => true,
            (_, ContainerState::Exited) => {
                if !spec::init_should_restart(pod_spec, c, rc.exit_code) {
                    return Init::Failed;
                }
                start(i, &c.name, role, sandbox, Some(rc), d);
                false
            }
            (_, ContainerState::Created) => {
                start(i, &c.name, role, sandbox, Some(rc), d);
                false
            }
            (_, ContainerState::Running) => false,
        };
        if !done && !initialized {
            return Init::Pending;
        }
    }
    Init::Done
}

/// Starts a container unless it is under way, held back, or another start is under way (starts are in order).
fn start(
    i: &Inputs<'_>,
    name: &str,
    role: Role,
    sandbox: &Sandbox,
    last: Option<&Container>,
    d: &mut Decision,
) {
    let m = i.memory;
    if m.starting() || d.actions.iter().any(|a| matches!(a, Action::Start { .. })) {
        return;
    }
    if let Some(error) = m.start_errors.get(name)
        && error.retry_at > i.now
    {
        d.wake(error.retry_at);
        return;
    }
    let ended =
        last.filter(|c| c.state == ContainerState::Exited).and_then(|c| c.finished_at.or(c.created_at));
    if let Some(at) = ended
        && let Some((until, delay)) = m.restarts.blocked_until(name, at, i.now)
    {
        let message = format!(
            "back-off {} restarting failed container={name} pod={}",
            component_base::duration::GoDuration(delay),
            spec::full_name(i.pod)
        );
        d.waiting.insert(name.to_owned(), ("CrashLoopBackOff".into(), message));
        d.wake(until);
        return;
    }
    let restart_count = match last {
        Some(c) => c.restart_count + 1,
        None => recorded_restarts(i.pod, name),
    };
    d.actions.push(Action::Start {
        name: name.to_owned(),
        role,
        restart_count,
        sandbox: sandbox.id.clone(),
        after: ended,
    });
}

/// Where the runtime has forgotten a container that the API server knows, its count goes on.
fn recorded_restarts(pod: &Pod, name: &str) -> u32 {
    let Some(status) = &pod.status else { return 0 };
    let all = [&status.container_statuses, &status.init_container_statuses];
    all.into_iter()
        .flatten()
        .flatten()
        .find(|c| c.name == name && c.container_id.as_deref().is_some_and(|id| !id.is_empty()))
        .map_or(0, |c| c.restart_count.max(0) as u32 + 1)
}

fn kill(i: &Inputs<'_>, c: &Container, message: &str, reason: KillReason, restart: bool, d: &mut Decision) {
    if i.memory.busy(&Op::Kill(c.id.clone())) {
        return;
    }
    d.actions.push(Action::Kill {
        id: c.id.clone(),
        name: c.name.clone(),
        message: message.to_owned(),
        reason,
        grace: kill_grace(i, &c.name, reason),
        restart,
    });
}

fn kill_grace(i: &Inputs<'_>, name: &str, reason: KillReason) -> i64 {
    let container = spec::find_container(i.pod, name);
    let probe_grace = |probe: Option<&k8s_openapi::api::core::v1::Probe>| {
        probe.and_then(|p| p.termination_grace_period_seconds)
    };
    let own = container.as_ref().and_then(|(_, c)| match reason {
        KillReason::Liveness => probe_grace(c.liveness_probe.as_ref()),
        KillReason::Startup => probe_grace(c.startup_probe.as_ref()),
        _ => None,
    });
    own.unwrap_or_else(|| spec::grace_period(i.pod))
}

/// Stops everything: regular containers together, then sidecars one by one in reverse order, then the sandbox.
fn terminate(i: &Inputs<'_>, stop: &Stop, d: &mut Decision) {
    d.stage = Stage::Stopping;
    let elapsed = i.now.duration_since(stop.at).as_secs().max(0);
    let left = (stop.grace - elapsed).max(0);
    let pod_spec = spec::spec(i.pod);
    let sidecars: Vec<&str> = spec::init_containers(pod_spec)
        .filter(|(role, _)| *role == Role::Sidecar)
        .map(|(_, c)| c.name.as_str())
        .collect();
    let alive: Vec<&Container> = i.runtime.alive().collect();
    let mut now: Vec<&Container> =
        alive.iter().copied().filter(|c| !sidecars.contains(&c.name.as_str())).collect();
    if now.is_empty() {
        now.extend(sidecars.iter().rev().find_map(|name| alive.iter().copied().find(|c| c.name == *name)));
    }
    for c in now {
        if !i.memory.busy(&Op::Kill(c.id.clone())) {
            d.actions.push(Action::Kill {
                id: c.id.clone(),
                name: c.name.clone(),
                message: format!("Stopping container {}", c.name),
                reason: KillReason::PodStopped,
                grace: left,
                restart: false,
            });
        }
    }
    if !alive.is_empty() || i.memory.starting() || i.memory.busy(&Op::Sandbox) {
        return;
    }
    let mut clean = true;
    for s in i.runtime.sandboxes.iter().filter(|s| s.ready) {
        clean = false;
        if !i.memory.busy(&Op::StopSandbox(s.id.clone())) {
            d.actions.push(Action::StopSandbox { id: s.id.clone() });
        }
    }
    if clean {
        d.stage = Stage::Stopped;
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

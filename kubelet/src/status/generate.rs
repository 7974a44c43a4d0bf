//! A pod's API status from what the runtime shows. Pure: the clock and everything else are passed in.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as SpecContainer, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus,
    VolumeMountStatus,
};

use super::{conditions, phase, resources};
use crate::{
    cri::{Container, ContainerState as Runtime, PodRuntime},
    pod::{
        allocation::{conditions::Conditions, model::PodResources},
        machine::{ProbeState, sandbox_changed},
        spec::{self, Role},
    },
};

/// Everything that shapes the status.
pub struct Facts<'a> {
    pub pod: &'a Pod,
    /// The last status made here; the API's copy where there is none.
    pub old: Option<&'a PodStatus>,
    pub runtime: &'a PodRuntime,
    pub probes: &'a HashMap<String, ProbeState>,
    /// Waiting reason and message of containers that cannot start at present.
    pub waiting: &'a BTreeMap<String, (String, String)>,
    /// Nothing runs and nothing will.
    pub ended: bool,
    /// Phase Failed with this reason and message, whatever the containers say.
    pub failure: Option<&'a (String, String)>,
    /// The resources that running containers have; the pod's own are those it was allocated.
    pub actuated: Option<&'a PodResources>,
    /// How far a resize is.
    pub resize: &'a Conditions,
    pub runtime_name: &'a str,
    pub host_ips: &'a [String],
    pub now: Timestamp,
}

/// The status to publish.
pub fn generate(f: &Facts<'_>) -> PodStatus {
    let pod_spec = spec::spec(f.pod);
    let old = f.old.or(f.pod.status.as_ref());
    let has_init = pod_spec.init_containers.as_ref().is_some_and(|c| !c.is_empty());
    if let Some((reason, message)) = f.failure
        && f.runtime.sandboxes.is_empty()
        && f.runtime.containers.is_empty()
        && old.and_then(|s| s.container_statuses.as_ref()).is_none()
    {
        return PodStatus {
            phase: Some("Failed".into()),
            reason: Some(reason.clone()),
            message: Some(message.clone()),
            qos_class: Some(spec::qos_class(f.pod).into()),
            start_time: old.and_then(|s| s.start_time.clone()).or_else(|| Some(spec::time(f.now))),
            observed_generation: f.pod.metadata.generation,
            conditions: f.pod.status.as_ref().and_then(|s| s.conditions.clone()),
            ..PodStatus::default()
        };
    }
    let one = |role: Role, c: &SpecContainer| container_status(f, old, role, c, has_init);
    let mut status = PodStatus {
        init_container_statuses: non_empty(spec::init_containers(pod_spec).map(|(r, c)| one(r, c)).collect()),
        container_statuses: non_empty(pod_spec.containers.iter().map(|c| one(Role::Regular, c)).collect()),
        ephemeral_container_statuses: non_empty(
            pod_spec
                .ephemeral_containers
                .iter()
                .flatten()
                .map(|e| one(Role::Ephemeral, &spec::from_ephemeral(e)))
                .collect(),
        ),
        qos_class: Some(spec::qos_class(f.pod).into()),
        start_time: old.and_then(|s| s.start_time.clone()).or_else(|| Some(spec::time(f.now))),
        observed_generation: f.pod.metadata.generation,
        nominated_node_name: f.pod.status.as_ref().and_then(|s| s.nominated_node_name.clone()),
        resource_claim_statuses: f.pod.status.as_ref().and_then(|s| s.resource_claim_statuses.clone()),
        extended_resource_claim_status: f
            .pod
            .status
            .as_ref()
            .and_then(|s| s.extended_resource_claim_status.clone()),
        ..PodStatus::default()
    };
    // The API shows regular container statuses in order of their names.
    if let Some(list) = &mut status.container_statuses {
        list.sort_by(|a, b| a.name.cmp(&b.name));
    }

    let (new_sandbox, _, sandbox) = sandbox_changed(f.pod, f.runtime);
    let started_here = pod_spec.containers.iter().any(|c| {
        f.runtime.container(&c.name).is_some_and(|rc| {
            sandbox.is_some_and(|s| s.id == rc.sandbox_id)
                && matches!(rc.state, Runtime::Running | Runtime::Exited)
        })
    });
    if f.ended {
        mark_unlocated(&mut status, started_here);
    }
    let before = old.and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let mut now_phase = phase::phase(
        pod_spec,
        status.init_container_statuses.as_deref().unwrap_or_default(),
        status.container_statuses.as_deref().unwrap_or_default(),
        f.ended,
        spec::is_static(f.pod),
        started_here,
    )
    .to_owned();
    if f.ended && !spec::is_terminal_phase(&now_phase) && !spec::is_static(f.pod) {
        now_phase = "Failed".into();
    }
    if f.failure.is_some() {
        now_phase = "Failed".into();
    }
    let api_phase = spec::phase(f.pod.status.as_ref());
    for earlier in [api_phase, before] {
        if spec::is_terminal_phase(earlier) {
            now_phase = earlier.to_owned();
            break;
        }
    }
    if let Some((reason, message)) = f.failure {
        status.reason = Some(reason.clone());
        status.message = Some(message.clone());
    } else if now_phase == before {
        status.reason = old.and_then(|s| s.reason.clone());
        status.message = old.and_then(|s| s.message.clone());
    }
    status.conditions = Some(conditions::conditions(f.pod, &status, &now_phase, !new_sandbox, f.old, f.now));
    status.conditions.get_or_insert_default().extend(f.resize.list());
    status.allocated_resources = resources::allocated_to_pod(f.pod);
    status.resources = Some(resources::of_pod(f.pod, f.actuated));
    if let (Some((reason, message)), Some(list)) = (f.failure, &mut status.conditions)
        && reason == "Evicted"
    {
        conditions::disrupted(f.pod, message, list, f.now);
    }
    status.phase = Some(now_phase);
    addresses(f, old, &mut status);
    status
}

fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn addresses(f: &Facts<'_>, old: Option<&PodStatus>, status: &mut PodStatus) {
    status.host_ip = f.host_ips.first().cloned();
    status.host_ips = non_empty(f.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let live = f.runtime.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default();
    let ips: Vec<String> = if spec::host_network(f.pod) {
        f.host_ips.to_vec()
    } else if !live.is_empty() {
        live
    } else {
        // A pod that ended keeps showing the addresses it had.
        old.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|p| p.ip.clone()).collect()
    };
    status.pod_ip = ips.first().cloned();
    status.pod_ips = non_empty(ips.into_iter().map(|ip| PodIP { ip }).collect());
}

fn terminated(rc: &Container, runtime: &str) -> ContainerStateTerminated {
    let epoch = Timestamp::UNIX_EPOCH;
    ContainerStateTerminated {
        exit_code: rc.exit_code,
        reason: (!rc.reason.is_empty()).then(|| rc.reason.clone()),
        message: (!rc.message.is_empty()).then(|| rc.message.clone()),
        started_at: Some(spec::time(rc.started_at.unwrap_or(epoch))),
        finished_at: Some(spec::time(rc.finished_at.unwrap_or(epoch))),
        container_id: Some(format!("{runtime}://{}", rc.id)),
        signal: None,
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: (!reason.is_empty()).then(|| reason.into()),
            message: (!message.is_empty()).then(|| message.into()),
        }),
        ..ContainerState::default()
    }
}

fn old_status<'a>(old: Option<&'a PodStatus>, role: Role, name: &str) -> Option<&'a ContainerStatus> {
    let old = old?;
    let list = match role {
        Role::Init | Role::Sidecar => &old.init_container_statuses,
        Role::Regular => &old.container_statuses,
        Role::Ephemeral => &old.ephemeral_container_statuses,
    };
    list.as_ref()?.iter().find(|s| s.name == name)
}

fn container_status(
    f: &Facts<'_>,
    old: Option<&PodStatus>,
    role: Role,
    c: &SpecContainer,
    has_init: bool,
) -> ContainerStatus {
    let before = old_status(old, role, &c.name);
    let mut out = ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        started: Some(false),
        volume_mounts: non_empty(
            c.volume_mounts
                .iter()
                .flatten()
                .map(|m| VolumeMountStatus {
                    name: m.name.clone(),
                    mount_path: m.mount_path.clone(),
                    read_only: m.read_only.filter(|r| *r),
                    recursive_read_only: (m.read_only == Some(true))
                        .then(|| m.recursive_read_only.clone().unwrap_or_else(|| "Disabled".into())),
                    ..VolumeMountStatus::default()
                })
                .collect(),
        ),
        ..ContainerStatus::default()
    };
    if role != Role::Ephemeral {
        let allocated = c.resources.clone().unwrap_or_default();
        out.allocated_resources = allocated.requests.clone().filter(|r| !r.is_empty());
        out.resources = Some(allocated);
    }
    match f.runtime.container(&c.name) {
        Some(rc) => from_runtime(f, role, c, rc, before, &mut out),
        None => without_runtime(f, before, has_init, &mut out),
    }
    if let Some((reason, message)) = f.waiting.get(&c.name)
        && out.state.as_ref().is_none_or(|s| s.running.is_none())
        && !f.ended
    {
        if let Some(t) = out.state.take().and_then(|s| s.terminated) {
            out.last_state = Some(ContainerState { terminated: Some(t), ..ContainerState::default() });
        }
        out.state = Some(waiting(reason, message));
        out.ready = false;
    }
    out
}

fn from_runtime(
    f: &Facts<'_>,
    role: Role,
    c: &SpecContainer,
    rc: &Container,
    before: Option<&ContainerStatus>,
    out: &mut ContainerStatus,
) {
    out.image = rc.image.clone();
    out.image_id = rc.image_ref.clone();
    out.container_id = Some(format!("{}://{}", f.runtime_name, rc.id));
    out.restart_count = rc.restart_count as i32;
    out.user = rc.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: *uid,
            gid: *gid,
            supplemental_groups: non_empty(groups.clone()),
        }),
    });
    let previous = f.runtime.previous(&c.name).filter(|p| p.state == Runtime::Exited);
    if let (Some(shown), Runtime::Running, Some(actuated)) =
        (&mut out.resources, rc.state, f.actuated.and_then(|a| a.containers.get(&c.name)))
    {
        resources::show_actuated(shown, actuated);
    }
    out.last_state = match previous {
        Some(p) => {
            Some(ContainerState { terminated: Some(terminated(p, f.runtime_name)), ..Default::default() })
        }
        // The dead predecessor may be collected already: what was reported of it stays.
        None => before.and_then(|b| {
            let known = b.last_state.as_ref().filter(|s| s.terminated.is_some());
            if b.container_id != out.container_id {
                b.state.as_ref().filter(|s| s.terminated.is_some()).or(known).cloned()
            } else {
                known.cloned()
            }
        }),
    };
    let probes = f.probes.get(&rc.id).copied().unwrap_or_default();
    match rc.state {
        Runtime::Running => {
            out.state = Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: rc.started_at.map(spec::time) }),
                ..Default::default()
            });
            let started = c.startup_probe.is_none() || probes.startup == Some(true);
            out.started = Some(started);
            out.ready = match role {
                Role::Regular | Role::Sidecar => {
                    started && (c.readiness_probe.is_none() || probes.readiness == Some(true))
                }
                Role::Init | Role::Ephemeral => false,
            };
        }
        Runtime::Exited => {
            out.ready = role == Role::Init && rc.exit_code == 0;
            out.state = Some(ContainerState {
                terminated: Some(terminated(rc, f.runtime_name)),
                ..Default::default()
            });
        }
        Runtime::Created | Runtime::Unknown => {
            let reason = if rc.state == Runtime::Created { "ContainerCreating" } else { "" };
            out.state = Some(waiting(reason, ""));
        }
    }
}

/// No container of that name: not yet, or no longer.
fn without_runtime(
    f: &Facts<'_>,
    before: Option<&ContainerStatus>,
    has_init: bool,
    out: &mut ContainerStatus,
) {
    // Init containers wait for the pod to initialize, too, whichever comes first.
    let fresh = || waiting(if has_init { "PodInitializing" } else { "ContainerCreating" }, "");
    let Some(b) = before else {
        out.state = Some(fresh());
        return;
    };
    out.restart_count = b.restart_count;
    out.last_state = b.last_state.clone();
    let state = b.state.as_ref();
    if state.is_some_and(|s| s.terminated.is_some()) {
        let keep = b.clone();
        out.state = keep.state;
        out.ready = keep.ready && f.ended;
        out.image = keep.image;
        out.image_id = keep.image_id;
        out.container_id = keep.container_id;
    } else if state.is_some_and(|s| s.running.is_some()) {
        out.restart_count += 1;
        out.last_state = Some(ContainerState { terminated: Some(unlocated()), ..Default::default() });
        out.state = Some(fresh());
    } else {
        out.state = Some(fresh());
    }
}

fn unlocated() -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was terminated".into()),
        ..Default::default()
    }
}

/// When the pod ended, a container that ran but cannot be found any more counts as failed.
fn mark_unlocated(status: &mut PodStatus, initialized: bool) {
    if !initialized {
        return;
    }
    for s in status.container_statuses.iter_mut().flatten() {
        if s.state.as_ref().is_none_or(|x| x.terminated.is_none()) {
            s.state = Some(ContainerState { terminated: Some(unlocated()), ..Default::default() });
            s.ready = false;
        }
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;

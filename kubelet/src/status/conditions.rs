//! The pod conditions that the kubelet owns, with upstream's reasons and messages.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use crate::{
    pod::spec::{self, Role},
    util::go_list,
};

pub const OWNED: &[&str] = &[
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self { status: true, reason: "", message: String::new() }
    }

    fn no(reason: &'static str, message: String) -> Self {
        Self { status: false, reason, message }
    }
}

fn find<'a>(statuses: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|s| s.name == name)
}

fn unready_message(unknown: &[&str], bad: &[&str], word: &str) -> String {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: {}", go_list(unknown)));
    }
    if !bad.is_empty() {
        parts.push(format!("containers with {word} status: {}", go_list(bad)));
    }
    parts.join(", ")
}

fn containers_ready(pod: &Pod, status: &PodStatus, phase: &str) -> Verdict {
    let pod_spec = spec::spec(pod);
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let regular = status.container_statuses.as_deref().unwrap_or_default();
    let wanted = spec::init_containers(pod_spec)
        .filter(|(role, _)| *role == Role::Sidecar)
        .map(|(_, c)| (c, find(init, &c.name)))
        .chain(pod_spec.containers.iter().map(|c| (c, find(regular, &c.name))));
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for (c, s) in wanted {
        match s {
            None => unknown.push(c.name.as_str()),
            Some(s) if !s.ready => unready.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict::no("PodCompleted", String::new());
    }
    if phase == "Failed" {
        return Verdict::no("PodFailed", String::new());
    }
    let message = unready_message(&unknown, &unready, "unready");
    if message.is_empty() { Verdict::yes() } else { Verdict::no("ContainersNotReady", message) }
}

fn initialized(pod: &Pod, status: &PodStatus, phase: &str) -> Verdict {
    let pod_spec = spec::spec(pod);
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for (role, c) in spec::init_containers(pod_spec) {
        match find(init, &c.name) {
            None => unknown.push(c.name.as_str()),
            Some(s) => {
                let done = if role == Role::Sidecar { s.started == Some(true) } else { s.ready };
                if !done {
                    incomplete.push(c.name.as_str());
                }
            }
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict { status: true, reason: "PodCompleted", message: String::new() };
    }
    let any_started = status.container_statuses.iter().flatten().any(|s| {
        s.started == Some(true)
            || s.state.as_ref().is_some_and(|x| x.running.is_some() || x.terminated.is_some())
            || s.last_state.as_ref().is_some_and(|x| x.terminated.is_some())
    });
    let message = unready_message(&unknown, &incomplete, "incomplete");
    if any_started || message.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no("ContainersNotInitialized", message)
    }
}

fn ready(pod: &Pod, others: &[PodCondition], containers: &Verdict) -> Verdict {
    if !containers.status {
        return Verdict::no(containers.reason, containers.message.clone());
    }
    let mut messages = Vec::new();
    for gate in spec::spec(pod).readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match others.iter().find(|c| &c.type_ == kind) {
            None => messages
                .push(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
            Some(c) if c.status != "True" => messages
                .push(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", c.status)),
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no("ReadinessGatesNotReady", messages.join(", "))
    }
}

/// The kubelet itself ended the pod.
pub fn disrupted(pod: &Pod, message: &str, list: &mut Vec<PodCondition>, now: Timestamp) {
    let kind = "DisruptionTarget";
    if list.iter().any(|c| c.type_ == kind && c.status == "True") {
        return;
    }
    list.retain(|c| c.type_ != kind);
    list.push(PodCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        message: Some(message.into()),
        last_transition_time: Some(spec::time(now)),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    });
}

/// All conditions of a pod: others' as they are, ours computed; transition times move only with the status.
pub fn conditions(
    pod: &Pod,
    status: &PodStatus,
    phase: &str,
    sandbox_ready: bool,
    old: Option<&PodStatus>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let api = pod.status.as_ref();
    let mut all: Vec<PodCondition> = api
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten()
        .filter(|c| !OWNED.contains(&c.type_.as_str()))
        .cloned()
        .collect();
    let containers = containers_ready(pod, status, phase);
    let ready = ready(pod, &all, &containers);
    let to_start = if sandbox_ready { Verdict::yes() } else { Verdict::no("", String::new()) };
    let list = [
        ("PodReadyToStartContainers", to_start),
        ("Initialized", initialized(pod, status, phase)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict::yes()),
    ];
    for (kind, verdict) in list {
        let word = if verdict.status { "True" } else { "False" };
        let before = [old, api]
            .into_iter()
            .flatten()
            .find_map(|s| s.conditions.as_ref()?.iter().find(|c| c.type_ == kind));
        let since = before
            .filter(|c| c.status == word)
            .and_then(|c| c.last_transition_time.clone())
            .unwrap_or_else(|| spec::time(now));
        all.push(PodCondition {
            type_: kind.into(),
            status: word.into(),
            reason: (!verdict.reason.is_empty()).then(|| verdict.reason.into()),
            message: (!verdict.message.is_empty()).then_some(verdict.message),
            last_transition_time: Some(since),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        });
    }
    all
}

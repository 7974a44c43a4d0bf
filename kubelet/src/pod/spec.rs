//! Questions about a pod object that many modules ask. Pure.

use k8s_openapi::{
    api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";

/// What part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs to completion before the rest.
    Init,
    /// An init container with `restartPolicy: Always`: starts in order, keeps running.
    Sidecar,
    Regular,
    Ephemeral,
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `namespace/name`, for logs.
pub fn key(pod: &Pod) -> String {
    format!("{}/{}", namespace(pod), name(pod))
}

/// `name_namespace(uid)`, upstream's form in messages.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// True for pods that come from a file on this node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|s| s != "api")
}

/// True for the API server's copy of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::OnceLock<PodSpec> = std::sync::OnceLock::new();
    pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(PodSpec::default))
}

pub fn phase(status: Option<&PodStatus>) -> &str {
    status.and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

pub fn is_terminal_phase(phase: &str) -> bool {
    phase == "Succeeded" || phase == "Failed"
}

pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

pub fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// The containers that run one after the other and those that stay, without ephemeral ones.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// The same, to be changed.
pub fn containers_mut(spec: &mut PodSpec) -> impl Iterator<Item = &mut Container> {
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers)
}

/// All init containers with their roles, in order.
pub fn init_containers(spec: &PodSpec) -> impl DoubleEndedIterator<Item = (Role, &Container)> {
    spec.init_containers.iter().flatten().map(|c| (if is_sidecar(c) { Role::Sidecar } else { Role::Init }, c))
}

/// Finds a container of any role; ephemeral ones are shown in the common form.
pub fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<(Role, std::borrow::Cow<'a, Container>)> {
    use std::borrow::Cow;
    let spec = spec(pod);
    if let Some((role, c)) = init_containers(spec).find(|(_, c)| c.name == name) {
        return Some((role, Cow::Borrowed(c)));
    }
    if let Some(c) = spec.containers.iter().find(|c| c.name == name) {
        return Some((Role::Regular, Cow::Borrowed(c)));
    }
    let e = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
    Some((Role::Ephemeral, Cow::Owned(from_ephemeral(e))))
}

/// The common container fields of an ephemeral container.
pub fn from_ephemeral(e: &EphemeralContainer) -> Container {
    Container {
        name: e.name.clone(),
        image: e.image.clone(),
        command: e.command.clone(),
        args: e.args.clone(),
        working_dir: e.working_dir.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        tty: e.tty,
        volume_mounts: e.volume_mounts.clone(),
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        ..Container::default()
    }
}

/// The grace period a deletion or a stop of this pod has, in seconds.
pub fn grace_period(pod: &Pod) -> i64 {
    pod.metadata.deletion_grace_period_seconds.or(spec(pod).termination_grace_period_seconds).unwrap_or(30)
}

/// Whether a container that ended with `exit_code` starts again: its own rules, its own policy, the pod's policy.
pub fn should_restart(spec: &PodSpec, container: &Container, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        if let Some(codes) = &rule.exit_codes {
            let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
            let hit = match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            };
            if hit && rule.action == "Restart" {
                return true;
            }
        }
    }
    let policy = container.restart_policy.as_deref().or(spec.restart_policy.as_deref()).unwrap_or("Always");
    match policy {
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    }
}

/// The effective restart policy of an init container: an init container of an `Always` pod runs again only if it failed.
pub fn init_should_restart(spec: &PodSpec, container: &Container, exit_code: i32) -> bool {
    exit_code != 0 && should_restart(spec, container, exit_code)
}

/// Upstream's QoS class, computed where the API server has not set it.
pub fn qos_class(pod: &Pod) -> &'static str {
    if let Some(known) = pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        match known {
            "Guaranteed" => return "Guaranteed",
            "Burstable" => return "Burstable",
            "BestEffort" => return "BestEffort",
            _ => {}
        }
    }
    super::resources::qos_class(spec(pod))
}

pub fn time(ts: jiff::Timestamp) -> Time {
    Time(jiff::Timestamp::from_second(ts.as_second()).unwrap_or(ts))
}

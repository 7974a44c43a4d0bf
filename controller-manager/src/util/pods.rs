//! Questions about pods.

use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// The phase; empty if none was reported.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether all its containers have ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it counts as a replica: neither ended nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// One of its conditions.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// Whether it is ready.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when it is ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|t| t.0)
}

/// Whether it has been ready for `min_ready` seconds.
pub fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    min_ready == 0
        || ready_since(pod).is_some_and(|t| {
            t.saturating_add(SignedDuration::from_secs(min_ready.into())).is_ok_and(|t| t <= now)
        })
}

/// The node it is bound to; empty if none.
pub fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// Names of its restartable init containers.
pub fn sidecars(pod: &Pod) -> impl Iterator<Item = &str> {
    let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    init.filter(|c| c.restart_policy.as_deref() == Some("Always")).map(|c| c.name.as_str())
}

/// How far its phase is in the start-up.
pub fn phase_order(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

/// How far it has come: of pods that could go, the smaller goes first. Unassigned, early in its start-up, not ready,
/// recently ready, often restarted, young.
pub fn progress(pod: &Pod) -> impl Ord + use<> {
    let since = ready_since(pod);
    let (restarts, sidecar_restarts) = restarts(pod);
    (
        (!node(pod).is_empty(), phase_order(pod), is_ready(pod), since.is_some(), Reverse(since)),
        (-restarts, -sidecar_restarts, Reverse(super::meta::created(&pod.metadata))),
    )
}

/// Most restarts of any of its containers, and of any of its restartable init containers.
pub fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = pod.status.as_ref() else { return (0, 0) };
    let most = |it: &mut dyn Iterator<Item = i32>| it.max().unwrap_or(0);
    let regular = most(&mut status.container_statuses.iter().flatten().map(|c| c.restart_count));
    let sidecars: Vec<&str> = sidecars(pod).collect();
    let init = status.init_container_statuses.iter().flatten();
    let restartable =
        most(&mut init.filter(|c| sidecars.contains(&c.name.as_str())).map(|c| c.restart_count));
    (regular, restartable)
}

/// The condition that says why a pod is about to be deleted by the control plane.
pub fn disruption_target(reason: &str, message: &str, now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(super::meta::api_time(now)),
        ..PodCondition::default()
    }
}

//! What a node's silence and conditions mean. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};

use crate::util::meta;
use crate::util::taints::NO_EXECUTE;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NO_SCHEDULE: &str = "NoSchedule";

/// Conditions that turn unknown when a node is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Whether a node works, as its conditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    NotReady,
    Unknown,
}

/// One of the node's conditions.
pub fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// The node's health.
pub fn health(node: &Node) -> Health {
    match condition(node, "Ready").map(|c| c.status.as_str()) {
        Some("True") => Health::Ready,
        Some("False") => Health::NotReady,
        _ => Health::Unknown,
    }
}

/// How long the node may be silent.
pub fn grace(node: &Node, running: Duration, starting: Duration) -> Duration {
    if condition(node, "Ready").is_some() { running } else { starting }
}

/// The conditions to write for a node that has been silent too long; empty if they are written.
pub fn silent_conditions(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let changed = REPORTED.iter().filter_map(|type_| match condition(node, type_) {
        Some(c) if c.status == "Unknown" => None,
        Some(c) => Some(NodeCondition {
            status: "Unknown".into(),
            reason: Some("NodeStatusUnknown".into()),
            message: Some("Kubelet stopped posting node status.".into()),
            last_transition_time: Some(meta::api_time(now)),
            ..c.clone()
        }),
        None => Some(NodeCondition {
            type_: (*type_).into(),
            status: "Unknown".into(),
            reason: Some("NodeStatusNeverUpdated".into()),
            message: Some("Kubelet never posted node status.".into()),
            last_heartbeat_time: node.metadata.creation_timestamp.clone(),
            last_transition_time: Some(meta::api_time(now)),
        }),
    });
    changed.collect()
}

/// Keys of `NoSchedule` taints that this controller manages, and which of them the node must have.
fn scheduling_taints(node: &Node) -> [(&'static str, bool); 7] {
    let is = |type_: &str, status: &str| condition(node, type_).is_some_and(|c| c.status == status);
    let unschedulable = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
    [
        (NOT_READY, is("Ready", "False")),
        (UNREACHABLE, is("Ready", "Unknown")),
        ("node.kubernetes.io/memory-pressure", is("MemoryPressure", "True")),
        ("node.kubernetes.io/disk-pressure", is("DiskPressure", "True")),
        ("node.kubernetes.io/pid-pressure", is("PIDPressure", "True")),
        ("node.kubernetes.io/network-unavailable", is("NetworkUnavailable", "True")),
        ("node.kubernetes.io/unschedulable", unschedulable),
    ]
}

/// The `NoExecute` taint that the node's health calls for.
pub fn evicting_taint(node: &Node) -> Option<&'static str> {
    condition(node, "Ready")?;
    match health(node) {
        Health::Ready => None,
        Health::NotReady => Some(NOT_READY),
        Health::Unknown => Some(UNREACHABLE),
    }
}

/// What may be done about `NoExecute` taints now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicting {
    /// Bring them in line.
    Allowed,
    /// Add none; swap one for the other and remove.
    NotYet,
    /// Remove all.
    Never,
}

/// The node's taints as they must be, and whether a `NoExecute` taint is still missing because it may not be added
/// yet. `None` in the first place: they are right.
pub fn taints(node: &Node, evicting: Evicting, now: Timestamp) -> (Option<Vec<Taint>>, bool) {
    let current: Vec<Taint> = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let managed = scheduling_taints(node);
    let has_evicting =
        current.iter().any(|t| t.effect == NO_EXECUTE && (t.key == NOT_READY || t.key == UNREACHABLE));
    let called_for = evicting_taint(node);
    let wanted = match evicting {
        Evicting::Never => None,
        Evicting::Allowed => called_for,
        Evicting::NotYet => called_for.filter(|_| has_evicting),
    };
    let mut result: Vec<Taint> = current
        .iter()
        .filter(|t| match t.effect.as_str() {
            NO_SCHEDULE => managed.iter().find(|(key, _)| *key == t.key).is_none_or(|(_, wanted)| *wanted),
            NO_EXECUTE if t.key == NOT_READY || t.key == UNREACHABLE => wanted == Some(t.key.as_str()),
            _ => true,
        })
        .cloned()
        .collect();
    let has =
        |list: &[Taint], key: &str, effect: &str| list.iter().any(|t| t.key == key && t.effect == effect);
    for (key, _) in managed.iter().filter(|(_, wanted)| *wanted) {
        if !has(&result, key, NO_SCHEDULE) {
            result.push(taint(key, NO_SCHEDULE, now));
        }
    }
    if let Some(key) = wanted
        && !has(&result, key, NO_EXECUTE)
    {
        result.push(taint(key, NO_EXECUTE, now));
    }
    let missing = called_for.is_some() && wanted.is_none() && evicting == Evicting::NotYet;
    ((result != current).then_some(result), missing)
}

fn taint(key: &str, effect: &str, now: Timestamp) -> Taint {
    Taint { key: key.into(), effect: effect.into(), value: None, time_added: Some(meta::api_time(now)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    fn node(ready: &str, taints: Vec<Taint>) -> Node {
        let c = NodeCondition { type_: "Ready".into(), status: ready.into(), ..NodeCondition::default() };
        Node {
            spec: Some(NodeSpec { taints: Some(taints), ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions: Some(vec![c]), ..NodeStatus::default() }),
            ..Node::default()
        }
    }

    fn keys(list: Option<Vec<Taint>>) -> Vec<String> {
        list.unwrap_or_default()
            .iter()
            .map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap_or(""), t.effect))
            .collect()
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn silence_is_told_once() {
        let mut n = node("True", vec![]);
        let changed = silent_conditions(&n, NOW);
        assert_eq!(changed.len(), 4);
        assert_eq!(changed[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(changed[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        n.status.get_or_insert_default().conditions = Some(changed);
        assert!(silent_conditions(&n, NOW).is_empty());
        assert_eq!(health(&n), Health::Unknown);
    }

    #[test]
    fn taints_follow_health() {
        let (list, missing) = taints(&node("False", vec![]), Evicting::Allowed, NOW);
        assert_eq!(keys(list), ["not-ready:NoSchedule", "not-ready:NoExecute"]);
        assert!(!missing);
        let (list, missing) = taints(&node("Unknown", vec![]), Evicting::NotYet, NOW);
        assert_eq!(keys(list), ["unreachable:NoSchedule"]);
        assert!(missing, "its turn will come");
        let tainted = vec![taint(NOT_READY, NO_SCHEDULE, NOW), taint(NOT_READY, NO_EXECUTE, NOW)];
        let (list, missing) = taints(&node("Unknown", tainted.clone()), Evicting::NotYet, NOW);
        assert_eq!(keys(list), ["unreachable:NoSchedule", "unreachable:NoExecute"], "swapped at once");
        assert!(!missing);
        let (list, _) = taints(&node("True", tainted.clone()), Evicting::NotYet, NOW);
        assert_eq!(list, Some(vec![]));
        let (list, _) = taints(&node("False", tainted), Evicting::Never, NOW);
        assert_eq!(keys(list), ["not-ready:NoSchedule"]);
    }

    #[test]
    fn foreign_taints_stay() {
        let mine = Taint { key: "mine".into(), effect: NO_SCHEDULE.into(), ..Taint::default() };
        assert_eq!(taints(&node("True", vec![mine.clone()]), Evicting::Allowed, NOW).0, None);
        let mut cordoned = node("True", vec![mine]);
        cordoned.spec.get_or_insert_default().unschedulable = Some(true);
        let (list, _) = taints(&cordoned, Evicting::Allowed, NOW);
        assert_eq!(keys(list), ["mine:NoSchedule", "unschedulable:NoSchedule"]);
    }
}

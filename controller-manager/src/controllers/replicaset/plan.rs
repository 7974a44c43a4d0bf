//! Pure part: how many pods to make, which to delete, and what the status says.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::util::selector::Selector;
use crate::util::{meta, pods};

/// Pods made or deleted in one go, at most.
pub const BURST: usize = 500;

/// What to do about the number of pods.
#[derive(Debug, PartialEq)]
pub enum Scale {
    /// The number is right.
    Nothing,
    /// Make so many.
    Create(usize),
    /// Delete so many.
    Delete(usize),
}

/// Compares the pods there are with the pods wanted.
pub fn scale(active: usize, wanted: i32) -> Scale {
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if active < wanted {
        Scale::Create((wanted - active).min(BURST))
    } else if active > wanted {
        Scale::Delete((active - wanted).min(BURST))
    } else {
        Scale::Nothing
    }
}

/// Picks the `count` pods whose loss hurts least. `related` are the active pods of all sets under the same owner: of
/// pods that share a node, some go first.
pub fn victims(
    mut active: Vec<Arc<Pod>>,
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if count < active.len() {
        let mut on_node: HashMap<&str, i64> = HashMap::new();
        for pod in related.iter().filter(|p| pods::is_active(p)) {
            *on_node.entry(pods::node(pod)).or_default() += 1;
        }
        active.sort_by_cached_key(|p| rank(p, on_node.get(pods::node(p)).copied().unwrap_or(0), now));
    }
    active.truncate(count);
    active
}

/// Smaller goes first: unassigned, earlier in its start-up, not ready, cheap to delete, crowded, recently ready, often
/// restarted, young. Ages are compared by magnitude so that a rollout's pods are picked at random.
fn rank(pod: &Pod, crowd: i64, now: Timestamp) -> impl Ord + use<> {
    let phase = pods::phase_order(pod);
    let cost: i32 = meta::annotation(&pod.metadata, "controller.kubernetes.io/pod-deletion-cost")
        .and_then(|c| c.parse().ok())
        .unwrap_or(0);
    let ready = pods::is_ready(pod);
    let ready_age = if ready { magnitude(pods::ready_since(pod), now) } else { 0 };
    let (restarts, sidecar_restarts) = pods::restarts(pod);
    (
        (!pods::node(pod).is_empty(), phase, ready, cost, -crowd, ready_age),
        (-restarts, -sidecar_restarts, magnitude(Some(meta::created(&pod.metadata)), now)),
        meta::uid(&pod.metadata).to_owned(),
    )
}

fn magnitude(since: Option<Timestamp>, now: Timestamp) -> i64 {
    let Some(age) = since.map(|t| now.duration_since(t).as_nanos()).filter(|n| *n > 0) else { return -1 };
    i64::from(age.ilog2())
}

/// What a status counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: i32,
}

/// Counts pods for the status.
pub fn count(
    active: &[Arc<Pod>],
    terminating: usize,
    template: &Selector,
    min_ready: i32,
    now: Timestamp,
) -> Counts {
    let number =
        |f: &dyn Fn(&Pod) -> bool| i32::try_from(active.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX);
    Counts {
        replicas: number(&|_| true),
        fully_labeled: number(&|p| template.matches(p.metadata.labels.as_ref())),
        ready: number(&pods::is_ready),
        available: number(&|p| pods::is_available(p, min_ready, now)),
        terminating: i32::try_from(terminating).unwrap_or(i32::MAX),
    }
}

/// When the next ready pod becomes available, if one is on the way.
pub fn next_available(active: &[Arc<Pod>], min_ready: i32, now: Timestamp) -> Option<SignedDuration> {
    let wait = SignedDuration::from_secs(min_ready.into());
    active
        .iter()
        .filter_map(|p| pods::ready_since(p))
        .map(|since| wait - now.duration_since(since))
        .filter(|left| left.is_positive())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodSpec, PodStatus};

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + s).unwrap_or_default()
    }

    fn pod(uid: &str, change: impl FnOnce(&mut Pod)) -> Arc<Pod> {
        let mut p = Pod {
            spec: Some(PodSpec { node_name: Some("n".into()), ..PodSpec::default() }),
            status: Some(PodStatus {
                phase: Some("Running".into()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: "True".into(),
                    last_transition_time: Some(meta::api_time(at(-1000))),
                    ..PodCondition::default()
                }]),
                container_statuses: Some(vec![ContainerStatus::default()]),
                ..PodStatus::default()
            }),
            ..Pod::default()
        };
        p.metadata.uid = Some(uid.into());
        p.metadata.creation_timestamp = Some(meta::api_time(at(-2000)));
        change(&mut p);
        Arc::new(p)
    }

    fn status(p: &mut Pod) -> &mut PodStatus {
        p.status.get_or_insert_default()
    }

    #[test]
    fn the_least_valuable_pod_goes_first() {
        let ordinary = || pod("a", |_| {});
        let worse: Vec<Arc<Pod>> = vec![
            pod("b", |p| p.spec.get_or_insert_default().node_name = None),
            pod("b", |p| status(p).phase = Some("Pending".into())),
            pod("b", |p| status(p).conditions = None),
            pod("b", |p| {
                p.metadata.annotations =
                    Some([("controller.kubernetes.io/pod-deletion-cost".to_owned(), "-5".to_owned())].into());
            }),
            pod("b", |p| {
                for c in status(p).conditions.iter_mut().flatten() {
                    c.last_transition_time = Some(meta::api_time(at(-1)));
                }
            }),
            pod("b", |p| {
                for c in status(p).container_statuses.iter_mut().flatten() {
                    c.restart_count = 3;
                }
            }),
            pod("b", |p| p.metadata.creation_timestamp = Some(meta::api_time(at(-10)))),
        ];
        for (i, bad) in worse.into_iter().enumerate() {
            let picked = victims(vec![ordinary(), bad], &[], 1, at(0));
            assert_eq!(picked[0].metadata.uid.as_deref(), Some("b"), "case {i}");
        }
    }

    #[test]
    fn crowded_nodes_give_first() {
        let on = |uid: &str, node: &str| {
            let node = node.to_owned();
            pod(uid, |p| p.spec.get_or_insert_default().node_name = Some(node))
        };
        let related = vec![on("x", "full"), on("y", "full"), on("a", "empty"), on("z", "full")];
        let picked = victims(vec![on("a", "empty"), on("z", "full")], &related, 1, at(0));
        assert_eq!(picked[0].metadata.uid.as_deref(), Some("z"));
    }

    #[test]
    fn scaling_is_bounded() {
        assert_eq!(scale(3, 3), Scale::Nothing);
        assert_eq!(scale(0, 10_000), Scale::Create(500));
        assert_eq!(scale(5, 2), Scale::Delete(3));
        assert_eq!(scale(2, -1), Scale::Delete(2));
    }

    #[test]
    fn availability_waits_for_min_ready() {
        let young = pod("a", |p| {
            for c in status(p).conditions.iter_mut().flatten() {
                c.last_transition_time = Some(meta::api_time(at(-4)));
            }
        });
        let active = vec![young, pod("b", |_| {})];
        let counts = count(&active, 1, &Selector::default(), 10, at(0));
        assert_eq!(counts, Counts { replicas: 2, fully_labeled: 2, ready: 2, available: 1, terminating: 1 });
        assert_eq!(next_available(&active, 10, at(0)), Some(SignedDuration::from_secs(6)));
    }
}

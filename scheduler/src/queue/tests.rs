//! The queue, with a clock of its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Queue, Sizes};
use crate::cache::Cache;
use crate::framework::{Action, ClusterEvent, Profile, Resource};
use crate::model::PodInfo;
use crate::testing::{node, on, pod, pod_with, profile, sized};

fn at(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn new() -> (Queue, Profile) {
    (Queue::new(at(1.0), at(10.0)), profile(json!({})))
}

fn important(name: &str, priority: i32) -> Arc<PodInfo> {
    pod(name, json!({"priority": priority}))
}

fn names(q: &mut Queue, now: f64) -> Vec<String> {
    std::iter::from_fn(|| q.pop(at(now)).map(|x| x.pod.name.to_string())).collect()
}

#[test]
fn priority_first_then_age() {
    let (mut q, p) = new();
    for (i, (n, prio)) in [("old", 0), ("young", 0), ("urgent", 9)].into_iter().enumerate() {
        q.add(important(n, prio), &p, &Cache::default(), at(i as f64));
    }
    assert_eq!(names(&mut q, 3.0), ["urgent", "old", "young"]);
}

#[test]
fn the_unschedulable_wait_for_an_event_that_concerns_them() {
    let (mut q, p) = new();
    q.add(sized("big", "3", "1Gi"), &p, &Cache::default(), at(0.0));
    let big = q.pop(at(0.0)).expect("pod");
    q.put_unschedulable(big, BTreeSet::from(["NodeResourcesFit"]), at(0.0));
    assert!(q.pop(at(3.0)).is_none());
    let mut tell = |e: ClusterEvent<'_>, now: f64| q.on_event(&e, |_| Some(&p), &Cache::default(), at(now));
    assert_eq!(tell(ClusterEvent::of(Resource::Claim, Action::ADD), 3.0), 0);
    let mut small = node("small", json!({}));
    small.allocatable.cpu = 1000;
    assert_eq!(tell(ClusterEvent::node(None, &small), 3.0), 0, "a node too small is no news");
    let large = node("large", json!({}));
    assert_eq!(tell(ClusterEvent::node(Some(&large), &large), 3.0), 0, "nor is a heartbeat");
    assert_eq!(tell(ClusterEvent::node(None, &large), 3.0), 1);
    assert_eq!(names(&mut q, 3.0), ["big"]);
}

#[test]
fn back_off_doubles_up_to_the_maximum() {
    let (mut q, p) = new();
    q.add(pod("p", json!({})), &p, &Cache::default(), at(0.0));
    let mut now = 0.0;
    for pause in [1.0, 2.0, 4.0, 8.0, 10.0, 10.0] {
        let x = q.pop(at(now)).expect("its turn");
        q.put_error(x, at(now));
        assert_eq!(q.next_wakeup(), Some(at(now + pause)));
        assert!(q.pop(at(now + pause - 0.01)).is_none(), "after {now}");
        now += pause;
    }
}

#[test]
fn a_pod_made_schedulable_backs_off_unless_there_is_nothing_else_to_do() {
    let (mut q, p) = new();
    for n in ["a", "b"] {
        q.add(pod(n, json!({})), &p, &Cache::default(), at(0.0));
    }
    let a = q.pop(at(0.0)).expect("a");
    q.put_unschedulable(a, BTreeSet::from(["NodeResourcesFit"]), at(0.0));
    let gone = on(&sized("x", "1", "1Gi"), "n");
    q.on_event(
        &ClusterEvent::pod(Resource::AssignedPod, Action::DELETE, &gone),
        |_| Some(&p),
        &Cache::default(),
        at(0.1),
    );
    assert_eq!(q.sizes(), Sizes { active: 1, backoff: 1, ..Sizes::default() });
    assert_eq!(names(&mut q, 0.1), ["b", "a"]);
}

#[test]
fn gates_hold_and_release() {
    let (mut q, p) = new();
    let gated = |gates: serde_json::Value| pod("g", json!({"schedulingGates": gates}));
    q.add(gated(json!([{"name": "x"}])), &p, &Cache::default(), at(0.0));
    assert_eq!(q.sizes().gated, 1);
    assert!(q.pop(at(400.0)).is_none());
    assert!(q.update(&gated(json!([])), &p, &Cache::default(), at(1.0)));
    assert_eq!(names(&mut q, 1.0), ["g"]);
}

#[test]
fn an_update_of_the_pod_may_help_it() {
    let (mut q, p) = new();
    q.add(pod("p", json!({})), &p, &Cache::default(), at(0.0));
    let x = q.pop(at(0.0)).expect("pod");
    q.put_unschedulable(x, BTreeSet::from(["TaintToleration"]), at(0.0));
    let labelled = pod_with("p", json!({}), json!({"metadata": {"labels": {"a": "b"}}}));
    q.update(&labelled, &p, &Cache::default(), at(2.0));
    assert_eq!(q.sizes().unschedulable, 1, "a label does not help against a taint");
    q.update(&pod("p", json!({"tolerations": [{"operator": "Exists"}]})), &p, &Cache::default(), at(2.0));
    assert_eq!(names(&mut q, 2.0), ["p"]);
}

#[test]
fn after_five_minutes_it_is_tried_anyway() {
    let (mut q, p) = new();
    q.add(pod("p", json!({})), &p, &Cache::default(), at(0.0));
    let x = q.pop(at(0.0)).expect("pod");
    q.put_unschedulable(x, BTreeSet::from(["NodePorts"]), at(0.0));
    assert!(q.pop(at(299.0)).is_none());
    assert_eq!(names(&mut q, 331.0), ["p"]);
    assert!(!q.delete("p"));
}

#[test]
fn metrics_hear_where_pods_went_and_who_rejected_them() {
    let (mut q, p) = new();
    q.add(sized("a", "1", "1Gi"), &p, &Cache::default(), at(1.0));
    let tried = q.pop(at(1.0)).expect("a");
    q.put_unschedulable(tried, BTreeSet::from(["NodeResourcesFit"]), at(1.0));
    let rejected = |q: &Queue| q.rejections().values().sum::<i64>();
    assert_eq!(rejected(&q), 1);
    let node = node("n", json!({}));
    assert_eq!(q.on_event(&ClusterEvent::node(None, &node), |_| Some(&p), &Cache::default(), at(1.0)), 1);
    assert_eq!(rejected(&q), 0);
    let moves: Vec<_> = q.take_moves().into_keys().collect();
    assert_eq!(moves, [("NodeAdd", "backoff"), ("UnscheduledPodAdd", "active")]);
}

//! DefaultPreemption.

use std::sync::Arc;

use rand::SeedableRng;
use serde_json::json;

use crate::cache::{Budget, Cache};
use crate::decide::{Decision, Turn, decide};
use crate::model::{PodInfo, Selector};
use crate::preempt::{Outcome, best, preempt};
use crate::testing::{cluster, node, node_with, on, pod_with, profile};

fn sized(name: &str, cpu: &str, priority: i32) -> Arc<PodInfo> {
    pod_with(
        name,
        json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}),
        json!({"metadata": {"labels": {"app": name}}, "status": {"startTime": "2026-01-01T00:00:00Z"}}),
    )
}

fn outcome(c: &mut Cache, pod: &PodInfo) -> Outcome {
    let p = profile(json!({}));
    let mut turn = Turn::new(rand::rngs::SmallRng::seed_from_u64(1));
    let before =
        format!("{:?}", c.nodes().map(|n| (&n.requested, n.nonzero, n.pods.len())).collect::<Vec<_>>());
    let Decision::Unschedulable(d) = decide(c, &p, pod, &mut turn) else { panic!("it fits") };
    let out = preempt(c, &p, pod, &d, &mut turn);
    let after =
        format!("{:?}", c.nodes().map(|n| (&n.requested, n.nonzero, n.pods.len())).collect::<Vec<_>>());
    assert_eq!(before, after, "trying out leaves no trace");
    out
}

fn victims(o: Outcome) -> (String, Vec<String>) {
    match o {
        Outcome::Evict(found) => {
            let c = best(&found).expect("one is the best");
            (c.node.to_string(), c.victims.iter().map(|v| v.name.to_string()).collect())
        }
        Outcome::No(text) | Outcome::Wait(text) => panic!("no preemption: {text}"),
    }
}

#[test]
fn the_least_important_go_and_only_as_many_as_needed() {
    let mut c = cluster([node("a", json!({})), node("b", json!({}))]);
    c.set_pod(on(&sized("a-high", "2", 50), "a"));
    c.set_pod(on(&sized("a-low", "2", 1), "a"));
    c.set_pod(on(&sized("b-mid", "3", 20), "b"));
    c.set_pod(on(&sized("b-low", "1", 1), "b"));
    assert_eq!(victims(outcome(&mut c, &sized("new", "2", 100))), ("a".into(), vec!["a-low".into()]));
    // Where one victim does not do, more go, the important last.
    let (node, mut who) = victims(outcome(&mut c, &sized("new", "4", 30)));
    who.sort();
    assert_eq!((node, who), ("b".into(), vec!["b-low".into(), "b-mid".into()]));
}

#[test]
fn budgets_are_spared_where_possible() {
    let mut c = cluster([node("a", json!({})), node("b", json!({}))]);
    c.set_pod(on(&sized("guarded", "4", 1), "a"));
    c.set_pod(on(&sized("free", "4", 5), "b"));
    let selector = serde_json::from_value(json!({"matchLabels": {"app": "guarded"}})).expect("selector");
    c.budgets.insert(
        ("default".into(), "x".into()),
        Budget {
            namespace: "default".into(),
            selector: Selector::new(Some(&selector)),
            allowed: 0,
            disrupted: Box::default(),
        },
    );
    assert_eq!(victims(outcome(&mut c, &sized("new", "2", 100))), ("b".into(), vec!["free".into()]));
}

#[test]
fn without_hope_the_message_says_why() {
    let mut c = cluster([
        node("a", json!({})),
        node_with("t", json!({}), json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})),
    ]);
    c.set_pod(on(&sized("old", "4", 100), "a"));
    let text = |o| match o {
        Outcome::No(text) | Outcome::Wait(text) => text,
        Outcome::Evict(c) => panic!("evicts {c:?}"),
    };
    assert_eq!(
        text(outcome(&mut c, &sized("new", "1", 100))),
        "0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
    );
    let mut never = (*sized("new", "1", 1000)).clone();
    never.preempt_never = true;
    assert_eq!(text(outcome(&mut c, &never)), "not eligible due to preemptionPolicy=Never.");
    // Earlier victims are still leaving.
    let mut leaving = (*on(&sized("old", "4", 100), "a")).clone();
    (leaving.deleting, leaving.disrupted) = (true, true);
    c.set_pod(Arc::new(leaving));
    let mut waiting = (*sized("new", "1", 1000)).clone();
    if let Some(w) = waiting.want.as_mut() {
        w.nominated = Some("a".into());
    }
    assert_eq!(
        text(outcome(&mut c, &waiting)),
        "not eligible due to a terminating pod on the nominated node."
    );
}

#[test]
fn room_made_for_one_pod_is_not_given_to_a_lesser_one() {
    let mut c = cluster([node("a", json!({}))]);
    let waiting = sized("waiting", "3", 100);
    c.nominate(&waiting, Some("a".into()));
    let p = profile(json!({}));
    let refused = crate::testing::choose(&c, &p, &sized("lesser", "2", 1)).expect_err("taken");
    assert_eq!(refused, "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(crate::testing::choose(&c, &p, &sized("greater", "2", 1000)), Ok("a".into()));
    c.nominate(&waiting, None);
    assert_eq!(crate::testing::choose(&c, &p, &sized("lesser", "2", 1)), Ok("a".into()));
}

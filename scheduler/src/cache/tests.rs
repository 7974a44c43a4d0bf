//! The cache against a recount from scratch, under random changes.

use proptest::prelude::*;
use serde_json::json;

use super::{Cache, CountKey, TermSelector};
use crate::model::{Op, Requirement, Resources, Selector};
use crate::testing::{node, on, pod_with};

#[derive(Clone, Debug)]
enum Step {
    Assume(u8, u8, u8),
    Set(u8, u8, u8),
    Remove(u8),
    Forget(u8),
    Node(u8),
    DropNode(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..12u8, 0..4u8, 0..3u8).prop_map(|(p, n, a)| Step::Assume(p, n, a)),
        (0..12u8, 0..4u8, 0..3u8).prop_map(|(p, n, a)| Step::Set(p, n, a)),
        (0..12u8).prop_map(Step::Remove),
        (0..12u8).prop_map(Step::Forget),
        (0..4u8).prop_map(Step::Node),
        (0..4u8).prop_map(Step::DropNode),
    ]
}

fn placed(p: u8, n: u8, app: u8) -> std::sync::Arc<crate::model::PodInfo> {
    let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{}m", p + 1)}}}],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"labelSelector": {"matchLabels": {"app": app.to_string()}}, "topologyKey": "z"}]}}});
    let pod = pod_with(&format!("p{p}"), spec, json!({"metadata": {"labels": {"app": app.to_string()}}}));
    on(&pod, &format!("n{n}"))
}

fn app(a: u8) -> CountKey {
    CountKey {
        terms: Box::new([TermSelector {
            namespaces: None,
            selector: Selector::All(Box::new([Requirement {
                key: "app".into(),
                op: Op::In,
                values: Box::new([a.to_string().as_str().into()]),
            }])),
        }]),
        skip_deleting: false,
    }
}

proptest! {
    #[test]
    fn sums_and_counts_equal_a_recount(steps in prop::collection::vec(step(), 1..80)) {
        let mut c = Cache::default();
        // Asked for early, so that every later change has to maintain it.
        (0..3).for_each(|a| drop(c.count(app(a))));
        for s in steps {
            match s {
                Step::Assume(p, n, a) => c.assume(placed(p, n, a)),
                Step::Set(p, n, a) => { c.set_pod(placed(p, n, a)); }
                Step::Remove(p) => { c.remove_pod(&format!("p{p}")); }
                Step::Forget(p) => c.forget(&format!("p{p}")),
                Step::Node(n) => { c.set_node(node(&format!("n{n}"), json!({}))); }
                Step::DropNode(n) => c.remove_node(&format!("n{n}")),
            }
            for n in c.nodes.iter().flatten() {
                let mut sum = Resources::default();
                n.pods.iter().for_each(|p| sum.add(&p.requests.asked));
                prop_assert_eq!(&n.requested, &sum);
            }
            for a in 0..3 {
                let counts = c.count(app(a));
                for (slot, n) in c.nodes.iter().enumerate() {
                    let real = n.iter().flat_map(|n| &n.pods).filter(|p| {
                        p.labels.get("app").is_some_and(|v| v.as_ref() == a.to_string())
                    });
                    prop_assert_eq!(counts.get(slot).copied().unwrap_or(0) as usize, real.count());
                }
            }
            let terms: u32 = c.terms.iter().flat_map(|(_, slots)| slots.iter()).map(|(_, n)| n).sum();
            prop_assert_eq!(terms as usize, c.pods.len());
            prop_assert_eq!(c.order.len(), c.nodes.iter().flatten().filter(|n| n.facts.is_some()).count());
            prop_assert!(c.by_name.len() + c.free.len() == c.nodes.len());
        }
    }
}

#[test]
fn zones_take_turns_in_the_order() {
    let mut c = Cache::default();
    for (n, z) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")] {
        c.set_node(node(n, json!({"topology.kubernetes.io/zone": z})));
    }
    let names: Vec<&str> = c.nodes().map(|n| n.name.as_ref()).collect();
    assert_eq!(names, ["a1", "b1", "a2", "a3"]);
}

//! Decisions from remembered verdicts against decisions that look at every node.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::json;

use crate::decide::{Decision, Turn, decide, shortlist};
use crate::testing::{cluster, node, node_with, on, pod_with, profile};

#[derive(Clone, Debug)]
enum Step {
    Place { pod: u8, node: u8, cpu: u32 },
    Remove(u8),
    Nominate { pod: u8, node: u8 },
    Withdraw(u8),
    Taint { node: u8, soft: bool },
    Node(u8),
    DropNode(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12u8, 0..5u8, 100..2500u32).prop_map(|(pod, node, cpu)| Step::Place { pod, node, cpu }),
        2 => (0..12u8).prop_map(Step::Remove),
        1 => (20..24u8, 0..5u8).prop_map(|(pod, node)| Step::Nominate { pod, node }),
        1 => (20..24u8).prop_map(Step::Withdraw),
        1 => (0..5u8, any::<bool>()).prop_map(|(node, soft)| Step::Taint { node, soft }),
        1 => (0..5u8).prop_map(Step::Node),
        1 => (0..5u8).prop_map(Step::DropNode),
    ]
}

fn wants(name: &str, cpu: u32, anti: bool) -> std::sync::Arc<crate::model::PodInfo> {
    let requests = json!({"requests": {"cpu": format!("{cpu}m")}});
    let mut spec = json!({"containers": [{"name": "c", "resources": requests}]});
    if anti {
        spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "kubernetes.io/hostname"}]}});
        spec["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]);
    }
    pod_with(name, spec, json!({"metadata": {"labels": {"app": "a"}}}))
}

/// What a decision comes to, but for the dice.
fn told(d: &Decision) -> Result<usize, String> {
    match d {
        Decision::Node { feasible, .. } => Ok(*feasible),
        Decision::Unschedulable(d) => Err(d.message()),
        Decision::NoNodes => Err("no nodes".into()),
    }
}

proptest! {
    #[test]
    fn remembered_verdicts_are_those_of_a_fresh_look(
        steps in prop::collection::vec(step(), 1..60), anti in any::<bool>(),
    ) {
        let mut c = cluster((0..5).map(|i| node(&format!("n{i}"), json!({}))));
        let p = profile(json!({}));
        let mut turn = Turn::new(SmallRng::seed_from_u64(1));
        let new = wants("new", 1500, anti);
        for s in steps {
            match s {
                Step::Place { pod, node, cpu } => {
                    c.set_pod(on(&wants(&format!("p{pod}"), cpu, pod == 3), &format!("n{node}")));
                }
                Step::Remove(pod) => drop(c.remove_pod(&format!("p{pod}"))),
                Step::Nominate { pod, node } => {
                    c.nominate(&wants(&format!("p{pod}"), 2000, false), Some(format!("n{node}").as_str().into()));
                }
                Step::Withdraw(pod) => c.nominate(&wants(&format!("p{pod}"), 2000, false), None),
                Step::Taint { node, soft } => {
                    let effect = if soft { "PreferNoSchedule" } else { "NoSchedule" };
                    let spec = json!({"taints": [{"key": "k", "effect": effect}]});
                    c.set_node(node_with(&format!("n{node}"), json!({}), spec));
                }
                Step::Node(i) => drop(c.set_node(node(&format!("n{i}"), json!({})))),
                Step::DropNode(i) => c.remove_node(&format!("n{i}")),
            }
            let fresh = decide(&c, &p, &new, &mut Turn::new(SmallRng::seed_from_u64(2)));
            let remembered = decide(&c, &p, &new, &mut turn);
            prop_assert_eq!(told(&remembered), told(&fresh));
            if let Decision::Node { slot: chosen, .. } = remembered {
                let scores = shortlist(&c, &p, &new).expect("it fits");
                let of_chosen = scores.iter().find(|(slot, _)| *slot == chosen).map(|(_, score)| *score);
                prop_assert_eq!(of_chosen, scores.iter().map(|(_, score)| *score).max());
            }
        }
    }
}

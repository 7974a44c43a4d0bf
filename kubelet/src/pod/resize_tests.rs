use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::*;
use crate::{cgroup, cri};

fn pod(containers: Value, level: Value) -> Pod {
    serde_json::from_value(json!({"spec": {"resources": level, "containers": containers}})).unwrap()
}

fn running(names: &[&str]) -> PodRuntime {
    let one = |n: &&str| cri::Container {
        id: format!("id-{n}"),
        name: (*n).to_owned(),
        state: ContainerState::Running,
        ..Default::default()
    };
    PodRuntime { containers: names.iter().map(one).collect(), ..Default::default() }
}

fn cpu(name: &str, limit: &str, policy: &str) -> Value {
    json!({"name": name, "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}],
        "resources": {"limits": {"cpu": limit}, "requests": {"cpu": limit}}})
}

#[test]
fn only_running_containers_with_other_numbers_are_resized() {
    let of = |limit: &str, policy: &str| pod(json!([cpu("a", limit, policy)]), Value::Null);
    let have = PodResources::of(&of("1", ""));
    assert!(plan(&of("1000m", "NotRequired"), &running(&["a"]), &have).is_empty());
    let grown = plan(&of("2", "NotRequired"), &running(&["a"]), &have);
    assert_eq!((grown.restart.len(), grown.update.len()), (0, 1));
    assert_eq!((grown.update[0].from.cpu_limit, grown.update[0].to.cpu_limit), (1000, 2000));
    let anew = plan(&of("2", "RestartContainer"), &running(&["a"]), &have);
    assert_eq!((anew.restart, anew.update), (vec![("id-a".into(), "a".into())], vec![]));
    assert!(plan(&of("2", ""), &PodRuntime::default(), &have).is_empty());
    assert!(plan(&of("2", ""), &running(&["a"]), &PodResources::default()).is_empty(), "not known");
}

#[test]
fn a_restart_is_for_the_policy_of_what_changed() {
    let of = |cpu: &str, memory: &str| {
        pod(
            json!([{"name": "a", "resources": {"requests": {"cpu": cpu, "memory": memory}},
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"},
                    {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]),
            Value::Null,
        )
    };
    let have = PodResources::of(&of("1", "1Gi"));
    assert!(plan(&of("2", "1Gi"), &running(&["a"]), &have).restart.is_empty());
    assert_eq!(plan(&of("1", "2Gi"), &running(&["a"]), &have).restart.len(), 1);
}

#[test]
fn sidecars_and_init_containers_are_resized_too() {
    let of = |limit: &str| -> Pod {
        let mut sidecar = cpu("s", limit, "");
        sidecar["restartPolicy"] = "Always".into();
        serde_json::from_value(json!({"spec": {"initContainers": [sidecar, cpu("i", limit, "")],
            "containers": [cpu("a", "1", "")]}}))
        .unwrap()
    };
    let plan = plan(&of("2"), &running(&["i", "s", "a"]), &PodResources::of(&of("1")));
    let names: Vec<&str> = plan.update.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(names, ["s", "i"]);
}

#[test]
fn a_containers_limit_is_its_pods_where_it_has_none() {
    let of = |level: &str| pod(json!([{"name": "a"}, cpu("b", "1", "")]), json!({"limits": {"cpu": level}}));
    let plan = plan(&of("3"), &running(&["a", "b"]), &PodResources::of(&of("2")));
    assert!(plan.pod);
    assert_eq!(plan.update.len(), 1);
    assert_eq!((plan.update[0].from.cpu_limit, plan.update[0].to.cpu_limit), (2000, 3000));
}

#[test]
fn the_pod_grows_before_and_shrinks_after() {
    let update = |name: &str, from: (i64, i64), to: (i64, i64)| Update {
        id: name.into(),
        name: name.into(),
        from: Amounts { cpu_limit: from.0, memory_limit: from.1, ..Amounts::default() },
        to: Amounts { cpu_limit: to.0, memory_limit: to.1, ..Amounts::default() },
    };
    let limits = |cpu: i64, memory: i64| Limits {
        cpu_quota: Some((cpu, 100_000)),
        memory: Some(memory),
        cpu_shares: Some(cpu),
        ..Limits::default()
    };
    let list = [update("a", (1, 1), (2, 2)), update("b", (3, 5), (2, 1))];
    use Resource::{Cpu, Memory};
    use Step::{Container, PodLimit, PodShares};
    assert_eq!(
        steps(&list, &limits(3, 6), &limits(4, 3)),
        [
            Container(1, Memory),
            Container(0, Memory),
            PodLimit(Memory),
            PodLimit(Cpu),
            PodShares,
            Container(1, Cpu),
            Container(0, Cpu),
        ]
    );
    assert_eq!(steps(&[], &Limits::default(), &Limits::default()), [PodShares]);
}

/// Random pods, resized at random: no container ever has more than its pod, and all end as wanted.
#[test]
fn random_resizes_keep_containers_within_their_pod() {
    for seed in 0..2000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(1..5);
        let names: Vec<String> = (0..count).map(|i| format!("c{i}")).collect();
        let make = |rng: &mut StdRng| {
            let all: Vec<Value> = names
                .iter()
                .map(|n| {
                    let (c, m) = (rng.random_range(10..60) * 10, rng.random_range(1..50));
                    let list = json!({"cpu": format!("{c}m"), "memory": format!("{m}Mi")});
                    json!({"name": n, "resources": {"limits": list, "requests": list}})
                })
                .collect();
            pod(json!(all), Value::Null)
        };
        let (old, new) = (make(&mut rng), make(&mut rng));
        let refs: Vec<&str> = names.iter().map(String::as_str).collect();
        let plan = plan(&new, &running(&refs), &PodResources::of(&old));
        let limits = |p: &Pod| cgroup::pod_limits(p, Some(100_000), -1);
        let (have, want) = (limits(&old), limits(&new));
        let numbers = |p: &Pod| -> HashMap<String, Amounts> {
            let s = spec::spec(p);
            s.containers.iter().map(|c| (c.name.clone(), Amounts::of(None, c.resources.as_ref()))).collect()
        };
        let (mut now, mut whole) = (numbers(&old), have.clone());
        for step in steps(&plan.update, &have, &want) {
            match step {
                Step::PodLimit(Resource::Memory) => whole.memory = want.memory,
                Step::PodLimit(Resource::Cpu) => whole.cpu_quota = want.cpu_quota,
                Step::PodShares => whole.cpu_shares = want.cpu_shares,
                Step::Container(i, r) => {
                    let (u, c) = (&plan.update[i], now.get_mut(&plan.update[i].name).unwrap());
                    match r {
                        Resource::Cpu => (c.cpu_request, c.cpu_limit) = (u.to.cpu_request, u.to.cpu_limit),
                        Resource::Memory => {
                            (c.memory_request, c.memory_limit) = (u.to.memory_request, u.to.memory_limit);
                        }
                    }
                }
            }
            for c in now.values() {
                assert!(c.cpu_limit * 100 <= whole.cpu_quota.unwrap().0, "seed {seed}");
                assert!(c.memory_limit <= whole.memory.unwrap(), "seed {seed}");
            }
        }
        assert_eq!((now, whole), (numbers(&new), want), "seed {seed}");
    }
}

#[test]
fn memory_in_use_holds_a_limit_up() {
    let amounts = |memory_limit| Amounts { memory_limit, ..Amounts::default() };
    let update = [Update { id: "1".into(), name: "a".into(), from: amounts(100), to: amounts(50) }];
    let limits = |memory| Limits { memory, ..Limits::default() };
    let (have, want) = (limits(Some(100)), limits(Some(50)));
    assert!(lowers_memory(&update, &have, &want));
    assert!(!lowers_memory(&[], &want, &have));
    assert!(lowers_memory(&[], &limits(None), &have), "a limit is new");
    let usage = |pod, a| Usage { pod, containers: HashMap::from([("a".to_owned(), a)]) };
    assert_eq!(memory_problem(&update, &have, &want, &usage(Some(49), 49)), None);
    assert_eq!(
        memory_problem(&update, &have, &want, &usage(Some(50), 49)).unwrap(),
        "cannot decrease memory limits: attempting to set pod memory limit (50) below current usage (50)"
    );
    assert_eq!(
        memory_problem(&update, &have, &want, &usage(None, 60)).unwrap(),
        "cannot decrease memory limits: [missing pod memory usage, attempting to set container \"a\" memory limit (50) below current usage (60)]"
    );
    let nothing = memory_problem(&update, &have, &have, &Usage::default()).unwrap();
    assert_eq!(nothing, "cannot decrease memory limits: missing container \"a\" memory usage");
}

#[test]
fn an_older_container_runs_with_what_was_reported() {
    let p: Pod = serde_json::from_value(json!({"status": {"containerStatuses": [{"name": "a", "image": "i",
        "imageID": "", "ready": true, "restartCount": 0, "containerID": "containerd://7",
        "resources": {"limits": {"cpu": "1"}}}]}}))
    .unwrap();
    assert!(reported(&p, "a", "7").is_some_and(|r| r.limits.is_some()));
    assert_eq!((reported(&p, "a", "8"), reported(&p, "b", "7")), (None, None));
}

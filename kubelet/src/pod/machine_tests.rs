use super::*;

fn ts(s: i64) -> Timestamp {
    Timestamp::from_second(s).unwrap()
}

fn pod(json: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": json
    }))
    .unwrap()
}

fn sandbox() -> Sandbox {
    Sandbox { id: "s".into(), ready: true, ips: vec!["10.0.0.1".into()], ..Default::default() }
}

fn container(name: &str, state: ContainerState, exit_code: i32) -> Container {
    Container {
        id: format!("{name}-id"),
        sandbox_id: "s".into(),
        name: name.into(),
        state,
        exit_code,
        created_at: Some(ts(1)),
        finished_at: Some(ts(90)),
        ..Default::default()
    }
}

struct World {
    pod: Pod,
    runtime: PodRuntime,
    probes: HashMap<String, ProbeState>,
    memory: Memory,
}

impl World {
    fn new(spec: serde_json::Value, containers: Vec<Container>) -> Self {
        let mut memory = Memory::new(Duration::from_secs(300));
        memory.volumes_ready = true;
        Self {
            pod: pod(spec),
            runtime: PodRuntime { sandboxes: vec![sandbox()], containers },
            probes: HashMap::new(),
            memory,
        }
    }

    fn decide(&self) -> Decision {
        decide(&Inputs {
            pod: &self.pod,
            runtime: &self.runtime,
            probes: &self.probes,
            memory: &self.memory,
            started: Some(ts(0)),
            now: ts(100),
        })
    }

    fn starts(&self) -> Vec<String> {
        self.decide()
            .actions
            .into_iter()
            .filter_map(|a| match a {
                Action::Start { name, .. } => Some(name),
                _ => None,
            })
            .collect()
    }
}

fn one(policy: &str) -> serde_json::Value {
    serde_json::json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]})
}

#[test]
fn a_new_pod_gets_volumes_and_sandbox_at_once_then_its_container() {
    let mut w = World::new(one("Always"), vec![]);
    w.runtime.sandboxes.clear();
    w.memory.volumes_ready = false;
    assert_eq!(w.decide().actions, [Action::CreateSandbox { attempt: 0 }, Action::MountVolumes]);
    w.memory.inflight.extend([Op::Sandbox, Op::Volumes]);
    assert!(w.decide().actions.is_empty());
    let w = World::new(one("Always"), vec![]);
    assert_eq!(w.starts(), ["a"]);
}

#[test]
fn restart_policies() {
    use ContainerState::{Exited, Running};
    for (policy, code, restarts) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let w = World::new(one(policy), vec![container("a", Exited, code)]);
        let d = w.decide();
        assert_eq!(!d.actions.is_empty(), restarts, "{policy} {code}");
        assert_eq!(d.finish.is_some(), !restarts, "{policy} {code}");
    }
    let w = World::new(one("Never"), vec![container("a", Running, 0)]);
    assert_eq!(w.decide(), Decision::default());
}

#[test]
fn crash_loop_waits_with_upstreams_words() {
    let mut w = World::new(one("Always"), vec![container("a", ContainerState::Exited, 1)]);
    w.memory.restarts.next("a", ts(80), ts(85));
    w.memory.restarts.next("a", ts(86), ts(88));
    let d = w.decide();
    assert!(d.actions.is_empty());
    assert_eq!(d.wake_at, Some(ts(110)));
    let (reason, message) = &d.waiting["a"];
    assert_eq!(reason, "CrashLoopBackOff");
    assert_eq!(message, "back-off 20s restarting failed container=a pod=p_d(u)");
}

#[test]
fn init_containers_run_in_order_and_sidecars_need_to_be_started() {
    use ContainerState::{Exited, Running};
    let spec = serde_json::json!({"restartPolicy": "Never",
        "initContainers": [{"name": "i1"}, {"name": "side", "restartPolicy": "Always", "startupProbe": {}}, {"name": "i2"}],
        "containers": [{"name": "a"}]});
    assert_eq!(World::new(spec.clone(), vec![]).starts(), ["i1"]);
    let i1 = container("i1", Exited, 0);
    assert!(World::new(spec.clone(), vec![container("i1", Running, 0)]).starts().is_empty());
    assert_eq!(World::new(spec.clone(), vec![i1.clone()]).starts(), ["side"]);
    let mut w = World::new(spec.clone(), vec![i1.clone(), container("side", Running, 0)]);
    assert!(w.starts().is_empty(), "the startup probe has not passed");
    w.probes.insert("side-id".into(), ProbeState { startup: Some(true), ..Default::default() });
    assert_eq!(w.starts(), ["i2"]);
    w.runtime.containers.push(container("i2", Exited, 0));
    assert_eq!(w.starts(), ["a"]);
    w.runtime.containers.retain(|c| c.name != "i2");
    w.runtime.containers.push(container("i2", Exited, 3));
    assert_eq!(w.decide().finish, Some(None), "a failed init container ends a Never pod");
    // A sidecar that dies while the pod runs comes back.
    let w = World::new(spec, vec![container("a", Running, 0), container("side", Exited, 1)]);
    assert_eq!(w.starts(), ["side"]);
}

#[test]
fn liveness_failure_kills_and_restarts() {
    let mut w = World::new(one("Always"), vec![container("a", ContainerState::Running, 0)]);
    w.probes.insert("a-id".into(), ProbeState { liveness: Some(false), ..Default::default() });
    match &w.decide().actions[..] {
        [Action::Kill { reason: KillReason::Liveness, message, restart: true, grace: 30, .. }] => {
            assert_eq!(message, "Container a failed liveness probe, will be restarted");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn stop_order_is_containers_then_sidecars_then_sandbox() {
    use ContainerState::{Exited, Running};
    let spec = serde_json::json!({
        "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]});
    let mut w = World::new(
        spec,
        vec![container("a", Running, 0), container("s1", Running, 0), container("s2", Running, 0)],
    );
    w.memory.stop = Some(Stop { at: ts(90), grace: 30, failure: None });
    let mut order = Vec::new();
    loop {
        let d = w.decide();
        match d.actions.as_slice() {
            [Action::Kill { name, grace: 20, .. }] => {
                order.push(name.clone());
                let name = name.clone();
                w.runtime.containers.iter_mut().filter(|c| c.name == name).for_each(|c| c.state = Exited);
            }
            [Action::StopSandbox { id }] => {
                order.push(id.clone());
                w.runtime.sandboxes[0].ready = false;
            }
            [] => {
                assert_eq!(d.stage, Stage::Stopped);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(order, ["a", "s2", "s1", "s"]);
}

#[test]
fn a_lost_sandbox_is_replaced_and_init_runs_again() {
    use ContainerState::Exited;
    let spec = serde_json::json!({"restartPolicy": "Always",
        "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let mut w = World::new(spec, vec![container("i", Exited, 0), container("a", Exited, 137)]);
    w.runtime.sandboxes[0].ready = false;
    assert_eq!(w.decide().actions, [Action::CreateSandbox { attempt: 1 }]);
    w.runtime.sandboxes.insert(0, Sandbox { id: "s2".into(), attempt: 1, ..sandbox() });
    match &w.decide().actions[..] {
        [Action::Start { name, restart_count: 1, sandbox, .. }] => {
            assert_eq!((&**name, &**sandbox), ("i", "s2"))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_active_deadline_ends_the_pod() {
    let mut spec = one("Always");
    spec["activeDeadlineSeconds"] = 100.into();
    let w = World::new(spec, vec![container("a", ContainerState::Running, 0)]);
    assert_eq!(w.decide().finish.unwrap().unwrap().0, "DeadlineExceeded");
}

#[test]
fn starts_are_one_at_a_time_and_failed_ones_wait() {
    let spec = serde_json::json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let mut w = World::new(spec, vec![]);
    assert_eq!(w.starts(), ["a"]);
    w.memory.start_errors.insert(
        "a".into(),
        StartError { reason: "ErrImagePull".into(), message: String::new(), retry_at: ts(120) },
    );
    let d = w.decide();
    assert_eq!(w.starts(), ["b"]);
    assert_eq!(d.wake_at, Some(ts(120)));
    w.memory.inflight.insert(Op::Start("b".into()));
    assert!(w.starts().is_empty());
}

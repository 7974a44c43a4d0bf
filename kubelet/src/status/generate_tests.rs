use super::*;
use crate::cri::Sandbox;

fn pod(v: serde_json::Value) -> Pod {
    serde_json::from_value(v).unwrap()
}

fn simple() -> Pod {
    pod(serde_json::json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "generation": 1},
        "spec": {"containers": [{"name": "a", "image": "busybox", "readinessProbe": {}}]}}))
}

fn sandbox() -> Sandbox {
    Sandbox { id: "s".into(), ready: true, ips: vec!["10.1.0.2".into()], ..Default::default() }
}

fn running() -> Container {
    Container {
        id: "c1".into(),
        sandbox_id: "s".into(),
        name: "a".into(),
        state: Runtime::Running,
        started_at: Timestamp::from_second(50).ok(),
        image: "busybox:1".into(),
        ..Default::default()
    }
}

fn run(pod: &Pod, runtime: &PodRuntime, ready: bool, ended: bool, old: Option<&PodStatus>) -> PodStatus {
    let probes =
        HashMap::from([("c1".to_owned(), ProbeState { readiness: Some(ready), ..Default::default() })]);
    generate(&Facts {
        pod,
        old,
        runtime,
        probes: &probes,
        waiting: &BTreeMap::new(),
        ended,
        failure: None,
        actuated: None,
        resize: &Conditions::default(),
        runtime_name: "containerd",
        host_ips: &["192.0.2.1".into()],
        now: Timestamp::from_second(100).unwrap(),
    })
}

fn condition<'a>(s: &'a PodStatus, kind: &str) -> &'a k8s_openapi::api::core::v1::PodCondition {
    s.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap()
}

#[test]
fn a_pod_before_during_and_after() {
    let p = simple();
    let s = run(&p, &PodRuntime::default(), false, false, None);
    assert_eq!(s.phase.as_deref(), Some("Pending"));
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        c.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
        Some("ContainerCreating")
    );
    assert_eq!(condition(&s, "PodReadyToStartContainers").status, "False");
    assert_eq!(condition(&s, "Initialized").status, "True");
    assert_eq!(condition(&s, "Ready").message.as_deref(), Some("containers with unready status: [a]"));

    let mut rt = PodRuntime { sandboxes: vec![sandbox()], containers: vec![running()] };
    let s2 = run(&p, &rt, true, false, Some(&s));
    assert_eq!(s2.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&s2, "Ready").status, "True");
    assert_eq!(s2.pod_ip.as_deref(), Some("10.1.0.2"));
    assert_eq!(s2.container_statuses.as_ref().unwrap()[0].container_id.as_deref(), Some("containerd://c1"));

    rt.containers[0].state = Runtime::Exited;
    rt.containers[0].exit_code = 3;
    rt.sandboxes[0].ready = false;
    let s3 = run(&p, &rt, true, true, Some(&s2));
    assert_eq!(s3.phase.as_deref(), Some("Failed"));
    assert_eq!(condition(&s3, "Ready").reason.as_deref(), Some("PodFailed"));
    assert_eq!(s3.pod_ip.as_deref(), Some("10.1.0.2"), "the address stays visible");
}

/// The API server refuses a kubelet that takes away what others say about the claims of a pod.
#[test]
fn what_others_say_about_claims_is_kept() {
    let mut p = simple();
    let said = serde_json::json!({
        "nominatedNodeName": "n", "resourceClaimStatuses": [{"name": "c", "resourceClaimName": "x"}],
        "extendedResourceClaimStatus": {"resourceClaimName": "y", "requestMappings": []},
    });
    p.status = serde_json::from_value(said).unwrap();
    let made = run(&p, &PodRuntime::default(), false, false, None);
    let said = p.status.unwrap();
    assert_eq!(made.resource_claim_statuses, said.resource_claim_statuses);
    assert_eq!(made.extended_resource_claim_status, said.extended_resource_claim_status);
    assert_eq!(made.nominated_node_name, said.nominated_node_name);
}

#[test]
fn transition_times_move_only_with_the_status() {
    let p = simple();
    let rt = PodRuntime { sandboxes: vec![sandbox()], containers: vec![running()] };
    let mut first = run(&p, &rt, true, false, None);
    for c in first.conditions.iter_mut().flatten() {
        c.last_transition_time = Some(spec::time(Timestamp::from_second(7).unwrap()));
    }
    let second = run(&p, &rt, false, false, Some(&first));
    let at = |k: &str| condition(&second, k).last_transition_time.as_ref().unwrap().0.as_second();
    assert_eq!(at("Initialized"), 7);
    assert_eq!(at("Ready"), 100);
}

#[test]
fn restarts_show_the_last_state() {
    let p = simple();
    let dead = Container {
        id: "c0".into(),
        state: Runtime::Exited,
        exit_code: 1,
        reason: "Error".into(),
        ..running()
    };
    let now = Container { restart_count: 1, ..running() };
    let rt = PodRuntime { sandboxes: vec![sandbox()], containers: vec![now, dead] };
    let s = run(&p, &rt, true, false, None);
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(c.restart_count, 1);
    assert_eq!(c.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    // The dead container is collected; its record stays.
    let rt = PodRuntime { sandboxes: vec![sandbox()], containers: vec![rt.containers[0].clone()] };
    let s = run(&p, &rt, true, false, Some(&s));
    assert!(s.container_statuses.as_ref().unwrap()[0].last_state.as_ref().unwrap().terminated.is_some());
}

#[test]
fn crash_loops_wait_and_keep_the_exit() {
    let p = simple();
    let dead = Container { state: Runtime::Exited, exit_code: 1, ..running() };
    let rt = PodRuntime { sandboxes: vec![sandbox()], containers: vec![dead] };
    let waiting = BTreeMap::from([("a".to_owned(), ("CrashLoopBackOff".to_owned(), "m".to_owned()))]);
    let s = generate(&Facts {
        pod: &p,
        old: None,
        runtime: &rt,
        probes: &HashMap::new(),
        waiting: &waiting,
        ended: false,
        failure: None,
        actuated: None,
        resize: &Conditions::default(),
        runtime_name: "containerd",
        host_ips: &[],
        now: Timestamp::from_second(100).unwrap(),
    });
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        c.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
        Some("CrashLoopBackOff")
    );
    assert_eq!(c.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    assert_eq!(s.phase.as_deref(), Some("Running"));
}

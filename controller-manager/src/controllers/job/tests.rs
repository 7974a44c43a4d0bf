//! Decisions about single situations.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
    SuccessPolicy, SuccessPolicyRule,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
};

use super::backoff::Record;
use super::model;
use super::plan::{Act, Decision, NewPod, Seen, decide};
use super::sync::pod_of;
use crate::util::meta;

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000)
}

fn job(change: impl FnOnce(&mut JobSpec)) -> Job {
    let mut spec = JobSpec { parallelism: Some(2), completions: Some(4), ..JobSpec::default() };
    change(&mut spec);
    let mut job = Job { spec: Some(spec), ..Job::default() };
    job.metadata.name = Some("j".into());
    job
}

fn pod(uid: &str, phase: &str, change: impl FnOnce(&mut Pod)) -> Arc<Pod> {
    let mut p = Pod {
        status: Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() }),
        ..Pod::default()
    };
    p.metadata.uid = Some(uid.into());
    p.metadata.name = Some(uid.into());
    p.metadata.finalizers = Some(vec![model::FINALIZER.into()]);
    change(&mut p);
    Arc::new(p)
}

fn at_index(index: i32) -> impl FnOnce(&mut Pod) {
    move |p| {
        p.metadata.annotations = Some([(model::INDEX.to_owned(), index.to_string())].into());
    }
}

fn exit(code: i32) -> impl FnOnce(&mut Pod) {
    move |p| {
        let terminated = ContainerStateTerminated {
            exit_code: code,
            finished_at: Some(meta::api_time(now())),
            ..ContainerStateTerminated::default()
        };
        let state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
        let c = ContainerStatus { name: "main".into(), state, ..ContainerStatus::default() };
        p.status.get_or_insert_default().container_statuses = Some(vec![c]);
    }
}

fn decided(job: &Job, pods: &[Arc<Pod>]) -> Decision {
    let stripped = HashSet::new();
    decide(&Seen { job, pods, stripped: &stripped, caught_up: true, record: Record::default(), now: now() })
}

fn created(d: &Decision) -> Vec<Option<i32>> {
    match &d.act {
        Act::Create(new) => new.iter().map(|n| n.index).collect(),
        Act::Nothing => Vec::new(),
        other => panic!("{other:?}"),
    }
}

fn removed(d: &Decision) -> Vec<&str> {
    match &d.act {
        Act::Remove(pods) => pods.iter().map(|p| meta::uid(&p.metadata)).collect(),
        other => panic!("{other:?}"),
    }
}

fn indexed(s: &mut JobSpec) {
    s.completion_mode = Some("Indexed".into());
}

fn reason(d: &Decision) -> Option<&str> {
    d.finish.as_ref().and_then(|c| c.reason.as_deref())
}

#[test]
fn as_many_pods_as_are_needed() {
    assert_eq!(created(&decided(&job(|_| {}), &[])).len(), 2);
    let three_done: Vec<_> = ["a", "b", "c"].iter().map(|u| pod(u, "Succeeded", |_| {})).collect();
    assert_eq!(created(&decided(&job(|_| {}), &three_done)).len(), 1);
    let queue = job(|s| s.completions = None);
    assert_eq!(created(&decided(&queue, &[])).len(), 2);
    let one_done = [pod("a", "Succeeded", |_| {}), pod("b", "Running", |_| {})];
    assert_eq!(created(&decided(&queue, &one_done)).len(), 0, "one success ends a work queue");
    let scaled = job(|s| s.parallelism = Some(0));
    assert_eq!(removed(&decided(&scaled, &[pod("a", "Running", |_| {})])), ["a"]);
}

#[test]
fn doubles_and_strangers_among_indexes_go() {
    let running = [
        pod("a", "Running", at_index(0)),
        pod("b", "Pending", at_index(0)),
        pod("c", "Running", at_index(9)),
        pod("d", "Running", |_| {}),
    ];
    let mut gone =
        removed(&decided(&job(indexed), &running)).into_iter().map(str::to_owned).collect::<Vec<_>>();
    gone.sort();
    assert_eq!(gone, ["b", "c", "d"]);
    let d = decided(&job(indexed), &[pod("a", "Running", at_index(1)), pod("x", "Succeeded", at_index(0))]);
    assert_eq!(created(&d), [Some(2)]);
}

#[test]
fn terminating_pods_are_replaced_now_or_after_their_end() {
    let going = |p: &mut Pod| p.metadata.deletion_timestamp = Some(meta::api_time(now()));
    let pods = [pod("a", "Running", going), pod("b", "Running", |_| {})];
    let d = decided(&job(|_| {}), &pods);
    assert!(matches!(d.act, Act::Nothing) && d.again.is_some(), "a failure: the back-off runs");
    let patient = job(|s| s.pod_replacement_policy = Some("Failed".into()));
    let d = decided(&patient, &pods);
    assert!(matches!(d.act, Act::Nothing) && d.again.is_none() && d.terminating == 1);
}

#[test]
fn failures_by_policy() {
    let rule = |action: &str, code| PodFailurePolicyRule {
        action: action.into(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: None,
            operator: "In".into(),
            values: vec![code],
        }),
        on_pod_conditions: None,
    };
    let policy =
        PodFailurePolicy { rules: vec![rule("FailJob", 3), rule("Ignore", 4), rule("FailIndex", 5)] };
    let with = |f: fn(&mut JobSpec)| {
        let policy = policy.clone();
        job(move |s| {
            s.backoff_limit = Some(0);
            s.pod_failure_policy = Some(policy);
            f(s);
        })
    };
    let d = decided(&with(|_| {}), &[pod("a", "Failed", exit(3))]);
    assert_eq!(reason(&d), Some("PodFailurePolicy"));
    assert_eq!(reason(&decided(&with(|_| {}), &[pod("a", "Failed", exit(4))])), None);
    assert_eq!(reason(&decided(&with(|_| {}), &[pod("a", "Failed", exit(1))])), Some("BackoffLimitExceeded"));
    let per_index = with(|s| {
        indexed(s);
        s.backoff_limit = Some(100);
        s.backoff_limit_per_index = Some(10);
        s.max_failed_indexes = Some(0);
    });
    let both = |p: &mut Pod| {
        at_index(2)(p);
        exit(5)(p);
    };
    let d = decided(&per_index, &[pod("a", "Failed", both)]);
    assert_eq!(d.failed_indexes.as_ref().map(ToString::to_string).as_deref(), Some("2"));
    assert_eq!(reason(&d), Some("MaxFailedIndexesExceeded"));
}

#[test]
fn an_index_inherits_its_failures() {
    let j = job(|s| {
        indexed(s);
        s.backoff_limit_per_index = Some(3);
    });
    let failed = |p: &mut Pod| {
        at_index(0)(p);
        exit(1)(p);
        p.metadata.annotations.get_or_insert_default().insert(model::FAILURES.into(), "1".into());
    };
    let d = decided(&j, &[pod("a", "Failed", failed)]);
    assert_eq!(created(&d), [Some(1)], "index 0 waits");
    assert!(d.kept.contains("a"), "its pod tells how often it failed");
    let stripped = HashSet::new();
    let pods = [pod("a", "Failed", failed)];
    let later = now() + SignedDuration::from_secs(21);
    let d = decide(&Seen {
        job: &j,
        pods: &pods,
        stripped: &stripped,
        caught_up: true,
        record: Record::default(),
        now: later,
    });
    let Act::Create(new) = &d.act else { panic!("{:?}", d.act) };
    assert_eq!(new[0], NewPod { index: Some(0), failures: Some((2, 0)) });
}

#[test]
fn deadlines_and_success_policies_end_jobs() {
    let mut late = job(|s| s.active_deadline_seconds = Some(10));
    late.status.get_or_insert_default().start_time =
        Some(meta::api_time(now() - SignedDuration::from_secs(10)));
    assert_eq!(reason(&decided(&late, &[])), Some("DeadlineExceeded"));
    let fresh = job(|s| s.active_deadline_seconds = Some(10));
    assert_eq!(decided(&fresh, &[]).again, Some(SignedDuration::from_secs(10)));
    let leader = job(|s| {
        indexed(s);
        let rule = SuccessPolicyRule { succeeded_indexes: Some("0".into()), succeeded_count: None };
        s.success_policy = Some(SuccessPolicy { rules: vec![rule] });
    });
    let d = decided(&leader, &[pod("a", "Succeeded", at_index(0)), pod("b", "Running", at_index(1))]);
    assert_eq!(reason(&d), Some("SuccessPolicy"));
    assert!(matches!(&d.act, Act::Stop(pods) if pods.len() == 1));
}

#[test]
fn pods_of_indexed_jobs_know_their_index() {
    let j = job(|s| {
        indexed(s);
        let c = Container { name: "main".into(), ..Container::default() };
        s.template.spec = Some(PodSpec { containers: vec![c], ..PodSpec::default() });
    });
    let p = pod_of(&j, &NewPod { index: Some(3), failures: Some((0, 1)) });
    assert_eq!(p.metadata.generate_name.as_deref(), Some("j-3-"));
    assert_eq!(p.metadata.finalizers.as_deref(), Some(&[model::FINALIZER.to_owned()][..]));
    assert_eq!(model::index(&p), Some(3));
    assert_eq!(model::index_failures(&p), (0, 1));
    let spec = p.spec.unwrap_or_default();
    assert_eq!(spec.hostname.as_deref(), Some("j-3"));
    assert_eq!(spec.containers[0].env.as_ref().map(|e| e[0].name.as_str()), Some(model::INDEX_ENV));
    let mut long = j.clone();
    long.metadata.name = Some("x".repeat(300));
    let p = pod_of(&long, &NewPod { index: Some(12345), failures: None });
    assert_eq!(p.metadata.generate_name.map(|n| n.len()), Some(58));
}

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::{
    conditions::{DEFERRED, ERROR, IN_PROGRESS, PENDING},
    decide::{Verdict, decide, rank},
    model::{increases, operations, resized},
    *,
};
use crate::pod::{admission::Capacity, resources};

fn pod(uid: &str, cpu: &str) -> Arc<Pod> {
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": uid, "uid": uid, "generation": 1}, "spec": {"containers": [
            {"name": "a", "image": "i", "resources": {"requests": {"cpu": cpu, "example.com/x": "1"}}}]}}),
        )
        .unwrap(),
    )
}

fn cpu(p: &Pod) -> i64 {
    resources::pod_request(spec::spec(p), "cpu")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_pod_runs_with_what_it_was_allocated_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Allocations::open(dir.path(), ResizeMetrics::default()).unwrap();
    let a = open();
    assert!(!a.differs(&pod("u", "1")), "nothing is allocated yet");
    a.allocate(&pod("u", "1")).unwrap();
    a.starting("u", "a", &ResourceRequirements::default());
    let wanted = pod("u", "2");
    assert!(a.differs(&wanted) && !a.differs(&pod("u", "1000m")));
    assert_eq!(cpu(&a.fill(&wanted)), 1000);
    let later = open();
    assert_eq!(cpu(&later.fill(&wanted)), 1000);
    assert!(later.actuated("u").unwrap().containers.contains_key("a"));
    later.retain(&HashSet::new());
    assert_eq!((later.allocated("u"), open().actuated("u")), (None, None));
    std::fs::write(dir.path().join("allocated_pods_state"), "{").unwrap();
    assert!(
        Allocations::open(dir.path(), ResizeMetrics::default()).is_err_and(|e| e.contains("delete the file"))
    );
}

#[test]
fn a_pod_holds_the_larger_of_allocated_and_actuated() {
    let actuated = PodResources::of(&pod("u", "3"));
    assert_eq!(cpu(&actuated.held(&pod("u", "1"), |_| true)), 3000);
    assert_eq!(cpu(&actuated.held(&pod("u", "4"), |_| true)), 4000);
    assert_eq!(cpu(&actuated.held(&pod("u", "1"), |_| false)), 1000, "it does not run with it any more");
}

#[test]
fn what_a_spec_asks_for_is_named() {
    let of = |r: serde_json::Value| -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "a", "resources": r}]}})).unwrap()
    };
    let old = of(json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}));
    let new = of(json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "3", "memory": "2Gi"}}));
    let expected = [
        ("memory", "requests", "remove"),
        ("memory", "limits", "add"),
        ("cpu", "requests", "decrease"),
        ("cpu", "limits", "increase"),
    ];
    assert_eq!(operations(&old, &new), expected);
    assert!(resized(&old, &new) && !resized(&old, &old.clone()));
    assert!(!increases(&old, &new) && increases(&new, &old));
    let level: Pod =
        serde_json::from_value(json!({"spec": {"resources": {"requests": {"cpu": "1"}}, "containers": []}}))
            .unwrap();
    assert!(resized(&level, &Pod::default()));
}

#[test]
fn a_change_is_allocated_if_it_fits_beside_the_others() {
    let allocatable = BTreeMap::from([("cpu".to_owned(), 4000)]);
    let c = Capacity { allocatable: &allocatable, max_pods: 10, allowed_sysctls: &[] };
    let has = PodResources::of(&pod("u", "1"));
    let other = pod("o", "2");
    let judge = |cpu: &str| decide(&pod("u", cpu), Some(&has), &[&other], None, &c);
    assert_eq!(judge("1000m"), Verdict::Same);
    assert_eq!(judge("2"), Verdict::Allocate);
    let text = "Node didn't have enough resource: cpu, requested: 2500, used: 2000, capacity: 4000";
    assert_eq!(judge("2500m"), Verdict::Defer("OutOfcpu".into(), text.into()));
    assert_eq!(decide(&pod("u", "9"), None, &[], None, &c), Verdict::Same, "nothing is allocated to it");
}

#[test]
fn those_that_wait_are_asked_in_order() {
    let of = |name: &str, priority: i64, guaranteed: bool, grows: bool, since: Option<i64>| {
        let mut p = Pod::clone(&pod(name, "1"));
        let s = p.spec.as_mut().unwrap();
        s.priority = Some(priority as i32);
        p.status =
            serde_json::from_value(json!({"qosClass": if guaranteed { "Guaranteed" } else { "Burstable" }}))
                .ok();
        (rank(&p, grows, since.map(at)), name.to_owned())
    };
    let mut all = [
        of("new", 0, false, true, None),
        of("late", 0, false, true, Some(2)),
        of("early", 0, false, true, Some(1)),
        of("guaranteed", 0, true, true, Some(9)),
        of("important", 5, false, true, Some(9)),
        of("shrinks", -5, false, false, None),
    ];
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<&str> = all.iter().map(|(_, n)| n.as_str()).collect();
    assert_eq!(names, ["shrinks", "important", "guaranteed", "early", "late", "new"]);
}

#[test]
fn conditions_come_and_go() {
    let mut c = Conditions::default();
    assert!(c.defer("m", Some(2), at(1)));
    assert!(!c.defer("n", Some(2), at(2)), "the same resize");
    assert!(c.defer("n", Some(3), at(3)), "another one");
    let pending = c.pending.clone().unwrap();
    assert_eq!((pending.reason.as_str(), pending.message.as_str(), pending.since), (DEFERRED, "n", at(1)));
    c.begin(Some(3), at(4));
    assert_eq!(c.pending, None);
    assert_eq!(c.fail("bad", Some(3), at(5)), Some(Some(3)));
    assert_eq!(c.fail("bad", Some(3), at(6)), None, "no news");
    c.progress(Some(9), at(7));
    let shown = c.list();
    assert_eq!((shown.len(), shown[0].type_.as_str()), (1, IN_PROGRESS));
    assert_eq!((shown[0].reason.as_deref(), shown[0].observed_generation), (Some(ERROR), Some(3)));
    assert_eq!(shown[0].last_transition_time.as_ref().unwrap().0, at(5));
    let status = k8s_openapi::api::core::v1::PodStatus { conditions: Some(shown), ..Default::default() };
    assert_eq!(Conditions::of(Some(&status)), c);
    assert_eq!(c.end(Some(2)), None, "an older spec is in force");
    assert_eq!(c.end(Some(4)), Some(Some(3)));
    assert_eq!(c.end(Some(4)), None);
    assert!(c.list().is_empty());
    c.progress(None, at(8));
    assert_eq!(c.end(None), Some(None), "static pods have no generation");
    assert_eq!(PENDING, "PodResizePending");
}

#[test]
fn events_tell_the_resources() {
    let p = pod("u", "1");
    assert_eq!(
        messages::message(&p, "started", Some(2), ""),
        r#"Pod resize started: {"containers":[{"name":"a","resources":{"requests":{"cpu":"1","example.com/x":"1"}}}],"generation":2}"#
    );
    let text = messages::message(&Pod::default(), "error", Some(3), "why");
    assert_eq!(text, r#"Pod resize error: {"generation":3,"error":"why"}"#);
}

/// Random resizes of random pods, actuated at random times: the node is never given away twice, whoever waits does so
/// because it does not fit, and when all is quiet everybody has what it may have.
#[test]
fn random_sequences_never_overcommit() {
    const NODE: i64 = 10_000;
    let allocatable = BTreeMap::from([("cpu".to_owned(), NODE)]);
    let capacity = Capacity { allocatable: &allocatable, max_pods: 100, allowed_sysctls: &[] };
    for seed in 0..150 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let a = Allocations::with(dir.path(), ResizeMetrics::default(), false).unwrap();
        let name = |i: usize| format!("p{i}");
        let milli = |n: i64| format!("{n}m");
        let mut wanted: Vec<Arc<Pod>> = (0..5).map(|i| pod(&name(i), "1")).collect();
        for p in &wanted {
            a.allocate(p).unwrap();
            a.actuate(spec::uid(p), |k| *k = PodResources::of(p));
        }
        let held =
            |i: usize, wanted: &[Arc<Pod>]| a.actuated(&name(i)).unwrap().held(&a.fill(&wanted[i]), |_| true);
        for _ in 0..30 {
            let i = rng.random_range(0..wanted.len());
            if rng.random_bool(0.5) {
                wanted[i] = pod(&name(i), &milli(rng.random_range(1..90) * 100));
                a.push(&name(i));
            } else {
                let p = a.fill(&wanted[i]);
                a.actuate(&name(i), |k| *k = PodResources::of(&p));
            }
            let mut waiting = a.pending();
            waiting.sort_by_key(|uid| {
                let p = wanted.iter().find(|p| spec::uid(p) == uid).unwrap();
                increases(&a.fill(p), p)
            });
            for uid in waiting {
                let i = wanted.iter().position(|p| spec::uid(p) == uid).unwrap();
                let others: Vec<Arc<Pod>> =
                    (0..wanted.len()).filter(|o| *o != i).map(|o| held(o, &wanted)).collect();
                let others: Vec<&Pod> = others.iter().map(|p| &**p).collect();
                match decide(&wanted[i], a.allocated(&uid).as_ref(), &others, None, &capacity) {
                    Verdict::Same => a.settle(&uid),
                    Verdict::Allocate => {
                        a.allocate(&wanted[i]).unwrap();
                        a.settle(&uid);
                    }
                    Verdict::Defer(..) => {
                        let used: i64 = others.iter().map(|p| cpu(p)).sum();
                        assert!(used + cpu(&wanted[i]) > NODE, "seed {seed}: it would fit");
                    }
                }
            }
            let total: i64 = (0..wanted.len()).map(|i| cpu(&a.fill(&wanted[i]))).sum();
            assert!(total <= NODE, "seed {seed}: {total} allocated");
            for (i, p) in wanted.iter().enumerate() {
                assert!(!a.differs(p) || a.pending().contains(&name(i)), "seed {seed}: forgotten");
            }
        }
        let again = Allocations::open(dir.path(), ResizeMetrics::default()).unwrap();
        for i in 0..wanted.len() {
            assert_eq!(again.allocated(&name(i)), a.allocated(&name(i)));
        }
    }
}

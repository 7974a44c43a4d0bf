use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::claim::{self, Step, View};
use super::edit;
use super::matching::best;
use super::names::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, SELECTED_NODE};
use super::volume::{self, Deleter};
use crate::util::meta;

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}"))
}

fn pv(name: &str, size: &str, modes: &[&str]) -> PersistentVolume {
    of(json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"name": name}},
        "spec": {"capacity": {"storage": size}, "accessModes": modes, "hostPath": {"path": "/tmp/x"}},
        "status": {"phase": "Available"},
    }))
}

fn pvc(size: &str, extra: Value) -> PersistentVolumeClaim {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
    for (key, value) in extra.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    of(
        json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": spec, "status": {"phase": "Pending"}}),
    )
}

fn reserve(mut v: PersistentVolume, name: &str, uid: &str) -> PersistentVolume {
    v.spec.get_or_insert_default().claim_ref = Some(of(json!({"namespace": "n", "name": name, "uid": uid})));
    v
}

fn chosen(volumes: &[PersistentVolume], c: &PersistentVolumeClaim) -> Option<String> {
    let all: Vec<&PersistentVolume> = volumes.iter().collect();
    best(&all, c, false).unwrap_or_else(|e| panic!("{e}")).and_then(|v| v.metadata.name.clone())
}

#[test]
fn the_smallest_volume_that_fits_is_taken() {
    let all = [
        pv("large", "10Gi", &["ReadWriteOnce"]),
        pv("right", "2Gi", &["ReadWriteOnce"]),
        pv("small", "1Gi", &["ReadWriteOnce"]),
    ];
    assert_eq!(chosen(&all, &pvc("1500Mi", json!({}))).as_deref(), Some("right"));
    assert_eq!(chosen(&all, &pvc("11Gi", json!({}))), None);
    let wider =
        [pv("wide", "2Gi", &["ReadWriteOnce", "ReadOnlyMany"]), pv("exact", "9Gi", &["ReadWriteOnce"])];
    assert_eq!(chosen(&wider, &pvc("1Gi", json!({}))).as_deref(), Some("exact"), "fewest modes come first");
}

#[test]
fn selectors_modes_classes_and_phases_are_respected() {
    let all = [pv("a", "2Gi", &["ReadWriteOnce"]), pv("b", "3Gi", &["ReadWriteOnce"])];
    assert_eq!(
        chosen(&all, &pvc("1Gi", json!({"selector": {"matchLabels": {"name": "b"}}}))).as_deref(),
        Some("b")
    );
    assert_eq!(chosen(&all, &pvc("1Gi", json!({"volumeMode": "Block"}))), None);
    assert_eq!(chosen(&all, &pvc("1Gi", json!({"accessModes": ["ReadWriteMany"]}))), None);
    assert_eq!(chosen(&all, &pvc("1Gi", json!({"storageClassName": "fast"}))), None);
    assert_eq!(chosen(&all, &pvc("1Gi", json!({"volumeAttributesClassName": "gold"}))), None);
    let mut released = all[0].clone();
    released.status.get_or_insert_default().phase = Some("Released".into());
    assert_eq!(chosen(&[released], &pvc("1Gi", json!({}))), None);
}

#[test]
fn reserved_volumes_go_to_their_claim_alone() {
    let ours = reserve(pv("ours", "9Gi", &["ReadWriteOnce"]), "c", "");
    let theirs = reserve(pv("theirs", "1Gi", &["ReadWriteOnce"]), "d", "");
    let earlier = reserve(pv("earlier", "1Gi", &["ReadWriteOnce"]), "c", "a claim of that name that is gone");
    let all = [pv("free", "1Gi", &["ReadWriteOnce"]), theirs, earlier, ours];
    assert_eq!(chosen(&all, &pvc("1Gi", json!({}))).as_deref(), Some("ours"));
}

#[derive(Default)]
struct World {
    volumes: Vec<Arc<PersistentVolume>>,
    classes: Vec<Arc<StorageClass>>,
    default: Option<String>,
    pods: Vec<String>,
}

impl View for World {
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.iter().find(|v| v.metadata.name.as_deref() == Some(name)).cloned()
    }
    fn candidates(&self, _: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        self.volumes.clone()
    }
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.iter().find(|c| c.metadata.name.as_deref() == Some(name)).cloned()
    }
    fn default_class(&self) -> Option<String> {
        self.default.clone()
    }
    fn unscheduled_pods(&self, _: &PersistentVolumeClaim) -> Vec<String> {
        self.pods.clone()
    }
}

fn step(c: &PersistentVolumeClaim, w: &World) -> Step {
    claim::plan(c, w).unwrap_or_else(|e| panic!("{e}"))
}

fn reason(step: &Step) -> (&str, &str) {
    match step {
        Step::Wait(Some(n)) | Step::Lose(n) | Step::Refuse(n) => (n.reason, &n.message),
        other => panic!("no note in {other:?}"),
    }
}

#[test]
fn claims_without_a_volume_wait_get_a_class_or_are_provisioned() {
    let mut w = World::default();
    assert_eq!(
        reason(&step(&pvc("1Gi", json!({})), &w)),
        ("FailedBinding", "no persistent volumes available for this claim and no storage class is set")
    );
    w.default = Some("std".into());
    assert_eq!(step(&pvc("1Gi", json!({})), &w), Step::AssignClass("std".into()));
    let none = pvc("1Gi", json!({"storageClassName": ""}));
    assert!(matches!(step(&none, &w), Step::Wait(_)), "an empty class is a class");
    assert_eq!(step(&pvc("1Gi", json!({"storageClassName": "std"})), &w), Step::Provision);
}

#[test]
fn delayed_claims_wait_for_the_scheduler() {
    let class = json!({"metadata": {"name": "late"}, "provisioner": "x.example.com", "volumeBindingMode": "WaitForFirstConsumer"});
    let mut free = pv("v", "1Gi", &["ReadWriteOnce"]);
    free.spec.get_or_insert_default().storage_class_name = Some("late".into());
    let mut w = World {
        volumes: vec![Arc::new(free.clone())],
        classes: vec![Arc::new(of(class))],
        ..World::default()
    };
    let mut c = pvc("1Gi", json!({"storageClassName": "late"}));
    assert_eq!(
        reason(&step(&c, &w)),
        ("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        "free volumes are the scheduler's to give"
    );
    w.pods = vec!["a".into()];
    assert_eq!(reason(&step(&c, &w)), ("WaitForPodScheduled", "waiting for pod a to be scheduled"));
    w.pods.push("b".into());
    assert_eq!(reason(&step(&c, &w)), ("WaitForPodScheduled", "waiting for pods a,b to be scheduled"));
    c.metadata.annotations = Some([(SELECTED_NODE.to_owned(), "node".to_owned())].into());
    assert_eq!(step(&c, &w), Step::Provision);
    w.volumes = vec![Arc::new(reserve(free, "c", "u"))];
    assert!(matches!(step(&c, &w), Step::Bind(_)), "the scheduler has chosen");
}

#[test]
fn claims_that_name_a_volume_get_it_or_are_told_why_not() {
    let named = |size: &str| pvc(size, json!({"volumeName": "v"}));
    let mut w = World::default();
    assert_eq!(step(&named("1Gi"), &w), Step::Wait(None), "it may still come");
    w.volumes = vec![Arc::new(pv("v", "1Gi", &["ReadWriteOnce"]))];
    assert!(matches!(step(&named("1Gi"), &w), Step::Bind(_)));
    assert_eq!(
        reason(&step(&named("2Gi"), &w)),
        ("VolumeMismatch", "Cannot bind to requested volume \"v\": requested PV is too small")
    );
    w.volumes = vec![Arc::new(reserve(pv("v", "1Gi", &["ReadWriteOnce"]), "d", "x"))];
    assert_eq!(
        reason(&step(&named("1Gi"), &w)),
        ("FailedBinding", "volume \"v\" already bound to a different claim.")
    );
}

#[test]
fn bound_claims_lose_what_is_gone() {
    let mut c = pvc("1Gi", json!({"volumeName": "v"}));
    c.metadata.annotations = Some([(BIND_COMPLETED.to_owned(), "yes".to_owned())].into());
    let mut w = World::default();
    assert_eq!(reason(&step(&c, &w)).0, "ClaimLost");
    w.volumes = vec![Arc::new(pv("v", "1Gi", &["ReadWriteOnce"]))];
    assert!(matches!(step(&c, &w), Step::Bind(_)), "bound again");
    w.volumes = vec![Arc::new(reserve(pv("v", "1Gi", &["ReadWriteOnce"]), "d", "other"))];
    assert_eq!(reason(&step(&c, &w)).0, "ClaimMisbound");
    c.spec.get_or_insert_default().volume_name = None;
    assert_eq!(reason(&step(&c, &w)).0, "ClaimLost");
}

#[test]
fn volumes_follow_their_claims() {
    let free = pv("v", "1Gi", &["ReadWriteOnce"]);
    assert_eq!(volume::plan(&free, None), volume::Step::Free);
    assert_eq!(volume::plan(&reserve(free.clone(), "c", ""), None), volume::Step::Free, "only reserved");
    let bound = reserve(free, "c", "u");
    assert_eq!(volume::plan(&bound, None), volume::Step::Reclaim);
    let mut c = pvc("1Gi", json!({}));
    assert_eq!(volume::plan(&bound, Some(&c)), volume::Step::WakeClaim);
    c.spec.get_or_insert_default().volume_name = Some("v".into());
    assert_eq!(volume::plan(&bound, Some(&c)), volume::Step::Bound);
    c.spec.get_or_insert_default().volume_name = Some("w".into());
    assert_eq!(volume::plan(&bound, Some(&c)), volume::Step::Unbind);
    let mut made = bound.clone();
    made.metadata.annotations = Some([(PROVISIONED_BY.to_owned(), "x.example.com".to_owned())].into());
    assert_eq!(volume::plan(&made, Some(&c)), volume::Step::Unbind, "it is to be kept");
    made.spec.get_or_insert_default().persistent_volume_reclaim_policy = Some("Delete".into());
    assert_eq!(volume::plan(&made, Some(&c)), volume::Step::Reclaim);
    c.metadata.uid = Some("a later claim of that name".into());
    assert_eq!(volume::plan(&bound, Some(&c)), volume::Step::Reclaim);
    let block = pvc("1Gi", json!({"volumeMode": "Block"}));
    assert_eq!(volume::plan(&bound, Some(&block)), volume::Step::Mismatch);
}

#[test]
fn only_what_the_controller_bound_is_given_back_whole() {
    let c = pvc("1Gi", json!({}));
    let free = pv("v", "1Gi", &["ReadWriteOnce"]);
    let Some(bound) = edit::volume_bound(&free, &c) else { panic!("must change") };
    assert_eq!(meta::annotation(&bound.metadata, BOUND_BY_CONTROLLER), Some("yes"));
    assert_eq!(edit::volume_bound(&bound, &c), None);
    let again = edit::volume_unbound(&bound);
    assert_eq!(again.spec.and_then(|s| s.claim_ref), None);
    assert_eq!(meta::annotation(&again.metadata, BOUND_BY_CONTROLLER), None);

    let Some(bound) = edit::volume_bound(&reserve(free, "c", ""), &c) else { panic!("must add the uid") };
    assert_eq!(meta::annotation(&bound.metadata, BOUND_BY_CONTROLLER), None);
    let kept = edit::volume_unbound(&bound).spec.and_then(|s| s.claim_ref).unwrap_or_default();
    assert_eq!((kept.name.as_deref(), kept.uid), (Some("c"), None), "a user had reserved it");
}

#[test]
fn capacity_of_a_bound_claim_is_left_to_the_resizer() {
    let volume = pv("v", "5Gi", &["ReadWriteOnce"]);
    let c = pvc("1Gi", json!({}));
    let Ok(Some(bound)) = edit::claim_in_phase(&c, "Bound", Some(&volume)) else { panic!("must change") };
    let of =
        |c: &PersistentVolumeClaim| c.status.clone().and_then(|s| s.capacity).map(|c| c["storage"].0.clone());
    assert_eq!(of(&bound).as_deref(), Some("5Gi"));
    let larger = pv("v", "9Gi", &["ReadWriteOnce"]);
    assert_eq!(edit::claim_in_phase(&bound, "Bound", Some(&larger)), Ok(None));
    let Ok(Some(lost)) = edit::claim_in_phase(&bound, "Lost", None) else { panic!("must change") };
    assert_eq!(of(&lost), None);
}

#[test]
fn storage_is_deleted_by_who_made_it() {
    let mut v = pv("v", "1Gi", &[]);
    assert_eq!(volume::deleter(&v), Deleter::HostPath("/tmp/x".into()));
    for path in ["/tmp", "/tmp/../etc", "/var/lib", "tmp/x"] {
        v.spec.get_or_insert_default().host_path = Some(of(json!({"path": path})));
        assert!(matches!(volume::deleter(&v), Deleter::None(why) if why.contains(path)), "{path}");
    }
    v.spec.get_or_insert_default().host_path = None;
    assert!(matches!(volume::deleter(&v), Deleter::None(_)));
    v.metadata.annotations = Some([(PROVISIONED_BY.to_owned(), "x.example.com".to_owned())].into());
    assert_eq!(volume::deleter(&v), Deleter::External);
}

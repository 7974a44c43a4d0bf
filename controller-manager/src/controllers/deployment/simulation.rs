//! Rollouts under random interleavings: a model of the replica set controller and of pods, crashes between any two
//! writes, and the promises a deployment makes checked after every step.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::{self, max_surge, max_unavailable, replicas, rs_available, rs_replicas};
use super::plan::{Action, plan};
use super::status;
use crate::util::meta;

struct World {
    rng: StdRng,
    now: Timestamp,
    d: Deployment,
    sets: Vec<ReplicaSet>,
    /// Ready pods by uid of their set; the others of a set are not ready.
    ready: BTreeMap<String, i32>,
    pods: BTreeMap<String, i32>,
    events: Vec<String>,
    made: u32,
    bad_image: Option<String>,
}

fn number(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.into()), IntOrString::Int)
}

fn template(image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some([("app".to_owned(), "x".to_owned())].into()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            node_selector: Some([("image".to_owned(), image.to_owned())].into()),
            ..PodSpec::default()
        }),
    }
}

impl World {
    fn new(seed: u64, size: i32, surge: &str, unavailable: &str) -> Self {
        let spec = DeploymentSpec {
            replicas: Some(size),
            selector: LabelSelector {
                match_labels: Some([("app".to_owned(), "x".to_owned())].into()),
                ..LabelSelector::default()
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(number(surge)),
                    max_unavailable: Some(number(unavailable)),
                }),
            }),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(2),
            template: template("one"),
            ..DeploymentSpec::default()
        };
        let metadata = ObjectMeta {
            name: Some("web".into()),
            namespace: Some("ns".into()),
            uid: Some("d".into()),
            generation: Some(1),
            ..ObjectMeta::default()
        };
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000),
            d: Deployment { metadata, spec: Some(spec), status: None },
            sets: Vec::new(),
            ready: BTreeMap::new(),
            pods: BTreeMap::new(),
            events: Vec::new(),
            made: 0,
            bad_image: None,
        }
    }

    fn edit(&mut self, f: impl FnOnce(&mut DeploymentSpec)) {
        f(self.d.spec.get_or_insert_default());
        self.d.metadata.generation = self.d.metadata.generation.map(|g| g + 1);
    }

    /// One look of the deployment controller; may die after any write.
    fn look(&mut self, may_crash: bool) {
        let plan = plan(
            &self.d,
            self.sets.clone(),
            &self.pods.iter().map(|(k, n)| (k.clone(), *n as usize)).collect(),
            self.now,
        );
        for action in plan.actions {
            self.apply(action);
            if may_crash && self.rng.random_bool(0.2) {
                return;
            }
        }
        if let Some(d) = plan.status {
            self.d.status = d.status;
            self.d.metadata.annotations = d.metadata.annotations;
        }
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Create(mut rs) => {
                let name = meta::name(&rs.metadata);
                assert!(!self.sets.iter().any(|s| meta::name(&s.metadata) == name), "{name} made twice");
                self.made += 1;
                rs.metadata.uid = Some(format!("rs{}", self.made));
                rs.metadata.creation_timestamp = Some(meta::api_time(self.now));
                rs.metadata.generation = Some(1);
                self.sets.push(*rs);
            }
            Action::Update(rs) => {
                let set = self.sets.iter_mut().find(|s| s.metadata.uid == rs.metadata.uid);
                if let Some(set) = set {
                    set.spec = rs.spec;
                    set.metadata.annotations = rs.metadata.annotations;
                }
            }
            Action::Delete(name) => self.sets.retain(|s| meta::name(&s.metadata) != name),
            Action::UpdateDeployment(d) => {
                self.edit(|s| *s = d.spec.clone().unwrap_or_default());
                self.d.metadata.annotations = d.metadata.annotations;
            }
            Action::Event { reason, message, .. } => self.events.push(format!("{reason}: {message}")),
        }
    }

    /// One step of the replica set controller and of the pods of a random set.
    fn live(&mut self) {
        if self.sets.is_empty() {
            return;
        }
        let i = self.rng.random_range(0..self.sets.len());
        let rs = &mut self.sets[i];
        let uid = meta::uid(&rs.metadata).to_owned();
        let bad = self.bad_image.as_ref().is_some_and(|bad| {
            let spec = rs.spec.as_ref().and_then(|s| s.template.as_ref()).and_then(|t| t.spec.as_ref());
            spec.and_then(|s| s.node_selector.as_ref()).and_then(|s| s.get("image")) == Some(bad)
        });
        let (pods, ready) = (self.pods.entry(uid.clone()).or_default(), self.ready.entry(uid).or_default());
        let wanted = rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        *pods = wanted;
        *ready = if bad { 0 } else { (*ready + self.rng.random_range(0..=wanted.max(1))).min(wanted) };
        let status = rs.status.get_or_insert_default();
        status.replicas = *pods;
        status.ready_replicas = Some(*ready);
        status.available_replicas = Some(*ready);
        status.terminating_replicas = Some(0);
        status.observed_generation = rs.metadata.generation;
    }

    fn step(&mut self, may_crash: bool) {
        self.now += SignedDuration::from_secs(1);
        if self.rng.random_bool(0.5) { self.look(may_crash) } else { self.live() }
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(rs_replicas).sum()
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(|s| rs_available(s).min(rs_replicas(s))).sum()
    }

    fn complete(&self) -> bool {
        self.d.status.as_ref().is_some_and(|s| {
            status::complete(&self.d, s)
                && status::get(s, status::PROGRESSING).and_then(|c| c.reason.as_deref())
                    == Some(status::NEW_AVAILABLE)
        })
    }

    fn settle(&mut self, check: impl Fn(&Self)) {
        for _ in 0..5000 {
            self.step(true);
            check(self);
            if self.complete() {
                return;
            }
        }
        panic!("no end after 5000 steps: {:?} {:?}", self.d.status, self.events);
    }

    fn reason(&self) -> Option<String> {
        status::get(self.d.status.as_ref()?, status::PROGRESSING)?.reason.clone()
    }
}

const SHAPES: &[(i32, &str, &str)] =
    &[(10, "25%", "25%"), (3, "1", "0"), (5, "0", "2"), (1, "25%", "25%"), (7, "100%", "0%")];

fn shape(n: u64) -> World {
    let (size, surge, unavailable) = SHAPES[n as usize % SHAPES.len()];
    World::new(n, size, surge, unavailable)
}

#[test]
fn rollouts_keep_their_promises_and_end() {
    for seed in 0..60 {
        let mut w = shape(seed);
        w.settle(|w| assert!(w.total() <= replicas(&w.d) + max_surge(&w.d)));
        for image in ["two", "three", "one", "four", "five"] {
            w.edit(|s| s.template = template(image));
            w.settle(|w| {
                assert!(w.total() <= replicas(&w.d) + max_surge(&w.d), "surge: {:?}", w.events);
                assert!(
                    w.available() >= replicas(&w.d) - max_unavailable(&w.d),
                    "availability: {:?}",
                    w.events
                );
            });
            let new = model::find_new(&w.d, &w.sets).expect("the new set");
            assert_eq!(rs_replicas(&w.sets[new]), replicas(&w.d));
            let mut revisions: Vec<i64> = w.sets.iter().map(model::revision).collect();
            assert_eq!(revisions.iter().max(), Some(&model::revision(&w.sets[new])));
            revisions.sort_unstable();
            revisions.dedup();
            assert_eq!(revisions.len(), w.sets.len(), "revisions are distinct");
        }
        for _ in 0..50 {
            w.step(false);
        }
        assert!(w.sets.len() <= 3, "history limit 2 and the current one, but {}", w.sets.len());
    }
}

#[test]
fn a_broken_image_stops_times_out_and_rolls_back() {
    for seed in 0..20 {
        let mut w = shape(seed);
        w.settle(|_| {});
        w.bad_image = Some("bad".into());
        w.edit(|s| s.template = template("bad"));
        for _ in 0..300 {
            w.step(true);
            assert!(
                w.available() >= replicas(&w.d) - max_unavailable(&w.d),
                "a broken template takes no good pods"
            );
        }
        // The first look may still see progress that a crash kept from being noted.
        for _ in 0..2 {
            w.now += SignedDuration::from_secs(601);
            w.look(false);
        }
        assert_eq!(w.reason().as_deref(), Some(status::TIMED_OUT));
        w.d.metadata.annotations.get_or_insert_default().insert(model::ROLLBACK_TO.into(), "0".into());
        w.look(false);
        w.settle(|_| {});
        assert_eq!(w.d.spec.as_ref().map(|s| s.template.clone()), Some(template("one")));
        assert!(
            w.events.iter().any(|e| e.contains("Rolled back deployment \"web\" to revision 1")),
            "{:?}",
            w.events
        );
        let new = model::find_new(&w.d, &w.sets).expect("the old set is new again");
        assert_eq!(model::revision(&w.sets[new]), 3);
        assert_eq!(meta::annotation(&w.sets[new].metadata, model::HISTORY), Some("1"));
    }
}

#[test]
fn a_paused_deployment_scales_in_proportion_and_rolls_nothing() {
    let mut w = World::new(1, 10, "3", "2");
    w.settle(|_| {});
    w.bad_image = Some("bad".into());
    w.edit(|s| s.template = template("bad"));
    for _ in 0..200 {
        w.step(false);
    }
    let sizes = |w: &World| w.sets.iter().map(rs_replicas).collect::<Vec<_>>();
    assert_eq!(sizes(&w), [8, 5]);
    w.edit(|s| s.paused = Some(true));
    w.edit(|s| s.replicas = Some(15));
    w.look(false);
    assert_eq!(sizes(&w), [11, 7], "3 more pods for 8, 2 for 5");
    assert_eq!(w.reason().as_deref(), Some("DeploymentPaused"));
    w.edit(|s| s.template = template("third"));
    w.look(false);
    assert_eq!(w.sets.len(), 2, "paused: no new set");
    w.edit(|s| s.paused = Some(false));
    w.look(false);
    assert_eq!(w.sets.len(), 3);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut w = World::new(1, 3, "0", "0");
    w.edit(|s| {
        s.strategy = Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    });
    w.settle(|_| {});
    w.edit(|s| s.template = template("two"));
    w.look(false);
    assert_eq!(w.total(), 0);
    w.look(false);
    assert_eq!(w.sets.len(), 1, "old pods are still there");
    w.settle(|w| {
        let running: Vec<_> = w.pods.iter().filter(|(_, n)| **n > 0).collect();
        assert!(running.len() <= 1, "both versions run: {running:?}");
    });
}

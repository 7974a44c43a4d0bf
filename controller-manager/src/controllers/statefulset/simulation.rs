//! Stateful sets under random interleavings: a lagging cache, writes that fail, restarts, pods that become unready, and
//! edits in the middle. What a set promises is checked after every step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use component_base::controller::expectations::Expectations;
use component_base::controller::informer::Delta;
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetOrdinals, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::model::{self, Wanted};
use super::plan::{Action, Seen, plan};
use crate::util::revisions::{self, Next};
use crate::util::world::{Fate, World};
use crate::util::{meta, pods};

struct Sim {
    world: World,
    set: StatefulSet,
    history: Vec<Arc<ControllerRevision>>,
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    expectations: Expectations,
    /// Pods the set has deleted itself, by uid.
    deleted: Vec<String>,
    /// Names of pods in the order in which they were made.
    order: Vec<String>,
}

fn template(image: &str) -> PodTemplateSpec {
    let c = Container { name: "main".into(), image: Some(image.into()), ..Container::default() };
    PodTemplateSpec { metadata: None, spec: Some(PodSpec { containers: vec![c], ..PodSpec::default() }) }
}

fn rolling(partition: i32, max_unavailable: Option<i32>) -> StatefulSetUpdateStrategy {
    StatefulSetUpdateStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateStatefulSetStrategy {
            partition: Some(partition),
            max_unavailable: max_unavailable.map(IntOrString::Int),
        }),
    }
}

impl Sim {
    fn new(seed: u64, replicas: i32, change: impl FnOnce(&mut StatefulSetSpec)) -> Self {
        let mut data = PersistentVolumeClaim::default();
        data.metadata.name = Some("data".into());
        let mut spec = StatefulSetSpec {
            replicas: Some(replicas),
            template: template("one"),
            update_strategy: Some(rolling(0, None)),
            volume_claim_templates: Some(vec![data]),
            revision_history_limit: Some(2),
            ..StatefulSetSpec::default()
        };
        change(&mut spec);
        let metadata = ObjectMeta {
            name: Some("web".into()),
            namespace: Some("ns".into()),
            uid: Some("set".into()),
            generation: Some(1),
            ..ObjectMeta::default()
        };
        Self {
            world: World::new(seed),
            set: StatefulSet { metadata, spec: Some(spec), status: None },
            history: Vec::new(),
            claims: BTreeMap::new(),
            expectations: Expectations::new(),
            deleted: Vec::new(),
            order: Vec::new(),
        }
    }

    fn edit(&mut self, f: impl FnOnce(&mut StatefulSetSpec)) {
        f(self.set.spec.get_or_insert_default());
        self.set.metadata.generation = self.set.metadata.generation.map(|g| g + 1);
    }

    fn spec(&self) -> StatefulSetSpec {
        self.set.spec.clone().unwrap_or_default()
    }

    fn ordered(&self) -> bool {
        !Wanted::new(&self.set).parallel()
    }

    fn current_revision(&mut self) -> Arc<ControllerRevision> {
        let template = self.spec().template;
        match revisions::next(&self.history, &template) {
            Next::Keep(i) => self.history[i].clone(),
            Next::Bump(i, n) => {
                let mut r = self.history.remove(i).as_ref().clone();
                r.revision = n;
                self.history.push(Arc::new(r));
                self.history[self.history.len() - 1].clone()
            }
            Next::New(n) => {
                let r = Arc::new(revisions::make(&self.set, &template, n, 0, super::HASH));
                self.history.push(r.clone());
                r
            }
        }
    }

    fn look(&mut self) {
        if !self.expectations.satisfied("ns/web", Instant::now()) {
            return;
        }
        let update = self.current_revision();
        let noted = self.set.status.as_ref().and_then(|s| s.current_revision.clone());
        let current = self.history.iter().find(|r| r.metadata.name == noted).unwrap_or(&update).clone();
        let mine = self.world.cache.by_index(meta::BY_CONTROLLER, "set");
        let claims = self.claims.clone();
        let find = |name: &str| claims.get(name).cloned();
        let set = self.set.clone();
        let result = plan(&Seen {
            set: &set,
            pods: &mine,
            claim: &find,
            current: &current,
            update: &update,
            collisions: 0,
            now: self.world.now(),
        });
        if self.ordered() {
            let changing = result
                .tasks
                .iter()
                .flatten()
                .filter(|a| matches!(a, Action::CreatePod(_) | Action::DeletePod(_)));
            let at_once = Wanted::new(&set).max_unavailable().unwrap_or(1);
            assert!(
                i32::try_from(changing.count()).unwrap_or(99) <= at_once,
                "an ordered set does one thing at a time"
            );
        }
        for task in result.tasks {
            for action in task {
                if !self.act(action) {
                    break;
                }
            }
        }
        self.set.status = Some(result.status);
    }

    /// Says whether it worked.
    fn act(&mut self, action: Action) -> bool {
        match action {
            Action::CreateClaim { claim, .. } => {
                let name = meta::name(&claim.metadata).to_owned();
                self.claims.entry(name).or_insert_with(|| Arc::new(*claim));
                true
            }
            Action::CreatePod(pod) => {
                let claims = pod.spec.as_ref().and_then(|s| s.volumes.clone()).unwrap_or_default();
                for claim in claims.iter().filter_map(|v| v.persistent_volume_claim.as_ref()) {
                    assert!(self.claims.contains_key(&claim.claim_name), "a pod comes before its claim");
                }
                let name = meta::name(&pod.metadata).to_owned();
                self.check_creation(&pod);
                self.expectations.expect("ns/web", 1, [], Instant::now());
                let made = self.world.create(*pod).is_ok();
                if made {
                    self.order.push(name);
                } else {
                    self.expectations.creation_observed("ns/web");
                }
                made
            }
            Action::DeletePod(pod) => {
                let (name, uid) = (meta::name(&pod.metadata).to_owned(), meta::uid(&pod.metadata).to_owned());
                self.check_deletion(&pod);
                self.expectations.expect("ns/web", 0, [uid.clone()], Instant::now());
                let gone = self.world.delete(&name, &uid);
                if !matches!(gone, Ok(true)) {
                    self.expectations.deletion_observed("ns/web", &uid);
                }
                self.deleted.push(uid);
                gone.is_ok()
            }
            Action::Identify(..) | Action::OwnClaim { .. } | Action::Warn { .. } | Action::Blocked { .. } => {
                true
            }
        }
    }

    /// An ordered set makes a pod only when all before it were there and ready, as far as the cache showed.
    fn check_creation(&self, pod: &Pod) {
        if !self.ordered() {
            return;
        }
        let wanted = Wanted::new(&self.set);
        let mine = wanted.ordinal(pod).unwrap_or(-1);
        for before in wanted.start()..mine {
            let there = self.world.cache.get(&format!("ns/web-{before}"));
            assert!(
                there.is_some_and(|p| pods::is_ready(&p)),
                "web-{mine} comes before web-{before} is ready"
            );
        }
    }

    /// An ordered set deletes the last first.
    fn check_deletion(&self, pod: &Pod) {
        if !self.ordered() || pods::is_terminal(pod) {
            return;
        }
        let wanted = Wanted::new(&self.set);
        let mine = wanted.ordinal(pod).unwrap_or(-1);
        if !wanted.has_place(mine) {
            let later =
                self.world.cache.list().into_iter().filter(|p| wanted.ordinal(p).is_some_and(|o| o > mine));
            assert_eq!(later.count(), 0, "web-{mine} goes before those behind it");
        }
    }

    fn deliver(&self) {
        if let Some(d) = self.world.deliver() {
            let pod = d.object();
            if d.is_deleted() || pod.metadata.deletion_timestamp.is_some() {
                self.expectations.deletion_observed("ns/web", meta::uid(&pod.metadata));
            } else if matches!(d, Delta::Added(_)) {
                self.expectations.creation_observed("ns/web");
            }
        }
    }

    fn step(&mut self) {
        self.world.advance(SignedDuration::from_secs(1));
        match self.world.below(30) {
            0..12 => self.deliver(),
            12..21 => self.world.live(|_, rng| {
                use rand::Rng;
                if rng.random_bool(0.01) { Fate::Exit(1) } else { Fate::Run }
            }),
            21..29 => self.look(),
            _ => {
                self.expectations = Expectations::new();
                self.world.relist();
            }
        }
    }

    fn done(&self) -> bool {
        let spec = self.spec();
        let wanted = Wanted::new(&self.set);
        let all = self.world.all();
        let newest = self.history.last().map_or("", |r| meta::name(&r.metadata));
        let first = wanted.start() + wanted.partition().unwrap_or(0);
        usize::try_from(wanted.replicas()) == Ok(all.len())
            && all.iter().all(|p| {
                let new = wanted.ordinal(p).is_some_and(|o| o < first) || model::revision_of(p) == newest;
                pods::is_ready(p) && new && wanted.ordinal(p).is_some_and(|o| wanted.has_place(o))
            })
            && self.history.last().is_some_and(|r| revisions::template_of(r) == Some(spec.template.clone()))
    }

    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.step();
            if self.done() {
                // The status follows.
                for _ in 0..100 {
                    self.deliver();
                }
                self.look();
                return;
            }
        }
        panic!("no end: {:?} {:#?}", self.set.status, self.world.all());
    }

    fn names(&self) -> Vec<String> {
        self.world.all().iter().map(|p| meta::name(&p.metadata).to_owned()).collect()
    }
}

#[test]
fn ordered_sets_grow_shrink_and_roll_in_order() {
    for seed in 0..15 {
        let mut s = Sim::new(seed, 4, |_| {});
        s.world.lock().failing = 0.05;
        s.settle();
        assert_eq!(s.names(), ["web-0", "web-1", "web-2", "web-3"]);
        for image in ["two", "three", "one"] {
            s.edit(|s| s.template = template(image));
            s.settle();
        }
        s.edit(|s| s.replicas = Some(2));
        s.settle();
        assert_eq!(s.names(), ["web-0", "web-1"]);
        assert_eq!(s.claims.len(), 4, "claims outlive their pods");
        let status = s.set.status.clone().unwrap_or_default();
        assert_eq!((status.replicas, status.ready_replicas), (2, Some(2)));
        assert_eq!(status.current_revision, status.update_revision, "the rollout is complete");
        assert_eq!(s.history.last().map(|r| r.revision), Some(4), "going back renumbers");
    }
}

#[test]
fn parallel_sets_do_not_wait() {
    let mut s = Sim::new(1, 5, |s| s.pod_management_policy = Some("Parallel".into()));
    s.look();
    assert_eq!(s.order.len(), 5);
    for seed in 0..10 {
        let mut s = Sim::new(seed, 5, |s| s.pod_management_policy = Some("Parallel".into()));
        s.world.lock().failing = 0.05;
        s.settle();
        s.edit(|s| s.template = template("two"));
        s.settle();
        s.edit(|s| s.replicas = Some(1));
        s.settle();
        assert_eq!(s.names(), ["web-0"]);
    }
}

#[test]
fn a_set_of_any_size_is_made_bit_by_bit() {
    let mut s = Sim::new(1, i32::MAX, |s| s.pod_management_policy = Some("Parallel".into()));
    s.look();
    assert_eq!(s.order.len(), 500);
    let mut s = Sim::new(1, i32::MAX, |_| {});
    s.look();
    assert_eq!(s.order, ["web-0"]);
}

#[test]
fn partitions_and_start_ordinals() {
    for seed in 0..10 {
        let mut s = Sim::new(seed, 4, |s| {
            s.update_strategy = Some(rolling(2, None));
            s.ordinals = Some(StatefulSetOrdinals { start: Some(3) });
        });
        s.settle();
        assert_eq!(s.names(), ["web-3", "web-4", "web-5", "web-6"]);
        let first = meta::name(&s.history[0].metadata).to_owned();
        s.edit(|s| s.template = template("two"));
        s.settle();
        let old: Vec<_> = s
            .world
            .all()
            .iter()
            .filter(|p| model::revision_of(p) == first)
            .filter_map(|p| p.metadata.name.clone())
            .collect();
        assert_eq!(old, ["web-3", "web-4"]);
        let status = s.set.status.clone().unwrap_or_default();
        assert_eq!((status.current_replicas, status.updated_replicas), (Some(2), Some(2)));
        assert_eq!(status.current_revision.as_deref(), Some(first.as_str()));
        // A pod below the partition that is lost comes back as it was.
        let uid = s.world.all()[0].metadata.uid.clone().unwrap_or_default();
        let _ = s.world.delete("web-3", &uid);
        for _ in 0..2000 {
            s.step();
        }
        s.settle();
        assert_eq!(model::revision_of(&s.world.all()[0]), first);
    }
}

#[test]
fn only_deleted_pods_are_renewed_on_delete() {
    let mut s = Sim::new(3, 3, |s| {
        s.update_strategy =
            Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None });
    });
    s.settle();
    let before: Vec<_> = s.world.all().iter().map(|p| p.metadata.uid.clone()).collect();
    s.edit(|s| s.template = template("two"));
    for _ in 0..200 {
        s.deliver();
        s.look();
    }
    assert_eq!(s.world.all().iter().map(|p| p.metadata.uid.clone()).collect::<Vec<_>>(), before);
    let uid = before[1].clone().unwrap_or_default();
    let _ = s.world.delete("web-1", &uid);
    for _ in 0..300 {
        s.world.live(|_, _| Fate::Run);
        s.deliver();
        s.look();
    }
    let newest = s.history.last().map(|r| meta::name(&r.metadata).to_owned());
    let pod = s.world.all().into_iter().find(|p| p.metadata.name.as_deref() == Some("web-1"));
    assert_eq!(pod.map(|p| model::revision_of(&p).to_owned()), newest);
}

#[test]
fn several_may_be_down_if_the_set_says_so() {
    for seed in 0..10 {
        let mut s = Sim::new(seed, 6, |s| {
            s.pod_management_policy = Some("Parallel".into());
            s.update_strategy = Some(rolling(0, Some(2)));
        });
        s.settle();
        s.edit(|s| s.template = template("two"));
        for _ in 0..200 {
            s.deliver();
        }
        let down = s.deleted.len();
        s.look();
        assert_eq!(s.deleted.len() - down, 2);
        s.settle();
    }
}

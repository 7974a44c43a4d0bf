//! Jobs under random interleavings: a lagging cache of pods and of the job itself, writes that fail or whose answers
//! are lost, restarts between any two looks. What a job promises is checked after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use component_base::controller::informer::{Delta, key_of};
use futures::executor::block_on;
use jiff::SignedDuration;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;

use super::backoff::Record;
use super::indexes::Indexes;
use super::model;
use super::sync::{Hands, Looked, Memory, look};
use crate::util::world::{Fate, World, error};
use crate::util::written::Written;
use crate::util::{meta, pods};

struct Sim {
    world: World,
    /// The job as the server has it, and as the cache has it.
    job: Mutex<Job>,
    cached: Mutex<Job>,
    written: Written,
    memory: Memory,
    record: Record,
    events: Mutex<Vec<String>>,
    /// Exit code of each pod by uid: a pod's fate is sealed when it is made.
    fates: Mutex<BTreeMap<String, i32>>,
    /// Share of pods that fail.
    failing_pods: f64,
    /// Most failures that there will be.
    bad_left: Mutex<i32>,
}

impl Hands for Sim {
    async fn create(&self, _: &Job, pod: Pod) -> kube::Result<Option<Pod>> {
        self.world.create(pod).map(Some)
    }

    async fn delete(&self, _: &Job, pod: &Pod) -> kube::Result<bool> {
        self.world.delete(meta::name(&pod.metadata), meta::uid(&pod.metadata))
    }

    async fn strip(&self, pod: &Pod) -> kube::Result<()> {
        self.world.update(meta::name(&pod.metadata), meta::uid(&pod.metadata), |p| {
            p.metadata.finalizers.iter_mut().for_each(|f| f.retain(|f| f != model::FINALIZER));
        })
    }

    async fn write_status(&self, job: &Job) -> kube::Result<Job> {
        let written = self.world.write(|w| {
            let mut server = self.job.lock();
            if server.metadata.resource_version != job.metadata.resource_version {
                return Err(error(409));
            }
            assert!(!model::finished(&server), "a finished job is written again");
            server.status = job.status.clone();
            server.metadata.resource_version = Some(w.next_version());
            Ok(server.clone())
        })?;
        self.written.wrote("ns/job", &written.metadata);
        Ok(written)
    }

    fn event(&self, _: &Job, _: bool, reason: &str, _: &str) {
        self.events.lock().push(reason.to_owned());
    }
}

impl Sim {
    fn new(seed: u64, spec: JobSpec) -> Self {
        let metadata = ObjectMeta {
            name: Some("job".into()),
            namespace: Some("ns".into()),
            uid: Some("job-uid".into()),
            resource_version: Some("1".into()),
            ..ObjectMeta::default()
        };
        let job = Job { metadata, spec: Some(spec), status: None };
        Self {
            world: World::new(seed),
            job: Mutex::new(job.clone()),
            cached: Mutex::new(job),
            written: Written::default(),
            memory: Memory::default(),
            record: Record::default(),
            events: Mutex::default(),
            fates: Mutex::default(),
            failing_pods: 0.0,
            bad_left: Mutex::new(0),
        }
    }

    fn see(&self, d: &Delta<Pod>) {
        let pod = d.object();
        let going = d.is_deleted() || pod.metadata.deletion_timestamp.is_some();
        if going {
            self.memory.expectations.deletion_observed("ns/job", &key_of(pod.as_ref()));
        } else if matches!(d, Delta::Added(_)) {
            self.memory.expectations.creation_observed("ns/job");
        }
        if d.is_deleted() || !model::tracked(pod) {
            self.memory.removals.observed("ns/job", meta::uid(&pod.metadata));
        }
    }

    fn look(&mut self) -> anyhow::Result<Looked> {
        let job = self.cached.lock().clone();
        if model::finished(&job) || !self.written.visible("ns/job", &job.metadata) {
            return Ok(Looked::default());
        }
        let caught_up = self.memory.expectations.satisfied("ns/job", Instant::now());
        let pods: Vec<Arc<Pod>> = self.world.cache.by_index(meta::BY_CONTROLLER, "job-uid");
        let now = self.world.now();
        let mut record = self.record;
        let result = block_on(look(&*self, &self.memory, &job, &pods, &mut record, now, caught_up));
        self.record = record;
        result
    }

    fn live(&self) {
        let (failing, fates, left) = (self.failing_pods, &self.fates, &self.bad_left);
        self.world.live(|pod, rng| {
            use rand::Rng;
            let mut fates = fates.lock();
            let code = fates.entry(meta::uid(&pod.metadata).to_owned()).or_insert_with(|| {
                let mut left = left.lock();
                let bad = *left > 0 && rng.random_bool(failing);
                *left -= i32::from(bad);
                i32::from(bad)
            });
            if rng.random_bool(0.5) { Fate::Exit(*code) } else { Fate::Run }
        });
    }

    fn step(&mut self) {
        self.world.advance(SignedDuration::from_secs(1));
        match self.world.below(20) {
            0..7 => {
                if let Some(d) = self.world.deliver() {
                    self.see(&d);
                }
            }
            7..12 => self.live(),
            12..15 => *self.cached.lock() = self.job.lock().clone(),
            15..19 => {
                let _ = self.look();
            }
            // Another instance takes over: it remembers nothing, but has a fresh list.
            _ => {
                self.memory = Memory::default();
                self.written = Written::default();
                self.record = Record::default();
                self.world.relist();
                *self.cached.lock() = self.job.lock().clone();
            }
        }
        self.check();
    }

    fn status(&self) -> JobStatus {
        self.job.lock().status.clone().unwrap_or_default()
    }

    fn spec(&self) -> JobSpec {
        model::spec(&self.job.lock())
    }

    /// What holds at every moment.
    fn check(&self) {
        let (spec, status, all) = (self.spec(), self.status(), self.world.all());
        let active: Vec<&Pod> = all.iter().filter(|p| pods::is_active(p)).collect();
        let most = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
        assert!(active.len() <= most, "{} pods run, {most} may", active.len());
        if model::indexed(&spec) {
            let distinct: BTreeSet<_> = active.iter().filter_map(|p| model::index(p)).collect();
            assert_eq!(distinct.len(), active.len(), "an index has two pods");
            let done = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), i32::MAX);
            assert_eq!(status.succeeded.unwrap_or(0), done.len());
        } else if let Some(n) = spec.completions {
            assert!(status.succeeded.unwrap_or(0) <= n, "counted more successes than there can be");
        }
        let made = i32::try_from(self.world.lock().made.len()).unwrap_or(i32::MAX);
        assert!(status.succeeded.unwrap_or(0) + status.failed.unwrap_or(0) <= made, "a pod is counted twice");
        if model::finished(&self.job.lock()) {
            let left = all.iter().filter(|p| model::tracked(p)).count();
            assert_eq!(left, 0, "a finished job has uncounted pods");
            assert!(active.is_empty(), "pods run after the end");
            assert_eq!(status.active.unwrap_or(0), 0);
        }
    }

    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.step();
            if model::finished(&self.job.lock()) {
                return;
            }
        }
        panic!("no end: {:?} {:?} {:?}", self.status(), self.events.lock(), self.world.all());
    }

    fn reason(&self, type_: &str) -> Option<String> {
        model::condition(Some(&self.status()), type_)?.reason.clone()
    }
}

fn spec(completions: Option<i32>, parallelism: i32, change: impl FnOnce(&mut JobSpec)) -> JobSpec {
    let container = Container { name: "main".into(), ..Container::default() };
    let mut spec = JobSpec {
        completions,
        parallelism: Some(parallelism),
        backoff_limit: Some(1000),
        template: PodTemplateSpec {
            spec: Some(PodSpec {
                containers: vec![container],
                restart_policy: Some("Never".into()),
                ..PodSpec::default()
            }),
            ..PodTemplateSpec::default()
        },
        ..JobSpec::default()
    };
    change(&mut spec);
    spec
}

fn indexed(s: &mut JobSpec) {
    s.completion_mode = Some("Indexed".into());
}

#[test]
fn every_success_and_failure_is_counted_once() {
    for seed in 0..8 {
        let mut s = Sim::new(seed, spec(Some(9), 3, |_| {}));
        s.world.lock().failing = 0.15;
        s.failing_pods = 0.3;
        *s.bad_left.lock() = 5;
        s.settle();
        let status = s.status();
        assert_eq!(status.succeeded, Some(9));
        assert_eq!(s.reason("Complete").as_deref(), Some("CompletionsReached"));
        assert_eq!(s.reason("SuccessCriteriaMet").as_deref(), Some("CompletionsReached"));
        assert!(status.completion_time.is_some());
        let failed = s.world.lock().made.len() - 9;
        assert_eq!(status.failed.unwrap_or(0), i32::try_from(failed).unwrap_or(0), "seed {seed}");
        assert_eq!(status.uncounted_terminated_pods, Some(Default::default()));
        assert!(s.events.lock().iter().filter(|e| *e == "Completed").count() <= 1);
    }
}

#[test]
fn every_index_succeeds_once() {
    for seed in 0..8 {
        let mut s = Sim::new(seed, spec(Some(12), 4, indexed));
        s.world.lock().failing = 0.15;
        s.failing_pods = 0.3;
        *s.bad_left.lock() = 5;
        s.settle();
        assert_eq!(s.status().completed_indexes.as_deref(), Some("0-11"));
        let hosts: BTreeSet<_> =
            s.world.lock().made.values().filter_map(|p| p.spec.as_ref()?.hostname.clone()).collect();
        assert_eq!(hosts.len(), 12);
    }
}

#[test]
fn too_many_failures_end_the_job() {
    for seed in 0..15 {
        let mut s = Sim::new(seed, spec(Some(5), 2, |s| s.backoff_limit = Some(3)));
        s.world.lock().failing = 0.1;
        s.failing_pods = 1.0;
        *s.bad_left.lock() = 1000;
        s.settle();
        assert_eq!(s.reason("Failed").as_deref(), Some("BackoffLimitExceeded"));
        assert_eq!(s.reason("FailureTarget").as_deref(), Some("BackoffLimitExceeded"));
        let made = i32::try_from(s.world.lock().made.len()).unwrap_or(0);
        assert_eq!(s.status().failed, Some(made), "all are counted as failed");
        assert!((4..=5).contains(&made), "{made}");
        assert_eq!(s.status().completion_time, None);
    }
}

#[test]
fn failures_are_limited_per_index() {
    for seed in 0..15 {
        let limit = |s: &mut JobSpec| {
            indexed(s);
            s.backoff_limit = Some(i32::MAX);
            s.backoff_limit_per_index = Some(1);
        };
        let mut s = Sim::new(seed, spec(Some(6), 3, limit));
        s.world.lock().failing = 0.1;
        s.failing_pods = 0.7;
        *s.bad_left.lock() = 6;
        s.settle();
        let status = s.status();
        let parse = |t: Option<String>| Indexes::parse(&t.unwrap_or_default(), 6);
        let (done, lost) = (parse(status.completed_indexes.clone()), parse(status.failed_indexes.clone()));
        assert_eq!(done.common(&lost), 0);
        assert_eq!(done.len() + lost.len(), 6, "{status:?}");
        if lost.is_empty() {
            assert_eq!(s.reason("Complete").as_deref(), Some("CompletionsReached"));
        } else {
            assert_eq!(s.reason("Failed").as_deref(), Some("FailedIndexes"));
        }
        let mut per_index: BTreeMap<i32, usize> = BTreeMap::new();
        for pod in s.world.lock().made.values() {
            *per_index.entry(model::index(pod).unwrap_or(-1)).or_default() += 1;
        }
        assert!(per_index.values().all(|n| *n <= 2), "two tries each: {per_index:?}");
    }
}

#[test]
fn a_suspended_job_runs_nothing_and_goes_on_later() {
    for seed in 0..10 {
        let mut s = Sim::new(seed, spec(Some(6), 2, |_| {}));
        s.world.lock().failing = 0.1;
        let set = |s: &Sim, suspend| {
            let mut job = s.job.lock();
            job.spec.get_or_insert_default().suspend = Some(suspend);
            job.metadata.resource_version = Some(s.world.lock().next_version());
        };
        for _ in 0..8 {
            s.step();
        }
        if model::finished(&s.job.lock()) {
            continue;
        }
        set(&s, true);
        for _ in 0..2000 {
            s.step();
        }
        assert_eq!(s.reason("Suspended").as_deref(), Some("JobSuspended"), "seed {seed}: {:?}", s.status());
        assert_eq!(s.status().start_time, None);
        assert!(s.world.all().iter().all(|p| !pods::is_active(p)));
        set(&s, false);
        s.settle();
        assert_eq!(s.reason("Suspended").as_deref(), Some("JobResumed"));
        assert_eq!(s.status().succeeded, Some(6));
        assert!(s.status().start_time.is_some());
    }
}

#[test]
fn an_elastic_job_follows_its_size() {
    for seed in 0..8 {
        let mut s = Sim::new(seed, spec(Some(8), 8, indexed));
        s.world.lock().failing = 0.1;
        s.live();
        for _ in 0..10 {
            s.step();
        }
        {
            let mut job = s.job.lock();
            let spec = job.spec.get_or_insert_default();
            (spec.completions, spec.parallelism) = (Some(3), Some(8));
            job.metadata.resource_version = Some(s.world.lock().next_version());
        }
        for _ in 0..20_000 {
            s.world.advance(SignedDuration::from_secs(1));
            if let Some(d) = s.world.deliver() {
                s.see(&d);
            }
            *s.cached.lock() = s.job.lock().clone();
            let _ = s.look();
            s.live();
            if model::finished(&s.job.lock()) {
                break;
            }
        }
        assert_eq!(s.status().completed_indexes.as_deref(), Some("0-2"), "{:?}", s.status());
    }
}

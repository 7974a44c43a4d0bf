//! Cron jobs under random interleavings: a lagging cache of jobs, crashes between the making of a job and the note of
//! it, jobs that end at any time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use component_base::cron::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job, JobCondition};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::plan::{self, Due};
use crate::util::meta;

struct World {
    rng: StdRng,
    now: Timestamp,
    cj: CronJob,
    /// Jobs as the server has them, and as the cache has them.
    jobs: BTreeMap<String, Job>,
    cached: BTreeMap<String, Job>,
    made: u32,
    crashes: bool,
    schedule: Schedule,
}

fn begin() -> Timestamp {
    "2026-01-01T00:00:10Z".parse().unwrap_or_else(|e| panic!("{e}"))
}

impl World {
    fn new(seed: u64, policy: &str, crashes: bool) -> Self {
        let spec = CronJobSpec {
            schedule: "* * * * *".into(),
            concurrency_policy: Some(policy.into()),
            successful_jobs_history_limit: Some(2),
            failed_jobs_history_limit: Some(1),
            ..CronJobSpec::default()
        };
        let mut cj = CronJob { spec, ..CronJob::default() };
        cj.metadata.name = Some("c".into());
        cj.metadata.uid = Some("cj".into());
        cj.metadata.creation_timestamp = Some(meta::api_time(begin()));
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: begin(),
            cj,
            jobs: BTreeMap::new(),
            cached: BTreeMap::new(),
            made: 0,
            crashes,
            schedule: Schedule::parse("* * * * *").unwrap_or_else(|e| panic!("{e}")),
        }
    }

    fn crash(&mut self) -> bool {
        self.crashes && self.rng.random_bool(0.2)
    }

    /// One look of the controller, which may die between any two writes.
    fn look(&mut self) {
        let jobs: Vec<Arc<Job>> = self.cached.values().cloned().map(Arc::new).collect();
        let mut status = self.cj.status.clone().unwrap_or_default();
        for job in plan::expired(&self.cj, &jobs) {
            self.jobs.remove(meta::name(&job.metadata));
            if self.crash() {
                return;
            }
        }
        let gone = |r: &&k8s_openapi::api::core::v1::ObjectReference| {
            !self.jobs.values().any(|j| j.metadata.uid == r.uid)
        };
        let missing: HashSet<String> =
            plan::unseen(&status, &jobs).into_iter().filter(gone).filter_map(|r| r.uid.clone()).collect();
        plan::follow(&mut status, &jobs, &missing);
        let due = plan::due(&self.cj, &status, self.now, &self.schedule, &TimeZone::UTC, &mut Vec::new());
        if let Due::Start { at, replace } = due {
            if replace {
                for running in status.active.clone().unwrap_or_default() {
                    self.jobs.remove(&running.name.unwrap_or_default());
                    plan::drop_active(&mut status, &running.uid.unwrap_or_default());
                }
            }
            let job = plan::job(&self.cj, at, &TimeZone::UTC);
            let name = meta::name(&job.metadata).to_owned();
            let made = &mut self.made;
            let there = self.jobs.entry(name).or_insert_with(|| {
                *made += 1;
                let mut job = job;
                job.metadata.uid = Some(format!("job-{made}"));
                job
            });
            let reference = meta::reference(there);
            if self.crash() {
                return;
            }
            status.active.get_or_insert_default().push(reference);
            status.last_schedule_time = Some(meta::api_time(at));
        }
        self.cj.status = Some(status);
    }

    fn running(&self) -> usize {
        self.jobs.values().filter(|j| plan::ended(j).is_none()).count()
    }

    fn step(&mut self) {
        self.now += SignedDuration::from_secs(self.rng.random_range(1..10));
        match self.rng.random_range(0..6) {
            0..3 => self.look(),
            3 => self.cached = self.jobs.clone(),
            _ => {
                let names: Vec<String> = self.jobs.keys().cloned().collect();
                if names.is_empty() {
                    return;
                }
                let name = &names[self.rng.random_range(0..names.len())];
                let how = if self.rng.random_bool(0.7) { "Complete" } else { "Failed" };
                let now = self.now;
                if let Some(job) = self.jobs.get_mut(name).filter(|j| plan::ended(j).is_none()) {
                    let status = job.status.get_or_insert_default();
                    status.start_time = Some(meta::api_time(now));
                    status.completion_time = (how == "Complete").then(|| meta::api_time(now));
                    let condition =
                        JobCondition { type_: how.into(), status: "True".into(), ..JobCondition::default() };
                    status.conditions = Some(vec![condition]);
                }
            }
        }
    }

    fn settle(&mut self) {
        self.crashes = false;
        for _ in 0..3 {
            self.cached = self.jobs.clone();
            self.look();
        }
    }
}

#[test]
fn every_minute_has_its_job_once() {
    for seed in 0..30 {
        let mut w = World::new(seed, "Allow", false);
        for _ in 0..400 {
            w.step();
        }
        w.settle();
        let minutes = u32::try_from(w.now.duration_since(begin()).as_mins()).unwrap_or(0);
        assert!(w.made <= minutes + 1, "{} jobs in {minutes} minutes", w.made);
        assert!(w.made * 10 >= minutes * 9, "{} jobs in {minutes} minutes", w.made);
        let active = w.cj.status.as_ref().and_then(|s| s.active.as_ref()).map_or(0, Vec::len);
        assert_eq!(active, w.running(), "the status knows what runs");
        let ended = w.jobs.len() - w.running();
        assert!(ended <= 3, "{ended} ended jobs are kept");
    }
}

#[test]
fn crashes_make_no_job_twice() {
    for seed in 0..30 {
        let mut w = World::new(seed, "Allow", true);
        for _ in 0..400 {
            w.step();
        }
        w.settle();
        let minutes = u32::try_from(w.now.duration_since(begin()).as_mins()).unwrap_or(0);
        assert!(w.made <= minutes + 1, "{} jobs in {minutes} minutes", w.made);
    }
}

#[test]
fn one_at_a_time_if_so_wanted() {
    for policy in ["Forbid", "Replace"] {
        for seed in 0..20 {
            let mut w = World::new(seed, policy, false);
            for _ in 0..400 {
                w.step();
                assert!(w.running() <= 1, "{policy}: {} run", w.running());
            }
            assert!(w.made > 5);
        }
    }
}

//! Cron jobs: a job at each time of a schedule.
//!
//! Reads cron jobs and jobs; writes jobs (create, delete) and the cron jobs' status. [`plan`] decides; this file watches
//! and writes. A job's name comes from the time it was due, so that it is made once, whoever makes it.

mod plan;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use component_base::controller::events::{EventRecorder, EventType};
use component_base::controller::informer::{Delta, Store, key_of};
use component_base::controller::queue::WorkQueue;
use component_base::cron::Schedule;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::api::{DeleteParams, PostParams, PropagationPolicy};
use kube::{Api, Client};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use self::plan::{Due, Event};
use crate::context::{Context, synced};
use crate::util::written::Written;
use crate::util::{errors, meta};

const NAME: &str = "cronjob-controller";

struct Controller {
    client: Client,
    events: EventRecorder,
    cron_jobs: Store<CronJob>,
    jobs: Store<Job>,
    written: Written,
    /// How late jobs are made.
    skew: Histogram,
    queue: WorkQueue<String>,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let cron_jobs = ctx.informers.of::<CronJob>();
    let jobs = ctx.informers.of::<Job>();
    jobs.store().add_index(meta::BY_CONTROLLER, meta::index_by_controller);
    let c = Arc::new(Controller {
        client: ctx.client(NAME)?,
        events: ctx.events.for_component(NAME),
        cron_jobs: cron_jobs.store(),
        jobs: jobs.store(),
        written: Written::default(),
        skew: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
        queue: WorkQueue::default(),
    });
    let skew = c.skew.clone();
    ctx.registry().register(|r| {
        let help =
            "Time between when a cronjob is scheduled to be run, and when the corresponding job is created";
        r.register("cronjob_controller_job_creation_skew_duration_seconds", help, skew);
    });
    let this = c.clone();
    cron_jobs.on_change(move |d| {
        let key = key_of(d.object().as_ref());
        if d.is_deleted() {
            this.written.forget(&key);
        }
        this.queue.add(key);
    });
    let this = c.clone();
    jobs.on_change(move |d| this.job_changed(d));
    let queue = c.queue.clone();
    let ready = vec![synced(&cron_jobs), synced(&jobs)];
    ctx.work("cronjob", &queue, ctx.flags.concurrent_cron_job_syncs, ready, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await.with_context(|| format!("cron job {key}")) }
    });
    Ok(())
}

impl Controller {
    fn job_changed(&self, d: &Delta<Job>) {
        for job in d.old().into_iter().chain([d.object()]) {
            let owner = meta::controller_of(&job.metadata).filter(|o| o.kind == "CronJob");
            let found = owner.and_then(|o| self.cron_jobs.find(meta::namespace(&job.metadata), &o.name));
            if let Some(cj) = found
                && meta::is_controlled_by(&job.metadata, meta::uid(&cj.metadata))
            {
                self.queue.add(key_of(cj.as_ref()));
            }
        }
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(cj) = self.cron_jobs.get(key) else { return Ok(()) };
        if !self.written.visible(key, &cj.metadata) {
            // Its arrival wakes the cron job.
            return Ok(());
        }
        let jobs = self.jobs.by_index(meta::BY_CONTROLLER, meta::uid(&cj.metadata));
        let mut status = cj.status.clone().unwrap_or_default();
        for job in plan::expired(&cj, &jobs) {
            self.delete(&cj, &mut status, meta::name(&job.metadata), meta::uid(&job.metadata)).await;
        }
        let mut missing = HashSet::new();
        for job in plan::unseen(&status, &jobs) {
            // The cache may lag behind our own creation.
            if self.fetch(&cj, job.name.as_deref().unwrap_or_default()).await?.is_none() {
                missing.extend(job.uid.clone());
            }
        }
        let events = plan::follow(&mut status, &jobs, &missing);
        self.tell(&cj, events);
        let begun = self.begin(&cj, &mut status).await;
        let was = cj.status.clone().unwrap_or_default();
        if status != was {
            let updated = CronJob { status: Some(status), ..cj.as_ref().clone() };
            let api: Api<CronJob> = Api::namespaced(self.client.clone(), meta::namespace(&cj.metadata));
            match api.replace_status(meta::name(&cj.metadata), &PostParams::default(), &updated).await {
                Ok(written) => self.written.wrote(key, &written.metadata),
                Err(e) if errors::not_found(&e) => {}
                Err(e) => return Err(anyhow::Error::from(e).context("updating the status")),
            }
        }
        if let Some(wait) = begun? {
            self.queue.add_after(key.to_owned(), wait);
        }
        Ok(())
    }

    fn tell(&self, cj: &CronJob, events: Vec<Event>) {
        for (warning, reason, message) in events {
            let type_ = if warning { EventType::Warning } else { EventType::Normal };
            self.events.event(&meta::reference(cj), type_, reason, message);
        }
    }

    /// Begins the job that is due, if one is. Answers how long to wait for the next time.
    async fn begin(&self, cj: &Arc<CronJob>, status: &mut CronJobStatus) -> anyhow::Result<Option<Duration>> {
        let spec = &cj.spec;
        if cj.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut named = TimeZone::UTC;
        if let Some(zone) = &spec.time_zone {
            match TimeZone::get(zone) {
                Ok(zone) => named = zone,
                Err(e) => {
                    let message = format!("invalid timeZone: {zone:?}: {e}");
                    self.tell(cj, vec![(true, "UnknownTimeZone", message)]);
                    return Ok(None);
                }
            }
        }
        if spec.suspend == Some(true) {
            return Ok(None);
        }
        let (schedule, zone) =
            match self.schedule(cj, &spec.schedule, spec.time_zone.is_some().then_some(&named)) {
                Ok(read) => read,
                Err(e) => {
                    let message = format!("unparseable schedule: {:?} : {e}", spec.schedule);
                    self.tell(cj, vec![(true, "UnparseableSchedule", message)]);
                    return Ok(None);
                }
            };
        let now = Timestamp::now();
        let mut events = Vec::new();
        let due = plan::due(cj, status, now, &schedule, &zone, &mut events);
        self.tell(cj, events);
        match due {
            Due::Never => return Ok(None),
            Due::Nothing => {}
            Due::Start { at, replace } => {
                if replace {
                    for job in status.active.clone().unwrap_or_default() {
                        let (name, uid) = (job.name.unwrap_or_default(), job.uid.unwrap_or_default());
                        if !self.delete(cj, status, &name, &uid).await {
                            bail!("could not replace job {}/{name}", meta::namespace(&cj.metadata));
                        }
                    }
                }
                if let Some(job) = self.create(cj, at, &plan::job(cj, at, &named)).await? {
                    let active = status.active.get_or_insert_default();
                    if active.iter().all(|r| r.uid != job.metadata.uid) {
                        active.push(meta::reference(&job));
                        status.last_schedule_time = Some(meta::api_time(at));
                    }
                }
            }
        }
        let after = CronJob { status: Some(status.clone()), ..cj.as_ref().clone() };
        let wait = plan::wait(&after, now, &schedule, &zone);
        Ok(wait.map(|w| Duration::try_from(w).unwrap_or_default()))
    }

    /// The schedule, with the zone whose clocks count: the one it names itself, `named`, or this machine's.
    fn schedule(
        &self,
        cj: &CronJob,
        text: &str,
        named: Option<&TimeZone>,
    ) -> Result<(Schedule, TimeZone), String> {
        if text.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            );
            self.tell(cj, vec![(true, "UnsupportedSchedule", message)]);
        }
        let schedule = Schedule::parse(text)?;
        let zone = match (schedule.zone(), named) {
            (Some(own), _) => TimeZone::get(own).map_err(|e| format!("provided bad location {own}: {e}"))?,
            (None, Some(named)) => named.clone(),
            (None, None) => TimeZone::system(),
        };
        Ok((schedule, zone))
    }

    fn api(&self, cj: &CronJob) -> Api<Job> {
        Api::namespaced(self.client.clone(), meta::namespace(&cj.metadata))
    }

    async fn fetch(&self, cj: &CronJob, name: &str) -> anyhow::Result<Option<Job>> {
        self.api(cj).get_opt(name).await.with_context(|| format!("reading job {name}"))
    }

    /// The job that now runs: made, or made by us before. `None` if somebody else's has the name.
    async fn create(&self, cj: &CronJob, at: Timestamp, job: &Job) -> anyhow::Result<Option<Job>> {
        let name = meta::name(&job.metadata);
        match self.api(cj).create(&PostParams::default(), job).await {
            Ok(made) => {
                let late = meta::created(&made.metadata).duration_since(at);
                self.skew.observe(late.as_secs_f64());
                self.tell(cj, vec![(false, "SuccessfulCreate", format!("Created job {name}"))]);
                Ok(Some(made))
            }
            Err(kube::Error::Api(s)) if errors::namespace_terminating(&s) => Ok(None),
            Err(e) if errors::code(&e) == Some(409) => {
                let there = self.fetch(cj, name).await?;
                Ok(there.filter(|j| meta::is_controlled_by(&j.metadata, meta::uid(&cj.metadata))))
            }
            Err(e) => {
                let message = format!("Error creating job: {}", errors::message(&e));
                self.tell(cj, vec![(true, "FailedCreate", message)]);
                Err(anyhow::Error::from(e).context(format!("creating job {name}")))
            }
        }
    }

    /// Deletes a job, with its pods. Says whether it goes.
    async fn delete(&self, cj: &CronJob, status: &mut CronJobStatus, name: &str, uid: &str) -> bool {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(kube::api::Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.api(cj).delete(name, &params).await {
            Ok(_) => {
                plan::drop_active(status, uid);
                self.tell(cj, vec![(false, "SuccessfulDelete", format!("Deleted job {name}"))]);
                true
            }
            // Gone, or another of that name by now.
            Err(e) if matches!(errors::code(&e), Some(404 | 409)) => {
                plan::drop_active(status, uid);
                true
            }
            Err(e) => {
                let message = format!("Deleted job: {}", errors::message(&e));
                self.tell(cj, vec![(true, "FailedDelete", message)]);
                tracing::warn!(error = %e, job = name, "can't delete a job of a cron job");
                false
            }
        }
    }
}

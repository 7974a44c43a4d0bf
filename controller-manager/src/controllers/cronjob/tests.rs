use std::collections::HashSet;
use std::sync::Arc;

use component_base::cron::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job, JobStatus};

use super::plan::{self, Due};
use crate::util::meta;

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap_or_else(|e| panic!("{e}"))
}

fn cron_job(schedule: &str, change: impl FnOnce(&mut CronJobSpec)) -> CronJob {
    let mut spec = CronJobSpec { schedule: schedule.into(), ..CronJobSpec::default() };
    change(&mut spec);
    let mut cj = CronJob { spec, ..CronJob::default() };
    cj.metadata.name = Some("c".into());
    cj.metadata.creation_timestamp = Some(meta::api_time(at("00:00:30")));
    cj
}

fn decide(cj: &CronJob, now: &str) -> (Due, Vec<&'static str>) {
    let schedule = Schedule::parse(&cj.spec.schedule);
    let schedule = schedule.unwrap_or_else(|e| panic!("{e}"));
    let mut events = Vec::new();
    let status = cj.status.clone().unwrap_or_default();
    let due = plan::due(cj, &status, at(now), &schedule, &TimeZone::UTC, &mut events);
    (due, events.into_iter().map(|e| e.1).collect())
}

fn start(time: &str) -> Due {
    Due::Start { at: at(time), replace: false }
}

fn running(cj: &mut CronJob, uid: &str) {
    let mut job = Job::default();
    job.metadata.name = Some(uid.into());
    job.metadata.uid = Some(uid.into());
    cj.status.get_or_insert_default().active.get_or_insert_default().push(meta::reference(&job));
}

fn finished(uid: &str, how: &str, begun: &str) -> Arc<Job> {
    let condition = k8s_openapi::api::batch::v1::JobCondition {
        type_: how.into(),
        status: "True".into(),
        ..Default::default()
    };
    let mut job = Job {
        status: Some(JobStatus {
            conditions: Some(vec![condition]),
            start_time: Some(meta::api_time(at(begun))),
            completion_time: (how == "Complete").then(|| meta::api_time(at(begun))),
            ..JobStatus::default()
        }),
        ..Job::default()
    };
    job.metadata.uid = Some(uid.into());
    job.metadata.name = Some(uid.into());
    Arc::new(job)
}

#[test]
fn the_last_time_that_passed_is_due() {
    let cj = cron_job("*/10 * * * *", |_| {});
    assert_eq!(decide(&cj, "00:05:00").0, Due::Nothing);
    assert_eq!(decide(&cj, "00:10:00").0, start("00:10:00"));
    assert_eq!(decide(&cj, "03:14:59"), (start("03:10:00"), vec![]));
    assert_eq!(decide(&cj, "23:59:00"), (start("23:50:00"), vec!["TooManyMissedTimes"]));
    let mut done = cj;
    done.status.get_or_insert_default().last_schedule_time = Some(meta::api_time(at("00:10:00")));
    assert_eq!(decide(&done, "00:10:05").0, Due::Nothing);
    assert_eq!(decide(&done, "00:20:00").0, start("00:20:00"));
}

#[test]
fn uneven_and_constant_distances() {
    let cj = cron_job("30 6-16/4 * * *", |_| {});
    assert_eq!(decide(&cj, "15:00:00").0, start("14:30:00"));
    // The distance of the first two times says 18:30, after which there is none that day: upstream gives up, too.
    assert_eq!(decide(&cj, "23:00:00").0, Due::Nothing);
    let every = cron_job("@every 7m", |_| {});
    assert_eq!(decide(&every, "01:00:00").0, start("00:56:30"));
    let never = cron_job("59 23 31 2 *", |_| {});
    assert_eq!(decide(&never, "01:00:00"), (Due::Never, vec!["InvalidSchedule"]));
}

#[test]
fn late_is_too_late() {
    let cj = cron_job("0 * * * *", |s| s.starting_deadline_seconds = Some(60));
    assert_eq!(decide(&cj, "01:00:59").0, start("01:00:00"));
    assert_eq!(decide(&cj, "01:02:00").0, Due::Nothing, "the deadline hides older times");
}

#[test]
fn running_jobs_forbid_or_are_replaced() {
    for (policy, expected) in [
        ("Allow", start("01:00:00")),
        ("Forbid", Due::Nothing),
        ("Replace", Due::Start { at: at("01:00:00"), replace: true }),
    ] {
        let mut cj = cron_job("0 * * * *", |s| s.concurrency_policy = Some(policy.into()));
        running(&mut cj, "before");
        assert_eq!(decide(&cj, "01:00:00").0, expected, "{policy}");
    }
    let mut begun = cron_job("0 * * * *", |_| {});
    let name = plan::job_name(&begun, at("01:00:00"));
    running(&mut begun, &name);
    assert_eq!(decide(&begun, "01:00:00").0, Due::Nothing, "that one runs already");
}

#[test]
fn waits_reach_to_the_next_time() {
    let cj = cron_job("0 * * * *", |_| {});
    let schedule = Schedule::parse("0 * * * *").unwrap_or_else(|e| panic!("{e}"));
    let wait = |now| plan::wait(&cj, at(now), &schedule, &TimeZone::UTC).map(|d| d.as_secs());
    assert_eq!(wait("00:59:00"), Some(60));
    assert_eq!(wait("05:30:00"), Some(1800));
}

#[test]
fn jobs_are_followed_to_their_end() {
    let mut cj = cron_job("0 * * * *", |_| {});
    for uid in ["a", "gone", "runs"] {
        running(&mut cj, uid);
    }
    let mut status: CronJobStatus = cj.status.clone().unwrap_or_default();
    let stranger = Arc::new(Job::default());
    let jobs = [finished("a", "Complete", "00:10:00"), finished("b", "Complete", "00:05:00"), stranger];
    let unseen: Vec<_> = plan::unseen(&status, &jobs).iter().filter_map(|r| r.uid.clone()).collect();
    assert_eq!(unseen, ["gone", "runs"]);
    let events = plan::follow(&mut status, &jobs, &HashSet::from(["gone".to_owned()]));
    let reasons: Vec<_> = events.iter().map(|e| e.1).collect();
    assert_eq!(reasons, ["SawCompletedJob", "UnexpectedJob", "MissingJob"]);
    assert_eq!(status.active.as_ref().map(Vec::len), Some(1));
    assert_eq!(status.last_successful_time, Some(meta::api_time(at("00:10:00"))));
}

#[test]
fn old_jobs_beyond_the_limits_go() {
    let cj = cron_job("0 * * * *", |s| {
        s.successful_jobs_history_limit = Some(1);
        s.failed_jobs_history_limit = Some(0);
    });
    let jobs = [
        finished("new", "Complete", "00:30:00"),
        finished("old", "Complete", "00:10:00"),
        finished("bad", "Failed", "00:20:00"),
    ];
    let gone: Vec<_> = plan::expired(&cj, &jobs).iter().map(|j| meta::uid(&j.metadata).to_owned()).collect();
    assert_eq!(gone, ["old", "bad"]);
}

#[test]
fn jobs_say_when_they_were_due() {
    let cj = cron_job("0 * * * *", |_| {});
    let zone = TimeZone::get("Asia/Kolkata").unwrap_or_else(|e| panic!("{e}"));
    let job = plan::job(&cj, at("01:00:00"), &zone);
    assert_eq!(meta::annotation(&job.metadata, plan::SCHEDULED), Some("2026-01-01T06:30:00+05:30"));
    let utc = plan::job(&cj, at("01:00:00"), &TimeZone::UTC);
    assert_eq!(meta::annotation(&utc.metadata, plan::SCHEDULED), Some("2026-01-01T01:00:00Z"));
    assert_eq!(utc.metadata.name.as_deref(), Some("c-29453820"));
    assert!(SignedDuration::from_mins(29_453_820).as_secs() == at("01:00:00").as_second());
}

//! Cron jobs.

use component_base::cron::Schedule;
use k8s_openapi::api::batch::v1 as api;

use super::job::default_job_template_spec;
use super::validation;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::one_of;
use crate::kinds::semantic::{fill, spec_and_status, text};
use crate::kinds::validate::numbers;
use crate::registry::strategy::{Context, Strategy};

/// Jobs get eleven characters after the name.
const NAME_MAX: usize = 52;

/// Rules of cron jobs.
pub struct CronJob;

impl Strategy for CronJob {
    type Object = api::CronJob;

    fn default(&self, c: &mut api::CronJob) {
        let spec = &mut c.spec;
        fill(&mut spec.concurrency_policy, "Allow");
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(3);
        spec.failed_jobs_history_limit.get_or_insert(1);
        spec.job_template.metadata.get_or_insert_with(Default::default);
        default_job_template_spec(spec.job_template.spec.get_or_insert_with(Default::default));
        c.status.get_or_insert_with(Default::default);
    }

    spec_and_status!(Some(Default::default()));

    fn validate(&self, _cx: &mut Context, c: &api::CronJob) -> ErrorList {
        let mut errors = ErrorList::new();
        let s = &c.spec;
        let path = Path::new("spec");
        schedule(s, &path, &mut errors);
        let limits = |n: Option<i32>| n.map(i64::from);
        errors.extend(numbers::non_negative_opt(
            s.starting_deadline_seconds,
            &path.child("startingDeadlineSeconds"),
        ));
        time_zone(s, &path.child("timeZone"), &mut errors);
        one_of(
            text(&s.concurrency_policy),
            &["Allow", "Forbid", "Replace"],
            &path.child("concurrencyPolicy"),
            &mut errors,
        );
        job_template(s, &path.child("jobTemplate"), &mut errors);
        for (field, n) in [
            ("successfulJobsHistoryLimit", limits(s.successful_jobs_history_limit)),
            ("failedJobsHistoryLimit", limits(s.failed_jobs_history_limit)),
        ] {
            errors.extend(numbers::non_negative_opt(n, &path.child(field)));
        }
        let name = text(&c.metadata.name);
        if name.len() > NAME_MAX {
            errors.push(Error::invalid(
                &Path::new("metadata").child("name"),
                name,
                "must be no more than 52 characters",
            ));
        }
        errors
    }
}

fn schedule(s: &api::CronJobSpec, path: &Path, errors: &mut ErrorList) {
    let at = path.child("schedule");
    if s.schedule.is_empty() {
        errors.push(Error::required(&at, ""));
        return;
    }
    if let Err(why) = Schedule::parse(&s.schedule) {
        errors.push(Error::invalid(&at, &s.schedule, why));
    }
    if s.schedule.contains("TZ") {
        errors.push(Error::invalid(
            &at,
            &s.schedule,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ));
    }
}

fn time_zone(s: &api::CronJobSpec, path: &Path, errors: &mut ErrorList) {
    let Some(zone) = &s.time_zone else { return };
    if zone.is_empty() {
        errors.push(Error::invalid(path, zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let fine = |part: &str| {
        !matches!(part, "" | "." | "..")
            && !part.starts_with('-')
            && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b'+'))
    };
    if zone.eq_ignore_ascii_case("Local") {
        errors.push(Error::invalid(
            path,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ));
    } else if !zone.split('/').all(fine) || jiff::tz::TimeZone::get(zone).is_err() {
        errors.push(Error::invalid(path, zone, format!("unknown time zone {zone}")));
    }
}

/// The jobs to be made select their own pods, so the template selects none.
fn job_template(s: &api::CronJobSpec, path: &Path, errors: &mut ErrorList) {
    let Some(job) = &s.job_template.spec else { return };
    let path = path.child("spec");
    validation::spec(job, &path, errors);
    if let Some(l) = &job.selector {
        errors.push(Error::invalid(&path.child("selector"), l, "`selector` will be auto-generated"));
    }
    if job.manual_selector == Some(true) {
        errors.push(Error::not_supported(&path.child("manualSelector"), true, &["nil", "false"]));
    }
}

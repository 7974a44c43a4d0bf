//! Cron jobs.

use k8s_openapi::api::batch::v1 as api;

use super::job::default_job_template_spec;
use crate::kinds::semantic::{fill, spec_and_status};
use crate::registry::strategy::Strategy;

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
}

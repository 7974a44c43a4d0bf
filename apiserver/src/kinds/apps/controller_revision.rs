//! Controller revisions: snapshots of a workload's template. They never change but in their number.

use k8s_openapi::api::apps::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::validate::{immutable, numbers};
use crate::registry::strategy::{Context, Strategy};

/// Rules of controller revisions.
pub struct ControllerRevision;

impl Strategy for ControllerRevision {
    type Object = api::ControllerRevision;

    fn validate(&self, cx: &mut Context, r: &api::ControllerRevision) -> ErrorList {
        let mut errors = ErrorList::new();
        errors.extend(numbers::non_negative(r.revision, &Path::new("revision")));
        // The data of one that is there cannot change, whatever it is.
        if cx.updating {
            return errors;
        }
        match &r.data {
            None => errors.push(Error::required(&Path::new("data"), "data is mandatory")),
            Some(data) if !data.0.is_object() => {
                errors.push(Error::required(&Path::new("data"), "data must be a valid JSON object"));
            }
            Some(_) => {}
        }
        errors
    }

    fn validate_update(
        &self,
        _cx: &mut Context,
        r: &api::ControllerRevision,
        old: &api::ControllerRevision,
    ) -> ErrorList {
        immutable(&r.data, &old.data, &Path::new("data"))
    }
}

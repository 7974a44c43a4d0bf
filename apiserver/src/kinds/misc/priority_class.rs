//! Priority classes.

use k8s_openapi::api::scheduling::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::one_of;
use crate::kinds::semantic::{first_generation, next_generation};
use crate::kinds::validate::immutable;
use crate::registry::strategy::{Context, Strategy};

/// Rules of priority classes.
pub struct PriorityClass;

impl Strategy for PriorityClass {
    type Object = api::PriorityClass;

    fn default(&self, c: &mut api::PriorityClass) {
        c.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
        c.value.get_or_insert(0);
    }

    fn prepare_create(&self, _cx: &mut Context, c: &mut api::PriorityClass) {
        first_generation(&mut c.metadata);
    }

    fn prepare_update(&self, _cx: &mut Context, c: &mut api::PriorityClass, old: &api::PriorityClass) {
        next_generation(&mut c.metadata, &old.metadata, false);
    }

    fn validate(&self, cx: &mut Context, c: &api::PriorityClass) -> ErrorList {
        let mut errors = ErrorList::new();
        // Nothing of this changes.
        if cx.updating {
            return errors;
        }
        let name = c.metadata.name.as_deref().unwrap_or_default();
        let value = c.value.unwrap_or(0);
        if name.starts_with("system-") {
            if let Err(why) = system_class(name, value, c.global_default == Some(true)) {
                let why = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errors.push(Error::forbidden(&Path::new("metadata").child("name"), why));
            }
        } else if value > USER_MAX {
            errors.push(Error::forbidden(
                &Path::new("value"),
                format!("maximum allowed value of a user defined priority is {USER_MAX}"),
            ));
        }
        if let Some(p) = &c.preemption_policy {
            let at = Path::new("preemptionPolicy");
            one_of(p, &["PreemptLowerPriority", "Never"], &at, &mut errors);
        }
        errors
    }

    fn validate_update(
        &self,
        _cx: &mut Context,
        c: &api::PriorityClass,
        old: &api::PriorityClass,
    ) -> ErrorList {
        let mut errors = ErrorList::new();
        if c.value != old.value {
            errors.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        let at = Path::new("preemptionPolicy");
        errors.extend(immutable(&c.preemption_policy, &old.preemption_policy, &at));
        errors
    }
}

/// Highest priority that is not the system's.
const USER_MAX: i32 = 1_000_000_000;

/// The system's own classes are what they are.
fn system_class(name: &str, value: i32, default: bool) -> Result<(), String> {
    let known = match name {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => return Err(format!("{name} is not a known system priority class")),
    };
    if value != known {
        return Err(format!("value of {name} PriorityClass must be {known}"));
    }
    if default {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

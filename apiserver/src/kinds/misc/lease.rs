//! Leases.

use k8s_openapi::api::coordination::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::registry::strategy::{Context, Strategy};

/// Rules of leases.
pub struct Lease;

impl Strategy for Lease {
    type Object = api::Lease;

    fn default(&self, l: &mut api::Lease) {
        let spec = l.spec.get_or_insert_with(Default::default);
        // Coordinated leader election is off by default, and with it these two.
        spec.preferred_holder = None;
        spec.strategy = None;
    }

    fn validate(&self, _cx: &mut Context, l: &api::Lease) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &l.spec else { return errors };
        let path = Path::new("spec");
        if let Some(n) = s.lease_duration_seconds.filter(|n| *n <= 0) {
            errors.push(Error::invalid(&path.child("leaseDurationSeconds"), n, "must be greater than 0"));
        }
        if let Some(n) = s.lease_transitions.filter(|n| *n < 0) {
            errors.push(Error::invalid(
                &path.child("leaseTransitions"),
                n,
                "must be greater than or equal to 0",
            ));
        }
        errors
    }
}

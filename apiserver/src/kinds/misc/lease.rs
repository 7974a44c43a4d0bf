//! Leases.

use k8s_openapi::api::coordination::v1 as api;

use crate::registry::strategy::Strategy;

/// Rules of leases.
pub struct Lease;

impl Strategy for Lease {
    type Object = api::Lease;

    fn default(&self, l: &mut api::Lease) {
        l.spec.get_or_insert_with(Default::default);
    }
}

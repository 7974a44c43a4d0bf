//! Service CIDRs and the addresses taken from them.

use k8s_openapi::api::networking::v1 as api;

use crate::registry::strategy::{Context, Strategy};

/// Rules of service CIDRs.
pub struct ServiceCidr;

/// Rules of IP addresses.
pub struct IpAddress;

impl Strategy for ServiceCidr {
    type Object = api::ServiceCIDR;

    fn default(&self, c: &mut api::ServiceCIDR) {
        c.spec.get_or_insert_with(Default::default);
        c.status.get_or_insert_with(Default::default);
    }

    fn prepare_create(&self, _cx: &mut Context, c: &mut api::ServiceCIDR) {
        c.status = Some(Default::default());
    }

    fn prepare_update(&self, cx: &mut Context, c: &mut api::ServiceCIDR, old: &api::ServiceCIDR) {
        if cx.is_status() {
            c.spec = old.spec.clone();
        } else {
            c.status = old.status.clone();
        }
    }
}

impl Strategy for IpAddress {
    type Object = api::IPAddress;
}

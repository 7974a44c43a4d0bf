//! Service CIDRs and the addresses taken from them.

use k8s_openapi::api::networking::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::validate::{immutable, invalid_each, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of service CIDRs.
pub struct ServiceCidr;

/// What the address belongs to.
const PARENT: &str = "/spec/parentRef";

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

    fn validate(&self, _cx: &mut Context, c: &api::ServiceCIDR) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("cidrs");
        let list = c.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default();
        let is_v6 = |c: &String| c.contains(':');
        if list.is_empty() {
            errors.push(Error::required(&path, "at least one CIDR required"));
        } else if list.len() > 2 {
            errors.push(Error::invalid(&path, list, "may only hold up to 2 values"));
        } else if list.len() == 2 && is_v6(&list[0]) == is_v6(&list[1]) {
            errors.push(Error::invalid(
                &path,
                list,
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            ));
        }
        for (i, c) in list.iter().enumerate() {
            errors.extend(invalid_each(&path.index(i), c, text::cidr(c)));
        }
        errors
    }

    /// A second family may be added; nothing else changes.
    fn validate_update(&self, _cx: &mut Context, c: &api::ServiceCIDR, old: &api::ServiceCIDR) -> ErrorList {
        const WHY: &str = "field is immutable";
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("cidrs");
        let of = |c: &api::ServiceCIDR| c.spec.as_ref().and_then(|s| s.cidrs.clone()).unwrap_or_default();
        let (new, before) = (of(c), of(old));
        if new.len() == before.len() || (before.len() == 1 && new.len() == 2) {
            for (i, (n, b)) in new.iter().zip(&before).enumerate().filter(|(_, (n, b))| n != b) {
                debug_assert_ne!(n, b);
                errors.push(Error::invalid(&path.index(i), n, WHY));
            }
        } else {
            errors.push(Error::invalid(&path, &new, WHY));
        }
        errors
    }
}

impl Strategy for IpAddress {
    type Object = api::IPAddress;

    fn optional(&self) -> &'static [&'static str] {
        &[PARENT]
    }

    fn validate(&self, cx: &mut Context, a: &api::IPAddress) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("parentRef");
        if cx.absent.contains(&PARENT) {
            errors.push(Error::required(&path, ""));
            return errors;
        }
        let r = &a.spec.parent_ref;
        for (field, v) in [("resource", &r.resource), ("name", &r.name)] {
            let at = path.child(field);
            if v.is_empty() {
                errors.push(Error::required(&at, ""));
            } else {
                errors.extend(invalid_each(&at, v, text::path_segment(v, false)));
            }
        }
        errors
    }

    fn validate_update(&self, _cx: &mut Context, a: &api::IPAddress, old: &api::IPAddress) -> ErrorList {
        immutable(&a.spec.parent_ref, &old.spec.parent_ref, &Path::new("spec").child("parentRef"))
    }
}

//! Service CIDRs and the addresses taken from them.

use k8s_openapi::api::networking::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::keep_metadata;
use crate::kinds::validate::{address, immutable, invalid_each, printed, text};
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
            keep_metadata(&mut c.metadata, &old.metadata);
        } else {
            c.status = old.status.clone();
        }
    }

    fn validate(&self, cx: &mut Context, c: &api::ServiceCIDR) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("cidrs");
        let list = c.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default();
        if cx.updating {
            return errors;
        }
        cidrs(list, &path, &mut errors);
        errors
    }

    /// A second family may be added; nothing else changes.
    fn validate_update(&self, _cx: &mut Context, c: &api::ServiceCIDR, old: &api::ServiceCIDR) -> ErrorList {
        const WHY: &str = "field is immutable";
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("cidrs");
        let of = |c: &api::ServiceCIDR| c.spec.as_ref().and_then(|s| s.cidrs.clone()).unwrap_or_default();
        let (new, before) = (of(c), of(old));
        let joins = before.len() == 1 && new.len() == 2;
        if new.len() == before.len() || joins {
            for (i, (n, _)) in new.iter().zip(&before).enumerate().filter(|(_, (n, b))| n != b) {
                errors.push(Error::invalid(&path.index(i), n, WHY));
            }
            if joins {
                cidrs(&new, &path, &mut errors);
            }
        } else {
            errors.push(Error::invalid(&path, &new, WHY));
        }
        errors
    }
}

/// One network, or one of each family.
fn cidrs(list: &[String], path: &Path, errors: &mut ErrorList) {
    if list.is_empty() {
        errors.push(Error::required(path, "at least one CIDR required"));
        return;
    }
    if list.len() > 2 {
        let mut e = Error::invalid(path, "", "may only hold up to 2 values");
        e.value = printed::object(&[("CIDRs", printed::json(list))]);
        errors.push(e);
        return;
    }
    for (i, c) in list.iter().enumerate() {
        errors.extend(address::cidr(c, &path.index(i)));
    }
    let families: Vec<bool> =
        list.iter().filter_map(|c| address::sloppy_cidr(c)).map(|(ip, _)| ip.is_ipv6()).collect();
    if let [a, b] = families[..]
        && a == b
    {
        errors.push(Error::invalid(
            path,
            list,
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ));
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
        if cx.lacks(PARENT) {
            errors.push(Error::required(&path, ""));
            return errors;
        }
        let r = &a.spec.parent_ref;
        let group = r.group.as_deref().unwrap_or_default();
        if !group.is_empty() {
            errors.extend(invalid_each(&path.child("group"), group, text::dns1123_subdomain(group)));
        }
        for (field, v) in [("resource", &r.resource), ("name", &r.name)] {
            let at = path.child(field);
            if v.is_empty() {
                errors.push(Error::required(&at, ""));
            } else {
                errors.extend(invalid_each(&at, v, text::path_segment(v, false)));
            }
        }
        let namespace = r.namespace.as_deref().unwrap_or_default();
        errors.extend(invalid_each(
            &path.child("namespace"),
            namespace,
            text::path_segment(namespace, namespace.is_empty()),
        ));
        errors
    }

    fn validate_update(&self, _cx: &mut Context, a: &api::IPAddress, old: &api::IPAddress) -> ErrorList {
        immutable(&a.spec.parent_ref, &old.spec.parent_ref, &Path::new("spec").child("parentRef"))
    }
}

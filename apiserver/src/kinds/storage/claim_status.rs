//! The status of claims: who holds them, what was allocated, and what drivers say of the devices.
//!
//! Source: KEP-4381 "DRA: structured parameters", KEP-4817 "Resource Claim Status".

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;

use super::device_validation::{
    Names, driver, label, list, names_of, object, opaque, pool_name, referred, set,
};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::scheduling;
use crate::kinds::semantic::items;
use crate::kinds::validate::{conditions, immutable, invalid_each, text};

const RESERVED_FOR: usize = 256;
const RESULTS: usize = 32;
/// Those of the class and those of the claim.
const CONFIGURATIONS: usize = 64;
const BINDING_CONDITIONS: usize = 4;
const CONDITIONS: usize = 8;
const IPS: usize = 16;
const DATA_BYTES: usize = 10 * 1024;
const INTERFACE_BYTES: usize = 256;
const HARDWARE_BYTES: usize = 128;

/// One device, or one share of it.
type Device<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);

fn allocated(s: &api::ResourceClaimStatus) -> BTreeSet<Device<'_>> {
    let devices = s.allocation.as_ref().and_then(|a| a.devices.as_ref());
    let results = devices.map(|d| items(&d.results)).unwrap_or_default();
    results
        .iter()
        .map(|r| (r.driver.as_str(), r.pool.as_str(), r.device.as_str(), r.share_id.as_deref()))
        .collect()
}

fn of_status(d: &api::AllocatedDeviceStatus) -> Device<'_> {
    (&d.driver, &d.pool, &d.device, d.share_id.as_deref())
}

/// As upstream's messages show it.
fn shown((driver, pool, device, share): Device<'_>) -> String {
    match share {
        Some(share) => format!("{driver}/{pool}/{device}/{share}"),
        None => format!("{driver}/{pool}/{device}"),
    }
}

/// Drops what drivers said of devices that are no longer allocated.
pub fn drop_deallocated(new: &mut api::ResourceClaimStatus, old: &api::ResourceClaimStatus) {
    let now: BTreeSet<_> = allocated(new).into_iter().map(owned).collect();
    let gone: BTreeSet<_> = allocated(old).into_iter().map(owned).filter(|d| !now.contains(d)).collect();
    if let Some(devices) = &mut new.devices {
        devices.retain(|d| !gone.contains(&owned(of_status(d))));
        if devices.is_empty() {
            new.devices = None;
        }
    }
}

fn owned((a, b, c, share): Device<'_>) -> (String, String, String, Option<String>) {
    (a.to_owned(), b.to_owned(), c.to_owned(), share.map(str::to_owned))
}

/// What is wrong with a change of the status. `spec` is that of the claim; `deleted` tells that the claim is going.
pub fn update(
    new: &api::ResourceClaimStatus,
    old: &api::ResourceClaimStatus,
    spec: &api::ResourceClaimSpec,
    deleted: bool,
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = path.child("reservedFor");
    let reserved = items(&new.reserved_for);
    set(reserved, RESERVED_FOR, &at, &mut errors, |r| &r.uid, consumer);
    let devices = allocated(new);
    statuses(items(&new.devices), &devices, &path.child("devices"), &mut errors);
    if !reserved.is_empty() {
        let before = items(&old.reserved_for);
        if new.allocation.is_none() {
            errors.push(Error::forbidden(&at, "may not be specified when `allocated` is not set"));
        } else if deleted && reserved.iter().any(|r| !before.contains(r)) {
            let why =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(Error::forbidden(&at, why));
        }
    }
    let at = path.child("allocation");
    match (&new.allocation, &old.allocation) {
        (Some(new), Some(old)) => errors.extend(immutable(new, old, &at)),
        (Some(new), None) => allocation(new, &names_of(spec), &at, &mut errors),
        (None, _) => {}
    }
    errors
}

fn consumer(r: &api::ResourceClaimConsumerReference, path: &Path, errors: &mut ErrorList) {
    for (field, value) in [("resource", &r.resource), ("name", &r.name), ("uid", &r.uid)] {
        if value.is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
}

fn share_id(id: Option<&str>, path: &Path, errors: &mut ErrorList) {
    let Some(id) = id else { return };
    let at = path.child("shareID");
    match uuid::Uuid::parse_str(id) {
        Err(e) => errors.push(Error::invalid(&at, id, format!("error validating uid: {e}"))),
        Ok(u) if u.to_string() != id => errors.push(Error::invalid(
            &at,
            id,
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters",
        )),
        Ok(_) => {}
    }
}

fn statuses(
    all: &[api::AllocatedDeviceStatus],
    allocated: &BTreeSet<Device<'_>>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mut seen = BTreeSet::new();
    for (i, d) in all.iter().enumerate() {
        let at = path.index(i);
        driver(&d.driver, &at.child("driver"), errors);
        pool_name(&d.pool, &at.child("pool"), errors);
        label(&d.device, &at.child("device"), errors);
        share_id(d.share_id.as_deref(), &at, errors);
        let device = of_status(d);
        if !allocated.contains(&device) {
            errors.push(Error::invalid(&at, shown(device), "must be an allocated device in the claim"));
        }
        let given = items(&d.conditions);
        if given.len() > CONDITIONS {
            errors.push(Error::too_many(&at.child("conditions"), given.len(), CONDITIONS));
        }
        errors.extend(conditions(given, &at.child("conditions")));
        if let Some(RawExtension(v)) = &d.data {
            object(v, DATA_BYTES, &at.child("data"), errors);
        }
        if let Some(n) = &d.network_data {
            network(n, &at.child("networkData"), errors);
        }
    }
    for (i, d) in all.iter().enumerate() {
        if !seen.insert(of_status(d)) {
            errors.push(Error::duplicate(&path.index(i), shown(of_status(d))));
        }
    }
}

fn network(n: &api::NetworkDeviceData, path: &Path, errors: &mut ErrorList) {
    for (field, value, most) in [
        ("interfaceName", &n.interface_name, INTERFACE_BYTES),
        ("hardwareAddress", &n.hardware_address, HARDWARE_BYTES),
    ] {
        if value.as_ref().is_some_and(|v| v.len() > most) {
            errors.push(Error::too_long(&path.child(field), most as i64));
        }
    }
    set(
        items(&n.ips),
        IPS,
        &path.child("ips"),
        errors,
        |ip| ip,
        |ip, at, errors| interface_address(ip, at, errors),
    );
}

/// An address with the length of its network's prefix: `10.9.8.7/24`.
fn interface_address(value: &str, path: &Path, errors: &mut ErrorList) {
    let Some((ip, prefix)) = text::parse_cidr(value) else {
        let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        errors.push(Error::invalid(path, value, why));
        return;
    };
    let (ip, prefix) = match ip.to_canonical() {
        v4 if v4 != ip => (v4, prefix.saturating_sub(96)),
        same => (same, prefix),
    };
    let canonical = format!("{ip}/{prefix}");
    if value != canonical {
        errors.push(Error::invalid(path, value, format!("must be in canonical form ({canonical:?})")));
    }
}

/// A result that was not there before.
fn allocation(a: &api::AllocationResult, names: &Names<'_>, path: &Path, errors: &mut ErrorList) {
    if let Some(d) = &a.devices {
        let path = path.child("devices");
        list(items(&d.results), RESULTS, &path.child("results"), errors, |r, at, errors| {
            result(r, names, at, errors);
        });
        list(items(&d.config), CONFIGURATIONS, &path.child("config"), errors, |c, at, errors| {
            match c.source.as_str() {
                "" => errors.push(Error::required(&at.child("source"), "")),
                "FromClaim" | "FromClass" => {}
                other => {
                    let at = at.child("source");
                    errors.push(Error::not_supported(&at, other, &["FromClaim", "FromClass"]));
                }
            }
            referred(items(&c.requests), names, &at.child("requests"), errors);
            opaque(c.opaque.as_ref(), &at.child("opaque"), errors);
        });
    }
    if let Some(s) = &a.node_selector {
        scheduling::node_selector(s, &path.child("nodeSelector"), errors);
    }
}

fn result(r: &api::DeviceRequestAllocationResult, names: &Names<'_>, path: &Path, errors: &mut ErrorList) {
    let one = std::slice::from_ref(&r.request);
    let mut about_request = ErrorList::new();
    referred(one, names, &Path::default(), &mut about_request);
    // One name, not a list of them.
    let at = path.child("request").to_string();
    for e in about_request.iter() {
        errors.push(Error { field: at.clone(), ..e.clone() });
    }
    driver(&r.driver, &path.child("driver"), errors);
    pool_name(&r.pool, &path.child("pool"), errors);
    label(&r.device, &path.child("device"), errors);
    binding(items(&r.binding_conditions), items(&r.binding_failure_conditions), path, errors);
    share_id(r.share_id.as_deref(), path, errors);
}

/// Conditions that must come true before the device is bound, and those that say it never will be.
fn binding(wanted: &[String], failing: &[String], path: &Path, errors: &mut ErrorList) {
    let (at, failures_at) = (path.child("bindingConditions"), path.child("bindingFailureConditions"));
    for (all, at) in [(wanted, &at), (failing, &failures_at)] {
        set(
            all,
            BINDING_CONDITIONS,
            at,
            errors,
            |c| c,
            |c, at, errors| {
                errors.extend(invalid_each(at, c, text::qualified_name(c)));
            },
        );
    }
    for (i, c) in failing.iter().enumerate().filter(|(_, c)| wanted.contains(c)) {
        let why = "bindingFailureConditions must not overlap with bindingConditions";
        errors.push(Error::invalid(&failures_at.index(i), c, why));
    }
    if wanted.is_empty() && !failing.is_empty() {
        let why = "bindingConditions are required to use bindingFailureConditions";
        errors.push(Error::invalid(&at, wanted, why));
    }
    if failing.is_empty() && !wanted.is_empty() {
        let why = "bindingFailureConditions are required to use bindingConditions";
        errors.push(Error::invalid(&failures_at, failing, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(v: Value) -> api::ResourceClaimStatus {
        serde_json::from_value(v).unwrap()
    }

    fn spec() -> api::ResourceClaimSpec {
        serde_json::from_value(
            json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}),
        )
        .unwrap()
    }

    fn found(new: Value, old: Value, deleted: bool) -> Vec<String> {
        let errors = update(&status(new), &status(old), &spec(), deleted, &Path::new("status"));
        errors.iter().map(|e| format!("{}: {}", e.field, e.detail)).collect()
    }

    fn device(name: &str) -> Value {
        json!({"request": "r", "driver": "d.example", "pool": "p", "device": name})
    }

    fn held(names: &[&str], uid: &str) -> Value {
        let results: Vec<Value> = names.iter().map(|n| device(n)).collect();
        json!({"allocation": {"devices": {"results": results}},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": uid}]})
    }

    #[test]
    fn allocated_once() {
        assert!(found(held(&["a"], "1"), json!({}), false).is_empty());
        assert_eq!(
            found(held(&["b"], "1"), held(&["a"], "1"), false),
            ["status.allocation: field is immutable"]
        );
        assert!(found(json!({}), held(&["a"], "1"), false).is_empty(), "it may be taken back");
        let mut other = held(&["a"], "1");
        other["allocation"]["devices"]["results"][0]["request"] = json!("x");
        let why = found(other, json!({}), false);
        assert_eq!(why.len(), 1);
        assert!(
            why[0].starts_with("status.allocation.devices.results[0].request: must be the name of a request")
        );
    }

    #[test]
    fn held_while_it_is_there() {
        let mut unallocated = held(&["a"], "1");
        unallocated.as_object_mut().unwrap().remove("allocation");
        assert_eq!(
            found(unallocated, json!({}), false),
            ["status.reservedFor: may not be specified when `allocated` is not set"]
        );
        assert_eq!(found(held(&["a"], "2"), held(&["a"], "1"), true).len(), 1);
        assert!(found(held(&["a"], "1"), held(&["a"], "1"), true).is_empty());
    }

    #[test]
    fn drivers_speak_of_what_is_allocated() {
        let mut s = held(&["a"], "1");
        let data = |name: &str| {
            json!({"driver": "d.example", "pool": "p", "device": name,
                "networkData": {"interfaceName": "eth0", "ips": ["10.0.0.1/24"]}})
        };
        s["devices"] = json!([data("a")]);
        assert!(found(s.clone(), held(&["a"], "1"), false).is_empty());
        s["devices"] = json!([data("b")]);
        assert_eq!(
            found(s.clone(), held(&["a"], "1"), false),
            ["status.devices[0]: must be an allocated device in the claim"]
        );
        s["devices"] = json!([data("a")]);
        s["devices"][0]["networkData"]["ips"] = json!(["10.0.0.1", "10.0.00.1/24"]);
        assert_eq!(found(s.clone(), held(&["a"], "1"), false).len(), 2);
        let mut new = status(json!({"devices": [data("a")]}));
        drop_deallocated(&mut new, &status(s));
        assert_eq!(new.devices, None);
    }
}

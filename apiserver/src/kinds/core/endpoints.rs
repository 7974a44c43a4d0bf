//! Endpoints: the older form of endpoint slices.

use k8s_openapi::api::core::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::networking::validation::endpoint_address;
use crate::kinds::podspec::validate::one_of;
use crate::kinds::semantic::{fill, items, same, text};
use crate::kinds::validate::{address as ip, invalid_each, numbers, text as rules};
use crate::registry::strategy::{Context, Strategy};

/// Rules of endpoints.
pub struct Endpoints;

impl Strategy for Endpoints {
    type Object = api::Endpoints;

    fn default(&self, e: &mut api::Endpoints) {
        for port in e.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten()) {
            fill(&mut port.protocol, "TCP");
        }
    }

    fn validate(&self, cx: &mut Context, e: &api::Endpoints) -> ErrorList {
        let mut errors = ErrorList::new();
        if !cx.updating {
            subsets(items(&e.subsets), &mut errors);
        }
        if errors.is_empty() {
            warn(e, &mut cx.warnings);
        }
        errors
    }

    /// Subsets that did not change are not judged again: older releases took more.
    fn validate_update(&self, _cx: &mut Context, e: &api::Endpoints, old: &api::Endpoints) -> ErrorList {
        let mut errors = ErrorList::new();
        if !same(&e.subsets, &old.subsets) {
            subsets(items(&e.subsets), &mut errors);
        }
        errors
    }
}

/// The controller of endpoints writes addresses in the right form: its objects are not looked through.
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

fn warn(e: &api::Endpoints, warnings: &mut Vec<String>) {
    let label = e.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY.0));
    if label.is_some_and(|l| l == MANAGED_BY.1) {
        return;
    }
    for (i, s) in items(&e.subsets).iter().enumerate() {
        let path = Path::new("subsets").index(i);
        for (field, list) in [("addresses", &s.addresses), ("notReadyAddresses", &s.not_ready_addresses)] {
            for (j, a) in items(list).iter().enumerate() {
                warnings.extend(ip::ip_warning(&a.ip, &path.child(field).index(j).child("ip")));
            }
        }
    }
}

fn subsets(list: &[api::EndpointSubset], errors: &mut ErrorList) {
    for (i, s) in list.iter().enumerate() {
        let path = Path::new("subsets").index(i);
        let (ready, waiting) = (items(&s.addresses), items(&s.not_ready_addresses));
        if ready.is_empty() && waiting.is_empty() {
            errors.push(Error::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        for (field, list) in [("addresses", ready), ("notReadyAddresses", waiting)] {
            for (j, a) in list.iter().enumerate() {
                address(a, &path.child(field).index(j), errors);
            }
        }
        let ports = items(&s.ports);
        for (j, p) in ports.iter().enumerate() {
            port(p, ports.len() > 1, &path.child("ports").index(j), errors);
        }
    }
}

fn address(a: &api::EndpointAddress, path: &Path, errors: &mut ErrorList) {
    let at = path.child("ip");
    errors.extend(ip::legacy_ip(&a.ip, &at));
    let host = text(&a.hostname);
    if !host.is_empty() {
        errors.extend(invalid_each(&path.child("hostname"), host, rules::dns1123_label(host)));
    }
    if let Some(n) = &a.node_name {
        errors.extend(invalid_each(&path.child("nodeName"), n, rules::dns1123_subdomain(n)));
    }
    if ip::sloppy_ip(&a.ip).is_none() {
        errors.push(Error::invalid(&at, &a.ip, "must be a valid IP address"));
    }
    endpoint_address(&a.ip, &at, errors);
}

fn port(p: &api::EndpointPort, named: bool, path: &Path, errors: &mut ErrorList) {
    let name = text(&p.name);
    if !name.is_empty() {
        errors.extend(invalid_each(&path.child("name"), name, rules::dns1123_label(name)));
    } else if named {
        errors.push(Error::required(&path.child("name"), ""));
    }
    errors.extend(numbers::port(p.port, &path.child("port")));
    one_of(text(&p.protocol), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errors);
    if let Some(a) = &p.app_protocol {
        errors.extend(invalid_each(&path.child("appProtocol"), a, rules::qualified_name(a)));
    }
}

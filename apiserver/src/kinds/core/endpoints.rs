//! Endpoints: the older form of endpoint slices.

use k8s_openapi::api::core::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::networking::validation::endpoint_address;
use crate::kinds::podspec::validate::one_of;
use crate::kinds::semantic::{fill, items, text};
use crate::kinds::validate::{invalid_each, numbers, text as rules};
use crate::registry::strategy::{Context, Strategy};

/// Rules of endpoints.
pub struct Endpoints;

const DEPRECATED: &str = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

impl Strategy for Endpoints {
    type Object = api::Endpoints;

    fn default(&self, e: &mut api::Endpoints) {
        for port in e.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten()) {
            fill(&mut port.protocol, "TCP");
        }
    }

    fn validate(&self, cx: &mut Context, e: &api::Endpoints) -> ErrorList {
        let mut errors = ErrorList::new();
        cx.warnings.push(DEPRECATED.to_owned());
        for (i, s) in items(&e.subsets).iter().enumerate() {
            let path = Path::new("subsets").index(i);
            let (ready, waiting) = (items(&s.addresses), items(&s.not_ready_addresses));
            if ready.is_empty() && waiting.is_empty() {
                errors.push(Error::required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for (field, list) in [("addresses", ready), ("notReadyAddresses", waiting)] {
                for (j, a) in list.iter().enumerate() {
                    address(a, &path.child(field).index(j), &mut errors);
                }
            }
            let ports = items(&s.ports);
            for (j, p) in ports.iter().enumerate() {
                port(p, ports.len() > 1, &path.child("ports").index(j), &mut errors);
            }
        }
        errors
    }
}

fn address(a: &api::EndpointAddress, path: &Path, errors: &mut ErrorList) {
    let at = path.child("ip");
    let wrong = rules::ip(&a.ip);
    if wrong.is_empty() {
        endpoint_address(&a.ip, &at, errors);
    }
    if !wrong.is_empty() {
        errors.extend(invalid_each(&at, &a.ip, wrong));
        errors.push(Error::invalid(&at, &a.ip, "must be a valid IP address"));
    }
    let host = text(&a.hostname);
    if !host.is_empty() {
        errors.extend(invalid_each(&path.child("hostname"), host, rules::dns1123_label(host)));
    }
    if let Some(n) = &a.node_name {
        errors.extend(invalid_each(&path.child("nodeName"), n, rules::dns1123_subdomain(n)));
    }
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

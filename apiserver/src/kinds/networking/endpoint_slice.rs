//! Endpoint slices.

use k8s_openapi::api::discovery::v1 as api;

use super::validation;
use crate::field::{ErrorList, Path};
use crate::kinds::semantic::{first_generation, items, next_generation, same};
use crate::kinds::validate::{address, immutable, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of endpoint slices.
pub struct EndpointSlice;

const HOST_NAME: &str = "kubernetes.io/hostname";

/// The topology of endpoints is of the beta API. What a client writes of it is dropped, but for the name of the node
/// where the stored slice has it there: that is kept in the field of its own.
fn drop_topology(s: &mut api::EndpointSlice, old: Option<&api::EndpointSlice>) {
    fn host(e: &api::Endpoint) -> Option<&String> {
        e.deprecated_topology.as_ref().and_then(|t| t.get(HOST_NAME)).filter(|h| !h.is_empty())
    }
    let known: Vec<&String> = old.iter().flat_map(|o| items(&o.endpoints)).filter_map(host).collect();
    for e in s.endpoints.iter_mut().flatten() {
        let name = host(e).filter(|n| known.contains(n) && text::dns1123_subdomain(n).is_empty()).cloned();
        if e.node_name.is_none() {
            e.node_name = name;
        }
        e.deprecated_topology = None;
    }
}

/// Controllers write addresses in the right form: their slices are not looked through.
fn warn(s: &api::EndpointSlice, warnings: &mut Vec<String>) {
    const CONTROLLERS: [&str; 2] =
        ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
    let by = s.metadata.labels.as_ref().and_then(|l| l.get("endpointslice.kubernetes.io/managed-by"));
    if by.is_some_and(|b| CONTROLLERS.contains(&b.as_str())) || s.address_type == "FQDN" {
        return;
    }
    for (i, e) in items(&s.endpoints).iter().enumerate() {
        let path = Path::new("endpoints").index(i).child("addresses");
        for (j, a) in e.addresses.iter().enumerate() {
            warnings.extend(address::ip_warning(a, &path.index(j)));
        }
    }
}

impl Strategy for EndpointSlice {
    type Object = api::EndpointSlice;

    fn default(&self, s: &mut api::EndpointSlice) {
        for p in s.ports.iter_mut().flatten() {
            p.name.get_or_insert_with(String::new);
            p.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
        for e in s.endpoints.iter_mut().flatten() {
            e.conditions.get_or_insert_with(Default::default);
        }
    }

    fn prepare_create(&self, _cx: &mut Context, s: &mut api::EndpointSlice) {
        first_generation(&mut s.metadata);
        drop_topology(s, None);
    }

    fn prepare_update(&self, _cx: &mut Context, s: &mut api::EndpointSlice, old: &api::EndpointSlice) {
        let changed = !(same(&s.endpoints, &old.endpoints)
            && same(&s.ports, &old.ports)
            && s.address_type == old.address_type
            && same(&s.metadata.labels, &old.metadata.labels));
        next_generation(&mut s.metadata, &old.metadata, changed);
        if !same(&s.endpoints, &old.endpoints) {
            drop_topology(s, Some(old));
        }
    }

    fn validate(&self, cx: &mut Context, s: &api::EndpointSlice) -> ErrorList {
        if cx.updating {
            return ErrorList::new();
        }
        let errors = validation::endpoint_slice(s, None);
        if errors.is_empty() {
            if s.address_type == "FQDN" {
                cx.warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
            }
            warn(s, &mut cx.warnings);
        }
        errors
    }

    fn validate_update(
        &self,
        cx: &mut Context,
        s: &api::EndpointSlice,
        old: &api::EndpointSlice,
    ) -> ErrorList {
        let mut errors = validation::endpoint_slice(s, Some(old));
        errors.extend(immutable(&s.address_type, &old.address_type, &Path::new("addressType")));
        if errors.is_empty() {
            warn(s, &mut cx.warnings);
        }
        errors
    }
}

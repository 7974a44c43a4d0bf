//! Endpoint slices.

use k8s_openapi::api::discovery::v1 as api;

use super::validation;
use crate::field::{ErrorList, Path};
use crate::kinds::semantic::{first_generation, next_generation, same};
use crate::kinds::validate::immutable;
use crate::registry::strategy::{Context, Strategy};

/// Rules of endpoint slices.
pub struct EndpointSlice;

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
    }

    fn prepare_update(&self, _cx: &mut Context, s: &mut api::EndpointSlice, old: &api::EndpointSlice) {
        let changed = !(same(&s.endpoints, &old.endpoints)
            && same(&s.ports, &old.ports)
            && s.address_type == old.address_type
            && same(&s.metadata.labels, &old.metadata.labels));
        next_generation(&mut s.metadata, &old.metadata, changed);
    }

    fn validate(&self, _cx: &mut Context, s: &api::EndpointSlice) -> ErrorList {
        validation::endpoint_slice(s)
    }

    fn validate_update(
        &self,
        _cx: &mut Context,
        s: &api::EndpointSlice,
        old: &api::EndpointSlice,
    ) -> ErrorList {
        immutable(&s.address_type, &old.address_type, &Path::new("addressType"))
    }
}

//! Endpoints: the older form of endpoint slices.

use k8s_openapi::api::core::v1 as api;

use crate::kinds::semantic::fill;
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

    fn prepare_create(&self, cx: &mut Context, _e: &mut api::Endpoints) {
        cx.warnings.push(DEPRECATED.to_owned());
    }

    fn prepare_update(&self, cx: &mut Context, _e: &mut api::Endpoints, _old: &api::Endpoints) {
        cx.warnings.push(DEPRECATED.to_owned());
    }
}

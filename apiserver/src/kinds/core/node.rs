//! Nodes: the kubelet writes their status, controllers and people their spec.

use k8s_openapi::api::core::v1 as api;

use super::node_validation;
use crate::field::ErrorList;
use crate::kinds::quantity::canonical_list;
use crate::registry::strategy::{Context, Strategy};

/// Rules of nodes.
pub struct Node;

impl Strategy for Node {
    type Object = api::Node;

    fn default(&self, node: &mut api::Node) {
        let spec = node.spec.get_or_insert_with(Default::default);
        // The single-valued field and the list mirror each other; where they differ, the former counts alone.
        match (spec.pod_cidr.as_deref().unwrap_or_default(), spec.pod_cidrs.as_deref().unwrap_or_default()) {
            ("", [first, ..]) => spec.pod_cidr = Some(first.clone()),
            ("", []) => {}
            (one, [first, ..]) if one == first => {}
            (one, _) => spec.pod_cidrs = Some(vec![one.to_owned()]),
        }
        let status = node.status.get_or_insert_with(Default::default);
        canonical_list(&mut status.capacity);
        canonical_list(&mut status.allocatable);
        if status.allocatable.is_none() {
            status.allocatable = status.capacity.clone();
        }
        status.node_info.get_or_insert_with(Default::default);
        let ports = status.daemon_endpoints.get_or_insert_with(Default::default);
        ports.kubelet_endpoint.get_or_insert_with(Default::default);
    }

    fn prepare_update(&self, cx: &mut Context, node: &mut api::Node, old: &api::Node) {
        if cx.is_status() {
            node.spec = old.spec.clone();
        } else {
            node.status = old.status.clone();
        }
    }

    fn validate(&self, _cx: &mut Context, node: &api::Node) -> ErrorList {
        node_validation::validate(node)
    }

    fn validate_update(&self, _cx: &mut Context, node: &api::Node, old: &api::Node) -> ErrorList {
        node_validation::validate_update(node, old)
    }
}

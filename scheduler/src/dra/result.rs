//! What was found, as the API writes it: `AllocationResult`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::model::Nodes;
use super::request::{Request, Wanted};
use super::search::Chosen;

/// The allocation of one claim on `node`. `share_id` makes the UID of a share of a device.
#[must_use]
pub fn allocation(
    wanted: &Wanted<'_>,
    chosen: &[Chosen<'_>],
    node: &str,
    share_id: &mut dyn FnMut() -> String,
) -> api::AllocationResult {
    let results = chosen.iter().map(|c| result(wanted, c, share_id)).collect();
    let config = config(wanted, chosen);
    api::AllocationResult {
        devices: Some(api::DeviceAllocationResult {
            results: Some(results),
            config: (!config.is_empty()).then_some(config),
        }),
        node_selector: node_selector(chosen, node),
        allocation_timestamp: None,
    }
}

fn request<'w, 'a>(w: &'w Wanted<'a>, c: &Chosen<'_>) -> &'w Request<'a> {
    &w.requests[c.request][c.alternative]
}

fn result(
    w: &Wanted<'_>,
    c: &Chosen<'_>,
    share_id: &mut dyn FnMut() -> String,
) -> api::DeviceRequestAllocationResult {
    let r = request(w, c);
    let consumed: Option<BTreeMap<String, Quantity>> = c
        .consumed
        .as_ref()
        .map(|amounts| amounts.iter().map(|(name, q)| (name.to_string(), Quantity(q.to_string()))).collect());
    api::DeviceRequestAllocationResult {
        request: r.full_name(),
        driver: c.slice.pool.driver.to_string(),
        pool: c.slice.pool.pool.to_string(),
        device: c.device.name.to_string(),
        admin_access: r.admin.then_some(true),
        tolerations: (!r.tolerations.is_empty()).then(|| r.tolerations.to_vec()),
        share_id: c.consumed.is_some().then(share_id),
        consumed_capacity: consumed.filter(|c| !c.is_empty()),
        binding_conditions: c.device.binding.clone(),
        binding_failure_conditions: c.device.binding_failure.clone(),
    }
}

/// The configurations: those of each class once, then those of the claim for what was chosen.
fn config(w: &Wanted<'_>, chosen: &[Chosen<'_>]) -> Vec<api::DeviceAllocationConfiguration> {
    let mut out: Vec<api::DeviceAllocationConfiguration> = Vec::new();
    // Class, and where its configurations are.
    let mut seen: Vec<(&str, std::ops::Range<usize>)> = Vec::new();
    // A request for no device at all still has its first alternative.
    let settled = |i: usize| chosen.iter().find(|c| c.request == i).map_or(0, |c| c.alternative);
    let requests: Vec<&Request<'_>> =
        w.requests.iter().enumerate().filter_map(|(i, list)| list.get(settled(i))).collect();
    for r in &requests {
        if let Some((_, range)) = seen.iter().find(|(class, _)| *class == r.class.name.as_ref()) {
            for c in &mut out[range.clone()] {
                c.requests.get_or_insert_default().push(r.full_name());
            }
            continue;
        }
        let start = out.len();
        out.extend(r.class.config.iter().map(|c| api::DeviceAllocationConfiguration {
            source: "FromClass".into(),
            requests: Some(vec![r.full_name()]),
            opaque: c.opaque.clone(),
        }));
        seen.push((&r.class.name, start..out.len()));
    }
    for c in w.claim.spec.devices.iter().flat_map(|d| d.config.iter().flatten()) {
        let listed = c.requests.as_deref().unwrap_or_default();
        let concerns = |r: &&&Request<'_>| {
            let names = [Some(r.parent.unwrap_or(r.name).to_owned()), r.parent.map(|_| r.full_name())];
            names.iter().flatten().any(|n| listed.contains(n))
        };
        let times = if listed.is_empty() { 1 } else { requests.iter().filter(concerns).count() };
        for _ in 0..times {
            out.push(api::DeviceAllocationConfiguration {
                source: "FromClaim".into(),
                requests: c.requests.clone(),
                opaque: c.opaque.clone(),
            });
        }
    }
    out
}

/// The nodes from where all devices can be used; none for all nodes.
fn node_selector(chosen: &[Chosen<'_>], node: &str) -> Option<core::NodeSelector> {
    let mut term = core::NodeSelectorTerm::default();
    for c in chosen {
        let nodes = if c.slice.per_device { &c.device.nodes } else { &c.slice.nodes };
        if matches!(nodes, Nodes::One(_)) || c.device.binds_to_node {
            return Some(only(node));
        }
        let Nodes::Matching(_, written) = nodes else { continue };
        let Some(t) = written.node_selector_terms.first() else { continue };
        merge(&mut term.match_fields, t.match_fields.as_ref());
        merge(&mut term.match_expressions, t.match_expressions.as_ref());
    }
    let empty = term.match_fields.is_none() && term.match_expressions.is_none();
    (!empty).then(|| core::NodeSelector { node_selector_terms: vec![term] })
}

fn only(node: &str) -> core::NodeSelector {
    let name = core::NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = core::NodeSelectorTerm { match_fields: Some(vec![name]), ..Default::default() };
    core::NodeSelector { node_selector_terms: vec![term] }
}

fn merge(
    to: &mut Option<Vec<core::NodeSelectorRequirement>>,
    from: Option<&Vec<core::NodeSelectorRequirement>>,
) {
    for r in from.into_iter().flatten() {
        let list = to.get_or_insert_default();
        if !list.contains(r) {
            list.push(r.clone());
        }
    }
}

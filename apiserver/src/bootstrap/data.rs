//! The bootstrap objects as data, parsed when needed and dropped again: only starts and the Node authorizer's
//! rules read them.

use serde_json::Value;

use crate::authz::rules::Rule;
use crate::lookup::{self, Resource, text};

const DATA: &str = include_str!("../../data/bootstrap-v1.36.json");

const SECTIONS: &[(&str, Resource)] = &[
    ("namespaces", lookup::NAMESPACES),
    ("clusterroles", lookup::CLUSTER_ROLES),
    ("clusterrolebindings", lookup::CLUSTER_ROLE_BINDINGS),
    ("roles", lookup::ROLES),
    ("rolebindings", lookup::ROLE_BINDINGS),
    ("priorityclasses", lookup::PRIORITY_CLASSES),
    ("prioritylevelconfigurations", lookup::PRIORITY_LEVELS),
    ("flowschemas", lookup::FLOW_SCHEMAS),
    ("apiservices", lookup::API_SERVICES),
    ("servicecidrs", lookup::SERVICE_CIDRS),
];

fn parse() -> Result<Value, String> {
    serde_json::from_str(DATA).map_err(|e| format!("the built-in bootstrap objects do not parse: {e}"))
}

/// All objects by resource.
pub fn load() -> Result<Vec<(Resource, Vec<Value>)>, String> {
    let mut all = parse()?;
    SECTIONS
        .iter()
        .map(|(name, resource)| match all.get_mut(*name).map(Value::take) {
            Some(Value::Array(mut objects)) => {
                if *resource == lookup::NAMESPACES {
                    // Creation sets it; who creates a namespace owns nothing of it.
                    for o in objects.iter_mut().filter_map(Value::as_object_mut) {
                        o.remove("spec");
                    }
                }
                Ok((*resource, objects))
            }
            _ => Err(format!("the built-in bootstrap objects lack {name}")),
        })
        .collect()
}

/// The spec of one of the objects.
pub fn spec_of(section: &str, name: &str) -> Option<Value> {
    let mut all = parse().ok()?;
    let list = all.get_mut(section)?.as_array_mut()?;
    list.iter_mut().find(|o| text(o, "/metadata/name") == name).map(|o| o["spec"].take())
}

/// The rules of the cluster role `system:node`.
pub fn node_rules() -> Result<Vec<Rule>, String> {
    let all = parse()?;
    lookup::items(&all, "/clusterroles")
        .iter()
        .find(|r| text(r, "/metadata/name") == "system:node")
        .map(Rule::of_role)
        .ok_or_else(|| "the built-in bootstrap objects lack the cluster role system:node".to_owned())
}

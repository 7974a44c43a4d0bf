//! What may be wrong with a node.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::{one_of, resources, scheduling};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{address, printed, selector, text as rules};

fn taints(list: &[Taint], path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, t) in list.iter().enumerate() {
        let path = path.index(i);
        errors.extend(selector::label_name(&t.key, &path.child("key")));
        let wrong = rules::label_value(text(&t.value));
        if !wrong.is_empty() {
            errors.push(Error::invalid(&path.child("value"), text(&t.value), wrong.join(";")));
        }
        one_of(&t.effect, &scheduling::EFFECTS, &path.child("effect"), errors);
        if !seen.insert((&t.effect, &t.key)) {
            let mut e = Error::duplicate(&path, "");
            // Upstream shows its internal form.
            e.value = format!(
                "{{\"Key\":{:?},\"Value\":{:?},\"Effect\":{:?},\"TimeAdded\":{}}}",
                t.key,
                text(&t.value),
                t.effect,
                serde_json::json!(t.time_added)
            );
            e.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(e);
        }
    }
}

/// Taints, capacity and pod networks.
pub fn validate(node: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(s) = &node.spec else { return errors };
    taints(items(&s.taints), &Path::new("metadata").child("taints"), &mut errors);
    amounts(node, &mut errors);
    let at = Path::new("spec").child("podCIDRs");
    let list = items(&s.pod_cidrs);
    for (i, c) in list.iter().enumerate() {
        errors.extend(address::legacy_cidr(c, &[], &at.index(i)));
    }
    if list.len() < 2 {
        return errors;
    }
    let families: Option<Vec<bool>> =
        list.iter().map(|c| address::sloppy_cidr(c).map(|(ip, _)| ip.is_ipv6())).collect();
    if families.is_none() {
        let bad = list.iter().find(|c| address::sloppy_cidr(c).is_none()).map_or("", String::as_str);
        errors.push(Error::internal(
            &at,
            format!("invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{}]: <nil> (invalid CIDR address: {bad})",
                list.iter().position(|c| c == bad).unwrap_or_default()),
        ));
    }
    if list.len() > 2 || families.is_none_or(|f| f[0] == f[1]) {
        errors.push(Error::invalid(&at, list, "may specify no more than one CIDR for each IP family"));
    }
    errors
}

/// Amounts of what the node has.
fn amounts(node: &Node, errors: &mut ErrorList) {
    let Some(st) = &node.status else { return };
    for (field, list) in [("capacity", &st.capacity), ("allocatable", &st.allocatable)] {
        for (name, q) in list.iter().flatten() {
            resources::quantity(name, q, &Path::new("status").child(field).child(name), errors);
        }
    }
}

/// Pod networks and the provider's id are set once. The same holds for writes of the status.
pub fn validate_update(node: &Node, old: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    amounts(node, &mut errors);
    let mut seen = Vec::new();
    for (i, a) in node.status.iter().flat_map(|s| items(&s.addresses)).enumerate() {
        if seen.contains(&a) {
            let mut e = Error::duplicate(&Path::new("status").child("addresses").index(i), "");
            e.value =
                printed::object(&[("Type", printed::json(&a.type_)), ("Address", printed::json(&a.address))]);
            errors.push(e);
        }
        seen.push(a);
    }
    let (Some(n), Some(o)) = (&node.spec, &old.spec) else { return errors };
    let path = Path::new("spec");
    let (new_cidrs, old_cidrs) = (items(&n.pod_cidrs), items(&o.pod_cidrs));
    let changes = match old_cidrs.len() {
        0 => 0,
        len if len != new_cidrs.len() => 1,
        _ => old_cidrs.iter().zip(new_cidrs).filter(|(a, b)| a != b).count(),
    };
    for _ in 0..changes {
        errors.push(Error::forbidden(
            &path.child("podCIDRs"),
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
    let (new_id, old_id) = (text(&n.provider_id), text(&o.provider_id));
    if !old_id.is_empty() && new_id != old_id {
        errors.push(Error::forbidden(
            &path.child("providerID"),
            "node updates may not change providerID except from \"\" to valid",
        ));
    }
    taints(items(&n.taints), &Path::new("metadata").child("taints"), &mut errors);
    errors
}

//! What may be wrong with a node.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::{one_of, resources, scheduling};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, selector, text as rules};

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
    if let Some(st) = &node.status {
        for (field, list) in [("capacity", &st.capacity), ("allocatable", &st.allocatable)] {
            for (name, q) in list.iter().flatten() {
                let at = Path::new("status").child(field).key(name);
                resources::quantity(name, q, &at, &mut errors);
            }
        }
    }
    let at = Path::new("spec").child("podCIDRs");
    let list = items(&s.pod_cidrs);
    for (i, c) in list.iter().enumerate() {
        errors.extend(invalid_each(&at.index(i), c, rules::cidr(c)));
    }
    let is_v6 = |c: &String| c.contains(':');
    if list.len() > 2 || (list.len() == 2 && is_v6(&list[0]) == is_v6(&list[1])) {
        errors.push(Error::invalid(&at, list, "may specify no more than one CIDR for each IP family"));
    }
    errors
}

/// Pod networks and the provider's id are set once.
pub fn validate_update(node: &Node, old: &Node) -> ErrorList {
    let mut errors = ErrorList::new();
    let (Some(n), Some(o)) = (&node.spec, &old.spec) else { return errors };
    let path = Path::new("spec");
    if !items(&o.pod_cidrs).is_empty() && items(&n.pod_cidrs) != items(&o.pod_cidrs) {
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
    errors
}

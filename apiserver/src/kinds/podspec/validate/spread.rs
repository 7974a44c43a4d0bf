//! Topology spread constraints.

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::one_of_if_given;
use super::scheduling::label_keys;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::items;
use crate::kinds::validate::selector;

const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
const POLICIES: [&str; 2] = ["Honor", "Ignore"];

fn positive(n: i32, path: &Path, errors: &mut ErrorList) {
    if n <= 0 {
        errors.push(Error::invalid(path, n, "must be greater than zero"));
    }
}

/// Constraints, each pair of key and action once.
pub fn constraints(list: &[TopologySpreadConstraint], path: &Path, errors: &mut ErrorList) {
    for (i, c) in list.iter().enumerate() {
        let path = path.index(i);
        positive(c.max_skew, &path.child("maxSkew"), errors);
        if c.topology_key.is_empty() {
            errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
        }
        if !ACTIONS.contains(&c.when_unsatisfiable.as_str()) {
            let at = path.child("whenUnsatisfiable");
            errors.push(Error::not_supported(&at, &c.when_unsatisfiable, &ACTIONS));
        }
        let repeated = |o: &TopologySpreadConstraint| {
            o.topology_key == c.topology_key && o.when_unsatisfiable == c.when_unsatisfiable
        };
        if list[i + 1..].iter().any(repeated) {
            let both = format!("{{{}, {}}}", c.topology_key, c.when_unsatisfiable);
            errors.push(Error::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), both));
        }
        if let Some(n) = c.min_domains {
            let at = path.child("minDomains");
            positive(n, &at, errors);
            if c.when_unsatisfiable != "DoNotSchedule" {
                let why = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    c.when_unsatisfiable
                );
                errors.push(Error::invalid(&at, n, why));
            }
        }
        one_of_if_given(&c.node_affinity_policy, &POLICIES, &path.child("nodeAffinityPolicy"), errors);
        one_of_if_given(&c.node_taints_policy, &POLICIES, &path.child("nodeTaintsPolicy"), errors);
        label_keys(items(&c.match_label_keys), &[], c.label_selector.as_ref(), &path, errors);
        errors.extend(selector::label_selector(c.label_selector.as_ref(), &path.child("labelSelector")));
    }
}

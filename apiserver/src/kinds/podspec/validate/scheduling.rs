//! Affinity, tolerations and gates.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSchedulingGate,
    Toleration, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, selector, text as rules};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Affinity to nodes and to other pods.
pub fn affinity(a: Option<&Affinity>, path: &Path, errors: &mut ErrorList) {
    let Some(a) = a else { return };
    if let Some(n) = &a.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(s) = &n.required_during_scheduling_ignored_during_execution {
            node_selector(s, &path.child(REQUIRED), errors);
        }
        for (i, t) in items(&n.preferred_during_scheduling_ignored_during_execution).iter().enumerate() {
            let path = path.child(PREFERRED).index(i);
            weight(t.weight, &path, errors);
            node_term(&t.preference, false, &path.child("preference"), errors);
        }
    }
    if let Some(p) = &a.pod_affinity {
        pod_terms(
            items(&p.required_during_scheduling_ignored_during_execution),
            items(&p.preferred_during_scheduling_ignored_during_execution),
            &path.child("podAffinity"),
            errors,
        );
    }
    if let Some(p) = &a.pod_anti_affinity {
        pod_terms(
            items(&p.required_during_scheduling_ignored_during_execution),
            items(&p.preferred_during_scheduling_ignored_during_execution),
            &path.child("podAntiAffinity"),
            errors,
        );
    }
}

fn weight(n: i32, path: &Path, errors: &mut ErrorList) {
    if !(1..=100).contains(&n) {
        errors.push(Error::invalid(&path.child("weight"), n, "must be in the range 1-100"));
    }
}

/// A selector of nodes with at least one term.
pub fn node_selector(s: &NodeSelector, path: &Path, errors: &mut ErrorList) {
    let path = path.child("nodeSelectorTerms");
    if s.node_selector_terms.is_empty() {
        errors.push(Error::required(&path, "must have at least one node selector term"));
    }
    for (i, t) in s.node_selector_terms.iter().enumerate() {
        node_term(t, true, &path.index(i), errors);
    }
}

fn node_term(t: &NodeSelectorTerm, check_values: bool, path: &Path, errors: &mut ErrorList) {
    for (i, r) in items(&t.match_expressions).iter().enumerate() {
        node_requirement(r, check_values, &path.child("matchExpressions").index(i), errors);
    }
    for (i, r) in items(&t.match_fields).iter().enumerate() {
        node_field(r, &path.child("matchFields").index(i), errors);
    }
}

fn node_requirement(r: &NodeSelectorRequirement, check_values: bool, path: &Path, errors: &mut ErrorList) {
    let values = items(&r.values);
    let at = path.child("values");
    match r.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(Error::required(&at, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(Error::forbidden(
            &at,
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "Gt" | "Lt" if values.len() != 1 => errors
            .push(Error::required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'")),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => {
            errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator"));
        }
    }
    errors.extend(selector::label_name(&r.key, &path.child("key")));
    for (i, v) in values.iter().enumerate().filter(|_| check_values) {
        errors.extend(invalid_each(&at.index(i), v, rules::label_value(v)));
    }
}

fn node_field(r: &NodeSelectorRequirement, path: &Path, errors: &mut ErrorList) {
    let values = items(&r.values);
    match r.operator.as_str() {
        "In" | "NotIn" => {
            if values.len() != 1 {
                errors.push(Error::required(
                    &path.child("values"),
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                ));
            }
        }
        other => {
            errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator"));
        }
    }
    if r.key != "metadata.name" {
        errors.push(Error::invalid(&path.child("key"), &r.key, "not a valid field selector key"));
        return;
    }
    for (i, v) in values.iter().enumerate() {
        errors.extend(invalid_each(&path.child("values").index(i), v, rules::dns1123_subdomain(v)));
    }
}

fn pod_terms(
    required: &[PodAffinityTerm],
    preferred: &[WeightedPodAffinityTerm],
    path: &Path,
    errors: &mut ErrorList,
) {
    for (i, t) in required.iter().enumerate() {
        pod_term(t, &path.child(REQUIRED).index(i), errors);
    }
    for (i, t) in preferred.iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        weight(t.weight, &path, errors);
        pod_term(&t.pod_affinity_term, &path.child("podAffinityTerm"), errors);
    }
}

fn pod_term(t: &PodAffinityTerm, path: &Path, errors: &mut ErrorList) {
    errors.extend(selector::label_selector(t.label_selector.as_ref(), &path.child("labelSelector")));
    errors.extend(selector::label_selector(t.namespace_selector.as_ref(), &path.child("namespaceSelector")));
    for n in items(&t.namespaces) {
        errors.extend(invalid_each(&path.child("namespace"), n, rules::dns1123_label(n)));
    }
    label_keys(
        items(&t.match_label_keys),
        items(&t.mismatch_label_keys),
        t.label_selector.as_ref(),
        path,
        errors,
    );
    if t.topology_key.is_empty() {
        errors.push(Error::required(&path.child("topologyKey"), "can not be empty"));
    }
    errors.extend(selector::label_name(&t.topology_key, &path.child("topologyKey")));
}

/// Label keys whose values come from the pod itself.
pub fn label_keys(
    matching: &[String],
    mismatching: &[String],
    of: Option<&LabelSelector>,
    path: &Path,
    errors: &mut ErrorList,
) {
    for (field, keys) in [("matchLabelKeys", matching), ("mismatchLabelKeys", mismatching)] {
        if of.is_none() && !keys.is_empty() {
            errors.push(Error::forbidden(
                &path.child(field),
                "must not be specified when labelSelector is not set",
            ));
        }
        for (i, k) in keys.iter().enumerate() {
            errors.extend(selector::label_name(k, &path.child(field).index(i)));
        }
    }
    for (i, k) in matching.iter().enumerate() {
        if mismatching.contains(k) {
            errors.push(Error::invalid(
                &path.child("matchLabelKeys").index(i),
                k,
                "exists in both matchLabelKeys and mismatchLabelKeys",
            ));
        }
    }
}

/// Names of gates, each once.
pub fn gates(list: &[PodSchedulingGate], path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, g) in list.iter().enumerate() {
        errors.extend(invalid_each(&path.index(i), &g.name, rules::qualified_name(&g.name)));
        if !seen.insert(&g.name) {
            errors.push(Error::duplicate(&path.index(i), &g.name));
        }
    }
}

/// Effects that a taint may have.
pub const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Tolerations of taints.
pub fn tolerations(list: &[Toleration], path: &Path, errors: &mut ErrorList) {
    for (i, t) in list.iter().enumerate() {
        let path = path.index(i);
        let (key, operator, value, effect) =
            (text(&t.key), text(&t.operator), text(&t.value), text(&t.effect));
        if !key.is_empty() {
            errors.extend(selector::label_name(key, &path.child("key")));
        } else if operator != "Exists" {
            errors.push(Error::invalid(
                &path.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if t.toleration_seconds.is_some() && effect != "NoExecute" {
            errors.push(Error::invalid(
                &path.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        match operator {
            "Equal" | "" => {
                let wrong = rules::label_value(value);
                if !wrong.is_empty() {
                    errors.push(Error::invalid(&path.child("operator"), value, wrong.join(";")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.push(Error::invalid(
                        &path.child("operator"),
                        value,
                        "value must be empty when `operator` is 'Exists'",
                    ));
                }
            }
            "Lt" | "Gt" => errors.push(Error::not_supported(
                &path.child("operator"),
                operator,
                &["Equal", "Exists", "Lt", "Gt"],
            )),
            _ => errors.push(Error::not_supported(&path.child("operator"), operator, &["Equal", "Exists"])),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.push(Error::not_supported(&path.child("effect"), effect, &EFFECTS));
        }
    }
}

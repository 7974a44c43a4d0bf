//! What must change for a stored object to be as bootstrap wants it. Policy only grows: what an administrator
//! added stays.

use serde_json::{Map, Value, json};

use crate::authz::rules::{self, Rule};
use crate::lookup::{self, Resource, items, text};

const AUTOUPDATE_RBAC: &str = "/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate";
const AUTOUPDATE_APF: &str = "/metadata/annotations/apf.kubernetes.io~1autoupdate-spec";
/// Flow-control objects without which the server does not work: always as built in.
const MANDATORY_APF: [&str; 2] = ["exempt", "catch-all"];

/// What to do about a stored object.
#[derive(Debug, PartialEq)]
pub enum Change {
    None,
    Update(Value),
    /// What differs may not be changed in place.
    Recreate(Value),
}

/// Compares `existing` with `wanted`.
pub fn merge(resource: Resource, existing: &Value, wanted: &Value) -> Change {
    match resource.resource {
        "clusterroles" | "roles" => role(existing, wanted),
        "clusterrolebindings" | "rolebindings" => binding(existing, wanted),
        "flowschemas" | "prioritylevelconfigurations" => {
            let mandatory = MANDATORY_APF.contains(&text(wanted, "/metadata/name"));
            let ours = text(existing, AUTOUPDATE_APF) == "true";
            if mandatory || ours { spec(existing, wanted) } else { Change::None }
        }
        "apiservices" => {
            let managed = existing.pointer("/metadata/labels/kube-aggregator.kubernetes.io~1automanaged");
            if managed.is_some() { spec(existing, wanted) } else { Change::None }
        }
        "namespaces" | "priorityclasses" | "servicecidrs" => Change::None,
        _ => {
            debug_assert!(resource != lookup::PODS, "no such bootstrap resource");
            Change::None
        }
    }
}

/// Spec compared field by field: what defaulting added to the stored one is no difference.
fn spec(existing: &Value, wanted: &Value) -> Change {
    let (Some(old), Some(new)) = (existing.get("spec"), wanted.get("spec")) else { return Change::None };
    if contains(old, new) {
        return Change::None;
    }
    let mut merged = existing.clone();
    merged["spec"] = new.clone();
    Change::Update(merged)
}

fn contains(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(o), Value::Object(n)) => n.iter().all(|(k, v)| match o.get(k) {
            Some(x) => contains(x, v),
            None => v.is_null() || *v == json!({}) || *v == json!([]) || *v == json!(0) || *v == json!(""),
        }),
        (Value::Array(o), Value::Array(n)) => {
            o.len() == n.len() && o.iter().zip(n).all(|(a, b)| contains(a, b))
        }
        (o, n) => o == n,
    }
}

fn role(existing: &Value, wanted: &Value) -> Change {
    if text(existing, AUTOUPDATE_RBAC) == "false" {
        return Change::None;
    }
    let mut merged = existing.clone();
    let mut changed = add_metadata(&mut merged, wanted);
    let aggregated = wanted.get("aggregationRule").filter(|a| !a.is_null());
    if let Some(rule) = aggregated {
        // Its rules are the aggregation's business.
        if existing.get("aggregationRule") != Some(rule) {
            merged["aggregationRule"] = rule.clone();
            changed = true;
        }
    } else {
        let missing = rules::uncovered(&Rule::of_role(existing), &Rule::of_role(wanted));
        if !missing.is_empty() {
            let mut all = items(existing, "/rules").to_vec();
            all.extend(missing.iter().map(Rule::to_json));
            merged["rules"] = Value::Array(all);
            changed = true;
        }
    }
    if changed { Change::Update(merged) } else { Change::None }
}

fn binding(existing: &Value, wanted: &Value) -> Change {
    if text(existing, AUTOUPDATE_RBAC) == "false" {
        return Change::None;
    }
    let mut merged = existing.clone();
    let mut changed = add_metadata(&mut merged, wanted);
    let mut subjects = items(existing, "/subjects").to_vec();
    for s in items(wanted, "/subjects") {
        if !subjects.iter().any(|x| same_subject(x, s)) {
            subjects.push(s.clone());
            changed = true;
        }
    }
    if !subjects.is_empty() {
        merged["subjects"] = Value::Array(subjects);
    }
    let same_role = ["/roleRef/kind", "/roleRef/name"].iter().all(|p| text(existing, p) == text(wanted, p));
    if !same_role {
        merged["roleRef"] = wanted["roleRef"].clone();
        if let Some(m) = merged["metadata"].as_object_mut() {
            m.retain(|k, _| matches!(k.as_str(), "name" | "namespace" | "labels" | "annotations"));
        }
        return Change::Recreate(merged);
    }
    if changed { Change::Update(merged) } else { Change::None }
}

fn same_subject(a: &Value, b: &Value) -> bool {
    ["/kind", "/name", "/namespace"].iter().all(|p| text(a, p) == text(b, p))
}

/// Adds the wanted labels and annotations that are missing; one that an administrator changed stays.
fn add_metadata(merged: &mut Value, wanted: &Value) -> bool {
    let mut changed = false;
    for field in ["labels", "annotations"] {
        let Some(new) = wanted.pointer(&format!("/metadata/{field}")).and_then(Value::as_object) else {
            continue;
        };
        let old = &mut merged["metadata"][field];
        if !old.is_object() {
            *old = Value::Object(Map::new());
        }
        let Some(old) = old.as_object_mut() else { continue };
        for (k, v) in new {
            if !old.contains_key(k) {
                old.insert(k.clone(), v.clone());
                changed = true;
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_gain_subjects_and_are_recreated_for_another_role() {
        let wanted = json!({"metadata":{"name":"b"},"roleRef":{"kind":"ClusterRole","name":"r"},
            "subjects":[{"kind":"User","name":"a"}]});
        let mut old = wanted.clone();
        old["subjects"] = json!([{"kind":"User","name":"extra"}]);
        let Change::Update(new) = merge(lookup::CLUSTER_ROLE_BINDINGS, &old, &wanted) else { panic!() };
        assert_eq!(new["subjects"].as_array().unwrap().len(), 2);
        let mut old = wanted.clone();
        old["roleRef"]["name"] = "other".into();
        old["metadata"]["uid"] = "u".into();
        let Change::Recreate(new) = merge(lookup::CLUSTER_ROLE_BINDINGS, &old, &wanted) else { panic!() };
        assert_eq!(new["roleRef"]["name"], "r");
        assert!(new["metadata"].get("uid").is_none());
    }

    #[test]
    fn flow_control_is_reset_only_where_ours() {
        let wanted = json!({"metadata":{"name":"x"},"spec":{"matchingPrecedence":5}});
        let mut old = json!({"metadata":{"name":"x","annotations":{"apf.kubernetes.io/autoupdate-spec":"true"}},
            "spec":{"matchingPrecedence":5,"defaulted":1}});
        assert_eq!(merge(lookup::FLOW_SCHEMAS, &old, &wanted), Change::None);
        old["spec"]["matchingPrecedence"] = 6.into();
        assert!(matches!(merge(lookup::FLOW_SCHEMAS, &old, &wanted), Change::Update(_)));
        old["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"] = "false".into();
        assert_eq!(merge(lookup::FLOW_SCHEMAS, &old, &wanted), Change::None);
    }
}

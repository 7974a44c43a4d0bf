//! Which pods a scoped quota is about. Objects that are no pods match only quotas without scopes.

use serde_json::Value;

use super::super::pod_resources::amounts;
use super::usage::Tracked;
use crate::lookup::{items, text};

/// Whether the quota counts the object.
pub fn matches(quota: &Value, tracked: &Tracked, object: &Value) -> bool {
    let plain = items(quota, "/spec/scopes").iter().filter_map(Value::as_str);
    let selected = items(quota, "/spec/scopeSelector/matchExpressions");
    if !tracked.is_pod() {
        return items(quota, "/spec/scopes").is_empty() && selected.is_empty();
    }
    plain.into_iter().all(|s| holds(s, "Exists", &[], object))
        && selected.iter().all(|e| {
            let values: Vec<&str> = items(e, "/values").iter().filter_map(Value::as_str).collect();
            holds(text(e, "/scopeName"), text(e, "/operator"), &values, object)
        })
}

/// Whether the pod is in the scope.
pub fn holds(scope: &str, operator: &str, values: &[&str], pod: &Value) -> bool {
    let terminating = || pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "BestEffort" => best_effort(pod),
        "NotBestEffort" => !best_effort(pod),
        "PriorityClass" => {
            let class = text(pod, "/spec/priorityClassName");
            match operator {
                "Exists" => !class.is_empty(),
                "DoesNotExist" => class.is_empty(),
                "In" => !class.is_empty() && values.contains(&class),
                "NotIn" => !values.contains(&class),
                _ => false,
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// Whether the pod asks for neither CPU nor memory.
fn best_effort(pod: &Value) -> bool {
    let asks = |resources: &Value| {
        ["requests", "limits"].iter().any(|f| {
            amounts(&resources[*f])
                .iter()
                .any(|(k, v)| matches!(k.as_str(), "cpu" | "memory") && !v.is_zero())
        })
    };
    !asks(&pod["spec"]["resources"])
        && !["/spec/containers", "/spec/initContainers"]
            .iter()
            .flat_map(|p| items(pod, p))
            .any(|c| asks(&c["resources"]))
}

fn crosses_namespaces(pod: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let at = |list: &str| format!("/spec/affinity/{kind}/{list}DuringSchedulingIgnoredDuringExecution");
        let required = items(pod, &at("required")).iter();
        let preferred = items(pod, &at("preferred")).iter().map(|t| &t["podAffinityTerm"]);
        required.chain(preferred).any(|t| {
            !items(t, "/namespaces").is_empty() || t.get("namespaceSelector").is_some_and(|s| !s.is_null())
        })
    })
}

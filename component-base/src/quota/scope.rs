//! Which pods and volume claims a scoped quota is about. Other objects match only quotas without scopes.

use serde_json::Value;

use super::Tracked;
use super::pods::amounts;
use crate::json::{items, text};

/// Whether the quota counts the object.
pub fn matches(quota: &Value, tracked: &Tracked, object: &Value) -> bool {
    let plain = items(quota, "/spec/scopes").iter().filter_map(Value::as_str);
    let selected = items(quota, "/spec/scopeSelector/matchExpressions");
    let holds = |scope: &str, operator: &str, values: &[&str]| {
        if tracked.is_pod() {
            holds(scope, operator, values, object)
        } else {
            tracked.is_volume_claim() && claim_holds(scope, operator, values, object)
        }
    };
    plain.into_iter().all(|s| holds(s, "Exists", &[]))
        && selected.iter().all(|e| {
            let values: Vec<&str> = items(e, "/values").iter().filter_map(Value::as_str).collect();
            holds(text(e, "/scopeName"), text(e, "/operator"), &values)
        })
}

/// Whether the claim is in the scope: by the class of attributes it has, wants, or is being changed to.
fn claim_holds(scope: &str, operator: &str, values: &[&str], claim: &Value) -> bool {
    if scope != "VolumeAttributesClass" {
        return false;
    }
    let classes: Vec<&str> = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ]
    .into_iter()
    .map(|at| text(claim, at))
    .filter(|class| !class.is_empty())
    .collect();
    match operator {
        "Exists" => !classes.is_empty(),
        "DoesNotExist" => classes.is_empty(),
        "In" => classes.iter().any(|c| values.contains(c)),
        "NotIn" => classes.is_empty() || classes.iter().any(|c| !values.contains(c)),
        _ => false,
    }
}

/// Whether a pod has a deadline, which puts it into the scope `Terminating`.
pub fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0)
}

/// Whether the pod is in the scope.
pub fn holds(scope: &str, operator: &str, values: &[&str], pod: &Value) -> bool {
    match scope {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
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

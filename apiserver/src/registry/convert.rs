//! Conversion between the versions of the few kinds that have several with different shapes. Versions that are not
//! named here have the same fields.

use serde_json::{Map, Value, json};

use super::object;
use crate::status::ApiResult;

/// Converts an object of `group`/`resource` from version `from` to `to`; both are served.
pub fn convert(group: &str, resource: &str, from: &str, to: &str, o: &mut Value) -> ApiResult<()> {
    match (group, resource, from, to) {
        // Between the core group (where events are stored) and events.k8s.io both versions are named v1: the
        // direction shows in the object.
        ("events.k8s.io", "events", _, _) => {
            if o.get("apiVersion").and_then(Value::as_str) == Some("v1") {
                event_from_core(o);
            } else {
                event_to_core(o);
            }
        }
        ("autoscaling", "horizontalpodautoscalers", "v1", "v2") => hpa_to_v2(o),
        ("autoscaling", "horizontalpodautoscalers", "v2", "v1") => hpa_to_v1(o),
        _ => {}
    }
    Ok(())
}

fn rename(m: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(v) = m.remove(from) {
        m.insert(to.to_owned(), v);
    }
}

/// Names of the fields that differ: events.k8s.io, core.
const EVENT_FIELDS: [(&str, &str); 8] = [
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingInstance", "reportingInstance"),
];

fn event_from_core(o: &mut Value) {
    let m = object::root_mut(o);
    for (new, core) in EVENT_FIELDS {
        rename(m, core, new);
    }
}

fn event_to_core(o: &mut Value) {
    let m = object::root_mut(o);
    for (new, core) in EVENT_FIELDS {
        rename(m, new, core);
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// `autoscaling/v1` has only a CPU target; the rest of v2 travels in annotations, as upstream has it.
fn hpa_to_v2(o: &mut Value) {
    let annotation = |o: &mut Value, name: &str| -> Option<Value> {
        let m = object::meta_mut(o);
        let a = m.get_mut("annotations")?.as_object_mut()?;
        let v = a.remove(name)?;
        if a.is_empty() {
            m.remove("annotations");
        }
        serde_json::from_str(v.as_str()?).ok()
    };
    let mut metrics = match annotation(o, METRICS) {
        Some(Value::Array(a)) => a,
        _ => Vec::new(),
    };
    let current = annotation(o, CURRENT_METRICS);
    let behavior = annotation(o, BEHAVIOR);
    let conditions = annotation(o, CONDITIONS);
    let root = object::root_mut(o);
    let spec = object::child_mut(root, "spec");
    if let Some(target) = spec.remove("targetCPUUtilizationPercentage").filter(|v| !v.is_null()) {
        let cpu = json!({"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}});
        metrics.push(cpu);
    }
    if !metrics.is_empty() {
        spec.insert("metrics".to_owned(), Value::Array(metrics));
    }
    if let Some(b) = behavior {
        spec.insert("behavior".to_owned(), b);
    }
    if root.contains_key("status") {
        let status = object::child_mut(root, "status");
        let mut all = match current {
            Some(Value::Array(a)) => a,
            _ => Vec::new(),
        };
        if let Some(now) = status.remove("currentCPUUtilizationPercentage").filter(|v| !v.is_null()) {
            all.push(json!({"type": "Resource", "resource": {
                "name": "cpu", "current": {"averageUtilization": now}}}));
        }
        if !all.is_empty() {
            status.insert("currentMetrics".to_owned(), Value::Array(all));
        }
        if let Some(c) = conditions {
            status.insert("conditions".to_owned(), c);
        }
    }
}

fn is_cpu(m: &Value) -> bool {
    m.pointer("/resource/name").and_then(Value::as_str) == Some("cpu")
}

fn hpa_to_v1(o: &mut Value) {
    let mut annotations: Vec<(&str, Value)> = Vec::new();
    let root = object::root_mut(o);
    let spec = object::child_mut(root, "spec");
    if let Some(Value::Array(metrics)) = spec.remove("metrics") {
        let mut rest = Vec::new();
        for m in metrics {
            match m.pointer("/resource/target/averageUtilization") {
                Some(u) if is_cpu(&m) && !spec.contains_key("targetCPUUtilizationPercentage") => {
                    let u = u.clone();
                    spec.insert("targetCPUUtilizationPercentage".to_owned(), u);
                }
                _ => rest.push(m),
            }
        }
        if !rest.is_empty() {
            annotations.push((METRICS, Value::Array(rest)));
        }
    }
    if let Some(b) = spec.remove("behavior") {
        annotations.push((BEHAVIOR, b));
    }
    if let Some(status) = root.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(Value::Array(current)) = status.remove("currentMetrics") {
            for m in &current {
                if let Some(u) = m.pointer("/resource/current/averageUtilization").filter(|_| is_cpu(m)) {
                    status.insert("currentCPUUtilizationPercentage".to_owned(), u.clone());
                }
            }
            if !current.is_empty() {
                annotations.push((CURRENT_METRICS, Value::Array(current)));
            }
        }
        if let Some(c) = status.remove("conditions").filter(|c| c.as_array().is_some_and(|a| !a.is_empty())) {
            annotations.push((CONDITIONS, c));
        }
    }
    if !annotations.is_empty() {
        let a = object::child_mut(object::meta_mut(o), "annotations");
        for (k, v) in annotations {
            a.insert(k.to_owned(), Value::String(v.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let core = json!({"apiVersion": "v1", "message": "m", "involvedObject": {"name": "p"}, "count": 2});
        let mut o = core.clone();
        convert("events.k8s.io", "events", "v1", "v1", &mut o).expect("convert");
        assert_eq!(
            (&o["note"], &o["regarding"]["name"], &o["deprecatedCount"]),
            (&json!("m"), &json!("p"), &json!(2))
        );
        o["apiVersion"] = json!("events.k8s.io/v1");
        convert("events.k8s.io", "events", "v1", "v1", &mut o).expect("convert");
        o["apiVersion"] = json!("v1");
        assert_eq!(o, core);
    }

    #[test]
    fn autoscalers() {
        let v1 = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}});
        let mut o = v1.clone();
        hpa_to_v2(&mut o);
        assert_eq!(o["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
        hpa_to_v1(&mut o);
        assert_eq!(o, v1);
    }
}

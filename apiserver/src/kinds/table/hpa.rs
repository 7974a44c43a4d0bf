//! The rows of a horizontal pod autoscaler, with each metric as current over target, and of a `Scale`.

use serde_json::{Value, json};

use super::cells::{Row, or, text};

/// A `Scale`, which is what autoscalers read and write.
pub fn scale(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.int("/spec/replicas")), json!(row.int("/status/replicas")), row.age()]
}

/// At most two metrics are told.
const SHOWN: usize = 2;

/// Where a metric keeps its name, target and current value, by its type.
fn metric(spec: &Value, status: Option<&Value>) -> String {
    let field = match text(spec, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let target = &spec[field]["target"];
    let current = status.map_or(&Value::Null, |s| &s[field]["current"]);
    let known = current.is_object();
    let quantity = |v: &Value, name: &str| or(text(v, name), "0").to_owned();
    let unknown = || "<unknown>".to_owned();
    let average = target["averageValue"].is_string();
    match field {
        "external" | "object" if average => {
            let now = current["averageValue"].as_str().map_or_else(unknown, str::to_owned);
            format!("{now}/{} (avg)", text(target, "averageValue"))
        }
        "external" | "object" => {
            let now = if known { quantity(current, "value") } else { unknown() };
            format!("{now}/{}", quantity(target, "value"))
        }
        "pods" => {
            let now = if known { quantity(current, "averageValue") } else { unknown() };
            format!("{now}/{}", quantity(target, "averageValue"))
        }
        _ => {
            let name = text(&spec[field], "name");
            if average {
                let now = if known { quantity(current, "averageValue") } else { unknown() };
                return format!("{name}: {now}/{}", text(target, "averageValue"));
            }
            let percent = |v: &Value, absent: &str| {
                v["averageUtilization"].as_i64().map_or_else(|| absent.to_owned(), |n| format!("{n}%"))
            };
            format!("{name}: {}/{}", percent(current, "<unknown>"), percent(target, "<auto>"))
        }
    }
}

/// The first version of the kind knows one metric only, kept outside the list.
fn targets(row: &Row<'_>) -> String {
    if let Some(target) = row.at("/spec/targetCPUUtilizationPercentage").as_i64() {
        let now = row.at("/status/currentCPUUtilizationPercentage").as_i64();
        return format!("cpu: {}/{target}%", now.map_or("<unknown>".to_owned(), |n| format!("{n}%")));
    }
    let specs = row.list("/spec/metrics");
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let statuses = row.list("/status/currentMetrics");
    let all: Vec<String> = specs.iter().enumerate().map(|(i, s)| metric(s, statuses.get(i))).collect();
    if all.len() > SHOWN {
        return format!("{} + {} more...", all[..SHOWN].join(", "), all.len() - SHOWN);
    }
    all.join(", ")
}

pub fn hpa(row: &Row<'_>) -> Vec<Value> {
    let reference =
        format!("{}/{}", row.text("/spec/scaleTargetRef/kind"), row.text("/spec/scaleTargetRef/name"));
    let min = row.at("/spec/minReplicas").as_i64().map_or("<unset>".to_owned(), |n| n.to_string());
    vec![
        row.name(),
        json!(reference),
        json!(targets(row)),
        json!(min),
        json!(row.int("/spec/maxReplicas")),
        json!(row.int("/status/currentReplicas")),
        row.age(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilization() {
        let h = json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}},
            {"type": "Pods", "pods": {"target": {"averageValue": "10"}}}, {"type": "Pods"}]},
            "status": {"currentMetrics": [{"resource": {"current": {"averageUtilization": 3}}}]}});
        let row = Row { object: &h, now: jiff::Timestamp::UNIX_EPOCH };
        assert_eq!(hpa(&row)[2], "cpu: 3%/80%, <unknown>/10 + 1 more...");
    }
}

//! Rows of core kinds and of those that show little.

use serde_json::{Value, json};

use super::cells::{Row, containers, labels, list, or, text};

pub fn name_and_age(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.age()]
}

pub fn config_map(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.count("/data") + row.count("/binaryData")), row.age()]
}

pub fn secret(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.text("/type")), json!(row.count("/data")), row.age()]
}

pub fn namespace(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.text("/status/phase")), row.age()]
}

pub fn lease(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.text("/spec/holderIdentity")), row.age()]
}

pub fn runtime_class(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.text("/handler")), row.age()]
}

pub fn priority_class(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        json!(row.int("/value")),
        json!(row.flag("/globalDefault")),
        row.age(),
        json!(row.text("/preemptionPolicy")),
    ]
}

pub fn pod_template(row: &Row<'_>) -> Vec<Value> {
    let (names, images) = containers(row.at("/template/spec"));
    vec![row.name(), names, images, json!(labels(row.at("/template/metadata/labels")))]
}

pub fn component_status(row: &Row<'_>) -> Vec<Value> {
    let healthy = row.list("/conditions").iter().find(|c| text(c, "type") == "Healthy");
    let (status, message, error) = match healthy {
        None => ("Unknown", "", ""),
        Some(c) => (
            if text(c, "status") == "True" { "Healthy" } else { "Unhealthy" },
            text(c, "message"),
            text(c, "error"),
        ),
    };
    vec![row.name(), json!(status), json!(message), json!(error)]
}

pub fn node(row: &Row<'_>) -> Vec<Value> {
    let mut status: Vec<&str> = Vec::new();
    match row.list("/status/conditions").iter().rfind(|c| text(c, "type") == "Ready") {
        Some(c) if text(c, "status") == "True" => status.push("Ready"),
        Some(_) => status.push("NotReady"),
        None => status.push("Unknown"),
    }
    if row.flag("/spec/unschedulable") {
        status.push("SchedulingDisabled");
    }
    let address = |kind: &str| {
        let found = row.list("/status/addresses").iter().find(|a| text(a, "type") == kind);
        json!(found.map_or("<none>", |a| text(a, "address")))
    };
    let info = |field: &str| row.text(&format!("/status/nodeInfo/{field}"));
    let mut kernel = or(info("kernelVersion"), "<unknown>").to_owned();
    if !info("architecture").is_empty() {
        kernel.push_str(&format!(" ({})", info("architecture")));
    }
    vec![
        row.name(),
        json!(status.join(",")),
        json!(roles(row.at("/metadata/labels"))),
        row.age(),
        json!(info("kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        json!(or(info("osImage"), "<unknown>")),
        json!(kernel),
        json!(or(info("containerRuntimeVersion"), "<unknown>")),
    ]
}

/// Roles that the labels of a node tell.
fn roles(labels: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (k, v) in labels.as_object().into_iter().flatten() {
        if let Some(role) = k.strip_prefix("node-role.kubernetes.io/") {
            roles.push(role);
        } else if k == "kubernetes.io/role" {
            roles.push(v.as_str().unwrap_or_default());
        }
    }
    roles.retain(|r| !r.is_empty());
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>").to_owned()
}

/// Where the two forms of events keep the same things.
struct EventFields<'a> {
    object: &'a Value,
    first: &'a str,
    last: &'a str,
    count: i64,
    component: &'a str,
    host: &'a str,
    message: &'a str,
}

pub fn event(row: &Row<'_>) -> Vec<Value> {
    event_cells(
        row,
        &EventFields {
            object: row.at("/involvedObject"),
            first: row.text("/firstTimestamp"),
            last: row.text("/lastTimestamp"),
            count: row.int("/count"),
            component: or(row.text("/source/component"), row.text("/reportingComponent")),
            host: or(row.text("/source/host"), row.text("/reportingInstance")),
            message: row.text("/message"),
        },
    )
}

pub fn new_event(row: &Row<'_>) -> Vec<Value> {
    event_cells(
        row,
        &EventFields {
            object: row.at("/regarding"),
            first: row.text("/deprecatedFirstTimestamp"),
            last: row.text("/deprecatedLastTimestamp"),
            count: row.int("/deprecatedCount"),
            component: or(row.text("/deprecatedSource/component"), row.text("/reportingController")),
            host: or(row.text("/deprecatedSource/host"), row.text("/reportingInstance")),
            message: row.text("/note"),
        },
    )
}

fn event_cells(row: &Row<'_>, e: &EventFields<'_>) -> Vec<Value> {
    let first = row.since(or(e.first, row.text("/eventTime")));
    let mut last = if e.last.is_empty() { first.clone() } else { row.since(e.last) };
    let mut count = e.count.max(1);
    if row.at("/series").is_object() {
        last = row.since(row.text("/series/lastObservedTime"));
        count = row.int("/series/count");
    }
    let kind = text(e.object, "kind").to_lowercase();
    let target = match text(e.object, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source =
        if e.host.is_empty() { e.component.to_owned() } else { format!("{}, {}", e.component, e.host) };
    vec![
        json!(last),
        json!(row.text("/type")),
        json!(row.text("/reason")),
        json!(target),
        json!(text(e.object, "fieldPath")),
        json!(source),
        json!(e.message.trim()),
        json!(first),
        json!(count),
        row.name(),
    ]
}

pub fn resource_quota(row: &Row<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let used = row.at("/status/used");
    let mut hard: Vec<(&String, &Value)> = row.at("/status/hard").as_object().into_iter().flatten().collect();
    hard.sort_by_key(|(k, _)| *k);
    for (name, q) in hard {
        let entry = format!("{name}: {}/{}", or(text(used, name), "0"), q.as_str().unwrap_or_default());
        if name.starts_with("limits.") { limits.push(entry) } else { requests.push(entry) }
    }
    vec![row.name(), json!(requests.join(", ")), json!(limits.join(", ")), row.age()]
}

/// True for objects that carry this annotation set to true.
pub fn is_marked(row: &Row<'_>, annotations: &[&str]) -> bool {
    annotations.iter().any(|a| text(row.at("/metadata/annotations"), a) == "true")
}

/// The owner that controls the object.
pub fn controller<'a>(row: &'a Row<'_>) -> Option<&'a Value> {
    list(row.at("/metadata/ownerReferences")).iter().find(|o| o["controller"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cordoned_node() {
        let n = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "",
            "node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kernelVersion": "6.1", "architecture": "amd64", "kubeletVersion": "v1.36.0"}}});
        let c = node(&Row { object: &n, now: jiff::Timestamp::UNIX_EPOCH });
        assert_eq!(c[1], "Ready,SchedulingDisabled");
        assert_eq!(c[2], "control-plane,worker");
        assert_eq!(c[8], "6.1 (amd64)");
    }

    #[test]
    fn an_event_of_either_form() {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let e = json!({"metadata": {"name": "e"}, "type": "Warning", "reason": "BackOff",
            "involvedObject": {"kind": "Pod", "name": "p"}, "message": " x \n",
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:59:00Z", "count": 4,
            "source": {"component": "kubelet", "host": "n"}});
        let c = event(&Row { object: &e, now });
        assert_eq!(
            c,
            vec![
                json!("60s"),
                json!("Warning"),
                json!("BackOff"),
                json!("pod/p"),
                json!(""),
                json!("kubelet, n"),
                json!("x"),
                json!("60m"),
                json!(4),
                json!("e")
            ]
        );
    }
}

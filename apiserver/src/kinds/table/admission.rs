//! Rows of webhooks, admission policies, RBAC bindings, certificates, flow control and API services.

use serde_json::{Value, json};

use super::age::human_duration;
use super::cells::{Row, or, selector, text};

pub fn webhooks(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.count("/webhooks")), row.age()]
}

fn param_kind(row: &Row<'_>) -> Value {
    let p = row.at("/spec/paramKind");
    if p.is_object() {
        json!(format!("{}/{}", text(p, "apiVersion"), text(p, "kind")))
    } else {
        json!("<unset>")
    }
}

pub fn validating_policy(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.count("/spec/validations")), param_kind(row), row.age()]
}

pub fn mutating_policy(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.count("/spec/mutations")), param_kind(row), row.age()]
}

pub fn policy_binding(row: &Row<'_>) -> Vec<Value> {
    let p = row.at("/spec/paramRef");
    let param = match (text(p, "namespace"), text(p, "name")) {
        ("", "") if p["selector"].is_object() => selector(&p["selector"]),
        (_, "") => "<unset>".to_owned(),
        (ns, name) => format!("{}/{name}", or(ns, "*")),
    };
    vec![row.name(), json!(row.text("/spec/policyName")), json!(param), row.age()]
}

pub fn role_binding(row: &Row<'_>) -> Vec<Value> {
    let role = format!("{}/{}", row.text("/roleRef/kind"), row.text("/roleRef/name"));
    let subjects = |kind: &str| {
        let names: Vec<String> = row
            .list("/subjects")
            .iter()
            .filter(|s| text(s, "kind") == kind)
            .map(|s| match (kind, text(s, "namespace")) {
                ("ServiceAccount", ns) => format!("{ns}/{}", text(s, "name")),
                _ => text(s, "name").to_owned(),
            })
            .collect();
        json!(names.join(", "))
    };
    vec![row.name(), json!(role), row.age(), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
}

pub fn csr(row: &Row<'_>) -> Vec<Value> {
    let has = |kind: &str| row.list("/status/conditions").iter().any(|c| text(c, "type") == kind);
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !row.text("/status/certificate").is_empty() {
        state.push_str(",Issued");
    }
    let asked = row.at("/spec/expirationSeconds").as_i64().map_or("<none>".to_owned(), human_duration);
    vec![
        row.name(),
        row.age(),
        json!(or(row.text("/spec/signerName"), "<none>")),
        json!(row.text("/spec/username")),
        json!(asked),
        json!(state),
    ]
}

pub fn flow_schema(row: &Row<'_>) -> Vec<Value> {
    let dangling = row.list("/status/conditions").iter().find(|c| text(c, "type") == "Dangling");
    vec![
        row.name(),
        json!(row.text("/spec/priorityLevelConfiguration/name")),
        json!(row.int("/spec/matchingPrecedence")),
        json!(or(row.text("/spec/distinguisherMethod/type"), "<none>")),
        row.age(),
        json!(dangling.map_or("?", |c| text(c, "status"))),
    ]
}

pub fn priority_level(row: &Row<'_>) -> Vec<Value> {
    let or_none = |pointer: &str, parent: &str| {
        if row.at(parent).is_object() { json!(row.int(pointer)) } else { json!("<none>") }
    };
    let queuing = "/spec/limited/limitResponse/queuing";
    vec![
        row.name(),
        json!(row.text("/spec/type")),
        or_none("/spec/limited/nominalConcurrencyShares", "/spec/limited"),
        or_none(&format!("{queuing}/queues"), queuing),
        or_none(&format!("{queuing}/handSize"), queuing),
        or_none(&format!("{queuing}/queueLengthLimit"), queuing),
        row.age(),
    ]
}

pub fn api_service(row: &Row<'_>) -> Vec<Value> {
    let s = row.at("/spec/service");
    let service = if s.is_object() {
        format!("{}/{}", text(s, "namespace"), text(s, "name"))
    } else {
        "Local".to_owned()
    };
    let available = row.list("/status/conditions").iter().find(|c| text(c, "type") == "Available");
    let available = match available {
        None => "Unknown".to_owned(),
        Some(c) if text(c, "status") == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", text(c, "status"), text(c, "reason")),
    };
    vec![row.name(), json!(service), json!(available), row.age()]
}

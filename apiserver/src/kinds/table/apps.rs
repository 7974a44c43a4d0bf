//! Rows of workloads.

use serde_json::{Value, json};

use super::cells::{Row, containers, labels, or, selector, selector_or_none, text};
use super::core::controller;

fn with_containers(mut cells: Vec<Value>, row: &Row<'_>) -> Vec<Value> {
    let (names, images) = containers(row.at("/spec/template/spec"));
    cells.push(names);
    cells.push(images);
    cells
}

pub fn deployment(row: &Row<'_>) -> Vec<Value> {
    let mut cells = with_containers(
        vec![
            row.name(),
            json!(format!("{}/{}", row.int("/status/readyReplicas"), row.int("/spec/replicas"))),
            json!(row.int("/status/updatedReplicas")),
            json!(row.int("/status/availableReplicas")),
            row.age(),
        ],
        row,
    );
    cells.push(json!(selector(row.at("/spec/selector"))));
    cells
}

fn replicas(row: &Row<'_>) -> Vec<Value> {
    with_containers(
        vec![
            row.name(),
            json!(row.int("/spec/replicas")),
            json!(row.int("/status/replicas")),
            json!(row.int("/status/readyReplicas")),
            row.age(),
        ],
        row,
    )
}

pub fn replica_set(row: &Row<'_>) -> Vec<Value> {
    let mut cells = replicas(row);
    cells.push(json!(selector_or_none(row.at("/spec/selector"))));
    cells
}

pub fn replication_controller(row: &Row<'_>) -> Vec<Value> {
    let mut cells = replicas(row);
    cells.push(json!(labels(row.at("/spec/selector"))));
    cells
}

pub fn stateful_set(row: &Row<'_>) -> Vec<Value> {
    with_containers(
        vec![
            row.name(),
            json!(format!("{}/{}", row.int("/status/readyReplicas"), row.int("/spec/replicas"))),
            row.age(),
        ],
        row,
    )
}

pub fn daemon_set(row: &Row<'_>) -> Vec<Value> {
    let status = |field: &str| json!(row.int(&format!("/status/{field}")));
    let mut cells = with_containers(
        vec![
            row.name(),
            status("desiredNumberScheduled"),
            status("currentNumberScheduled"),
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
            json!(labels(row.at("/spec/template/spec/nodeSelector"))),
            row.age(),
        ],
        row,
    );
    cells.push(json!(selector_or_none(row.at("/spec/selector"))));
    cells
}

pub fn controller_revision(row: &Row<'_>) -> Vec<Value> {
    let owner = controller(row).map(|o| {
        let kind = text(o, "kind").to_lowercase();
        let group = text(o, "apiVersion").split_once('/').map_or("", |(g, _)| g);
        let dot = if group.is_empty() { "" } else { "." };
        format!("{kind}{dot}{group}/{}", text(o, "name"))
    });
    vec![
        row.name(),
        json!(or(owner.as_deref().unwrap_or_default(), "<none>")),
        json!(row.int("/revision")),
        row.age(),
    ]
}

/// A number or a percentage, as text.
fn int_or_string(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        _ => "N/A".to_owned(),
    }
}

pub fn disruption_budget(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        json!(int_or_string(row.at("/spec/minAvailable"))),
        json!(int_or_string(row.at("/spec/maxUnavailable"))),
        json!(row.int("/status/disruptionsAllowed")),
        row.age(),
    ]
}

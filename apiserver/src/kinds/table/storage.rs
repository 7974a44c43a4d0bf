//! Rows of volumes, claims, storage classes and device claims.

use serde_json::{Value, json};

use super::cells::{Row, joined, list, or, text};
use super::core::is_marked;

/// `RWO,ROX`: access modes in the order in which upstream tells them.
fn access_modes(modes: &Value) -> String {
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .iter()
    .filter(|(long, _)| list(modes).iter().any(|m| m == long))
    .map(|m| m.1)
    .collect::<Vec<_>>()
    .join(",")
}

/// The class, which once was an annotation.
fn class<'a>(row: &'a Row<'_>) -> &'a str {
    let old = text(row.at("/metadata/annotations"), "volume.beta.kubernetes.io/storage-class");
    or(old, row.text("/spec/storageClassName"))
}

fn phase<'a>(row: &'a Row<'_>) -> &'a str {
    if row.is_deleted() { "Terminating" } else { row.text("/status/phase") }
}

pub fn persistent_volume(row: &Row<'_>) -> Vec<Value> {
    let r = row.at("/spec/claimRef");
    let claim =
        if r.is_object() { format!("{}/{}", text(r, "namespace"), text(r, "name")) } else { String::new() };
    vec![
        row.name(),
        json!(or(row.text("/spec/capacity/storage"), "0")),
        json!(access_modes(row.at("/spec/accessModes"))),
        json!(row.text("/spec/persistentVolumeReclaimPolicy")),
        json!(phase(row)),
        json!(claim),
        json!(class(row)),
        json!(or(row.text("/spec/volumeAttributesClassName"), "<unset>")),
        json!(row.text("/status/reason")),
        row.age(),
        json!(or(row.text("/spec/volumeMode"), "<unset>")),
    ]
}

pub fn claim(row: &Row<'_>) -> Vec<Value> {
    let volume = row.text("/spec/volumeName");
    let (capacity, modes) = if volume.is_empty() {
        ("", String::new())
    } else {
        (or(row.text("/status/capacity/storage"), "0"), access_modes(row.at("/status/accessModes")))
    };
    vec![
        row.name(),
        json!(phase(row)),
        json!(volume),
        json!(capacity),
        json!(modes),
        json!(class(row)),
        json!(or(row.text("/spec/volumeAttributesClassName"), "<unset>")),
        row.age(),
        json!(or(row.text("/spec/volumeMode"), "<unset>")),
    ]
}

pub fn storage_class(row: &Row<'_>) -> Vec<Value> {
    let mut name = row.text("/metadata/name").to_owned();
    if is_marked(
        row,
        &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"],
    ) {
        name.push_str(" (default)");
    }
    vec![
        json!(name),
        json!(row.text("/provisioner")),
        json!(or(row.text("/reclaimPolicy"), "Delete")),
        json!(or(row.text("/volumeBindingMode"), "Immediate")),
        json!(row.flag("/allowVolumeExpansion")),
        row.age(),
    ]
}

pub fn csi_driver(row: &Row<'_>) -> Vec<Value> {
    let tokens = match row.at("/spec/tokenRequests") {
        Value::Array(all) => all.iter().map(|t| text(t, "audience")).collect::<Vec<_>>().join(","),
        _ => "<unset>".to_owned(),
    };
    vec![
        row.name(),
        json!(row.at("/spec/attachRequired").as_bool().unwrap_or(true)),
        json!(row.flag("/spec/podInfoOnMount")),
        json!(row.flag("/spec/storageCapacity")),
        json!(tokens),
        json!(row.flag("/spec/requiresRepublish")),
        json!(or(&joined(row.at("/spec/volumeLifecycleModes"), ","), "<none>")),
        row.age(),
    ]
}

pub fn csi_node(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.count("/spec/drivers")), row.age()]
}

pub fn csi_capacity(row: &Row<'_>) -> Vec<Value> {
    let capacity = or(row.text("/capacity"), "<unset>");
    vec![row.name(), json!(row.text("/storageClassName")), json!(capacity)]
}

pub fn volume_attachment(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        json!(row.text("/spec/attacher")),
        json!(row.text("/spec/source/persistentVolumeName")),
        json!(row.text("/spec/nodeName")),
        json!(row.flag("/status/attached")),
        row.age(),
    ]
}

pub fn attributes_class(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.text("/driverName")), row.age()]
}

pub fn resource_claim(row: &Row<'_>) -> Vec<Value> {
    let mut states = Vec::new();
    if row.is_deleted() {
        states.push("deleted");
    }
    if row.at("/status/allocation").is_object() {
        states.push("allocated");
        if !row.list("/status/reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !row.is_deleted() {
        states.push("pending");
    }
    vec![row.name(), json!(states.join(",")), row.age()]
}

pub fn resource_slice(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        json!(row.text("/spec/nodeName")),
        json!(row.text("/spec/driver")),
        json!(row.text("/spec/pool/name")),
        row.age(),
    ]
}

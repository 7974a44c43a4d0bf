//! Server-side tables: what `kubectl get` prints. Columns are data ([`table_columns`]); the cells of a row are
//! made here, one function per kind, in the same order as the columns.
//!
//! Cells are computed from the JSON form directly: a table of thousands of rows needs a handful of fields each.

mod admission;
mod age;
mod apps;
mod batch;
mod beta;
mod cells;
mod core;
mod hpa;
mod net;
mod pod;
mod storage;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

pub use age::human_duration;
use cells::Row;

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Column {
    pub name: String,
    /// JSON type of the cells: `string`, `integer`, `boolean`, `date`.
    pub kind: String,
    /// `name` for the object's name, else empty.
    pub format: String,
    /// Zero shows always, one only in wide output.
    pub priority: i32,
    /// What the cells mean. Empty where that is what it always is for a column of this name.
    #[serde(default)]
    pub description: String,
}

static COLUMNS: LazyLock<HashMap<String, Vec<Column>>> = LazyLock::new(|| {
    // The file is part of the program; a test reads it, so that it cannot be malformed here.
    serde_json::from_str(include_str!("columns.json")).unwrap_or_default()
});

static GENERIC: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let column = |name: &str, kind: &str, format: &str| Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: format.to_owned(),
        priority: 0,
        description: String::new(),
    };
    vec![column("Name", "string", "name"), column("Created At", "date", "")]
});

/// Columns of a kind; kinds without any of their own show name and creation.
pub fn table_columns(group: &str, kind: &str) -> &'static [Column] {
    let key = if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") };
    COLUMNS.get(&key).unwrap_or(&GENERIC)
}

/// Cells of one object, in the order of [`table_columns`].
pub fn table_cells(group: &str, kind: &str, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let row = Row { object, now };
    let make: fn(&Row<'_>) -> Vec<Value> = match (group, kind) {
        ("", "Pod") => pod::pod,
        ("", "PodTemplate") => core::pod_template,
        ("", "ComponentStatus") => core::component_status,
        ("", "ConfigMap") => core::config_map,
        ("", "Secret") => core::secret,
        ("", "ServiceAccount") => core::name_and_age,
        ("", "Namespace") => core::namespace,
        ("", "Node") => core::node,
        ("", "Event") => core::event,
        ("events.k8s.io", "Event") => core::new_event,
        ("", "ResourceQuota") => core::resource_quota,
        ("", "Service") => net::service,
        ("", "Endpoints") => net::endpoints,
        ("", "PersistentVolume") => storage::persistent_volume,
        ("", "PersistentVolumeClaim") => storage::claim,
        ("", "ReplicationController") => apps::replication_controller,
        ("apps", "Deployment") => apps::deployment,
        ("apps", "ReplicaSet") => apps::replica_set,
        ("apps", "StatefulSet") => apps::stateful_set,
        ("apps", "DaemonSet") => apps::daemon_set,
        ("apps", "ControllerRevision") => apps::controller_revision,
        ("batch", "Job") => batch::job,
        ("batch", "CronJob") => batch::cron_job,
        ("autoscaling", "HorizontalPodAutoscaler") => hpa::hpa,
        ("autoscaling", "Scale") => hpa::scale,
        ("policy", "PodDisruptionBudget") => apps::disruption_budget,
        ("networking.k8s.io", "Ingress") => net::ingress,
        ("networking.k8s.io", "IngressClass") => net::ingress_class,
        ("networking.k8s.io", "NetworkPolicy") => net::network_policy,
        ("networking.k8s.io", "IPAddress") => net::ip_address,
        ("networking.k8s.io", "ServiceCIDR") => net::service_cidr,
        ("discovery.k8s.io", "EndpointSlice") => net::endpoint_slice,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => admission::role_binding,
        ("certificates.k8s.io", "CertificateSigningRequest") => admission::csr,
        ("certificates.k8s.io", "ClusterTrustBundle") => beta::cluster_trust_bundle,
        ("certificates.k8s.io", "PodCertificateRequest") => beta::pod_certificate_request,
        ("coordination.k8s.io", "Lease") => core::lease,
        ("coordination.k8s.io", "LeaseCandidate") => beta::lease_candidate,
        ("node.k8s.io", "RuntimeClass") => core::runtime_class,
        ("scheduling.k8s.io", "PriorityClass") => core::priority_class,
        ("scheduling.k8s.io", "PodGroup") => beta::pod_group,
        ("scheduling.k8s.io", "Workload") => core::name_and_age,
        ("internal.apiserver.k8s.io", "StorageVersion") => beta::storage_version,
        ("storagemigration.k8s.io", "StorageVersionMigration") => beta::storage_version_migration,
        ("storage.k8s.io", "StorageClass") => storage::storage_class,
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver,
        ("storage.k8s.io", "CSINode") => storage::csi_node,
        ("storage.k8s.io", "CSIStorageCapacity") => storage::csi_capacity,
        ("storage.k8s.io", "VolumeAttachment") => storage::volume_attachment,
        ("storage.k8s.io", "VolumeAttributesClass") => storage::attributes_class,
        ("resource.k8s.io", "ResourceClaim") => storage::resource_claim,
        ("resource.k8s.io", "ResourceSlice") => storage::resource_slice,
        ("resource.k8s.io", "DeviceTaintRule") => beta::device_taint_rule,
        ("resource.k8s.io", "ResourcePoolStatusRequest") => beta::pool_status_request,
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => core::name_and_age,
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => admission::webhooks,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => admission::validating_policy,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => admission::mutating_policy,
        (
            "admissionregistration.k8s.io",
            "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding",
        ) => admission::policy_binding,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => admission::flow_schema,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => admission::priority_level,
        ("apiregistration.k8s.io", "APIService") => admission::api_service,
        _ => generic,
    };
    make(&row)
}

fn generic(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.text("/metadata/creationTimestamp"))]
}

/// Conditions of a row: pods that ended say so, for clients that hide them.
pub fn row_conditions(group: &str, kind: &str, object: &Value) -> Option<Value> {
    if (group, kind) != ("", "Pod") {
        return None;
    }
    let phase = object.pointer("/status/phase").and_then(Value::as_str)?;
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_fills_its_columns() {
        let now = jiff::Timestamp::now();
        let object = json!({"metadata": {"name": "x", "creationTimestamp": now.to_string()}});
        assert!(COLUMNS.len() > 50, "the table of columns was not read");
        for (key, columns) in COLUMNS.iter() {
            let (group, kind) = key.split_once('/').unwrap_or(("", key));
            let cells = table_cells(group, kind, &object, now);
            assert_eq!(cells.len(), columns.len(), "{key}");
            for (cell, column) in cells.iter().zip(columns) {
                if column.kind == "integer" {
                    assert!(cell.is_number(), "{key} {}: {cell}", column.name);
                }
                if column.kind == "boolean" && kind != "CronJob" {
                    assert!(cell.is_boolean(), "{key} {}: {cell}", column.name);
                }
            }
        }
    }

    #[test]
    fn unknown_kinds_show_name_and_creation() {
        assert_eq!(table_columns("example.com", "Widget").len(), 2);
        assert_eq!(table_columns("", "Pod").len(), 9);
    }
}

//! Rows of kinds that are served when they are asked for only: alpha and beta versions.

use serde_json::{Value, json};

use super::cells::{Row, labels, list, or, text};

pub fn cluster_trust_bundle(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(or(row.text("/spec/signerName"), "<none>"))]
}

pub fn pod_certificate_request(row: &Row<'_>) -> Vec<Value> {
    // The three exclude each other.
    let state = row
        .list("/status/conditions")
        .iter()
        .rev()
        .map(|c| text(c, "type"))
        .find(|t| matches!(*t, "Issued" | "Denied" | "Failed"));
    vec![
        row.name(),
        json!(row.text("/spec/podName")),
        json!(row.text("/spec/serviceAccountName")),
        json!(row.text("/spec/nodeName")),
        json!(row.text("/spec/signerName")),
        json!(state.unwrap_or("Pending")),
        json!(labels(row.at("/spec/unverifiedUserAnnotations"))),
    ]
}

pub fn lease_candidate(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        json!(row.text("/spec/leaseName")),
        json!(row.text("/spec/binaryVersion")),
        json!(row.text("/spec/emulationVersion")),
        row.age(),
    ]
}

pub fn storage_version(row: &Row<'_>) -> Vec<Value> {
    const SHOWN: usize = 3;
    let all = row.list("/status/storageVersions");
    let mut shown: Vec<String> = all
        .iter()
        .take(SHOWN)
        .map(|v| format!("{}={}", text(v, "apiServerID"), text(v, "encodingVersion")))
        .collect();
    let more = all.len().saturating_sub(SHOWN);
    let mut versions = std::mem::take(&mut shown).join(",");
    if more > 0 {
        versions = format!("{versions} + {more} more...");
    }
    vec![
        row.name(),
        json!(or(row.text("/status/commonEncodingVersion"), "<unset>")),
        json!(versions),
        row.age(),
    ]
}

pub fn storage_version_migration(row: &Row<'_>) -> Vec<Value> {
    let (group, resource) = (row.text("/spec/resource/group"), row.text("/spec/resource/resource"));
    let what = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let status = row
        .list("/status/conditions")
        .iter()
        .rev()
        .filter(|c| text(c, "status") == "True")
        .map(|c| text(c, "type"))
        .find(|t| matches!(*t, "Running" | "Failed" | "Succeeded"));
    vec![row.name(), json!(what), json!(status.unwrap_or("Unknown"))]
}

pub fn device_taint_rule(row: &Row<'_>) -> Vec<Value> {
    let added = row.text("/spec/taint/timeAdded");
    let added = if added.is_empty() { String::new() } else { row.since(added) };
    vec![
        row.name(),
        json!(row.text("/spec/taint/key")),
        json!(row.text("/spec/taint/value")),
        json!(row.text("/spec/taint/effect")),
        json!(added),
        row.age(),
    ]
}

pub fn pool_status_request(row: &Row<'_>) -> Vec<Value> {
    let ended = |kind: &str| {
        row.list("/status/conditions").iter().find(|c| text(c, "type") == kind && text(c, "status") == "True")
    };
    let (complete, failed) = (ended("Complete"), ended("Failed"));
    let pools = row.list("/status/pools");
    let count = row.int("/status/poolCount");
    let status = match (complete, failed) {
        (Some(_), _) if count > pools.len() as i64 => format!("Complete ({}/{count} pools)", pools.len()),
        (Some(_), _) => "Complete".to_owned(),
        (None, Some(_)) => "Failed".to_owned(),
        (None, None) => "Pending".to_owned(),
    };
    let known = row.at("/status").is_object() && failed.filter(|_| complete.is_none()).is_none();
    let sum = |field: &str| -> Value {
        if !known {
            return json!("-");
        }
        let total: i64 = pools.iter().filter_map(|p| p[field].as_i64()).sum();
        json!(total.to_string())
    };
    let errors = if known {
        pools.iter().filter(|p| p["validationError"].is_string()).count().to_string()
    } else {
        "-".to_owned()
    };
    let completed = complete.map_or("<none>".to_owned(), |c| row.since(text(c, "lastTransitionTime")));
    vec![
        row.name(),
        json!(row.text("/spec/driver")),
        sum("totalDevices"),
        sum("availableDevices"),
        sum("allocatedDevices"),
        sum("unavailableDevices"),
        json!(errors),
        json!(count),
        json!(status),
        json!(completed),
    ]
}

pub fn pod_group(row: &Row<'_>) -> Vec<Value> {
    let policy = if row.at("/spec/schedulingPolicy/gang").is_object() { "Gang" } else { "Basic" };
    let mut status = "Pending".to_owned();
    for c in list(row.at("/status/conditions")) {
        match text(c, "type") {
            "PodGroupScheduled" if status == "Pending" => {
                let scheduled = text(c, "status") == "True";
                status = if scheduled { "Scheduled" } else { "Unschedulable" }.to_owned();
            }
            "DisruptionTarget" => {
                status = text(c, "reason").to_owned();
                break;
            }
            _ => {}
        }
    }
    let workload = row.text("/spec/podGroupTemplateRef/workload/workloadName");
    vec![row.name(), json!(policy), json!(or(workload, "<none>")), json!(status), row.age()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told() {
        let now = jiff::Timestamp::now();
        let of = |object: &Value, make: fn(&Row<'_>) -> Vec<Value>, i: usize| {
            make(&Row { object, now })[i].clone()
        };
        let denied = json!({"status": {"conditions": [{"type": "Denied", "status": "True"}]}});
        assert_eq!(of(&denied, pod_certificate_request, 5), "Denied");
        assert_eq!(of(&json!({}), pod_certificate_request, 5), "Pending");
        let versions: Vec<Value> =
            (0..5).map(|i| json!({"apiServerID": i.to_string(), "encodingVersion": "v1"})).collect();
        let v = json!({"status": {"storageVersions": versions}});
        assert_eq!(of(&v, storage_version, 2), "0=v1,1=v1,2=v1 + 2 more...");
        let m = json!({"spec": {"resource": {"group": "apps", "resource": "deployments"}},
            "status": {"conditions": [{"type": "Running", "status": "False"}, {"type": "Succeeded", "status": "True"}]}});
        assert_eq!(
            (of(&m, storage_version_migration, 1), of(&m, storage_version_migration, 2)),
            (json!("deployments.apps"), json!("Succeeded"))
        );
        let p = json!({"status": {"poolCount": 3, "pools": [{"totalDevices": 2}, {"totalDevices": 3}],
            "conditions": [{"type": "Complete", "status": "True"}]}});
        assert_eq!(
            (of(&p, pool_status_request, 2), of(&p, pool_status_request, 8)),
            (json!("5"), json!("Complete (2/3 pools)"))
        );
        assert_eq!(of(&json!({}), pool_status_request, 2), "-");
    }
}

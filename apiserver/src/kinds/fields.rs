//! Fields that field selectors may ask for.

use serde_json::Value;

/// Dotted path in the object, and its name in selectors where that differs.
type Field = (&'static str, &'static str);

const NAME: Field = ("metadata.name", "metadata.name");
const NAMESPACE: Field = ("metadata.namespace", "metadata.namespace");

macro_rules! fields {
    ($($f:literal),*) => { &[$(($f, $f)),*] };
}

/// The fields of a resource beside name and namespace.
fn own(group: &str, resource: &str) -> &'static [Field] {
    match (group, resource) {
        ("", "pods") => fields![
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName"
        ],
        ("", "events") => fields![
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type"
        ],
        // Stored as core events, and indexed as these (see `indexed_field`).
        ("events.k8s.io", "events") => &[
            ("involvedObject.kind", "regarding.kind"),
            ("involvedObject.namespace", "regarding.namespace"),
            ("involvedObject.name", "regarding.name"),
            ("involvedObject.uid", "regarding.uid"),
            ("involvedObject.apiVersion", "regarding.apiVersion"),
            ("involvedObject.resourceVersion", "regarding.resourceVersion"),
            ("involvedObject.fieldPath", "regarding.fieldPath"),
            ("reason", "reason"),
            ("reportingComponent", "reportingController"),
            ("type", "type"),
        ],
        ("", "namespaces") => fields!["status.phase"],
        ("", "nodes") => fields!["spec.unschedulable"],
        ("", "secrets") => fields!["type"],
        ("", "services") => fields!["spec.clusterIP", "spec.type"],
        ("", "replicationcontrollers") => fields!["status.replicas"],
        ("batch", "jobs") => &[("status.succeeded", "status.successful")],
        ("certificates.k8s.io", "certificatesigningrequests" | "clustertrustbundles") => {
            fields!["spec.signerName"]
        }
        ("certificates.k8s.io", "podcertificaterequests") => {
            fields!["spec.signerName", "spec.podName", "spec.nodeName"]
        }
        ("resource.k8s.io", "resourceslices") => fields!["spec.nodeName", "spec.driver"],
        _ => &[],
    }
}

/// Names that a field selector on this resource may use. Every resource has `metadata.name`, and `metadata.namespace`
/// unless it has fields of its own and no namespace.
pub fn supported_field_selectors(group: &str, resource: &str) -> Vec<&'static str> {
    let mut out = vec![NAME.1];
    let nameless = matches!(
        (group, resource),
        ("", "nodes" | "namespaces") | ("certificates.k8s.io", _) | ("resource.k8s.io", "resourceslices")
    );
    if !nameless {
        out.push(NAMESPACE.1);
    }
    out.extend(own(group, resource).iter().map(|f| f.1));
    out
}

/// What is said of a field that selectors may not use. Kinds that have fields of their own say it in their own words.
pub fn unsupported(group: &str, version: &str, resource: &str, field: &str) -> String {
    match (group, resource) {
        ("batch", "jobs") => format!("field label {field:?} not supported for Job"),
        ("resource.k8s.io", "resourceslices") => {
            format!("field label not supported for {group}/{version}, Kind=ResourceSlice: {field}")
        }
        _ if !own(group, resource).is_empty() => format!("field label not supported: {field}"),
        _ => {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
    }
}

/// Under which name stored objects are indexed by the field that a selector calls `field`. That differs where a
/// resource is stored as another one is, and for a name that only old clients use.
pub fn indexed_field<'a>(group: &str, resource: &str, field: &'a str) -> &'a str {
    match (group, resource, field) {
        ("events.k8s.io", "events", _) => {
            own(group, resource).iter().find(|f| f.1 == field).map_or(field, |f| f.0)
        }
        ("", "pods", "spec.host") => "spec.nodeName",
        _ => field,
    }
}

/// Dotted paths in the object of what [`selectable_fields`] looks at; none where that is but name and namespace.
pub fn selectable_paths(group: &str, resource: &str) -> Vec<&'static str> {
    match own(group, resource) {
        [] => Vec::new(),
        own => [NAME, NAMESPACE].iter().chain(own).map(|f| f.0).collect(),
    }
}

/// The value of each selectable field.
pub fn selectable_fields(group: &str, resource: &str, object: &Value) -> Vec<(&'static str, String)> {
    [NAME, NAMESPACE].iter().chain(own(group, resource)).map(|f| (f.1, shown(object, f.0))).collect()
}

fn shown(object: &Value, path: &str) -> String {
    // Events name their source by the component alone, and fall back to the reporting controller.
    if path == "source" {
        let component = object.pointer("/source/component").and_then(Value::as_str).unwrap_or_default();
        let reporter = object["reportingComponent"].as_str().unwrap_or_default();
        return if component.is_empty() { reporter } else { component }.to_owned();
    }
    let mut at = object;
    for part in path.split('.') {
        at = &at[part];
    }
    match at {
        Value::String(s) => s.clone(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        _ => absent(path).to_owned(),
    }
}

/// What an absent field counts as: numbers and flags have their zero.
fn absent(path: &str) -> &'static str {
    match path {
        "spec.unschedulable" | "spec.hostNetwork" => "false",
        "status.replicas" | "status.succeeded" => "0",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_indexed_by_their_stored_names() {
        let stored = serde_json::json!({"metadata": {"name": "e"}, "reportingComponent": "c",
            "involvedObject": {"kind": "Pod"}});
        let stored = selectable_fields("", "events", &stored);
        let value = |field: &str| {
            let name = indexed_field("events.k8s.io", "events", field);
            stored.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
        };
        assert_eq!(value("reportingController"), Some("c"));
        assert_eq!(value("regarding.kind"), Some("Pod"));
        for field in supported_field_selectors("events.k8s.io", "events") {
            assert!(value(field).is_some(), "{field} is not indexed");
        }
        assert_eq!(indexed_field("", "pods", "spec.host"), "spec.nodeName");
    }

    #[test]
    fn zero_values_are_told() {
        let node = serde_json::json!({"metadata": {"name": "n"}});
        let f = selectable_fields("", "nodes", &node);
        assert!(f.contains(&("metadata.name", "n".to_owned())));
        assert!(f.contains(&("spec.unschedulable", "false".to_owned())));
        let job = serde_json::json!({"metadata": {"name": "n"}, "status": {"succeeded": 2}});
        assert!(selectable_fields("batch", "jobs", &job).contains(&("status.successful", "2".to_owned())));
    }
}

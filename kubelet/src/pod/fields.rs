//! The downward API: values of `fieldRef` and `resourceFieldRef`, for environment variables and volumes.

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};

use super::{resources, spec};
use crate::util::quantity::{milli, parse_milli, value};

/// What the node adds to a pod's own fields.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    pub node_name: String,
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    /// Allocatable CPU in thousandths: the limit of a container that has none.
    pub allocatable_cpu: i64,
    pub allocatable_memory: i64,
}

fn subscript<'a>(path: &'a str, map: &str) -> Option<&'a str> {
    path.strip_prefix(map)?.strip_prefix("['")?.strip_suffix("']")
}

fn quote(text: &str) -> String {
    // As Go's %q for the characters that labels and annotations hold.
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn format_map(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quote(v))).collect();
    lines.join("\n")
}

/// The value of a `fieldRef`.
pub fn field(pod: &Pod, facts: &NodeFacts, selector: &ObjectFieldSelector) -> Result<String, String> {
    let path = selector.field_path.as_str();
    let meta = &pod.metadata;
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(meta.annotations.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(meta.labels.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.name" => spec::name(pod).into(),
        "metadata.namespace" => spec::namespace(pod).into(),
        "metadata.uid" => spec::uid(pod).into(),
        "spec.nodeName" => spec::spec(pod)
            .node_name
            .clone()
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| facts.node_name.clone()),
        "spec.serviceAccountName" => spec::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

/// The value of a `resourceFieldRef`, divided and rounded up.
pub fn resource(
    container: &Container,
    facts: &NodeFacts,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let (kind, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let r = container.resources.as_ref();
    let q = match kind {
        "limits" => resources::limit(r, name),
        "requests" => resources::request(r, name),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let amount = match (q, kind, name) {
        (Some(q), _, "cpu") if milli(q) > 0 => i128::from(milli(q)),
        (Some(q), ..) if value(q) > 0 => i128::from(value(q)) * 1000,
        (_, "limits", "cpu") => i128::from(facts.allocatable_cpu),
        (_, "limits", "memory") => i128::from(facts.allocatable_memory) * 1000,
        _ => 0,
    };
    let divisor = selector.divisor.as_ref().map_or(Ok(0), |d| parse_milli(&d.0))?;
    let divisor = if divisor <= 0 { 1000 } else { divisor };
    Ok(((amount + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "labels": {"b": "2", "a": "x\"y"}, "annotations": {"k": "v"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}}}]}}))
        .unwrap();
        let facts =
            NodeFacts { allocatable_memory: 1 << 20, pod_ips: vec!["1.2.3.4".into()], ..Default::default() };
        let f =
            |p: &str| field(&pod, &facts, &ObjectFieldSelector { field_path: p.into(), api_version: None });
        assert_eq!(f("metadata.labels").unwrap(), "a=\"x\\\"y\"\nb=\"2\"");
        assert_eq!(f("metadata.annotations['k']").unwrap(), "v");
        assert_eq!(f("status.podIP").unwrap(), "1.2.3.4");
        assert!(f("spec.nope").is_err());
        let c = &pod.spec.as_ref().unwrap().containers[0];
        let r = |name: &str, div: Option<&str>| {
            resource(
                c,
                &facts,
                &ResourceFieldSelector {
                    resource: name.into(),
                    divisor: div.map(|d| k8s_openapi::apimachinery::pkg::api::resource::Quantity(d.into())),
                    container_name: None,
                },
            )
        };
        assert_eq!(r("limits.cpu", None).unwrap(), "2");
        assert_eq!(r("limits.cpu", Some("1m")).unwrap(), "1500");
        assert_eq!(r("limits.memory", Some("1Ki")).unwrap(), "1024");
        assert_eq!(r("requests.memory", None).unwrap(), "0");
    }
}

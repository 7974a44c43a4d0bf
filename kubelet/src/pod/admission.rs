//! Whether this node can run a pod that was bound to it: resources, node selector and affinity, host ports,
//! sysctls. Pure. Reasons and messages are upstream's.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec};

use super::{resources, security, spec};
use crate::util::quantity;

/// A refusal: the status's reason and message.
pub type Refusal = (String, String);

/// What the node has, by resource name: CPU in thousandths.
pub struct Capacity<'a> {
    pub allocatable: &'a BTreeMap<String, i64>,
    pub max_pods: i64,
    pub allowed_sysctls: &'a [String],
}

/// Resources that are not Kubernetes' own: of devices, or of the whole cluster.
fn is_extended(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

/// The pod's spec without requests for extended resources that a claim answers (KEP-5004): the scheduler has seen to
/// those, and they take nothing of what device plugins report.
fn without_claimed(pod: &Pod) -> Cow<'_, PodSpec> {
    let s = spec::spec(pod);
    let claimed = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    let Some(claimed) = claimed else { return Cow::Borrowed(s) };
    let mut s = s.clone();
    for c in spec::containers_mut(&mut s) {
        let mine = claimed.request_mappings.iter().filter(|m| m.container_name == c.name);
        if let Some(requests) = c.resources.as_mut().and_then(|r| r.requests.as_mut()) {
            mine.for_each(|m| drop(requests.remove(&m.resource_name)));
        }
    }
    Cow::Owned(s)
}

/// `others` are the pods that the node runs already and that have not ended.
pub fn admit(pod: &Pod, others: &[&Pod], node: Option<&Node>, c: &Capacity<'_>) -> Result<(), Refusal> {
    let s = spec::spec(pod);
    if let Some(message) = security::forbidden_sysctl(pod, c.allowed_sysctls) {
        return Err(("SysctlForbidden".into(), message));
    }
    if s.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err((
            "PodOSNotSupported".into(),
            "Failed to admit pod as the OS field doesn't match node OS".into(),
        ));
    }
    if others.len() as i64 + 1 > c.max_pods {
        return Err((
            "OutOfpods".into(),
            format!(
                "Node didn't have enough resource: pods, requested: 1, used: {}, capacity: {}",
                others.len(),
                c.max_pods
            ),
        ));
    }
    let counted = without_claimed(pod);
    let others_counted: Vec<Cow<'_, PodSpec>> = others.iter().map(|p| without_claimed(p)).collect();
    for name in resources::requested_names(&counted) {
        let wanted = resources::pod_request(&counted, &name);
        if wanted == 0 {
            continue;
        }
        let used: i64 = others_counted.iter().map(|s| resources::pod_request(s, &name)).sum();
        let have = match c.allocatable.get(&name) {
            Some(have) => *have,
            // Managed elsewhere (somebody wrote it into the node's status, or an extender counts it): what this
            // node does not know it does not judge.
            None if is_extended(&name) => continue,
            None => 0,
        };
        if used + wanted > have {
            return Err((
                format!("OutOf{name}"),
                format!(
                    "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {have}"
                ),
            ));
        }
    }
    if let Some(node) = node
        && !fits_node(pod, node)
    {
        return Err((
            "NodeAffinity".into(),
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        ));
    }
    if let Some(port) = port_conflict(pod, others) {
        return Err((
            "NodePorts".into(),
            format!(
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports ({port})"
            ),
        ));
    }
    Ok(())
}

fn host_ports(pod: &Pod) -> Vec<(String, i32, String)> {
    let s = spec::spec(pod);
    s.containers
        .iter()
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0)?;
            let ip = p.host_ip.clone().filter(|i| !i.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((p.protocol.clone().unwrap_or_else(|| "TCP".into()), port, ip))
        })
        .collect()
}

fn port_conflict(pod: &Pod, others: &[&Pod]) -> Option<i32> {
    let mine = host_ports(pod);
    if mine.is_empty() {
        return None;
    }
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    others.iter().flat_map(|p| host_ports(p)).find_map(|(protocol, port, ip)| {
        mine.iter()
            .any(|(a, b, c)| *a == protocol && *b == port && (any(c) || any(&ip) || *c == ip))
            .then_some(port)
    })
}

fn fits_node(pod: &Pod, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let s = spec::spec(pod);
    if !s.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v)) {
        return false;
    }
    let required = s
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_fits(t, labels, name)))
}

fn term_fits(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| requirement_fits(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| requirement_fits(r, (r.key == "metadata.name").then_some(name)))
}

fn requirement_fits(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let number = |t: &str| t.parse::<i64>().ok();
    let compare = |test: fn(&i64, &i64) -> bool| {
        let pair = value.and_then(number).zip(values.first().and_then(|v| number(v)));
        pair.is_some_and(|(a, b)| test(&a, &b))
    };
    match r.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

/// Allocatable amounts in the numbers that [`admit`] compares.
pub fn amounts(
    list: &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
) -> BTreeMap<String, i64> {
    list.iter()
        .map(|(k, q)| (k.clone(), if k == "cpu" { quantity::milli(q) } else { quantity::value(q) }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn what_a_claim_answers_is_not_counted() {
        const GPU: &str = "deviceclass.resource.kubernetes.io/gpu";
        let allocatable = BTreeMap::new();
        let c = Capacity { allocatable: &allocatable, max_pods: 2, allowed_sysctls: &[] };
        let asks = serde_json::json!({"requests": {GPU: "1"}});
        let mut p = pod(serde_json::json!({"containers": [{"name": "a", "resources": asks}]}));
        assert_eq!(admit(&p, &[], None, &c).unwrap_err().0, format!("OutOf{GPU}"));
        let answered = |container: &str| {
            serde_json::json!({"extendedResourceClaimStatus": {"resourceClaimName": "c", "requestMappings":
                [{"containerName": container, "resourceName": GPU, "requestName": "r"}]}})
        };
        p.status = serde_json::from_value(answered("b")).unwrap();
        assert!(admit(&p, &[], None, &c).is_err());
        p.status = serde_json::from_value(answered("a")).unwrap();
        admit(&p, &[&p], None, &c).unwrap();
    }

    #[test]
    fn resources_selectors_and_ports() {
        let allocatable = BTreeMap::from([("cpu".to_owned(), 2000), ("memory".to_owned(), 1 << 30)]);
        let c = Capacity { allocatable: &allocatable, max_pods: 2, allowed_sysctls: &[] };
        let small = pod(
            serde_json::json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1500m"}}, "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
        );
        admit(&small, &[], None, &c).unwrap();
        let (reason, message) = admit(&small, &[&small], None, &c).unwrap_err();
        assert_eq!(reason, "OutOfcpu");
        assert_eq!(
            message,
            "Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000"
        );
        let tape =
            serde_json::json!({"limits": {"example.com/tape": "1"}, "requests": {"example.com/tape": "1"}});
        let tape = pod(serde_json::json!({"containers": [{"name": "a", "resources": tape}]}));
        admit(&tape, &[], None, &c).unwrap();
        let port = pod(
            serde_json::json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
        );
        assert_eq!(admit(&port, &[&small], None, &c).unwrap_err().0, "NodePorts");
        assert_eq!(admit(&port, &[&small, &port], None, &c).unwrap_err().0, "OutOfpods");
        let node: Node =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "n", "labels": {"a": "5"}}}))
                .unwrap();
        let affinity = |op: &str, v: &str| {
            pod(
                serde_json::json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": op, "values": [v]}]}]}}}}),
            )
        };
        admit(&affinity("In", "5"), &[], Some(&node), &c).unwrap();
        admit(&affinity("Gt", "4"), &[], Some(&node), &c).unwrap();
        assert_eq!(admit(&affinity("NotIn", "5"), &[], Some(&node), &c).unwrap_err().0, "NodeAffinity");
    }
}

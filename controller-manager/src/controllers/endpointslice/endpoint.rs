//! From pods to wanted endpoints: addresses, conditions, ports, topology hints. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::Group;
use super::topology;
use crate::util::{meta, pods, services};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const HEADLESS: &str = "service.kubernetes.io/headless";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Address families of a service.
pub fn families(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let named: Vec<String> = spec.and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    match spec.and_then(|s| s.cluster_ip.as_deref()) {
        Some(ip) if ip.contains(':') => vec!["IPv6".into()],
        Some(ip) if !ip.is_empty() && ip != "None" => vec!["IPv4".into()],
        _ => vec!["IPv4".into(), "IPv6".into()],
    }
}

/// Whether a text is an address of the family.
pub fn is_of(address: &str, family: &str) -> bool {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => family == "IPv4",
        Ok(IpAddr::V6(_)) => family == "IPv6",
        Err(_) => false,
    }
}

/// Labels that every slice of the service carries.
fn labels(service: &Service) -> meta::Map {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    for reserved in [SERVICE_NAME, MANAGED_BY, HEADLESS] {
        labels.remove(reserved);
    }
    if services::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), meta::name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

/// A slice without ports and endpoints.
pub fn empty_slice(service: &Service) -> EndpointSlice {
    let prefix = format!("{}-", meta::name(&service.metadata));
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(prefix.chars().take(248).collect()),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![meta::controller_ref(service)]),
            ..ObjectMeta::default()
        },
        ..EndpointSlice::default()
    }
}

/// Whether an existing slice carries what a new one would.
pub fn fits(slice: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    slice.metadata.labels == wanted.metadata.labels
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let all = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    all.filter_map(|p| {
        Some(EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(services::target_port(pod, p)?),
            protocol: p.protocol.clone().or_else(|| Some("TCP".into())),
            app_protocol: p.app_protocol.clone(),
        })
    })
    .collect()
}

/// The wanted endpoints of a service, and the pods left out because their node is not known (yet).
pub fn wanted(
    service: &Service,
    pods: &[Arc<Pod>],
    node: impl Fn(&str) -> Option<Arc<Node>>,
    families: &[String],
) -> (Vec<Group>, Vec<String>) {
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    // The annotation goes before the field.
    let distribution = service.spec.as_ref().filter(|_| !topology::is_auto(service));
    let distribution = distribution.and_then(|s| s.traffic_distribution.as_deref());
    let mut groups = Vec::new();
    let mut homeless = Vec::new();
    for pod in pods.iter().filter(|p| services::may_be_endpoint(p)) {
        let node = node(pods::node(pod));
        if node.is_none() && !publish {
            homeless.push(meta::name(&pod.metadata).to_owned());
            continue;
        }
        let zone = node.and_then(|n| topology::zone(&n));
        let serving = pods::is_ready(pod);
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let ready = publish || (serving && !terminating);
        for family in families {
            let addresses: Vec<String> = services::addresses(pod)
                .into_iter()
                .filter(|a| is_of(a, family))
                .take(1)
                .map(str::to_owned)
                .collect();
            if addresses.is_empty() {
                continue;
            }
            let node_name = Some(pods::node(pod).to_owned()).filter(|n| !n.is_empty());
            let endpoint = Endpoint {
                addresses,
                conditions: Some(EndpointConditions {
                    ready: Some(ready),
                    serving: Some(serving),
                    terminating: Some(terminating),
                }),
                hostname: services::hostname(pod, service).map(str::to_owned),
                hints: hints(distribution, ready, zone.as_deref(), node_name.as_deref()),
                node_name,
                target_ref: Some(ObjectReference {
                    kind: Some("Pod".into()),
                    namespace: pod.metadata.namespace.clone(),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                    ..ObjectReference::default()
                }),
                zone: zone.clone(),
                ..Endpoint::default()
            };
            groups.push(Group {
                address_type: family.clone(),
                ports: ports(service, pod),
                endpoints: vec![endpoint],
            });
        }
    }
    (groups, homeless)
}

/// Hints for proxies, where the service wants traffic to stay close.
fn hints(
    distribution: Option<&str>,
    ready: bool,
    zone: Option<&str>,
    node: Option<&str>,
) -> Option<EndpointHints> {
    let (by_zone, by_node) = match distribution {
        Some("PreferClose" | "PreferSameZone") => (true, false),
        Some("PreferSameNode") => (true, true),
        _ => (false, false),
    };
    if !ready {
        return None;
    }
    let for_zones = zone.filter(|_| by_zone).map(|z| vec![ForZone { name: z.into() }]);
    let for_nodes = node.filter(|_| by_node).map(|n| vec![ForNode { name: n.into() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_zones, for_nodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodIP, PodSpec, PodStatus, ServicePort, ServiceSpec};

    fn service(change: impl FnOnce(&mut ServiceSpec)) -> Service {
        let mut spec = ServiceSpec {
            cluster_ip: Some("10.96.0.9".into()),
            ports: Some(vec![ServicePort { port: 80, ..ServicePort::default() }]),
            ..ServiceSpec::default()
        };
        change(&mut spec);
        let metadata = ObjectMeta { name: Some("s".into()), ..ObjectMeta::default() };
        Service { metadata, spec: Some(spec), status: None }
    }

    fn pod(ready: bool, deleting: bool) -> Arc<Pod> {
        let mut p = Pod {
            spec: Some(PodSpec { node_name: Some("n".into()), ..PodSpec::default() }),
            status: Some(PodStatus {
                pod_ips: Some(vec![PodIP { ip: "10.1.0.1".into() }, PodIP { ip: "fd00::1".into() }]),
                conditions: Some(vec![k8s_openapi::api::core::v1::PodCondition {
                    type_: "Ready".into(),
                    status: if ready { "True" } else { "False" }.into(),
                    ..Default::default()
                }]),
                ..PodStatus::default()
            }),
            ..Pod::default()
        };
        if deleting {
            p.metadata.deletion_timestamp = Some(meta::api_time(jiff::Timestamp::UNIX_EPOCH));
        }
        Arc::new(p)
    }

    fn node() -> Arc<Node> {
        let mut n = Node::default();
        n.metadata.labels = Some([("topology.kubernetes.io/zone".to_owned(), "z1".to_owned())].into());
        Arc::new(n)
    }

    fn first(service: &Service, pod: Arc<Pod>) -> Endpoint {
        let (groups, _) = wanted(service, &[pod], |_| Some(node()), &families(service));
        groups.into_iter().flat_map(|g| g.endpoints).next().expect("one endpoint")
    }

    #[test]
    fn conditions_tell_ready_serving_terminating() {
        let conditions = |ready, deleting, publish| {
            let s = service(|s| s.publish_not_ready_addresses = Some(publish));
            let c = first(&s, pod(ready, deleting)).conditions.unwrap_or_default();
            (c.ready, c.serving, c.terminating)
        };
        let t = |a, b, c| (Some(a), Some(b), Some(c));
        assert_eq!(conditions(true, false, false), t(true, true, false));
        assert_eq!(conditions(true, true, false), t(false, true, true));
        assert_eq!(conditions(false, false, false), t(false, false, false));
        assert_eq!(conditions(false, true, true), t(true, false, true));
    }

    #[test]
    fn both_families_and_unknown_nodes() {
        let s = service(|s| s.ip_families = Some(vec!["IPv4".into(), "IPv6".into()]));
        let (groups, homeless) = wanted(&s, &[pod(true, false)], |_| Some(node()), &families(&s));
        assert_eq!(groups.iter().map(|g| g.address_type.as_str()).collect::<Vec<_>>(), ["IPv4", "IPv6"]);
        assert!(homeless.is_empty());
        let (groups, homeless) = wanted(&s, &[pod(true, false)], |_| None, &families(&s));
        assert!(groups.is_empty());
        assert_eq!(homeless.len(), 1);
    }

    #[test]
    fn hints_follow_the_traffic_distribution() {
        assert_eq!(first(&service(|_| {}), pod(true, false)).hints, None);
        let zone = service(|s| s.traffic_distribution = Some("PreferSameZone".into()));
        let h = first(&zone, pod(true, false)).hints.expect("hints");
        assert_eq!(h.for_zones.map(|z| z[0].name.clone()).as_deref(), Some("z1"));
        assert_eq!(h.for_nodes, None);
        let near = service(|s| s.traffic_distribution = Some("PreferSameNode".into()));
        assert!(first(&near, pod(true, false)).hints.is_some_and(|h| h.for_nodes.is_some()));
        assert_eq!(first(&near, pod(false, false)).hints, None, "not ready");
    }

    #[test]
    fn headless_services_say_so() {
        let s = service(|s| s.cluster_ip = Some("None".into()));
        let slice = empty_slice(&s);
        let labels = slice.metadata.labels.unwrap_or_default();
        assert!(labels.contains_key(HEADLESS));
        assert_eq!(labels.get(SERVICE_NAME).map(String::as_str), Some("s"));
    }
}

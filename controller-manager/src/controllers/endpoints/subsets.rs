//! Packs pods' addresses and ports into the subsets of an Endpoints object. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, ObjectReference, Pod, Service,
};

use crate::controllers::endpointslice::endpoint::{families, is_of};
use crate::util::{pods, services};

type PortKey = (String, i32, String, String);

fn port_key(p: &EndpointPort) -> PortKey {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    (text(&p.name), p.port, text(&p.protocol), text(&p.app_protocol))
}

fn address_key(a: &EndpointAddress) -> (String, String) {
    let uid = a.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
    (a.ip.clone(), uid)
}

/// Subsets in an order that depends on their content only.
pub fn sorted(mut subsets: Vec<EndpointSubset>) -> Vec<EndpointSubset> {
    for s in &mut subsets {
        for list in [&mut s.addresses, &mut s.not_ready_addresses] {
            if let Some(list) = list.as_mut() {
                list.sort_by_cached_key(address_key);
            }
        }
        if let Some(ports) = s.ports.as_mut() {
            ports.sort_by_cached_key(port_key);
        }
    }
    subsets.sort_by_cached_key(|s| s.ports.iter().flatten().map(port_key).collect::<Vec<_>>());
    subsets
}

/// The subsets of a service, and whether addresses were left out because there are more than `max`: ready ones stay.
pub fn build(service: &Service, all: &[Arc<Pod>], max: usize) -> (Vec<EndpointSubset>, bool) {
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let family = families(service).into_iter().next().unwrap_or_default();
    let candidates = all.iter().filter(|p| {
        services::may_be_endpoint(p)
            && (publish || p.metadata.deletion_timestamp.is_none())
            && restarts_or_runs(p)
    });
    let mut found: Vec<(bool, EndpointAddress, Vec<EndpointPort>)> = candidates
        .filter_map(|pod| {
            let ip = services::addresses(pod).into_iter().find(|a| is_of(a, &family))?;
            let address = EndpointAddress {
                ip: ip.to_owned(),
                hostname: services::hostname(pod, service).map(str::to_owned),
                node_name: Some(pods::node(pod).to_owned()).filter(|n| !n.is_empty()),
                target_ref: Some(ObjectReference {
                    kind: Some("Pod".into()),
                    namespace: pod.metadata.namespace.clone(),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                    ..ObjectReference::default()
                }),
            };
            Some((publish || pods::is_ready(pod), address, ports(service, pod)?))
        })
        .collect();
    found.sort_by_cached_key(|(ready, a, _)| (!ready, address_key(a)));
    let truncated = found.len() > max;
    found.truncate(max);
    let mut by_ports: BTreeMap<Vec<PortKey>, EndpointSubset> = BTreeMap::new();
    for (ready, address, mut ports) in found {
        ports.sort_by_cached_key(port_key);
        let subset = by_ports.entry(ports.iter().map(port_key).collect()).or_insert_with(|| EndpointSubset {
            ports: Some(ports).filter(|p| !p.is_empty()),
            ..EndpointSubset::default()
        });
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    (sorted(by_ports.into_values().collect()), truncated)
}

/// The service's ports on a pod; `None` where it has ports and the pod none of them.
fn ports(service: &Service, pod: &Pod) -> Option<Vec<EndpointPort>> {
    let wanted: Vec<_> = service.spec.iter().flat_map(|s| s.ports.iter().flatten()).collect();
    let found: Vec<EndpointPort> = wanted
        .iter()
        .filter_map(|p| {
            Some(EndpointPort {
                name: p.name.clone().filter(|n| !n.is_empty()),
                port: services::target_port(pod, p)?,
                protocol: p.protocol.clone().or_else(|| Some("TCP".into())),
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect();
    (wanted.is_empty() || !found.is_empty()).then_some(found)
}

/// Pods that will not run again are no endpoints, not even unready ones.
fn restarts_or_runs(pod: &Pod) -> bool {
    !matches!(pods::phase(pod), "Failed" | "Succeeded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodStatus, ServicePort, ServiceSpec};

    fn pod(n: u8, ready: bool) -> Arc<Pod> {
        let condition = PodCondition {
            type_: "Ready".into(),
            status: if ready { "True" } else { "False" }.into(),
            ..PodCondition::default()
        };
        let status = PodStatus {
            pod_ip: Some(format!("10.0.0.{n}")),
            conditions: Some(vec![condition]),
            ..PodStatus::default()
        };
        Arc::new(Pod { status: Some(status), ..Pod::default() })
    }

    fn service() -> Service {
        let spec = ServiceSpec {
            cluster_ip: Some("10.96.0.1".into()),
            ports: Some(vec![ServicePort { port: 80, ..ServicePort::default() }]),
            ..ServiceSpec::default()
        };
        Service { spec: Some(spec), ..Service::default() }
    }

    #[test]
    fn ready_and_not_ready_share_a_subset() {
        let (subsets, truncated) = build(&service(), &[pod(2, true), pod(1, true), pod(3, false)], 10);
        assert!(!truncated);
        assert_eq!(subsets.len(), 1);
        let ips =
            |l: &Option<Vec<EndpointAddress>>| l.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>();
        assert_eq!(ips(&subsets[0].addresses), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.0.0.3"]);
    }

    #[test]
    fn too_many_are_cut_unready_first() {
        let (subsets, truncated) = build(&service(), &[pod(1, false), pod(2, true)], 1);
        assert!(truncated);
        assert_eq!(subsets[0].not_ready_addresses, None);
        assert_eq!(subsets[0].addresses.as_ref().map(Vec::len), Some(1));
    }
}

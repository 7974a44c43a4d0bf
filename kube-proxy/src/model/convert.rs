//! API objects into the proxy's own form.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use super::net::{Cidr, Family};
use super::{Endpoint, Protocol, Service, ServiceName, ServicePort};

/// Services with this label are somebody else's.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Names the service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The selector of services and slices that are this proxy's.
#[must_use]
pub fn label_selector() -> String {
    format!("!{PROXY_NAME},!{HEADLESS}")
}

/// Name of an object as a service name.
#[must_use]
pub fn name_of(m: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> ServiceName {
    ServiceName {
        namespace: m.namespace.as_deref().unwrap_or("").into(),
        name: m.name.as_deref().unwrap_or("").into(),
    }
}

fn ips(list: Option<&Vec<String>>, family: Family) -> Vec<IpAddr> {
    let mut out: Vec<IpAddr> = list
        .into_iter()
        .flatten()
        .filter_map(|s| s.parse().ok())
        .filter(|i| Family::of(*i) == family)
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

/// The service in one family; `None` if there is nothing to proxy in it.
#[must_use]
pub fn service(s: &core::Service, family: Family) -> Option<Service> {
    let spec = s.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let mut cluster_ips: Vec<&String> = spec.cluster_ips.iter().flatten().collect();
    if cluster_ips.is_empty() {
        cluster_ips.extend(&spec.cluster_ip);
    }
    let cluster_ip =
        cluster_ips.iter().filter_map(|i| i.parse::<IpAddr>().ok()).find(|i| Family::of(*i) == family)?;
    let external_type = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let load_balancer = spec.type_.as_deref() == Some("LoadBalancer");
    let has_external_ips = spec.external_ips.as_ref().is_some_and(|e| !e.is_empty());
    let external_local =
        spec.external_traffic_policy.as_deref() == Some("Local") && (external_type || has_external_ips);
    let mut source_ranges: Vec<Cidr> = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .filter_map(|c| c.parse().ok())
        .filter(|c: &Cidr| c.family() == family)
        .collect();
    source_ranges.sort_unstable();
    if source_ranges.iter().any(|c| c.bits == 0) {
        source_ranges.clear();
    }
    let ingress: Vec<String> = s
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref())
        .and_then(|l| l.ingress.as_ref())
        .into_iter()
        .flatten()
        // In proxy mode the load balancer must be passed through, not short-cut.
        .filter(|i| i.ip_mode.as_deref().unwrap_or("VIP") == "VIP")
        .filter_map(|i| i.ip.clone())
        .collect();
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        Some(ServicePort {
            name: p.name.as_deref().unwrap_or("").into(),
            protocol: Protocol::parse(p.protocol.as_deref())?,
            port: u16::try_from(p.port).ok()?,
            node_port: p.node_port.and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
        })
    });
    let sticky = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        config.and_then(|c| c.timeout_seconds).and_then(|t| u32::try_from(t).ok()).unwrap_or(10_800)
    });
    let health = spec.health_check_node_port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
    Some(Service {
        cluster_ip,
        external_ips: ips(spec.external_ips.as_ref(), family),
        load_balancer_ips: if load_balancer { ips(Some(&ingress), family) } else { Vec::new() },
        source_ranges,
        sticky,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local,
        health_check_node_port: if load_balancer && external_local { health } else { 0 },
        ports: ports.collect(),
    })
}

/// One named port of a slice with its addresses.
pub type PortEndpoints = (Box<str>, Protocol, Vec<Endpoint>);

/// A slice: the service it belongs to, its family, and endpoints per port. `None` if it is of no service or not
/// of addresses.
#[must_use]
pub fn slice(s: &discovery::EndpointSlice, node: &str) -> Option<(ServiceName, Family, Vec<PortEndpoints>)> {
    let family = match s.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    let service = s.metadata.labels.as_ref()?.get(SERVICE_NAME).filter(|n| !n.is_empty())?;
    let name = ServiceName {
        namespace: s.metadata.namespace.as_deref().unwrap_or("").into(),
        name: service.as_str().into(),
    };
    let ports = s.ports.iter().flatten().filter_map(|p| {
        let port = u16::try_from(p.port?).ok()?;
        let protocol = Protocol::parse(p.protocol.as_deref())?;
        let endpoints =
            s.endpoints.iter().flatten().filter_map(|e| endpoint(e, port, node, family)).collect();
        Some((p.name.as_deref().unwrap_or("").into(), protocol, endpoints))
    });
    Some((name, family, ports.collect()))
}

fn endpoint(e: &discovery::Endpoint, port: u16, node: &str, family: Family) -> Option<Endpoint> {
    let ip: IpAddr = e.addresses.first()?.parse().ok()?;
    let c = e.conditions.as_ref();
    // Conditions that are not given mean: ready, serving, not terminating.
    let ready = c.and_then(|c| c.ready).unwrap_or(true);
    let hints = e.hints.as_ref();
    (Family::of(ip) == family).then(|| Endpoint {
        ip,
        port,
        local: !node.is_empty() && e.node_name.as_deref() == Some(node),
        ready,
        serving: c.and_then(|c| c.serving).unwrap_or(ready),
        terminating: c.and_then(|c| c.terminating).unwrap_or(false),
        zones: hints
            .and_then(|h| h.for_zones.as_ref())
            .into_iter()
            .flatten()
            .map(|z| z.name.as_str().into())
            .collect(),
        nodes: hints
            .and_then(|h| h.for_nodes.as_ref())
            .into_iter()
            .flatten()
            .map(|n| n.name.as_str().into())
            .collect(),
    })
}
